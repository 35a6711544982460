"""When a run ends, and how many updates and validations fit into a time."""

import math
from bisect import bisect_right

from mt.config.schema import TrainConfig
from mt.training.run_plan import RunPlan
from mt.training.state import TrainState
from mt.wording import count_of


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
        return f"no improvement in {count_of(num_validations, 'validation')}"
    return None


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
