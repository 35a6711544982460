"""Exponential moving average of the weights (EMA)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Of 10, 20, 40 and 80, this gave the lowest validation loss in most of the first 2,100 updates of a
# run (docs/log.md).
WARMUP = 40


class MovingAverage:
    """Average of a model's weights over its updates, in which recent updates count most.

    After each update, average = decay * average + (1 - decay) * weights. The decay begins low and
    grows to `decay`: in update n it is at most (1 + n) / (WARMUP + n), so the average reaches back
    over about a fortieth of the updates so far, and the initial weights are soon forgotten. The
    rule is that of TensorFlow's ExponentialMovingAverage, which has 10 in the place of WARMUP.

    All values stay on the device of the model, so an update never waits for the device.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = model.state_dict()  # these share their memory with the model
        self.averages = {name: weight.clone() for name, weight in self._weights.items()}
        device = next(iter(self._weights.values())).device
        self.num_updates = torch.zeros((), dtype=torch.float32, device=device)

    @torch.no_grad()
    def update(self, was_applied: Tensor) -> None:
        """Update the averages after an optimizer step.

        `was_applied` is a bool scalar: False if the update was skipped because its gradients were
        not finite. A skipped update does not count.
        """
        self.num_updates += was_applied
        decay = ((1 + self.num_updates) / (WARMUP + self.num_updates)).clamp(max=self.decay)
        new_fraction = (1 - decay) * was_applied
        for name, weight in self._weights.items():
            self.averages[name].lerp_(weight, new_fraction)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averages as the model's weights inside the `with` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, averages: Mapping[str, Tensor], num_updates: float) -> None:
        """Restore the state of an earlier average. Raises ValueError for that of another model."""
        if averages.keys() != self.averages.keys():
            raise ValueError("wanted averages of the model's weights")
        for name, average in self.averages.items():
            if averages[name].shape != average.shape:
                raise ValueError(f"the average of {name} has the shape {averages[name].shape}")
            average.copy_(averages[name])
        self.num_updates.fill_(num_updates)

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange weights and averages in place, because the optimizer refers to the weights."""
        for name, weight in self._weights.items():
            average = self.averages[name]
            copy = weight.clone()
            weight.copy_(average)
            average.copy_(copy)
