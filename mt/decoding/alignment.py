"""Word alignment: the source word that each target word was translated from.

The links are read from the decoder's cross-attention. Words are separated by ASCII white space, as
in Moses and fast_align, and counted from 0. Each target word is linked to one source word: the one
with the highest attention weight, which is the sum over its subwords, in the mean of all heads of
one layer. Attention to eos and to tags is ignored.

Which decoder layer and position give the best links can only be found by comparison with gold
alignments. `scripts/alignment/error_rate.py` scores them all.
"""

import logging
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mt.data.batching import group_by_length
from mt.data.corpus import Prefix
from mt.data.normalization import Normalizer, is_blank
from mt.data.tokenizer import Tokenizer
from mt.decoding.translator import CHUNK_SIZE, Alignment, Segment, Translation, Translator
from mt.model.recording import cross_attention

logger = logging.getLogger(__name__)

# The decoder position that the links of a target word are read from. The decoder reads the previous
# token at each position, and writes the next one.
#   "output": the position that writes the first subword of the word.
#   "input":  the position that has read the last subword of the word, and writes the token after
#             it. Chen et al. (2020), "Accurate Word Alignment Induction from Neural Machine
#             Translation", found this one to be better.
AlignmentStep = Literal["output", "input"]


def default_layer(num_layers: int) -> int:
    """Return the last layer but one (Garg et al. 2019), or the second of two; counted from 0."""
    if num_layers <= 2:
        return num_layers - 1
    return num_layers - 2


def align(
    translator: Translator,
    pairs: Sequence[Segment],
    *,
    layer: int | None = None,
    step: AlignmentStep = "output",
) -> list[Alignment]:
    """Return the links of each pair of token ids.

    This takes one pass of the decoder over the given targets (teacher forcing). `layer` is counted
    from 0, and is `default_layer` if it is None.
    """
    if layer is None:
        layer = default_layer(len(translator.model.decoder_layers))
    src_tokenizer = translator.src_tokenizer
    tgt_tokenizer = translator.tgt_tokenizer
    alignments: list[Alignment] = [[] for _ in pairs]
    lengths = np.array([max(len(pair.src), len(pair.tgt)) for pair in pairs])
    for batch in group_by_length(lengths, batch_tokens=translator.search.batch_tokens):
        src = translator.pad([pairs[index].src for index in batch])
        tgt_in = translator.pad([[tgt_tokenizer.bos_id, *pairs[index].tgt[:-1]] for index in batch])
        weights = cross_attention(translator.model, src, tgt_in, layer=layer)
        mean_weights = weights.mean(dim=1).numpy()  # (batch, tgt_length, src_length)
        for index, pair_weights in zip(batch, mean_weights, strict=True):
            src_words = word_indices(src_tokenizer, pairs[index].src)
            tgt_words = word_indices(tgt_tokenizer, pairs[index].tgt)
            alignments[index] = link_words(pair_weights, src_words, tgt_words, step=step)
    return alignments


def align_lines(
    translator: Translator,
    pairs: Iterable[tuple[str, str]],
    *,
    layer: int | None = None,
    step: AlignmentStep = "output",
    prefix: Prefix = (),
) -> Iterator[Alignment]:
    """Yield the links of each pair of lines, whose sources get the prefix of tags.

    A pair has no links when one of its lines is blank. A pair of which one line has more than
    `max_length` tokens gets a warning and no links.
    """
    numbered_pairs = enumerate(pairs, start=1)
    while chunk := list(islice(numbered_pairs, CHUNK_SIZE)):
        encoded = [_encode_pair(translator, number, pair, prefix) for number, pair in chunk]
        alignments = align(translator, encoded, layer=layer, step=step)
        for (_, (src_text, tgt_text)), alignment in zip(chunk, alignments, strict=True):
            src_words = original_words(translator.src_normalizer, src_text)
            tgt_words = original_words(translator.tgt_normalizer, tgt_text)
            yield sorted({(src_words[i], tgt_words[j]) for i, j in alignment})


def _encode_pair(
    translator: Translator, number: int, pair: tuple[str, str], prefix: Prefix
) -> Segment:
    """Return the ids of a pair of lines; eos alone for both if one is blank or too long."""
    src_text, tgt_text = pair
    no_words = Segment([translator.src_tokenizer.eos_id], [translator.tgt_tokenizer.eos_id])
    if is_blank(src_text) or is_blank(tgt_text):
        return no_words
    (text_ids,) = translator.src_tokenizer.encode([translator.src_normalizer(src_text)])
    src_ids = [*prefix, *text_ids]
    (tgt_ids,) = translator.tgt_tokenizer.encode([translator.tgt_normalizer(tgt_text)])
    num_tokens = max(len(src_ids), len(tgt_ids))
    if num_tokens <= translator.max_length:
        return Segment(src_ids, tgt_ids)
    logger.warning(
        f"line {number}: {num_tokens:,} tokens, over {translator.max_length:,}: not aligned"
    )
    return no_words


