"""The training state, and running sums over the latest updates: values that a checkpoint keeps."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from pydantic import FiniteFloat, NonNegativeInt
from torch import Tensor

from mt.distributed import Runtime


@dataclass
class TrainState:
    """The counters of a run.

    Together with weights, optimizer, scaler and random states, they are all that resuming needs.
    """

    step: NonNegativeInt = 0  # updates done, skipped ones included
    epoch: NonNegativeInt = 0
    batch_index: NonNegativeInt = 0  # batches of this epoch's plan that were used, over all ranks
    tokens_seen: NonNegativeInt = 0  # target tokens
    elapsed_seconds: FiniteFloat = 0.0
    best_score: FiniteFloat | None = None  # higher is better
    validations_without_improvement: NonNegativeInt = 0
    num_skipped: NonNegativeInt = 0  # updates skipped because their gradients were not finite
    last_validated_step: NonNegativeInt = 0


class WindowSums(NamedTuple):
    """Sums over the updates since the last logged line.

    A skipped update counts in the last two fields only.
    """

    loss: float
    nll: float
    num_tokens: float
    grad_norm: float  # a sum of norms: divide by num_updates
    num_updates: float
    num_skipped: float
    num_skipped_in_a_row: float  # up to now; continues over several windows


class LogWindow:
    """WindowSums that grow on the device, so that no update waits for the host."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(WindowSums._fields), device=device)

    def add(self, loss: Tensor, nll: Tensor, *, num_tokens: int, grad_norm: Tensor) -> None:
        """Count one update. All tensors are scalars.

        A gradient norm that is not finite marks a skipped update.
        """
        one = torch.ones_like(grad_norm)
        zero = torch.zeros_like(grad_norm)
        # The last entry resets the count of consecutive skipped updates to zero.
        done = torch.stack((loss, nll, num_tokens * one, grad_norm, one, zero, -self._sums[-1]))
        skipped = torch.stack((zero, zero, zero, zero, zero, one, one))
        self._sums += torch.where(grad_norm.isfinite(), done, skipped)

    def close(self, runtime: Runtime) -> WindowSums:
        """Return the sums over all ranks, and start a new window."""
        runtime.all_reduce_sum(
            self._sums[:2]
        )  # losses differ between ranks; everything else is the same
        sums = WindowSums(*self._sums.tolist())
        self._sums[:-1] = 0.0
        return sums

    def to_list(self) -> list[float]:
        """Return the sums as numbers, for a checkpoint. Waits for the device."""
        return self._sums.tolist()

    @classmethod
    def restore(cls, saved: list[float], device: torch.device) -> Self:
        """Return the window that `to_list` was called on. Raises TypeError or ValueError."""
        window = cls(device)
        window._sums += torch.tensor(WindowSums(*saved), device=device)
        return window
