"""BPE-dropout: random segmentations of a word, as a noise in training that helps small corpora.

Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization".

SentencePiece implements it too, but mixes a random number of the process into the seed that it is
given, so a run could not be repeated or resumed. Here the random numbers come from the caller.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pieces:
    """Pieces of a SentencePiece model that encode text.

    `ids` and `scores` leave out the control pieces, the "unknown" piece and the byte pieces.
    """

    ids: dict[str, int]  # by the piece's text
    scores: dict[str, float]  # by the piece's text; the merge with the highest score comes first
    byte_ids: tuple[int, ...]  # of the 256 bytes, which encode the characters without a piece

    def segment_ids(self, segments: list[str]) -> list[int]:
        """Return the ids of the segments; a segment that is not a piece becomes its UTF-8 bytes."""
        ids = []
        for segment in segments:
            if segment in self.ids:
                ids.append(self.ids[segment])
            else:
                ids.extend(self.byte_ids[byte] for byte in segment.encode("utf-8"))
        return ids


def sample_segments(
    word: str, pieces: Pieces, *, dropout: float, draw: Callable[[], float]
) -> list[str]:
    """Split a word into segments by BPE merges, each skipped with probability `dropout`.

    A merge that was skipped may be made in a later round (Provilkov et al. 2020, algorithm 1). A
    dropout of 0 gives the usual BPE segmentation. `draw` returns random numbers uniform on [0, 1).
    """
    segments = list(word)
    while True:
        best_index = None
        best_score = -math.inf
        for index in range(len(segments) - 1):
            score = pieces.scores.get(segments[index] + segments[index + 1])
            # A merge that is not the best so far cannot be chosen, so no number is drawn for it.
            if score is not None and score > best_score and draw() >= dropout:
                best_index = index
                best_score = score
        if best_index is None:
            return segments
        segments[best_index : best_index + 2] = [segments[best_index] + segments[best_index + 1]]
