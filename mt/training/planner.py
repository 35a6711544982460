"""Plans the number of updates of a run, and revises the plan by the measured speed."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from mt.config.schema import TrainConfig
from mt.training.metrics_log import PlanRecord
from mt.training.pace import Pace
from mt.training.run_plan import UNKNOWN_TOTAL, RunPlan
from mt.training.schedule import learning_rate
from mt.training.state import TrainState
from mt.training.stopping import count_validations, updates_within

# With `train.max_minutes`, the plan is examined again after this fraction of `max_minutes`, or of
# the time that the remaining updates take, whichever is less.
EXAMINED_FRACTION = 0.01
EXAMINED_FRACTION_LEFT = 0.1
# Until a validation is measured, this fraction of `train.max_minutes` is kept for validation.
VALIDATION_FRACTION = 0.15
# The measured speed is a mean over about this fraction of `train.max_minutes`, or over so many
# seconds.
PACE_MEMORY_FRACTION = 0.1
PACE_MEMORY_SECONDS = 60.0
# The first plan needs the time of so many updates.
NUM_FIRST_UPDATES = 3
# With `train.max_minutes`, a plan is revised when its total changes by more than this fraction of
# the updates that are left. At the end, every change counts: another limit may end the run.
REVISED_FRACTION_LEFT = 0.02


class Progress(NamedTuple):
    """How far a run is."""

    fraction: float  # from 0 to 1, of the limit that ends the run first
    seconds_left: float | None  # validations and final scoring included; None: not known yet


class RunPlanner:
    """The plan of a run with the measurements behind it. A checkpoint keeps both."""

    def __init__(self, config: TrainConfig, *, batches_per_update: int) -> None:
        self.config = config
        self.batches_per_update = batches_per_update
        self.epoch_length = math.inf  # in batches; not known before the first epoch is planned
        self.plan = RunPlan.of_new_run(UNKNOWN_TOTAL, config)
        self.pace = Pace()
        self.reserved_seconds = 0.0  # of `max_minutes`, for the final scoring

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of an update, counted from 1."""
        return learning_rate(step, self.plan, self.config)

    @property
    def total_steps(self) -> int | None:
        """The planned number of updates, or the limit `max_steps`; None: not known yet."""
        return self.plan.total_steps if self.plan.is_total_known else self.config.max_steps

    # The measured speed

    def count_update(self, state: TrainState) -> None:
        """Measure the speed: an update has ended now."""
        memory_seconds = PACE_MEMORY_SECONDS
        if self.config.max_minutes is not None:
            memory_seconds = PACE_MEMORY_FRACTION * 60.0 * self.config.max_minutes
        self.pace.count_update(state.elapsed_seconds, memory_seconds=memory_seconds)

    def count_validation(self, state: TrainState, *, seconds: float) -> None:
        """Measure the speed: a validation of so many seconds has ended now."""
        self.pace.count_validation(seconds, elapsed_seconds=state.elapsed_seconds)

    def progress(self, state: TrainState) -> Progress:
        """Return how far the run is, and the time until it ends."""
        config = self.config
        plan = self.plan
        fractions = [0.0]
        estimates = []
        if plan.is_total_known and config.max_minutes is None:
            fractions.append(state.step / max(1, plan.total_steps))
        if config.max_minutes is not None:
            limit = 60.0 * config.max_minutes
            fractions.append(state.elapsed_seconds / limit)
            estimates.append(max(0.0, limit - state.elapsed_seconds))
        if config.max_steps is not None:
            fractions.append(state.step / config.max_steps)
        if plan.is_total_known and self.pace.update_seconds is not None:
            num_updates = max(0, plan.total_steps - state.step)
            num_validations = count_validations(state.step, plan.total_steps, config.validate_every)
            estimates.append(
                num_updates * self.pace.update_seconds
                + max(0, num_validations) * (self.pace.validation_seconds or 0.0)
                + self.reserved_seconds
            )
        return Progress(min(1.0, max(fractions)), min(estimates, default=None))

    # The plan

    def is_complete(self, state: TrainState) -> bool:
        """Return whether a run with `max_minutes` has done its updates.

        It has then ended, whatever time is left.
        """
        has_clock = self.config.max_minutes is not None
        return has_clock and self.plan.is_total_known and state.step >= self.plan.total_steps

    def is_due(self, state: TrainState) -> bool:
        """Return whether to examine the plan again: the clock may have changed it."""
        plan = self.plan
        pace = self.pace
        if self.config.max_minutes is None or state.step >= plan.total_steps:
            return False
        if not plan.is_total_known and pace.num_updates >= NUM_FIRST_UPDATES:
            return True
        interval = EXAMINED_FRACTION * 60.0 * self.config.max_minutes
        if pace.update_seconds is not None:
            updates_seconds = (plan.total_steps - state.step) * pace.update_seconds
            interval = min(interval, EXAMINED_FRACTION_LEFT * updates_seconds)
        return state.elapsed_seconds - pace.planned_at >= interval

    def allowed_steps(self, state: TrainState) -> int | None:
        """Return how many updates the limits allow now, or None if that is not known yet.

        The first of the limits counts.
        """
        self.pace.planned_at = state.elapsed_seconds
        totals = []
        if self.config.max_steps is not None:
            totals.append(self.config.max_steps)
        if self.config.max_epochs is not None:
            if math.isinf(self.epoch_length):
                return None
            num_epochs_left = self.config.max_epochs - state.epoch
            updates_of_epoch = math.ceil(self.epoch_length / self.batches_per_update)
            updates_done = math.ceil(state.batch_index / self.batches_per_update)
            totals.append(state.step + num_epochs_left * updates_of_epoch - updates_done)
        if self.config.max_minutes is not None:
            steps = self._steps_of_minutes(state, 60.0 * self.config.max_minutes)
            if steps is not None:
                totals.append(steps)
        return min(totals, default=None)

    def _steps_of_minutes(self, state: TrainState, seconds: float) -> int | None:
        """Return how many updates fit into a run of so many seconds; None: not known yet."""
        pace = self.pace
        seconds_left = seconds - state.elapsed_seconds - self.reserved_seconds
        if pace.validation_seconds is None:
            seconds_left -= VALIDATION_FRACTION * seconds
        if seconds_left <= 0.0:
            return max(state.step, 1)  # one update is needed for a model
        if pace.update_seconds is None:
            return None
        num_updates = updates_within(
            seconds_left,
            step=state.step,
            update_seconds=pace.update_seconds,
            validation_seconds=pace.validation_seconds or 0.0,
            validate_every=self.config.validate_every,
        )
        return max(state.step + num_updates, 1)

    def revise(self, total_steps: int | None, *, step: int) -> PlanRecord | None:
        """Give the plan another number of updates, if it is known and differs enough.

        Returns the record of the new plan, or None if the plan stays as it is.
        """
        if total_steps is None or not self._is_worth_revising(total_steps, step=step):
            return None
        if self.plan.is_total_known:
            self.plan = self.plan.revised(total_steps, self.config, step=step)
        else:
            self.plan = self.plan.extended(total_steps, self.config, step=step)
        return PlanRecord(total_steps, self.plan.warmup.to_step)

    def _is_worth_revising(self, total_steps: int, *, step: int) -> bool:
        """Return whether a new total differs enough from that of the plan.

        A total that comes from a clock varies a little all the time; any other is exact.
        """
        plan = self.plan
        if self.config.max_minutes is None or not plan.is_total_known:
            return total_steps != plan.total_steps
        tolerance = REVISED_FRACTION_LEFT * (plan.total_steps - step)
        return abs(total_steps - plan.total_steps) > tolerance

    # Checkpoints

    def save(self) -> dict[str, Any]:
        """Return the values for the meta.json of a checkpoint; `restore` reads them."""
        return {"plan": asdict(self.plan), "limits": self._limits(), "pace": asdict(self.pace)}

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Restore the plan and the measured speed.

        Earlier versions of mt did not save them: their learning rate depended on max_steps alone.
        Raises ValueError.
        """
        self.pace = TypeAdapter(Pace).validate_python(meta.get("pace", {}))
        self.pace.restart()
        if "plan" not in meta:
            total_steps = self.config.max_steps or UNKNOWN_TOTAL
            self.plan = RunPlan.of_new_run(total_steps, self.config)
            return
        self.plan = TypeAdapter(RunPlan).validate_python(meta["plan"])
        if meta["limits"] != self._limits():
            self.plan = replace(self.plan, total_steps=UNKNOWN_TOTAL)

    def _limits(self) -> dict[str, float | None]:
        """Return the limits of the run: a run that resumes with others gets another plan."""
        config = self.config
        return {
            "max_steps": config.max_steps,
            "max_epochs": config.max_epochs,
            "max_minutes": config.max_minutes,
        }
