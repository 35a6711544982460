"""When a run ends: its limits, early stopping, and the time that is left."""

from mt.config.schema import TrainConfig
from mt.training.state import TrainState


def stop_reason(state: TrainState, config: TrainConfig, *, epoch_length: float) -> str | None:
    """Return why training ends at this point, or None. `epoch_length` is in batches."""
    for name, (value, limit) in progress_to_limits(state, config, epoch_length).items():
        if value >= limit:
            return f"{name} {limit:.10g} reached"
    num_validations = state.validations_without_improvement
    if config.patience is not None and num_validations >= config.patience:
        return f"no improvement in {num_validations} validations"
    return None


def seconds_left(state: TrainState, config: TrainConfig, *, epoch_length: float) -> float:
    """Return the time until the first limit at the pace so far; 0 before the first update."""
    estimates = [
        state.elapsed_seconds * (limit / value - 1.0)
        for value, limit in progress_to_limits(state, config, epoch_length).values()
        if value > 0.0
    ]
    return max(0.0, min(estimates, default=0.0))


def progress_to_limits(
    state: TrainState, config: TrainConfig, epoch_length: float
) -> dict[str, tuple[float, float]]:
    """Return (progress, limit) for each limit that is set."""
    num_epochs = state.epoch + state.batch_index / epoch_length
    progress = {
        "max_steps": (state.step, config.max_steps),
        "max_minutes": (state.elapsed_seconds / 60.0, config.max_minutes),
        "max_epochs": (num_epochs, config.max_epochs),
    }
    return {name: (value, limit) for name, (value, limit) in progress.items() if limit is not None}
