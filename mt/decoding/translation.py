"""What a translator returns: translations with their segments, and how far it has come."""

from collections.abc import Callable
from typing import NamedTuple

Alignment = list[tuple[int, int]]  # sorted links (source word, target word), counted from 0


class Segment(NamedTuple):
    """Token ids of a text, or of one part of it, and of its translation.

    Both end in eos. The source begins with its prefix of tags, if it has one.
    """

    src: list[int]
    tgt: list[int]


class SegmentStart(NamedTuple):
    """Where a segment begins in the normalized text, and in its translation, in characters."""

    src: int
    tgt: int


class Translation(NamedTuple):
    """One translation of one text.

    A text of several sentences, or a long one, is translated in several segments, and their scores
    are added. A blank text has no segments, and both of its scores are 0.
    """

    text: str
    # What translations are sorted by: log_prob, normalized by length, or with minimum Bayes risk
    # the mean utility.
    score: float
    log_prob: float  # of all tokens, by the model
    segments: tuple[Segment, ...] = ()
    alignment: Alignment | None = None  # None: not computed
    segment_starts: tuple[SegmentStart, ...] = ()  # of each segment


Target = str | Translation  # a given text, or what a translator generated


class TranslatedChunk(NamedTuple):
    """Successive lines of a text with their translations."""

    lines: list[str]
    translations: list[list[Translation]]  # of each line, best first


class TranslationProgress(NamedTuple):
    """How far the translation of several texts has come.

    Segments of similar length are translated together, the longest ones first, so their number says
    little about the time that is left; the number of tokens says more.
    """

    num_segments: int  # translated so far
    total_segments: int
    fraction: float  # of the source tokens

    @property
    def is_complete(self) -> bool:
        return self.num_segments == self.total_segments


OnProgress = Callable[[TranslationProgress], None]
