"""Plans the number of updates of a run, and revises the plan by the measured speed."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter

from mt.config.schema import TrainConfig
from mt.training import stopping
from mt.training.metrics_log import PlanRecord
from mt.training.pace import Pace
from mt.training.schedule import NOT_MEASURED, RunPlan, learning_rate
from mt.training.state import TrainState


class RunPlanner:
    """The plan of a run with the measurements behind it. A checkpoint keeps both."""

    def __init__(self, config: TrainConfig, *, batches_per_update: int) -> None:
        self.config = config
        self.batches_per_update = batches_per_update
        self.epoch_length = math.inf  # in batches; not known before the first epoch is planned
        self.plan = RunPlan.of_new_run(NOT_MEASURED, config)
        self.pace = Pace()
        self.reserved_seconds = 0.0  # of `max_minutes`, for the final scoring

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of an update, counted from 1."""
        return learning_rate(step, self.plan, self.config)

    @property
    def total_steps(self) -> int | None:
        """The planned number of updates, or the limit `max_steps`; None: not known yet."""
        return self.plan.total_steps if self.plan.is_measured else self.config.max_steps

    def progress(self, state: TrainState) -> stopping.Progress:
        """Return how far the run is, and the time until it ends."""
        return stopping.progress(
            state,
            self.plan,
            self.config,
            pace=self.pace,
            reserved_seconds=self.reserved_seconds,
        )

    def count_update(self, state: TrainState) -> None:
        """Measure the speed: an update has ended now."""
        memory_seconds = stopping.pace_memory_seconds(self.config)
        self.pace.count_update(state.elapsed_seconds, memory_seconds=memory_seconds)

    def count_validation(self, state: TrainState, *, seconds: float) -> None:
        """Measure the speed: a validation of so many seconds has ended now."""
        self.pace.count_validation(seconds, elapsed_seconds=state.elapsed_seconds)

    def is_complete(self, state: TrainState) -> bool:
        """Return whether a run with `max_minutes` has done its updates.

        It has then ended, whatever time is left.
        """
        has_clock = self.config.max_minutes is not None
        return has_clock and self.plan.is_measured and state.step >= self.plan.total_steps

    def is_due(self, state: TrainState) -> bool:
        """Return whether the clock may have changed the number of updates."""
        return stopping.plan_is_due(state, self.plan, self.config, self.pace)

    def planned_steps(self, state: TrainState) -> int | None:
        """Return how many updates the limits allow now; None when this is not known yet."""
        self.pace.planned_at = state.elapsed_seconds
        return stopping.planned_steps(
            state,
            self.config,
            pace=self.pace,
            epoch_length=self.epoch_length,
            batches_per_update=self.batches_per_update,
            reserved_seconds=self.reserved_seconds,
        )

    def revise(self, total_steps: int | None, *, step: int) -> PlanRecord | None:
        """Give the plan another number of updates, if it is known and differs enough.

        Returns the record of the new plan, or None if the plan stays as it is.
        """
        plan = self.plan
        if total_steps is None:
            return None
        if not stopping.is_worth_revising(plan, total_steps, self.config, step=step):
            return None
        if plan.is_measured:
            self.plan = plan.revised(total_steps, self.config, step=step)
        else:
            self.plan = plan.extended(total_steps, self.config, step=step)
        return PlanRecord(total_steps, self.plan.warmup.to_step)

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
            total_steps = self.config.max_steps or NOT_MEASURED
            self.plan = RunPlan.of_new_run(total_steps, self.config)
            return
        self.plan = TypeAdapter(RunPlan).validate_python(meta["plan"])
        if meta["limits"] != self._limits():
            self.plan = replace(self.plan, total_steps=NOT_MEASURED)

    def _limits(self) -> dict[str, float | None]:
        """Return the limits of the run: a run that resumes with others gets another plan."""
        config = self.config
        return {
            "max_steps": config.max_steps,
            "max_epochs": config.max_epochs,
            "max_minutes": config.max_minutes,
        }
