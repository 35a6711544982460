"""How much of a run's time validation takes, and what to change when it takes too much."""

from mt.config.schema import TrainConfig
from mt.planning.advice import round_up
from mt.training.stopping import count_validations

# `mt check` warns when validation takes a larger fraction of a run's time.
MAX_VALIDATION_FRACTION = 0.15

# All validations of a run may take so long, whatever fraction of its time that is.
UNNOTICED_SECONDS = 30.0


def validation_fraction(
    train: TrainConfig, *, num_updates: int, update_seconds: float, validation_seconds: float
) -> float:
    """Return the fraction of a run's time that its validations take, from 0 to 1."""
    training_seconds = num_updates * update_seconds
    num_validations = count_validations(0, num_updates, train.validate_every)
    all_validations_seconds = num_validations * validation_seconds
    return all_validations_seconds / (training_seconds + all_validations_seconds)


def advise_on_validation(
    train: TrainConfig,
    *,
    num_lines: int,
    num_updates: int,
    update_seconds: float,
    validation_seconds: float,
) -> str | None:
    """Return a warning with a remedy when validation takes too much time; else None.

    `num_lines` is the number of lines that a validation translates.
    """
    fraction = validation_fraction(
        train,
        num_updates=num_updates,
        update_seconds=update_seconds,
        validation_seconds=validation_seconds,
    )
    seconds = count_validations(0, num_updates, train.validate_every) * validation_seconds
    if fraction <= MAX_VALIDATION_FRACTION or seconds < UNNOTICED_SECONDS:
        return None
    fewer_lines = f"a smaller train.validation_lines (now {num_lines:,})"
    remedy = fewer_lines
    # Solve v / (training_seconds + v) = MAX_VALIDATION_FRACTION for the time v of all validations.
    training_seconds = num_updates * update_seconds
    seconds_allowed = training_seconds * MAX_VALIDATION_FRACTION / (1 - MAX_VALIDATION_FRACTION)
    num_allowed = int(seconds_allowed / validation_seconds)
    if num_allowed >= 1:
        validate_every = min(round_up(num_updates / num_allowed), num_updates)
        remedy = f"train.validate_every: {validate_every} or more, or {fewer_lines}"
    return f"validation takes {100 * fraction:.0f} % of the training time: try {remedy}"
