"""Epochs and data sets that tests make from tensors of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mt.data.batching import Batch, BatchPlan


@dataclass
class FakeEpoch:
    """An epoch with the interface of `mt.data.dataset.Epoch`."""

    plan: BatchPlan
    batch: Callable[[int], Batch]
