"""Training of a tokenizer by SentencePiece, with the settings that make the tokenizer lossless."""

import io
import math
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from random import Random

import sentencepiece

from mt.config.choices import MAX_TAGS, MAX_VOCAB_SIZE, Normalization
from mt.data.normalization import normalize
from mt.data.tokenizer import (
    BOS_ID,
    EOS_ID,
    NUM_BYTES,
    PAD_ID,
    UNK_ID,
    TokenizerKind,
    escape,
)
from mt.errors import TokenizerError
from mt.storage.atomic import atomic_file

# Pieces that are in every tokenizer: pad, unk, bos and eos, the tags, and the bytes.
NUM_FIXED_PIECES = 4 + MAX_TAGS + NUM_BYTES

# SentencePiece uses this character itself and skips every training sentence that contains it.
RESERVED_CHARACTER = "\u2585"

SAMPLE_SEED = 1  # not the run's: the tokenizer depends on the text alone

# Bytes. SentencePiece skips longer sentences; its default is 4192.
MAX_SENTENCE_LENGTH = 2**30


def train_tokenizer(
    sentences: Iterable[str],
    path: Path,
    *,
    kind: TokenizerKind,
    vocab_size: int,
    character_coverage: float = 1.0,
    normalization: Normalization = "none",
) -> None:
    """Train a tokenizer on all sentences, normalized, and write its model to `path` atomically.

    The same sentences give the same bytes. Raises TokenizerError when the vocabulary is too large
    or too small for the sentences. An exception that `sentences` raises is passed on unchanged.
    """
    if vocab_size > MAX_VOCAB_SIZE:
        raise TokenizerError(
            f"{path}: vocab_size {vocab_size} is too large: wanted at most {MAX_VOCAB_SIZE}"
        )
    # An exception of `sentences` passes through SentencePiece's C++ code and comes out as a
    # RuntimeError, so the original is kept here.
    sentence_errors: list[BaseException] = []
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_prepare_sentences(sentences, normalization, sentence_errors),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            byte_fallback=True,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            control_symbols=[f"<tag_{number}>" for number in range(MAX_TAGS)],
            max_sentence_length=MAX_SENTENCE_LENGTH,
            num_threads=1,  # the model depends on the number of threads
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        if sentence_errors:
            raise sentence_errors[0] from None
        message = _explain_training_error(str(error), vocab_size)
        raise TokenizerError(f"{path}: {message}") from error
    with atomic_file(path) as file:
        file.write(model.getvalue())


def sample_sentences(texts: Iterable[Iterable[str]], *, max_sentences: int | None) -> Iterator[str]:
    """Yield the sentences of the texts, or a random sample of `max_sentences` if there are more.

    The same sentences give the same sample. Only the sample is in memory (Li 1994, "Reservoir-
    Sampling Algorithms of Time Complexity O(n(1 + log(N/n)))", algorithm L).
    """
    sentences = chain.from_iterable(texts)
    if max_sentences is None:
        yield from sentences
        return
    sample = list(islice(sentences, max_sentences))
    generator = Random(SAMPLE_SEED)
    # Algorithm L gives each sampled sentence a random number; this is the largest of them.
    largest = _draw_largest(generator, max_sentences)
    while True:
        num_passed = math.log(1.0 - generator.random()) / math.log1p(-largest)
        sentence = next(islice(sentences, min(int(num_passed), sys.maxsize), None), None)
        if sentence is None:
            break
        sample[generator.randrange(max_sentences)] = sentence
        largest *= _draw_largest(generator, max_sentences)
    yield from sample


def _draw_largest(generator: Random, count: int) -> float:
    """Return a random number that is distributed as the largest of `count` uniform ones."""
    return math.exp(math.log(1.0 - generator.random()) / count)


def _prepare_sentences(
    sentences: Iterable[str],
    normalization: Normalization,
    sentence_errors: list[BaseException],
) -> Iterator[str]:
    """Yield the sentences, normalized, as SentencePiece can train on them.

    An exception that `sentences` raises is appended to `sentence_errors` and raised again.
    """
    try:
        for sentence in sentences:
            yield escape(normalize(sentence, normalization)).replace(RESERVED_CHARACTER, " ")
    except BaseException as error:
        sentence_errors.append(error)
        raise


def _explain_training_error(message: str, vocab_size: int) -> str:
    """Return a message for the user in place of one of SentencePiece's trainer."""
    too_large = re.search(r"Vocabulary size too high .*<= (\d+)", message)
    if too_large:
        return (
            f"vocab_size {vocab_size} is more than this text can fill; "
            f"it can be {too_large[1]} at most"
        )
    too_small = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if too_small:
        smallest_size = int(too_small[1])
        num_characters = smallest_size - NUM_FIXED_PIECES
        return (
            f"vocab_size {vocab_size} is too small for this text; "
            f"it must be {smallest_size} at least: "
            f"{NUM_FIXED_PIECES} fixed pieces and {num_characters} different characters"
        )
    if "!sentences_.empty()" in message:
        return "there is no text to train on"
    return f"SentencePiece could not train: {' '.join(message.split())}"
