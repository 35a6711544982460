"""Batching: from lengths to a plan of batches, and from a plan to padded tensors.

A batch holds as many pairs as fit into a budget of padded positions. Pairs of similar length go
into one batch, so that little of the budget is padding. Pairs of equal lengths are shuffled, and so
are the batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt.data.corpus import EncodedPairs, TokenArray

Lengths = NDArray[np.int64]
Indices = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BatchPlan:
    """The batches of one epoch: batch i holds the pairs `order[starts[i] : starts[i + 1]]`."""

    order: Indices  # (num_planned_pairs,)
    starts: NDArray[np.int64]  # (num_batches + 1,)
    src_lengths: Lengths  # (num_batches,): length of the longest source in each batch
    tgt_lengths: Lengths  # (num_batches,): length of the longest target in each batch

    @property
    def num_batches(self) -> int:
        return len(self.starts) - 1

    def indices(self, start: int, end: int) -> Indices:
        """Return the indices of the pairs in the batches from `start` to before `end`."""
        return self.order[self.starts[start] : self.starts[end]]


class Batch(NamedTuple):
    """Sentence pairs as int64 tensors, padded with pad_id at the end of each row."""

    src: Tensor  # (batch, src_length)
    tgt_in: Tensor  # (batch, tgt_length): begins with bos, lacks eos
    tgt_out: Tensor  # (batch, tgt_length): ends in eos
    num_tokens: int  # in tgt_out, without padding

    def repeat(self, times: int) -> Self:
        """Return the rows `times` times: all of them, then all of them again, and so on."""
        return self._replace(
            src=self.src.repeat(times, 1),
            tgt_in=self.tgt_in.repeat(times, 1),
            tgt_out=self.tgt_out.repeat(times, 1),
            num_tokens=times * self.num_tokens,
        )

    def to(self, device: torch.device) -> Self:
        """Return the batch on `device`; copies to a GPU are asynchronous."""
        if device.type == "cpu":
            return self
        return self._replace(
            src=self.src.pin_memory().to(device, non_blocking=True),
            tgt_in=self.tgt_in.pin_memory().to(device, non_blocking=True),
            tgt_out=self.tgt_out.pin_memory().to(device, non_blocking=True),
        )


def plan_batches(
    src_lengths: Lengths,
    tgt_lengths: Lengths,
    *,
    batch_tokens: int,
    seed: int,
    epoch: int,
    weights: Floats | None = None,
) -> BatchPlan:
    """Plan the batches of an epoch, as a pure function of the arguments.

    Each pair is taken as often as its weight says. The fraction of a weight is the probability to
    take the pair once more. No weights are weights of 1.

    A batch has at most `batch_tokens` positions on its longer side, padding included. Only a pair
    that is longer by itself makes a larger batch, of one pair. The lengths are those of the plain
    encodings: where BPE-dropout makes them longer, a batch can have more positions.
    """
    assert len(src_lengths) == len(tgt_lengths) > 0, (len(src_lengths), len(tgt_lengths))
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(src_lengths))
    if weights is not None:
        order = _take_by_weight(order, weights[order], generator)
        order = generator.permutation(order)
    order = order[_sort_by_length(src_lengths[order], tgt_lengths[order])]

    longer_sides = np.maximum(src_lengths, tgt_lengths)[order]
    slices = list(_cut_by_budget(longer_sides, batch_tokens))
    batches = []
    for index in generator.permutation(len(slices)):
        start, end = slices[index]
        batches.append(order[start:end])

    order = np.concatenate(batches)
    starts = np.cumsum([0] + [len(batch) for batch in batches])
    ordered_src_lengths = src_lengths[order]
    ordered_tgt_lengths = tgt_lengths[order]
    return BatchPlan(
        order=order,
        starts=starts,
        src_lengths=np.maximum.reduceat(ordered_src_lengths, starts[:-1]),
        tgt_lengths=np.maximum.reduceat(ordered_tgt_lengths, starts[:-1]),
    )


def group_by_length(lengths: Lengths, *, batch_tokens: int) -> list[list[int]]:
    """Return the indices of inputs in batches of at most `batch_tokens` padded positions.

    The batches with the longest inputs come first. An input that is longer than `batch_tokens` is a
    batch of its own.
    """
    order = np.argsort(lengths, kind="stable")
    # An empty input counts as one position.
    sorted_lengths = np.maximum(lengths[order], 1)
    groups = [
        order[start:end].tolist() for start, end in _cut_by_budget(sorted_lengths, batch_tokens)
    ]
    groups.reverse()
    return groups


def split_evenly(
    src_lengths: Lengths, tgt_lengths: Lengths, num_batches: int, generator: np.random.Generator
) -> list[Indices]:
    """Return the indices of all pairs in `num_batches` batches of similar size, in random order.

    Pairs of similar length go into one batch. The largest number of padded positions on the longer
    side of a batch is as small as possible.
    """
    assert len(src_lengths) >= num_batches, (len(src_lengths), num_batches)
    order = _sort_by_length(src_lengths, tgt_lengths)
    longer_sides = np.maximum(src_lengths, tgt_lengths)[order]
    too_small = 0
    large_enough = int(longer_sides[-1]) * len(longer_sides)
    while large_enough - too_small > 1:
        budget = (too_small + large_enough) // 2
        if len(list(_cut_by_budget(longer_sides, budget))) <= num_batches:
            large_enough = budget
        else:
            too_small = budget
    slices = list(_cut_by_budget(longer_sides, large_enough))
    while len(slices) < num_batches:
        # Halve the batch with most pairs.
        sizes = [end - start for start, end in slices]
        start, end = slices.pop(int(np.argmax(sizes)))
        middle = (start + end) // 2
        slices += [(start, middle), (middle, end)]
    batches = []
    for index in generator.permutation(num_batches):
        start, end = slices[index]
        batches.append(order[start:end])
    return batches


def make_batch(pairs: EncodedPairs, *, pad_id: int, bos_id: int) -> Batch:
    """Return the pairs as padded tensors, with each prefix in front of its source."""
    src = pairs.src
    if any(pairs.src_prefixes):
        rows = zip(pairs.src_prefixes, src.rows(), strict=True)
        src = TokenArray.from_rows([[*prefix, *ids] for prefix, ids in rows])
    padded_src, _ = _pad(src, pad_id)
    tgt_out, is_token = _pad(pairs.tgt, pad_id)
    # The decoder's input is its output, one position later: bos first, and without eos.
    tgt_in = np.full_like(tgt_out, bos_id)
    tgt_in[:, 1:] = np.where(is_token[:, 1:], tgt_out[:, :-1], pad_id)
    return Batch(
        src=torch.from_numpy(padded_src),
        tgt_in=torch.from_numpy(tgt_in),
        tgt_out=torch.from_numpy(tgt_out),
        num_tokens=int(is_token.sum()),
    )


def _take_by_weight(order: Indices, weights: Floats, generator: np.random.Generator) -> Indices:
    """Return each index as often as its weight says; `weights` are in the order of `order`.

    This is systematic sampling: the weights are laid end to end from a random start, and an index
    is taken each time that an integer is passed. So the number of indices differs by less than one
    from the sum of the weights.
    """
    ends = np.cumsum(weights, dtype=np.float64) + generator.random()
    integers_passed = np.floor(ends).astype(np.int64)
    taken = np.repeat(order, np.diff(integers_passed, prepend=0))
    if len(taken) == 0:
        return order[:1]  # training would never end if an epoch had no batch
    return taken


def _sort_by_length(src_lengths: Lengths, tgt_lengths: Lengths) -> Indices:
    """Return the order by the longer side, then by the difference of the sides; the sort is stable.

    The difference ascends for one length and descends for the next. Where a batch has pairs of two
    lengths, their shorter sides are then similar too. On Multi30k, 3.2 % of the positions are
    padding; with a difference that always ascends it is 4.2 %, and 7.0 % without the difference.
    """
    longer_sides = np.maximum(src_lengths, tgt_lengths)
    difference = src_lengths - tgt_lengths
    is_odd = longer_sides % 2 == 1
    return np.lexsort((np.where(is_odd, difference, -difference), longer_sides))


def _cut_by_budget(lengths: Lengths, batch_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut ascending lengths into the largest slices (start, end) that fit the budget.

    The cost of a slice is its last and largest length times the number of lengths.
    """
    assert (np.diff(lengths) >= 0).all(), "lengths must be ascending"
    start = 0
    while start < len(lengths):
        # No later length is smaller than lengths[start], so no slice can be larger than this.
        max_size = max(1, batch_tokens // int(lengths[start]))
        candidates = lengths[start : start + max_size]
        costs = candidates * np.arange(1, len(candidates) + 1)
        num_fitting = int(np.searchsorted(costs, batch_tokens, side="right"))
        end = start + max(1, num_fitting)
        yield start, end
        start = end


def _pad(rows: TokenArray, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the rows, padded to the longest, and a mask that is True for tokens.

    Both have the shape (len(rows), longest).
    """
    lengths = rows.lengths
    is_token = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(is_token.shape, pad_id, np.int64)
    padded[is_token] = rows.ids
    return padded, is_token
