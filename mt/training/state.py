"""The training state, and running sums over the latest updates: values that a checkpoint keeps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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
    best_loss: FiniteFloat | None = None  # of the validation with the best score
    validations_without_improvement: NonNegativeInt = 0
    num_skipped: NonNegativeInt = 0  # updates skipped because their gradients were not finite
    last_validated_step: NonNegativeInt = 0

    def assign(self, other: Self) -> None:
        """Set all counters to those of `other`."""
        for field in fields(self):
            setattr(self, field.name, getattr(other, field.name))

    def is_improved_by(self, score: float, *, loss: float) -> bool:
        """Return whether a validation is better than the best one so far.

        Of two equal scores, such as a BLEU of 0 in early training, the one with the lower loss is
        better. Earlier versions of mt did not keep the loss: then an equal score is not better.
        """
        if not math.isfinite(score):
            return False
        if self.best_score is None or score > self.best_score:
            return True
        return score == self.best_score and self.best_loss is not None and loss < self.best_loss


class WindowSums(NamedTuple):
    """Sums over the updates since the last logged line.

    A skipped update counts in the last two fields only.
    """

    losses: dict[str, float]  # by the names of an objective's LossSums
    num_tokens: float
    grad_norm: float  # a sum of norms: divide by num_updates
    num_updates: float
    num_skipped: float
    num_skipped_in_a_row: float  # up to now; continues over several windows


COUNTERS = WindowSums._fields[1:]


class LogWindow:
    """WindowSums that grow on the device, so that no update waits for the host."""

    def __init__(self, device: torch.device, names: Sequence[str]) -> None:
        self._names = tuple(names)  # of the losses
        # The losses in the order of their names, then the counters.
        self._sums = torch.zeros(len(self._names) + len(COUNTERS), device=device)

    def add(self, losses: Mapping[str, Tensor], *, num_tokens: int, grad_norm: Tensor) -> None:
        """Count one update. All tensors are scalars.

        A gradient norm that is not finite marks a skipped update.
        """
        assert losses.keys() == set(self._names), (losses.keys(), self._names)
        values = [losses[name] for name in self._names]
        zeros = [torch.zeros_like(grad_norm)] * len(values)
        one = torch.ones_like(grad_norm)
        zero = torch.zeros_like(grad_norm)
        # The last entry resets the count of consecutive skipped updates to zero.
        done = torch.stack((*values, num_tokens * one, grad_norm, one, zero, -self._sums[-1]))
        skipped = torch.stack((*zeros, zero, zero, zero, one, one))
        self._sums += torch.where(grad_norm.isfinite(), done, skipped)

    def close(self, runtime: Runtime) -> WindowSums:
        """Return the sums over all ranks, and start a new window."""
        # Losses differ between ranks; everything else is the same.
        runtime.all_reduce_sum(self._sums[: len(self._names)])
        sums = self.sums()
        self._sums[:-1] = 0.0
        return sums

    def sums(self) -> WindowSums:
        """Return the sums so far, with the losses of this rank only. Waits for the device."""
        values = self._sums.tolist()
        losses = dict(zip(self._names, values, strict=False))
        return WindowSums(losses, *values[len(losses) :])

    def save(self) -> dict[str, float]:
        """Return the sums for a checkpoint, by name."""
        return dict(zip((*self._names, *COUNTERS), self._sums.tolist(), strict=True))

    def load(self, saved: Mapping[str, float]) -> None:
        """Continue the window that `save` was called on. Raises TypeError or ValueError."""
        names = (*self._names, *COUNTERS)
        if not isinstance(saved, Mapping) or saved.keys() != set(names):
            raise ValueError(f"wanted the sums {', '.join(names)}, found {str(saved)[:200]}")
        self._sums.copy_(torch.tensor([saved[name] for name in names]))

    def load_from_other_ranks(self, saved: Sequence[Mapping[str, float]], *, rank: int) -> None:
        """Restore windows that another number of ranks saved: rank 0 gets the sums of all."""
        own = torch.zeros_like(self._sums)
        for window in saved:
            self.load(window)
            own += self._sums
        own[len(self._names) :] = self._sums[len(self._names) :]  # equal on all ranks
        if rank > 0:
            own[: len(self._names)] = 0.0
        self._sums.copy_(own)
