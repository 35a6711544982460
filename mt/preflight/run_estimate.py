"""How long a whole run takes, estimated from a dry run, and how much of it is validation."""

from collections.abc import Iterator
from typing import NamedTuple

from mt.advice.advice import round_up
from mt.config.schema import TrainConfig
from mt.preflight.file_checks import Finding
from mt.progress_bar import format_duration
from mt.training.stopping import count_validations, updates_within
from mt.wording import count_of

# A warning when validation takes a larger fraction of a run's time.
MAX_VALIDATION_FRACTION = 0.15

# All validations of a run may take so long, whatever fraction of its time that is.
UNNOTICED_SECONDS = 30.0


class RunEstimate(NamedTuple):
    """How long a whole run takes, until the first of its limits."""

    num_updates: int
    num_epochs: float
    num_validations: int
    update_seconds: float  # of one update
    validation_seconds: float  # of one validation

    @property
    def training_seconds(self) -> float:
        """Seconds of all updates."""
        return self.num_updates * self.update_seconds

    @property
    def all_validations_seconds(self) -> float:
        """Seconds of all validations."""
        return self.num_validations * self.validation_seconds

    @property
    def total_seconds(self) -> float:
        """Seconds of the whole run."""
        return self.training_seconds + self.all_validations_seconds

    @property
    def validation_fraction(self) -> float:
        """The fraction of the time that validations take, from 0 to 1."""
        return self.all_validations_seconds / self.total_seconds


def estimate_run(
    train: TrainConfig,
    *,
    update_seconds: float,
    validation_seconds: float,
    updates_per_epoch: int,
) -> RunEstimate:
    """Estimate a run from the seconds of one update and of one validation."""
    limits = []  # in updates
    if train.max_steps is not None:
        limits.append(train.max_steps)
    if train.max_epochs is not None:
        limits.append(train.max_epochs * updates_per_epoch)
    if train.max_minutes is not None:
        num_updates = updates_within(
            train.max_minutes * 60,
            step=0,
            update_seconds=update_seconds,
            validation_seconds=validation_seconds,
            validate_every=train.validate_every,
        )
        limits.append(max(1, num_updates))
    num_updates = min(limits)
    return RunEstimate(
        num_updates=num_updates,
        num_epochs=num_updates / updates_per_epoch,
        num_validations=count_validations(0, num_updates, train.validate_every),
        update_seconds=update_seconds,
        validation_seconds=validation_seconds,
    )


def describe_time(estimate: RunEstimate, train: TrainConfig) -> Finding:
    """Report how long a run takes."""
    text = (
        f"about {format_duration(estimate.total_seconds)} for "
        f"{count_of(estimate.num_updates, 'update')} (epochs: {estimate.num_epochs:.1f}), "
        f"{format_duration(estimate.all_validations_seconds)} of it for "
        f"{count_of(estimate.num_validations, 'validation')} with translations"
    )
    if train.patience is not None:
        text += "; early stopping (patience) may end it sooner"
    numbers = {
        "seconds": estimate.total_seconds,
        "updates": estimate.num_updates,
        "validation_seconds": estimate.validation_seconds,
    }
    return Finding("ok", "time", "", text, numbers)


def check_validation_time(estimate: RunEstimate, *, num_lines: int) -> Iterator[Finding]:
    """Yield a warning with a remedy if validation takes too much of the time.

    `num_lines` is the number of lines that a validation translates.
    """
    fraction = estimate.validation_fraction
    is_short = estimate.all_validations_seconds < UNNOTICED_SECONDS
    if fraction <= MAX_VALIDATION_FRACTION or is_short:
        return
    fewer_lines = f"a smaller train.validation_lines (now {num_lines:,})"
    remedy = fewer_lines
    # Solve v / (training_seconds + v) = MAX_VALIDATION_FRACTION for the time v of all validations.
    largest_ratio = MAX_VALIDATION_FRACTION / (1 - MAX_VALIDATION_FRACTION)
    seconds_allowed = estimate.training_seconds * largest_ratio
    num_allowed = int(seconds_allowed / estimate.validation_seconds)
    if num_allowed >= 1:
        num_updates = estimate.num_updates
        validate_every = min(round_up(num_updates / num_allowed), num_updates)
        remedy = f"train.validate_every: {validate_every} or more, or {fewer_lines}"
    text = f"validation takes {100 * fraction:.0f} % of the training time: try {remedy}"
    yield Finding("warning", "validation", "", text)
