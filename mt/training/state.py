"""Where a run stands, and what its latest updates came to: values that a checkpoint keeps."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from pydantic import FiniteFloat, NonNegativeInt
from torch import Tensor

from mt.distributed import Runtime


@dataclass
class TrainState:
    """Where a run stands: with weights, optimizer, scaler and random states, all that it is."""

    step: NonNegativeInt = 0  # updates done, skipped ones included
    epoch: NonNegativeInt = 0
    batch_index: NonNegativeInt = 0  # batches of this epoch's plan used, over all ranks
    tokens_seen: NonNegativeInt = 0  # target tokens
    elapsed_seconds: FiniteFloat = 0.0
    best_score: FiniteFloat | None = None  # higher is better
    validations_without_improvement: NonNegativeInt = 0
    num_skipped: NonNegativeInt = 0  # updates left out, their gradients not being finite
    last_validated_step: NonNegativeInt = 0  # the last one validated


class WindowSums(NamedTuple):
    """What the updates since the last line in metrics.jsonl came to; a skipped one counts in the last two alone."""

    loss: float
    nll: float
    num_tokens: float
    grad_norm: float  # a sum of norms: divide by num_updates
    num_updates: float
    num_skipped: float
    skipped_in_a_row: float  # up to now, also over several windows


class Window:
    """WindowSums as they grow, on the device, so that no update waits for the host."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(WindowSums._fields), device=device)

    def add(self, loss: Tensor, nll: Tensor, *, num_tokens: int, grad_norm: Tensor) -> None:
        """Count one update (all tensors scalar), or one that was skipped, its gradient norm not being finite."""
        one, zero = torch.ones_like(grad_norm), torch.zeros_like(grad_norm)
        done = torch.stack((loss, nll, num_tokens * one, grad_norm, one, zero, -self._sums[-1]))
        skipped = torch.stack((zero, zero, zero, zero, zero, one, one))
        self._sums += torch.where(grad_norm.isfinite(), done, skipped)

    def close(self, runtime: Runtime) -> WindowSums:
        """The sums over all ranks, which begin anew."""
        runtime.all_sum(self._sums[:2])  # ranks have different losses; all else is the same on each
        sums = WindowSums(*self._sums.tolist())
        self._sums[:-1] = 0.0
        return sums

    def save(self) -> list[float]:
        """All of it, for a checkpoint."""
        return self._sums.tolist()

    @classmethod
    def restore(cls, saved: list[float], device: torch.device) -> Self:
        """The inverse of `save`. Raises ValueError for what `save` never gave."""
        window = cls(device)
        window._sums += torch.tensor(WindowSums(*saved), device=device)
        return window
