"""Sequences of token ids in two arrays, which can be mapped from files."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenArray:
    """Sequences of ids, stored end to end: sequence i is `ids[offsets[i] : offsets[i + 1]]`."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]  # (len + 1,)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]]) -> Self:
        """Return a copy of lists of ids."""
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        ids = np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum())
        return cls(ids, offsets_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each sequence, (len,)."""
        return np.diff(self.offsets)

    @property
    def lengths_int32(self) -> NDArray[np.int32]:
        """The lengths in half the memory, for the sequences of a whole corpus."""
        return np.subtract(self.offsets[1:], self.offsets[:-1], dtype=np.int32, casting="unsafe")

    def take(self, indices: NDArray[np.int64]) -> Self:
        """Return a copy of the sequences at `indices`, in that order."""
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        offsets = offsets_of(lengths)
        # Each id's position in the result, plus the distance to its position in `self.ids`.
        positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return type(self)(self.ids[positions], offsets)

    def rows(self) -> list[list[int]]:
        """Return the sequences as lists of ids."""
        return [self[index].tolist() for index in range(len(self))]


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each sequence starts, and where the last one ends: (len(lengths) + 1,)."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