def align_translations(
    translator: Translator, texts: Sequence[str], n_best_lists: Sequence[Sequence[Translation]]
) -> list[list[Translation]]:
    """Return the translations of each text with their alignments.

    The tokens that the search generated are aligned. They can differ from those that the tokenizer
    makes from the translated text.
    """
    segments = [
        segment
        for translations in n_best_lists
        for translation in translations
        for segment in translation.segments
    ]
    alignments = iter(align(translator, segments))
    aligned_lists = []
    for text, translations in zip(texts, n_best_lists, strict=True):
        aligned = []
        for translation in translations:
            segments = list(translation.segments)
            alignment = _join_alignments(
                translator, text, segments, list(islice(alignments, len(segments)))
            )
            aligned.append(translation._replace(alignment=alignment))
        aligned_lists.append(aligned)
    return aligned_lists


def _join_alignments(
    translator: Translator,
    text: str,
    segments: Sequence[Segment],
    alignments: Sequence[Alignment],
) -> Alignment:
    """Return the links of a whole text from the links of its segments.

    Words are counted from the start of each segment, so the words before it have to be added. A
    long source word may have been cut in two. It is found by counting bytes that are not white
    space.
    """
    src_texts = translator.src_tokenizer.decode([segment.src for segment in segments])
    tgt_texts = translator.tgt_tokenizer.decode([segment.tgt for segment in segments])
    normalized = translator.src_normalizer(text)
    # In bytes without white space.
    word_ends = list(accumulate(len(word) for word in words(normalized)))
    num_src_bytes = 0  # before the segment, without white space
    num_tgt_words = 0  # before the segment
    links: set[tuple[int, int]] = set()
    for alignment, src_text, tgt_text in zip(alignments, src_texts, tgt_texts, strict=True):
        num_src_words = bisect_right(word_ends, num_src_bytes)  # that end before the segment
        links.update((num_src_words + i, num_tgt_words + j) for i, j in alignment)
        num_src_bytes += sum(len(word) for word in words(src_text))
        num_tgt_words += len(words(tgt_text))
    src_words = original_words(translator.src_normalizer, text)
    return sorted({(src_words[i], j) for i, j in links})


def link_words(
    weights: NDArray[np.float32],
    src_words: Sequence[int],
    tgt_words: Sequence[int],
    *,
    step: AlignmentStep,
) -> Alignment:
    """Return the links of one pair from attention weights (tgt_length, src_length).

    `src_words` and `tgt_words` hold the word index of each token, or -1 for a token of no word. The
    weights may have more rows and columns than these, for eos and padding.
    """
    num_src_words = max(src_words, default=-1) + 1
    if num_src_words == 0:
        return []
    token_is_in_word = np.arange(num_src_words) == np.array(src_words).reshape(-1, 1)
    word_weights = weights[:, : len(src_words)] @ token_is_in_word  # (tgt_length, num_src_words)

    rows: dict[int, int] = {}  # of the weights, for each target word
    for position, word in enumerate(tgt_words):
        if step == "input":
            rows[word] = position + 1  # the last subword of the word overwrites the earlier ones
        else:
            rows.setdefault(word, position)  # the first subword stays
    return sorted(
        (int(word_weights[row].argmax()), word) for word, row in rows.items() if word >= 0
    )


def word_indices(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Return the word index of each token before eos; `ids` ends in eos.

    A space that is a token of its own belongs to the word after it. Tags and spaces at the end of
    the text belong to no word, and get -1.
    """
    tag_ids = set(tokenizer.tag_ids)
    prefixes = tokenizer.decode([ids[:length] for length in range(1, len(ids) + 1)])
    num_words = len(words(prefixes.pop()))  # the last prefix is the whole text
    indices = []
    for token_id, prefix in zip(ids, prefixes, strict=False):
        # The token belongs to the word in which the next character would be.
        index = len(words(f"{prefix}.")) - 1
        is_in_word = index < num_words and token_id not in tag_ids
        indices.append(index if is_in_word else -1)
    return indices


def original_words(normalizer: Normalizer, text: str) -> list[int]:
    """Return for each word of the normalized text the index of the word of `text` it comes from.

    A word of the text can become several words, for example at a no-break space, or none.
    """
    indices = []
    for index, word in enumerate(words(text)):
        num_words = len(words(normalizer(word.decode())))
        indices += [index] * num_words
    return indices


def words(text: str) -> list[bytes]:
    """Return the words of a text, separated by ASCII white space."""
    return text.encode().split()


def format_alignment(alignment: Alignment) -> str:
    """Return links in the format of Pharaoh, such as `0-0 1-2`."""
    return " ".join(f"{i}-{j}" for i, j in alignment)
