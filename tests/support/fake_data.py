"""Epochs and data sets that tests make from batches of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mt.data.batch_plan import BatchPlan
from mt.data.batching import Batch


@dataclass
class FakeEpoch:
    """An epoch with the interface of `mt.data.dataset.Epoch`."""

    plan: BatchPlan
    batch: Callable[[int], Batch]
    number: int = 0

    def batch_for_memory_check(self, index: int) -> Batch:
        return self.batch(index)

    def cancel(self) -> None:
        pass


@dataclass
class FakeDataset:
    """A data set of which every epoch has the same batches."""

    batches: Sequence[Batch]
    digest: str = ""
    has_bpe_dropout: bool = False
    max_length: int = 7

    def epoch(self, number: int, *, batch_tokens: int) -> FakeEpoch:
        indices = np.arange(len(self.batches) + 1)
        src_lengths = np.array([batch.src.size(1) for batch in self.batches])
        tgt_lengths = np.array([batch.tgt_out.size(1) for batch in self.batches])
        plan = BatchPlan(indices[:-1], indices, src_lengths, tgt_lengths, indices[[0, -1]])
        return FakeEpoch(plan, self.batches.__getitem__, number)


def random_batch(seed: int, num_pairs: int = 4) -> Batch:
    """Return pairs of different lengths up to 7 tokens, padded with 0 at their ends."""
    generator = torch.Generator().manual_seed(seed)
    src, tgt = torch.randint(1, 20, (2, num_pairs, 7), generator=generator)
    for row in range(num_pairs):
        tgt[row, 7 - (seed + row) % 5 :] = 0
        src[row, 7 - (seed + 2 * row) % 3 :] = 0
    bos = torch.ones(num_pairs, 1, dtype=torch.long)
    is_token = tgt != 0
    tgt_in = torch.cat((bos, tgt[:, :-1]), dim=1) * is_token
    return Batch(src, tgt_in, tgt, int(is_token.sum()))


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Return one batch of the pairs of all batches, which have equal widths."""
    return Batch(
        torch.cat([batch.src for batch in batches]),
        torch.cat([batch.tgt_in for batch in batches]),
        torch.cat([batch.tgt_out for batch in batches]),
        num_tokens=sum(batch.num_tokens for batch in batches),
    )
