"""Word alignments: which source word each target word was made from, read off the decoder's cross-attention.

Words are what ASCII white space parts, as for Moses and fast_align, counted from 0. Each target word is linked to the
one source word that it looks at most: the weight of a word is the sum over its subwords, in the mean of all heads of
one layer; a weight on the end mark counts for no word. Which layer and which position of the decoder, `step`, show it
best can only be told by gold alignments: `scripts/alignment/error_rate.py` scores them all.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mt.data.batching import group_by_length
from mt.data.tokenizer import Tokenizer
from mt.decoding.translator import Alignment, Segment, Translation, Translator
from mt.model.recording import cross_attention

# "output": the position that writes the first subword of a target word. "input": the one that has just read its last
# (Chen et al. 2020, "Accurate Word Alignment Induction from Neural Machine Translation").
AlignmentStep = Literal["output", "input"]


def default_layer(num_layers: int) -> int:
    """The layer before the last (Garg et al. 2019), but not the first of two; counted from 0."""
    return max(num_layers - 2, min(num_layers - 1, 1))


def align(
    translator: Translator,
    pairs: Sequence[Segment],
    *,
    layer: int | None = None,
    step: AlignmentStep = "output",
) -> list[Alignment]:
    """The links of each pair, in one pass of the decoder over the target that it is given (teacher forcing)."""
    layer = default_layer(len(translator.model.decoder_layers)) if layer is None else layer
    found: list[Alignment] = [[] for _ in pairs]
    lengths = np.array([max(map(len, pair)) for pair in pairs])
    for group in group_by_length(lengths, batch_tokens=translator.search.batch_tokens):
        src = translator.pad([pairs[i].src for i in group])
        tgt_in = translator.pad(
            [[translator.tgt_tokenizer.bos_id, *pairs[i].tgt[:-1]] for i in group]
        )
        weights = cross_attention(translator.model, src, tgt_in, layer=layer).mean(dim=1).numpy()
        for index, row in zip(group, weights, strict=True):
            src_words = word_indices(translator.src_tokenizer, pairs[index].src)
            tgt_words = word_indices(translator.tgt_tokenizer, pairs[index].tgt)
            found[index] = link_words(row, src_words, tgt_words, step=step)
    return found


def link_words(
    weights: NDArray[np.float32],
    src_words: Sequence[int],
    tgt_words: Sequence[int],
    *,
    step: AlignmentStep,
) -> Alignment:
    """Links (source word, target word) from weights (tgt_length, src_length) and the word of each token, -1 for none.

    The end mark, and padding, may follow the tokens on either side.
    """
    num_words = max(src_words, default=-1) + 1
    is_part = np.arange(num_words) == np.array(src_words).reshape(-1, 1)  # (tokens, num_words) bool
    looked = weights[:, : len(src_words)] @ is_part  # (tgt_length, num_words)
    rows = {
        word: i + 1 if step == "input" else tgt_words.index(word)
        for i, word in enumerate(tgt_words)
    }
    return sorted(
        (int(looked[row].argmax()), word)
        for word, row in rows.items()
        if word >= 0 and num_words > 0
    )


def word_indices(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The word of each token before eos, a space going with the next word; -1 for spaces at the end."""
    *before, text = tokenizer.decode([ids[:end] for end in range(1, len(ids) + 1)])
    next_letter = [
        len(words(f"{start}.")) - 1 for start in before
    ]  # the word it would be in, after each token
    return [word if word < len(words(text)) else -1 for word in next_letter]


def words(text: str) -> list[bytes]:
    """The words of a text: what ASCII white space parts."""
    return text.encode().split()


def format_alignment(alignment: Alignment) -> str:
    """As Pharaoh and those after it write it: `0-0 1-2`."""
    return " ".join(f"{i}-{j}" for i, j in alignment)


def align_translations(
    translator: Translator, texts: Sequence[str], answers: Sequence[Sequence[Translation]]
) -> list[list[Translation]]:
    """The translations of each text with their alignments, from the very tokens that the search wrote."""
    links = iter(
        align(translator, [part for answer in answers for each in answer for part in each.parts])
    )
    return [
        [each._replace(alignment=_join(translator, text, each.parts, links)) for each in answer]
        for text, answer in zip(texts, answers, strict=True)
    ]


def _join(
    translator: Translator, text: str, parts: Sequence[Segment], links: Iterator[Alignment]
) -> Alignment:
    """The next links, those of the parts of a text, as links of the whole; a long word may have been cut in two."""
    src_texts = translator.src_tokenizer.decode([part.src for part in parts])
    tgt_texts = translator.tgt_tokenizer.decode([part.tgt for part in parts])
    letters_before = accumulate((len(b"".join(words(part))) for part in src_texts), initial=0)
    ends = np.cumsum([len(word) for word in words(text)])  # the letters up to the end of each word
    src_starts = np.searchsorted(ends, list(letters_before), side="right").tolist()
    tgt_starts = accumulate((len(words(part)) for part in tgt_texts), initial=0)
    starts = zip(src_starts, tgt_starts, islice(links, len(parts)), strict=False)
    return sorted({(src + i, tgt + j) for src, tgt, part in starts for i, j in part})
