"""Splits a text into the parts that are translated one by one, and joins their translations.

A model translates well what looks like its training sources. A text that is longer than usual
training sources is split where its sentences end, and a sentence that is very long is split near
its middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from mt.data.normalization import is_blank
from mt.data.sentences import Cut, middle_cut, sentence_cuts, separator
from mt.data.source_stats import SourceStats
from mt.data.tags import Prefix
from mt.data.tokenizer import Tokenizer
from mt.decoding.translation import Segment, SegmentStart, Translation

# If fewer of the training sources had several sentences, the model never learned to translate
# more than one, and every line is split.
MIN_SEVERAL_SENTENCES_SHARE = 0.05


class TextPart(NamedTuple):
    """A text, or a part of it, that is translated on its own."""

    start: int  # where it begins in the text
    text: str
    src_ids: list[int]
    target_prefix: tuple[int, ...] = ()  # tokens that its translation begins with


@dataclass(frozen=True, eq=False)
class TextSplitter:
    """Splits texts into parts that a model translates well."""

    tokenizer: Tokenizer  # of the source
    longest_source: int  # tokens that no source of a search may exceed
    # Of the training text. None: unknown, and only texts that are longer than `longest_source` are
    # split.
    source_stats: SourceStats | None

    def for_long_texts_only(self) -> Self:
        """Return a splitter that splits only texts of more than `longest_source` tokens."""
        return replace(self, source_stats=None)

    def split(self, text: str, *, prefix: Prefix = ()) -> list[TextPart]:
        """Return the parts of a text in order, each with the prefix of tags in front of its ids.

        A text is split where its sentences end if it is longer than usual training sources, or if
        few of these had several sentences. A sentence that is very long is split near its middle,
        and its halves in the same way. A blank text has no parts. Raises ValueError for a prefix
        that has other ids than tags.
        """
        if prefix and not set(prefix) <= set(self.tokenizer.tag_ids):
            raise ValueError(f"wanted a prefix of ids in {self.tokenizer.tag_ids}: {prefix}")
        if is_blank(text):
            return []
        whole = self._encode(text, 0, prefix)
        if not self._splits_every_text and len(whole.src_ids) <= self._usual_length:
            return [whole]
        sentences = self._split_at_sentence_ends(whole, prefix)
        return [part for sentence in sentences for part in self._halve(sentence, prefix)]

    def _split_at_sentence_ends(self, whole: TextPart, prefix: Prefix) -> list[TextPart]:
        """Return the sentences of a text."""
        cuts = sentence_cuts(whole.text)
        if not cuts:
            return [whole]
        starts = [0, *(cut.stop for cut in cuts)]
        ends = [*(cut.start for cut in cuts), len(whole.text)]
        return [
            self._encode(whole.text[start:end], start, prefix)
            for start, end in zip(starts, ends, strict=True)
        ]

    def _halve(self, part: TextPart, prefix: Prefix) -> list[TextPart]:
        """Return a part, or its halves, halves of these and so on, until each is short enough."""
        if is_blank(part.text):
            return []
        if len(part.src_ids) <= self._rare_length:
            return [part]
        cut = middle_cut(part.text)
        if cut is None:
            return [part]
        left = self._encode(part.text[: cut.start], part.start, prefix)
        right = self._encode(part.text[cut.stop :], part.start + cut.stop, prefix)
        return self._halve(left, prefix) + self._halve(right, prefix)

    def _encode(self, text: str, start: int, prefix: Prefix) -> TextPart:
        """Encode a part of a text that begins at `start`."""
        (text_ids,) = self.tokenizer.encode([text])
        return TextPart(start, text, [*prefix, *text_ids])

    @property
    def _splits_every_text(self) -> bool:
        """Whether a text is split where its sentences end, whatever its length."""
        if self.source_stats is None:
            return False
        return self.source_stats.several_sentences_share < MIN_SEVERAL_SENTENCES_SHARE

    @property
    def _usual_length(self) -> int:
        """The number of tokens above which a text is split where its sentences end."""
        if self.source_stats is None:
            return self.longest_source
        return min(self.source_stats.usual_length, self.longest_source)

    @property
    def _rare_length(self) -> int:
        """The number of tokens above which a sentence is split."""
        if self.source_stats is None:
            return self.longest_source
        return min(self.source_stats.rare_length, self.longest_source)


def join_translations(
    text: str, parts: Sequence[TextPart], translations: Sequence[Sequence[Translation]]
) -> list[Translation]:
    """Return the translations of a text from those of its parts.

    The k-th translation joins the k-th of each part, as far as all parts have one. A blank text
    has no parts, and its translation is empty.
    """
    if not parts:
        return [Translation("", 0.0, 0.0)]
    return [
        _join_same_rank(text, parts, same_rank) for same_rank in zip(*translations, strict=False)
    ]


def _join_same_rank(
    text: str, parts: Sequence[TextPart], translations: Sequence[Translation]
) -> Translation:
    """Return the translation of a text from one translation of each of its parts."""
    joined = ""
    segments: list[Segment] = []
    segment_starts = []
    previous_end = 0  # of the part before, in the text
    for part, translation in zip(parts, translations, strict=True):
        joined += separator(text, Cut(previous_end, part.start), joined, translation.text)
        segments.extend(translation.segments)
        segment_starts.append(SegmentStart(part.start, len(joined)))
        joined += translation.text
        previous_end = part.start + len(part.text)
    return Translation(
        text=joined,
        score=sum(translation.score for translation in translations),
        log_prob=sum(translation.log_prob for translation in translations),
        segments=tuple(segments),
        segment_starts=tuple(segment_starts),
    )
