"""Encoding of a part of a corpus: text pairs in, the pairs that are kept as ids out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mt.config.choices import Normalization
from mt.data.normalization import is_blank_line, normalize
from mt.data.sentences import sentence_cuts
from mt.data.token_array import TokenArray
from mt.data.tokenizer import Tokenizer
from mt.data.word_encoder import WordEncoder
from mt.wording import count_of

SHORT_PAIR_TOKENS = 10  # if neither side is longer, a high length ratio means nothing


@dataclass(frozen=True)
class FilterCounts:
    """Numbers of pairs that the filter kept, and that it left out for each reason."""

    kept: int = 0
    blank: int = 0
    too_long: int = 0
    bad_ratio: int = 0

    def __add__(self, other: "FilterCounts") -> "FilterCounts":
        return FilterCounts(
            kept=self.kept + other.kept,
            blank=self.blank + other.blank,
            too_long=self.too_long + other.too_long,
            bad_ratio=self.bad_ratio + other.bad_ratio,
        )

    def __str__(self) -> str:
        text = f"{self.kept:,} of {count_of(self.total, 'pair')} kept"
        counts_by_reason = {
            "blank": self.blank,
            "too long": self.too_long,
            "bad length ratio": self.bad_ratio,
        }
        left_out = [f"{count:,} {reason}" for reason, count in counts_by_reason.items() if count]
        if left_out:
            text += f" (left out: {', '.join(left_out)})"
        return text

    @property
    def total(self) -> int:
        """The number of all pairs."""
        return self.kept + self.blank + self.too_long + self.bad_ratio


@dataclass(frozen=True)
class FilterLimits:
    """Which pairs are kept, by their lengths in tokens (eos and prefix included)."""

    max_length: int
    # Of the longer side to the shorter. It does not apply to pairs of at most SHORT_PAIR_TOKENS.
    max_length_ratio: float


class TextChunk(NamedTuple):
    """Successive pairs of one corpus."""

    corpus_index: int
    prefix_length: int  # tokens in front of each source
    pairs: list[tuple[str, str]]


class EncodedChunk(NamedTuple):
    """The pairs of a chunk that the filter kept."""

    corpus_index: int
    src: TokenArray  # without the prefixes
    tgt: TokenArray
    counts: FilterCounts
    num_several_sentences: int  # sources with more than one sentence


class ChunkEncoder:
    """Normalizes, encodes and filters chunks. The result depends on the chunk alone."""

    def __init__(
        self,
        src_tokenizer: Tokenizer,
        tgt_tokenizer: Tokenizer,
        *,
        limits: FilterLimits,
        normalization: Normalization,
    ) -> None:
        self._src_encoder = WordEncoder(src_tokenizer)
        self._tgt_encoder = self._src_encoder  # both sides share one memory of words
        if tgt_tokenizer.digest != src_tokenizer.digest:
            self._tgt_encoder = WordEncoder(tgt_tokenizer)
        self._limits = limits
        self._normalization = normalization

    def encode(self, chunk: TextChunk) -> EncodedChunk:
        """Return the ids of the pairs that are kept."""
        src_texts, tgt_texts = self._visible_texts(chunk.pairs)
        src = self._src_encoder.encode(src_texts)
        tgt = self._tgt_encoder.encode(tgt_texts)
        src_lengths = src.lengths + chunk.prefix_length
        longer = np.maximum(src_lengths, tgt.lengths)
        shorter = np.minimum(src_lengths, tgt.lengths)
        is_too_long = longer > self._limits.max_length
        has_bad_ratio = (
            ~is_too_long
            & (longer > SHORT_PAIR_TOKENS)
            & (longer > self._limits.max_length_ratio * shorter)
        )
        kept = np.flatnonzero(~is_too_long & ~has_bad_ratio)
        counts = FilterCounts(
            kept=len(kept),
            blank=len(chunk.pairs) - len(src_texts),
            too_long=int(is_too_long.sum()),
            bad_ratio=int(has_bad_ratio.sum()),
        )
        num_several_sentences = sum(1 for index in kept if sentence_cuts(src_texts[index]))
        return EncodedChunk(
            chunk.corpus_index, src.take(kept), tgt.take(kept), counts, num_several_sentences
        )

    def _visible_texts(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
        """Return the normalized sources and targets of the pairs without a blank side."""
        form = self._normalization
        src_texts = []
        tgt_texts = []
        for src, tgt in pairs:
            src_text = normalize(src, form)
            tgt_text = normalize(tgt, form)
            if not is_blank_line(src_text, form) and not is_blank_line(tgt_text, form):
                src_texts.append(src_text)
                tgt_texts.append(tgt_text)
        return src_texts, tgt_texts
