"""Word alignment: the source word that each target word was translated from.

The links are read from the decoder's cross-attention. Words are separated by ASCII white space, as
in Moses and fast_align, and counted from 0. In a script without spaces each character counts as a
word (`mt.data.words`). Each target word is linked to one source word: the one with the highest
attention weight, which is the sum over its subwords, in the mean of all heads of one layer. Source
words that are parts of one subword have the same weight, so the target word is linked to all of
them. Attention to eos and to tags is ignored.

Which decoder layer and position give the best links can only be found by comparison with gold
alignments. `scripts/alignment/error_rate.py` scores them all.
"""

import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mt.data.batch_plan import group_by_length
from mt.data.normalization import Normalizer, is_blank
from mt.data.tags import Prefix
from mt.data.tokenizer import Tokenizer
from mt.data.words import find_words
from mt.decoding.segment_search import pad
from mt.decoding.text_translator import CHUNK_SIZE
from mt.decoding.translation import Alignment, Segment, Target, Translation
from mt.model.recording import cross_attention

if TYPE_CHECKING:  # `Translator.align` calls this module
    from mt.decoding.translator import Translator

logger = logging.getLogger(__name__)

# The decoder position that the links of a target word are read from. The decoder reads the previous
# token at each position, and writes the next one.
#   "output": the position that writes the first subword of the word.
#   "input":  the position that has read the last subword of the word, and writes the token after
#             it. Chen et al. (2020), "Accurate Word Alignment Induction from Neural Machine
#             Translation", found this one to be better.
AlignmentStep = Literal["output", "input"]

# The piece of a byte that is not the first one of a character in UTF-8.
CONTINUATION_BYTE = re.compile("<0x[89AB][0-9A-F]>")


def default_layer(num_layers: int) -> int:
    """Return the last layer but one (Garg et al. 2019), or the second of two; counted from 0."""
    if num_layers <= 2:
        return num_layers - 1
    return num_layers - 2


