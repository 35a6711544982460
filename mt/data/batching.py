"""Lengths -> a plan of batches -> padded tensors.

A batch holds as many pairs as fit a budget of padded positions. Pairs of like length go together, so that little of
the budget is padding; pairs of equal lengths are in random order, and so are the batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt.data.corpus import EncodedCorpus, TokenArray

Lengths = NDArray[np.int64]
Indices = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BatchPlan:
    """The batches of one epoch: batch i is the pairs `order[starts[i] : starts[i + 1]]`."""

    order: Indices  # (num_pairs,)
    starts: NDArray[np.int64]  # (num_batches + 1,)
    num_tokens: NDArray[np.int64]  # (num_batches,): target tokens
    src_lengths: Lengths  # (num_batches,): of the longest source in each, and so the batch's width
    tgt_lengths: Lengths  # likewise

    @property
    def num_batches(self) -> int:
        return len(self.num_tokens)

    def indices(self, batch_index: int) -> Indices:
        return self.order[self.starts[batch_index] : self.starts[batch_index + 1]]


class Batch(NamedTuple):
    """Long tensors padded with pad_id; `tgt_in` begins with bos and lacks eos, `tgt_out` ends in eos."""

    src: Tensor  # (batch, src_length)
    tgt_in: Tensor  # (batch, tgt_length)
    tgt_out: Tensor  # (batch, tgt_length)
    num_tokens: int  # in tgt_out, without padding

    def to(self, device: torch.device) -> Self:
        """The same batch on `device`."""
        if device.type == "cpu":
            return self
        src, tgt_in, tgt_out = (
            tensor.pin_memory().to(device, non_blocking=True) for tensor in self[:3]
        )
        return self._replace(src=src, tgt_in=tgt_in, tgt_out=tgt_out)


def plan_batches(
    src_lengths: Lengths,
    tgt_lengths: Lengths,
    *,
    batch_tokens: int,
    seed: int,
    epoch: int,
    weights: Floats | None = None,
) -> BatchPlan:
    """Plan an epoch, as a pure function of the arguments.

    Each pair is taken `weight` times, a fraction being a probability. A batch has at most `batch_tokens` positions on
    its longer side, padding included, unless it is a single pair that has more.
    """
    assert len(src_lengths) == len(tgt_lengths) > 0, (len(src_lengths), len(tgt_lengths))
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(src_lengths))
    if weights is not None:
        order = generator.permutation(_draw(order, weights[order], generator))
    order = order[_by_length(src_lengths[order], tgt_lengths[order])]
    stretches = list(_cut(np.maximum(src_lengths, tgt_lengths)[order], batch_tokens))
    batches = [order[slice(*stretches[index])] for index in generator.permutation(len(stretches))]
    order = np.concatenate(batches)
    starts = np.cumsum([0, *map(len, batches)])
    src_lengths, tgt_lengths, starts_of = src_lengths[order], tgt_lengths[order], starts[:-1]
    longest_src, longest_tgt = (
        np.maximum.reduceat(side, starts_of) for side in (src_lengths, tgt_lengths)
    )
    return BatchPlan(
        order, starts, np.add.reduceat(tgt_lengths, starts_of), longest_src, longest_tgt
    )


def group_by_length(lengths: Lengths, *, batch_tokens: int) -> list[list[int]]:
    """Indices of inputs in batches of at most `batch_tokens` padded positions, the longest first; for search."""
    order = np.argsort(lengths, kind="stable")
    return [
        order[start:end].tolist()
        for start, end in _cut(np.maximum(lengths[order], 1), batch_tokens)
    ][::-1]


def make_batch(corpus: EncodedCorpus, indices: Indices, *, pad_id: int, bos_id: int) -> Batch:
    """Gather the pairs of `indices` into padded tensors."""
    src, _ = _pad(corpus.src, indices, pad_id)
    tgt_out, is_token = _pad(corpus.tgt, indices, pad_id)
    tgt_in = np.full_like(tgt_out, bos_id)
    tgt_in[:, 1:] = np.where(is_token[:, 1:], tgt_out[:, :-1], pad_id)
    return Batch(
        torch.from_numpy(src),
        torch.from_numpy(tgt_in),
        torch.from_numpy(tgt_out),
        int(is_token.sum()),
    )


def _draw(order: Indices, weights: Floats, generator: np.random.Generator) -> Indices:
    """Each index of a shuffled order as often as its weight says, in all the sum of the weights to within one."""
    reached = np.floor(np.cumsum(weights, dtype=np.float64) + generator.random()).astype(np.int64)
    drawn = np.repeat(order, np.diff(reached, prepend=0))
    return drawn if len(drawn) else order[:1]  # an epoch without a batch would never end


def _by_length(src_lengths: Lengths, tgt_lengths: Lengths) -> Indices:
    """Sort by the longer side, then by the difference of the two; equal pairs keep their order.

    The difference runs up for one length and down for the next, so that where two lengths share a batch, their
    shorter sides are alike too. On Multi30k this leaves 3.2 % of padding; with the difference always running up it is
    4.2 %, and 7.0 % without the difference.
    """
    longest = np.maximum(src_lengths, tgt_lengths)
    difference = src_lengths - tgt_lengths
    return np.lexsort((np.where(longest % 2, difference, -difference), longest))


def _cut(longest: Lengths, batch_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut ascending lengths into stretches as large as the budget allows."""
    start = 0
    while start < len(longest):
        window = longest[
            start : start + max(1, batch_tokens // int(longest[start]))
        ]  # no stretch can be larger
        costs = window * np.arange(1, len(window) + 1)
        end = start + max(1, int(np.searchsorted(costs, batch_tokens, side="right")))
        yield start, end
        start = end


def _pad(
    rows: TokenArray, indices: Indices, pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The rows of `indices` one below the other, and where their tokens are: both (batch, longest)."""
    starts = rows.offsets[indices]
    lengths = rows.offsets[indices + 1] - starts
    columns = np.arange(lengths.max())
    is_token = columns < lengths[:, None]
    padded = np.full(is_token.shape, pad_id, np.int64)
    padded[is_token] = rows.ids[(starts[:, None] + columns)[is_token]]
    return padded, is_token
