"""BPE-dropout: the same word cut differently each time, as a noise that helps small corpora.

SentencePiece has it too, but mixes a fresh random number of each process into the seed it is given, so that a run
could never be repeated or resumed. Here the draws come from the caller: `draw()` is uniform on [0, 1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pieces:
    """The ordinary pieces of a model: their ids and scores, and the ids of the 256 bytes for all other characters."""

    ids: dict[str, int]
    scores: dict[str, float]
    byte_ids: tuple[int, ...]

    def look_up(self, segments: list[str]) -> list[int]:
        """The ids of the segments; one that is no piece becomes its UTF-8 bytes."""
        known, in_bytes = self.ids, self.byte_ids
        return [
            i
            for s in segments
            for i in ([known[s]] if s in known else [in_bytes[b] for b in s.encode()])
        ]


def sample_segments(
    word: str, pieces: Pieces, *, dropout: float, draw: Callable[[], float]
) -> list[str]:
    """Merge a word's characters, each possible merge being overlooked with probability `dropout` in every round.

    Provilkov et al. 2020, algorithm 1. A dropout of 0 gives the plain encoding.
    """
    scores = pieces.scores
    segments = list(word)
    while True:
        best_index, best_score = -1, -math.inf
        for index in range(len(segments) - 1):
            score = scores.get(segments[index] + segments[index + 1])
            if score is not None and score > best_score and draw() >= dropout:
                best_index, best_score = index, score
        if best_index < 0:
            return segments
        segments[best_index : best_index + 2] = [segments[best_index] + segments[best_index + 1]]
