"""mt attention: the attention weights of a model for one sentence, as an HTML page or as JSON."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mt.data.corpus import Prefix
from mt.data.normalization import Normalizer, is_blank
from mt.data.tokenizer import Tokenizer
from mt.decoding.translator import Translator
from mt.errors import DataError
from mt.model.recording import attention_weights
from mt.report.attention_page import (
    AttentionMaps,
    AxisTokens,
    attention_json,
    attention_page,
    group_words,
)
from mt.storage.atomic import atomic_file

logger = logging.getLogger(__name__)

FORMATTERS = {".html": attention_page, ".json": attention_json}  # by the suffix of the output file


def write_attention(
    run_dir: Path,
    sentence: str,
    *,
    output: Path,
    target: str | None,
    checkpoint: str = "best",
    device: str = "auto",
) -> None:
    """Write the attention weights between a sentence and `target` to an HTML or JSON file.

    Without a target, the model's own translation is used. Raises MtError.
    """
    formatter = FORMATTERS.get(output.suffix)
    if formatter is None:
        raise DataError(f"{output}: the file name must end in .html (a page) or .json (numbers)")
    translator = Translator.load(run_dir, checkpoint=checkpoint, device=device)
    maps = attention_maps(translator, sentence, target=target, name=str(run_dir))
    content = formatter(maps)
    with atomic_file(output) as file:
        # The name of the run may have bytes that are not UTF-8.
        file.write(content.encode(errors="backslashreplace"))
    num_src = len(maps.sides["src"].subwords)
    num_tgt = len(maps.sides["tgt_out"].subwords)
    megabytes = output.stat().st_size / 1e6
    logger.info(f"{output}: {num_src} source and {num_tgt} target tokens, {megabytes:.2f} MB")


@torch.inference_mode()
def attention_maps(
    translator: Translator,
    sentence: str,
    *,
    target: str | None,
    name: str,
    prefix: Prefix = (),
) -> AttentionMaps:
    """Return the attention weights between a sentence and `target`, or its own translation.

    The tags of `prefix` are in front of the sentence, as special words. Raises DataError for a text
    that cannot be shown.
    """
    src_tokenizer = translator.src_tokenizer
    tgt_tokenizer = translator.tgt_tokenizer
    max_length = translator.max_length
    src = _encode_sentence(
        sentence,
        src_tokenizer,
        translator.src_normalizer,
        max_length=max_length,
        what="the sentence",
        prefix=prefix,
    )
    if target is None:
        # As a whole, although `mt translate` may translate it sentence by sentence.
        translator = replace(translator, split_lines=False)
        ((best,),) = translator.n_best([sentence], num_translations=1, prefix=prefix)
        tgt_text = best.text
        # The ids come from the search: encoding the text could split its words differently.
        (segment,) = best.segments
        tgt_out = segment.tgt
    else:
        tgt_text = target
        tgt_out = _encode_sentence(
            target,
            tgt_tokenizer,
            translator.tgt_normalizer,
            max_length=max_length,
            what="the target",
        )
    tgt_in = [tgt_tokenizer.bos_id, *tgt_out[:-1]]

    sides = {
        "src": axis_tokens(src_tokenizer, src),
        "tgt_in": axis_tokens(tgt_tokenizer, tgt_in),
        "tgt_out": axis_tokens(tgt_tokenizer, tgt_out),
    }
    recorded = attention_weights(translator.model, src, tgt_in)
    weights = {
        "cross": [layer.numpy() for layer in recorded.cross],
        "encoder": [layer.numpy() for layer in recorded.encoder],
        "decoder": [layer.numpy() for layer in recorded.decoder],
    }
    return AttentionMaps(name, sentence, tgt_text, sides, weights)


def axis_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> AxisTokens:
    """Return the subwords and words of a sequence of token ids."""
    special_names = {tokenizer.bos_id: "<bos>", tokenizer.eos_id: "<eos>"}
    special_ids = {*special_names, *tokenizer.tag_ids}
    subwords = [special_names.get(token_id) or tokenizer.piece(token_id) for token_id in ids]
    special_positions = [i for i, token_id in enumerate(ids) if token_id in special_ids]
    word_index = group_words(subwords, special_positions=special_positions)

    word_starts = np.flatnonzero(np.diff(word_index)) + 1
    ids_by_word = [word.tolist() for word in np.split(np.array(ids), word_starts)]
    words = tokenizer.decode(ids_by_word)
    special_words = [word_index[position] for position in special_positions]
    for word, position in zip(special_words, special_positions, strict=True):
        words[word] = subwords[position]  # decoding gives no text for special tokens
    return AxisTokens(subwords, words, word_index, special_words)


def _encode_sentence(
    text: str,
    tokenizer: Tokenizer,
    normalizer: Normalizer,
    *,
    max_length: int,
    what: str,
    prefix: Prefix = (),
) -> list[int]:
    """Return the token ids of one line of normalized text, with the prefix first and eos last.

    Raises DataError, which calls the text `what`, if it is not valid UTF-8, not a single line,
    blank, or longer than the `max_length` tokens that the model was trained on.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} is not valid UTF-8 at character {error.start + 1}") from error
    if "\n" in text:
        raise DataError(f"{what} has a line break; give one sentence on one line")
    text = normalizer(text)
    if is_blank(text):
        raise DataError(f"{what} is blank; give a sentence with at least one word")
    (text_ids,) = tokenizer.encode([text])
    ids = [*prefix, *text_ids]
    if len(ids) > max_length:
        raise DataError(
            f"{what} has {len(ids):,} tokens; the model was trained on at most {max_length:,}"
        )
    return ids