def align(
    translator: "Translator",
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
        tgt_rows = [[tgt_tokenizer.bos_id, *pairs[index].tgt[:-1]] for index in batch]
        src = pad(translator.model, [pairs[index].src for index in batch])
        tgt_in = pad(translator.model, tgt_rows)
        weights = cross_attention(translator.model, src, tgt_in, layer=layer)
        mean_weights = weights.mean(dim=1).numpy()  # (batch, tgt_length, src_length)
        for index, pair_weights in zip(batch, mean_weights, strict=True):
            src_words = words_of_tokens(src_tokenizer, pairs[index].src)
            tgt_words = words_of_tokens(tgt_tokenizer, pairs[index].tgt)
            alignments[index] = link_words(pair_weights, src_words, tgt_words, step=step)
    return alignments


def align_pairs(
    translator: "Translator", pairs: Sequence[tuple[str, Target]], *, prefix: Prefix = ()
) -> list[Alignment]:
    """Return the links of each pair, whose target is a given text or a translator's own.

    See `align_lines` for given texts, and `align_translations` for translations.
    """
    given = [(src, tgt) for src, tgt in pairs if isinstance(tgt, str)]
    generated = [(src, tgt) for src, tgt in pairs if isinstance(tgt, Translation)]
    links_of_given = align_lines(translator, given, prefix=prefix)
    aligned_lists = align_translations(
        translator,
        texts=[src for src, _ in generated],
        n_best_lists=[[translation] for _, translation in generated],
    )
    links_of_generated = (aligned.alignment or [] for (aligned,) in aligned_lists)
    return [
        next(links_of_given) if isinstance(tgt, str) else next(links_of_generated)
        for _, tgt in pairs
    ]


def align_lines(
    translator: "Translator",
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
    translator: "Translator", number: int, pair: tuple[str, str], prefix: Prefix
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
    translator: "Translator", texts: Sequence[str], n_best_lists: Sequence[Sequence[Translation]]
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
        normalized = translator.src_normalizer(text)
        src_words = original_words(translator.src_normalizer, text)
        aligned = []
        for translation in translations:
            own_alignments = list(islice(alignments, len(translation.segments)))
            links = _join_alignments(normalized, translation, own_alignments)
            alignment = sorted({(src_words[i], j) for i, j in links})
            aligned.append(translation._replace(alignment=alignment))
        aligned_lists.append(aligned)
    return aligned_lists


def _join_alignments(
    text: str, translation: Translation, alignments: Sequence[Alignment]
) -> Alignment:
    """Return the links of a whole, normalized text from the links of its segments.

    Words are counted from the start of each segment, so the words before it have to be added. A
    long word may have been cut in two. Its segments share the word.
    """
    starts = translation.segment_starts
    first_src_words = word_indices_at(text, [start.src for start in starts])
    first_tgt_words = word_indices_at(translation.text, [start.tgt for start in starts])
    return [
        (first_src_word + i, first_tgt_word + j)
        for alignment, first_src_word, first_tgt_word in zip(
            alignments, first_src_words, first_tgt_words, strict=True
        )
        for i, j in alignment
    ]


def word_indices_at(text: str, positions: Sequence[int]) -> list[int]:
    """Return the index of the word at each position, or of the next word."""
    word_ends = [word.end() for word in find_words(text)]
    return [bisect_right(word_ends, position) for position in positions]


def link_words(
    weights: NDArray[np.float32],
    src_words: Sequence[range],
    tgt_words: Sequence[range],
    *,
    step: AlignmentStep,
) -> Alignment:
    """Return the links of one pair from attention weights (tgt_length, src_length).

    `src_words` and `tgt_words` hold the words of each token (see `words_of_tokens`). The weights
    may have more rows and columns than these, for eos and padding.
    """
    num_src_words = max((words.stop for words in src_words), default=0)
    if num_src_words == 0:
        return []
    token_is_in_word = np.zeros((len(src_words), num_src_words), np.bool_)
    for position, words in enumerate(src_words):
        token_is_in_word[position, words.start : words.stop] = True
    word_weights = weights[:, : len(src_words)] @ token_is_in_word  # (tgt_length, num_src_words)

    rows: dict[int, int] = {}  # of the weights, for each target word
    for position, words in enumerate(tgt_words):
        for word in words:
            if step == "input":
                # The last subword of the word overwrites the earlier ones.
                rows[word] = position + 1
            else:
                rows.setdefault(word, position)  # the first subword stays

    links = []
    for word, row in rows.items():
        best_tokens = token_is_in_word[:, word_weights[row].argmax()]
        has_best_tokens = (token_is_in_word == best_tokens[:, np.newaxis]).all(axis=0)
        links += [(int(src_word), word) for src_word in np.flatnonzero(has_best_tokens)]
    return sorted(links)


def words_of_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> list[range]:
    """Return the indices of the words that each token before eos is part of; `ids` ends in eos.

    In text with spaces a token is part of one word. A space that is a token of its own belongs to
    the word after it. Tags and spaces at the end of the text belong to no word.
    """
    *prefixes, text = tokenizer.decode([ids[:length] for length in range(1, len(ids) + 1)])
    places = find_words(text)
    word_starts = [place.start() for place in places]
    word_ends = [place.end() for place in places]
    tag_ids = set(tokenizer.tag_ids)
    words = []
    position = 0  # the end in `text` of the tokens so far
    for (token_id, next_id), prefix in zip(pairwise(ids), prefixes, strict=True):
        start = position
        # The text of an incomplete character is not known yet.
        if not CONTINUATION_BYTE.fullmatch(tokenizer.piece(next_id)):
            position = _common_length(prefix, text, start=start)
        end = max(position, start + 1)
        first = bisect_right(word_ends, start)
        stop = bisect_left(word_starts, end)
        if first == stop and first < len(places):
            stop += 1  # the token is a space
        words.append(range(0) if token_id in tag_ids else range(first, stop))
    return words


def original_words(normalizer: Normalizer, text: str) -> list[int]:
    """Return the index of the original word of each word of the normalized text.

    A word of the text can become several words, for example at a no-break space, or none. A word of
    the normalized text comes from the word that its first character comes from.
    """
    # The word of each character of the normalized text, spaces left out.
    word_indices: list[int] = []
    for index, word in enumerate(find_words(text)):
        characters = normalizer(word[0]).replace(" ", "")
        word_indices += [index] * len(characters)
    indices = []
    position = 0
    for word in find_words(normalizer(text)):
        # Characters next to each other may be combined only in the whole text.
        indices.append(word_indices[min(position, len(word_indices) - 1)])
        position += len(word[0])
    return indices


def _common_length(left: str, right: str, *, start: int) -> int:
    """Return the length of the common start of two texts, which is at least `start`."""
    length = start
    while length < min(len(left), len(right)) and left[length] == right[length]:
        length += 1
    return length


def format_alignment(alignment: Alignment) -> str:
    """Return links in the format of Pharaoh, such as `0-0 1-2`."""
    return " ".join(f"{i}-{j}" for i, j in alignment)
