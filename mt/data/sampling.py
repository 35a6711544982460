"""Sampled segmentations of a word: the same word cut differently each time, as a noise that helps small corpora.

SentencePiece has both methods, but mixes a fresh random number of each process into the seed it is given, so that a
run could never be repeated or resumed. Here the draws come from the caller: `draw()` is uniform on [0, 1).
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

UNKNOWN_PENALTY = 10.0  # SentencePiece's: a character without a piece scores this much below the worst piece


@dataclass(frozen=True)
class Pieces:
    """The ordinary pieces of a model: their ids and scores, and the ids of the 256 bytes for all other characters."""

    ids: dict[str, int]
    scores: dict[str, float]
    byte_ids: tuple[int, ...]

    @cached_property
    def max_length(self) -> int:
        return max(map(len, self.scores), default=1)

    @cached_property
    def unknown_score(self) -> float:
        return min(self.scores.values(), default=0.0) - UNKNOWN_PENALTY

    def look_up(self, segments: list[str]) -> list[int]:
        """The ids of the segments; one that is no piece becomes its UTF-8 bytes."""
        found: list[int] = []
        for segment in segments:
            piece_id = self.ids.get(segment)
            if piece_id is None:
                found.extend(self.byte_ids[byte] for byte in segment.encode())
            else:
                found.append(piece_id)
        return found


class Sampler(Protocol):
    def __call__(self, word: str, pieces: Pieces, *, strength: float, draw: Callable[[], float]) -> list[str]: ...


def sample_bpe(word: str, pieces: Pieces, *, strength: float, draw: Callable[[], float]) -> list[str]:
    """Merge a word's characters, each possible merge being overlooked with probability `strength` in every round.

    BPE-dropout, Provilkov et al. 2020, algorithm 1. Strength 0 is the plain encoding.
    """
    scores = pieces.scores
    segments = list(word)
    while True:
        best_index, best_score = -1, -math.inf
        for index in range(len(segments) - 1):
            score = scores.get(segments[index] + segments[index + 1])
            if score is not None and score > best_score and draw() >= strength:
                best_index, best_score = index, score
        if best_index < 0:
            return segments
        segments[best_index : best_index + 2] = [segments[best_index] + segments[best_index + 1]]


def sample_unigram(word: str, pieces: Pieces, *, strength: float, draw: Callable[[], float]) -> list[str]:
    """Draw a segmentation with probability proportional to (product of its pieces' probabilities) ** `strength`.

    Subword regularisation, Kudo 2018, over all segmentations: sums run forward, the draw goes backward.
    """
    totals = [0.0]  # totals[end]: log of the summed weight of all segmentations of word[:end]
    choices: list[tuple[list[int], list[float]]] = []  # for each end: starts of a last piece, running sum of weights
    for end in range(1, len(word) + 1):
        starts, weights = [], []
        for start in range(max(0, end - pieces.max_length), end):
            score = pieces.scores.get(word[start:end])
            if score is None and start == end - 1:
                score = pieces.unknown_score
            if score is not None:
                starts.append(start)
                weights.append(totals[start] + strength * score)
        peak = max(weights)
        sums = list(accumulate(math.exp(weight - peak) for weight in weights))
        totals.append(peak + math.log(sums[-1]))
        choices.append((starts, sums))
    segments: list[str] = []
    end = len(word)
    while end:
        starts, sums = choices[end - 1]
        start = starts[bisect(sums, draw() * sums[-1], hi=len(sums) - 1)]
        segments.append(word[start:end])
        end = start
    return segments[::-1]


SAMPLERS: dict[str, Sampler] = {"bpe": sample_bpe, "unigram": sample_unigram}
