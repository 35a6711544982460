"""BPE-dropout: random segmentations of a word, as a noise in training that helps small corpora.

Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization".

SentencePiece implements it too, but mixes a random number of the process into the seed that it is
given, so a run could not be repeated or resumed. Here the random numbers come from the caller.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

# The words whose plain encodings a SubwordSampler remembers: about 30 MB at the most.
MAX_WORDS = 100_000
MAX_WORD_LENGTH = 32  # characters

Draw = Callable[[], float]  # returns random numbers, uniform on [0, 1)


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


def sample_segments(word: str, pieces: Pieces, *, dropout: float, draw: Draw) -> list[str]:
    """Split a word into segments by BPE merges, each skipped with probability `dropout`.

    A merge that was skipped may be made in a later round (Provilkov et al. 2020, algorithm 1). In
    each round a random number decides on the best merge, and only if that is skipped, another one
    decides on the second best, and so on. A dropout of 0 gives the usual BPE segmentation.
    """
    segments = list(word)
    # Of merging each segment with the next one; -inf if that is no merge.
    scores = [pieces.scores.get(left + right, -math.inf) for left, right in pairwise(segments)]
    skipped: list[tuple[int, float]] = []  # in this round
    while scores:
        best_score = max(scores)
        if best_score == -math.inf:  # no merge is left, or all are skipped
            break
        index = scores.index(best_score)
        if draw() < dropout:
            skipped.append((index, best_score))
            scores[index] = -math.inf
            continue
        for skipped_index, score in skipped:
            scores[skipped_index] = score
        skipped.clear()
        segments[index : index + 2] = [segments[index] + segments[index + 1]]
        del scores[index]
        for left in (index - 1, index):
            if 0 <= left < len(scores):
                text = segments[left] + segments[left + 1]
                scores[left] = pieces.scores.get(text, -math.inf)
    return segments


class SubwordSampler:
    """Samples encodings of words, and remembers the plain encodings of words.

    Most words are sampled without a skip, and get their plain encoding. So at a dropout of 0.1,
    remembering these makes sampling two to three times as fast. The samples do not depend on what
    is remembered.
    """

    def __init__(self, pieces: Pieces, *, dropout: float) -> None:
        self._pieces = pieces
        self._dropout = dropout
        self._plain: dict[str, tuple[list[int], int]] = {}  # ids and number of merges by word

    def sample(self, word: str, draw: Draw) -> list[int]:
        """Return the ids of a word as `sample_segments` splits it; do not change the list."""
        dropout = self._dropout
        plain = self._plain.get(word) or self._remember(word)
        if plain is None:
            return self._encode(word, draw)
        ids, num_merges = plain
        drawn = []
        for _ in range(num_merges):
            number = draw()
            drawn.append(number)
            if number < dropout:
                # Start again, with the random numbers drawn so far and then with new ones.
                return self._encode(word, _replay(drawn, draw))
        return ids

    def _encode(self, word: str, draw: Draw) -> list[int]:
        segments = sample_segments(word, self._pieces, dropout=self._dropout, draw=draw)
        return self._pieces.segment_ids(segments)

    def _remember(self, word: str) -> tuple[list[int], int] | None:
        """Return the plain ids and the number of merges of a word; None for a word too many."""
        if len(self._plain) >= MAX_WORDS or len(word) > MAX_WORD_LENGTH:
            return None
        segments = sample_segments(word, self._pieces, dropout=0.0, draw=lambda: 1.0)
        plain = (self._pieces.segment_ids(segments), len(word) - len(segments))
        self._plain[word] = plain
        return plain


def _replay(drawn: Sequence[float], draw: Draw) -> Draw:
    """Return a source of random numbers that repeats `drawn` and then draws new ones."""
    remaining = deque(drawn)
    return lambda: remaining.popleft() if remaining else draw()
