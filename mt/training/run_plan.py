"""The plan of a run: how many updates it will have, its warm-up and its decay.

A plan is revised while a run trains, for example when the measured speed shows that
`train.max_minutes` leaves time for fewer updates. The learning rate then continues from where it is
and reaches its end at the new total, so that it never jumps.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

from pydantic import FiniteFloat, NonNegativeInt

from mt.config.schema import TrainConfig

# The total of a plan before the speed of the run is measured: more updates than any run has.
UNKNOWN_TOTAL = 2**53


@dataclass(frozen=True)
class Ramp:
    """A number that rises linearly, from `start` after update `from_step` to `end` after `to_step`.

    Before and after, it stays at these values.
    """

    from_step: NonNegativeInt
    to_step: NonNegativeInt
    start: FiniteFloat
    end: FiniteFloat

    def value(self, step: int) -> float:
        """Return the number at update `step`."""
        if step >= self.to_step:
            return self.end
        if step <= self.from_step:
            return self.start
        rise = (self.end - self.start) * (step - self.from_step)
        return self.start + rise / (self.to_step - self.from_step)

    def with_end_at(self, to_step: int, *, step: int) -> Self:
        """Return the ramp that continues from the value at update `step` and ends at `to_step`."""
        if to_step == self.to_step:
            return self
        if step <= self.from_step:
            return replace(self, to_step=to_step)
        return replace(self, from_step=step, to_step=to_step, start=self.value(step))


@dataclass(frozen=True)
class RunPlan:
    """How many updates a run will have, its warm-up, and its decay."""

    total_steps: NonNegativeInt
    warmup: Ramp  # of the learning rate: from 0 to its peak
    decay: Ramp  # the fraction of the decay that is done: from 0 after the warm-up to 1 at the end

    @classmethod
    def of_new_run(cls, total_steps: int, config: TrainConfig) -> Self:
        """Return the plan of a run of `total_steps` updates from its start."""
        warmup_steps = planned_warmup(total_steps, config)
        return cls(
            total_steps,
            warmup=Ramp(0, warmup_steps, start=0.0, end=config.learning_rate),
            decay=Ramp(warmup_steps, total_steps, start=0.0, end=1.0),
        )

    @property
    def is_total_known(self) -> bool:
        """Whether the number of updates is known: with `max_minutes`, it must be measured first."""
        return self.total_steps < UNKNOWN_TOTAL

    def revised(self, total_steps: int, config: TrainConfig, *, step: int) -> Self:
        """Return the plan with another total, after update `step`, without a jump of the rate."""
        warmup = self.warmup
        decay = self.decay
        if step < warmup.to_step:
            warmup_steps = planned_warmup(total_steps, config)
            if warmup_steps <= step:
                # The run is shorter than planned. The rest of the warm-up takes as many updates as
                # in a new plan, because a jump of the learning rate can destroy the model.
                fraction_left = 1.0 - warmup.value(step) / config.learning_rate
                warmup_steps = step + math.ceil(fraction_left * warmup_steps)
            warmup = warmup.with_end_at(warmup_steps, step=step)
            decay = replace(decay, from_step=warmup.to_step)
        decay = decay.with_end_at(total_steps, step=step)
        return replace(self, total_steps=total_steps, warmup=warmup, decay=decay)

    def extended(self, total_steps: int, config: TrainConfig, *, step: int) -> Self:
        """Return the plan for a run that resumes with other limits after update `step`.

        A run that gets longer returns to the learning rate that it would have at this point of a
        plan for `total_steps`: after the end of its old plan, this rate was close to zero.
        """
        plan = self.revised(total_steps, config, step=step)
        fresh = Ramp(plan.warmup.to_step, total_steps, start=0.0, end=1.0)
        if fresh.value(step) <= self.decay.value(step):
            return replace(plan, decay=fresh)
        return plan


def planned_warmup(total_steps: int, config: TrainConfig) -> int:
    """Return the updates of warm-up: `warmup_steps`, at most `max_warmup_fraction` of the run."""
    if config.max_warmup_fraction is None:
        return config.warmup_steps
    return min(config.warmup_steps, int(config.max_warmup_fraction * total_steps))
