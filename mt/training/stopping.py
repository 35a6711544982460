"""When a run ends: its limits, early stopping, its planned number of updates, the time left."""

import math
from bisect import bisect_right
from typing import NamedTuple

from mt.config.schema import TrainConfig
from mt.training.pace import Pace
from mt.training.schedule import RunPlan
from mt.training.state import TrainState

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


def stop_reason(state: TrainState, plan: RunPlan, config: TrainConfig) -> str | None:
    """Return why training ends at this point, or None."""
    num_validations = state.validations_without_improvement
    if config.max_steps is not None and state.step >= config.max_steps:
        return f"max_steps {config.max_steps} reached"
    if config.max_epochs is not None and state.epoch >= config.max_epochs:
        return f"max_epochs {config.max_epochs} reached"
    if config.max_minutes is not None and state.step >= plan.total_steps:
        return f"max_minutes {config.max_minutes:.10g} reached"
    if config.patience is not None and num_validations >= config.patience:
        return f"no improvement in {num_validations} validations"
    return None


def planned_steps(
    state: TrainState,
    config: TrainConfig,
    *,
    pace: Pace,
    epoch_length: float,
    batches_per_update: int,
    reserved_seconds: float,
) -> int | None:
    """Return how many updates the whole run will have; None when this is not known yet.

    The first of the limits counts. `epoch_length` is in batches, and inf when it is not known.
    `reserved_seconds` are kept free at the end of `max_minutes`.
    """
    totals = []
    if config.max_steps is not None:
        totals.append(config.max_steps)
    if config.max_epochs is not None:
        if math.isinf(epoch_length):
            return None
        num_epochs_left = config.max_epochs - state.epoch
        updates_of_epoch = math.ceil(epoch_length / batches_per_update)
        updates_done = math.ceil(state.batch_index / batches_per_update)
        totals.append(state.step + num_epochs_left * updates_of_epoch - updates_done)
    if config.max_minutes is not None:
        seconds_left = 60.0 * config.max_minutes - state.elapsed_seconds - reserved_seconds
        if pace.validation_seconds is None:
            seconds_left -= VALIDATION_FRACTION * 60.0 * config.max_minutes
        if seconds_left <= 0.0:
            totals.append(max(state.step, 1))  # one update is needed for a model
        elif pace.update_seconds is not None:
            num_updates = updates_within(
                seconds_left,
                step=state.step,
                update_seconds=pace.update_seconds,
                validation_seconds=pace.validation_seconds or 0.0,
                validate_every=config.validate_every,
            )
            totals.append(max(state.step + num_updates, 1))
    return min(totals, default=None)


def updates_within(
    seconds: float,
    *,
    step: int,
    update_seconds: float,
    validation_seconds: float,
    validate_every: int,
) -> int:
    """Return how many updates fit into the time after update `step`, with their validations."""

    def seconds_of(num_updates: int) -> float:
        num_validations = count_validations(step, step + num_updates, validate_every)
        return num_updates * update_seconds + num_validations * validation_seconds

    most = int(seconds / max(update_seconds, 1e-9))
    return max(0, bisect_right(range(most + 1), seconds, key=seconds_of) - 1)


def count_validations(step: int, total_steps: int, validate_every: int) -> int:
    """Return the number of validations after update `step`; the last update is always validated."""
    return math.ceil(total_steps / validate_every) - step // validate_every


def pace_memory_seconds(config: TrainConfig) -> float:
    """Return over about how many seconds the speed of a run is measured."""
    if config.max_minutes is None:
        return PACE_MEMORY_SECONDS
    return PACE_MEMORY_FRACTION * 60.0 * config.max_minutes


def plan_is_due(state: TrainState, plan: RunPlan, config: TrainConfig, pace: Pace) -> bool:
    """Return whether to examine the plan of a run with `max_minutes` again."""
    if config.max_minutes is None or state.step >= plan.total_steps:
        return False
    if not plan.is_measured and pace.num_updates >= NUM_FIRST_UPDATES:
        return True
    interval = EXAMINED_FRACTION * 60.0 * config.max_minutes
    if pace.update_seconds is not None:
        updates_seconds = (plan.total_steps - state.step) * pace.update_seconds
        interval = min(interval, EXAMINED_FRACTION_LEFT * updates_seconds)
    return state.elapsed_seconds - pace.planned_at >= interval


def is_worth_revising(plan: RunPlan, total_steps: int, config: TrainConfig, *, step: int) -> bool:
    """Return whether a new total differs enough from that of the plan.

    A total that comes from a clock varies a little all the time; any other is exact.
    """
    if config.max_minutes is None or not plan.is_measured:
        return total_steps != plan.total_steps
    tolerance = REVISED_FRACTION_LEFT * (plan.total_steps - step)
    return abs(total_steps - plan.total_steps) > tolerance


class Progress(NamedTuple):
    """How far a run is."""

    fraction: float  # from 0 to 1, of the limit that ends the run first
    seconds_left: float | None  # validations and final scoring included; None: not known yet


def progress(
    state: TrainState,
    plan: RunPlan,
    config: TrainConfig,
    *,
    pace: Pace,
    reserved_seconds: float,
) -> Progress:
    """Return how far the run is, and the time until it ends."""
    fractions = [0.0]
    estimates = []
    if plan.is_measured and config.max_minutes is None:
        fractions.append(state.step / max(1, plan.total_steps))
    if config.max_minutes is not None:
        limit = 60.0 * config.max_minutes
        fractions.append(state.elapsed_seconds / limit)
        estimates.append(max(0.0, limit - state.elapsed_seconds))
    if config.max_steps is not None:
        fractions.append(state.step / config.max_steps)
    if plan.is_measured and pace.update_seconds is not None:
        num_updates = max(0, plan.total_steps - state.step)
        num_validations = count_validations(state.step, plan.total_steps, config.validate_every)
        estimates.append(
            num_updates * pace.update_seconds
            + max(0, num_validations) * (pace.validation_seconds or 0.0)
            + reserved_seconds
        )
    return Progress(min(1.0, max(fractions)), min(estimates, default=None))
