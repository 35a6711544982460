"""What a person sees while a run trains: a progress bar on a terminal, plain lines elsewhere."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mt.decoding.translation import OnProgress, TranslationProgress
from mt.progress_bar import ProgressBar, ProgressText, format_duration
from mt.training.metrics_log import FinalRecord, SetResult, Validation

logger = logging.getLogger(__name__)

NUMBERS_SECONDS = 2.0  # how old the numbers in a progress bar may become
FIRST_LINE_SECONDS = 4.0  # without a progress bar, the first line comes after so many seconds


@dataclass(frozen=True)
class Position:
    """How far a run has come, and how far it will go."""

    step: int
    total_steps: int | None  # as planned; None: not known yet
    epoch: float  # how many times the training text was used
    fraction: float  # of the limit that ends the run
    seconds_left: float | None  # None: not known yet


@dataclass(frozen=True)
class Numbers:
    """Means over the latest updates."""

    loss: float
    lr: float
    tokens_per_second: float


class Console:
    """Shows a run's progress on stderr. A disabled console, as on other ranks, shows nothing."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._bar = ProgressBar(enabled=False)
        self._position: Position | None = None
        self._numbers: Numbers | None = None
        self._activity: str | None = None
        self._numbers_time: float | None = None  # when the latest numbers were shown
        self._first_time: float | None = None  # of the first call of `advance`

    @contextmanager
    def progress_bar(self) -> Iterator[None]:
        """Show a progress bar inside the `with` block, on a terminal only."""
        enabled = self.enabled and logger.isEnabledFor(logging.INFO)
        with ProgressBar(enabled=enabled, keep=True) as bar:
            self._bar = bar
            try:
                yield
            finally:
                self._activity = None
                self._redraw(at_once=True)

    def show_activity(self, text: str) -> None:
        """Show in the progress bar what the run does before its next update."""
        self._activity = text
        self._redraw(at_once=True)

    def advance(self, position: Position) -> None:
        """Show in the progress bar that an update is done."""
        if self._first_time is None:
            self._first_time = time.monotonic()
        self._position = position
        self._activity = None
        self._redraw()

    def numbers_are_due(self) -> bool:
        """Return whether to call `show_numbers` although no line is due.

        So numbers appear in the first seconds, and a progress bar stays up to date.
        """
        now = time.monotonic()
        if self._bar.is_shown:
            return self._numbers_time is None or now - self._numbers_time >= NUMBERS_SECONDS
        if not self.enabled or self._numbers_time is not None or self._first_time is None:
            return False
        return now - self._first_time >= FIRST_LINE_SECONDS

    def show_numbers(self, position: Position, numbers: Numbers) -> None:
        """Show the latest numbers in the progress bar, or as a line where there is none."""
        self._position = position
        self._numbers = numbers
        self._numbers_time = time.monotonic()
        if self._bar.is_shown:
            self._redraw(at_once=True)
        else:
            self.info(format_line(position, numbers))

    def _redraw(self, *, at_once: bool = False) -> None:
        text = format_bar(self._position, self._numbers, activity=self._activity)
        self._bar.show(text, at_once=at_once)

    def show_validation(self, step: int, validation: Validation, *, is_best: bool) -> None:
        """Show the scores of a validation, and its sample translations."""
        self._activity = None
        self.info(format_validation(step, validation, is_best=is_best))

    def show_final_score(self, final: FinalRecord) -> None:
        """Show the score of the best checkpoint at the end of the run."""
        self.info(format_final_score(final))

    def info(self, text: str) -> None:
        """Show a line that stays."""
        if self.enabled:
            logger.info(text)

    def warning(self, text: str) -> None:
        """Show a warning that stays."""
        if self.enabled:
            logger.warning(text)


@contextmanager
def translation_bar(text: str, *, enabled: bool) -> Iterator[OnProgress]:
    """Show a progress bar for translations inside the `with` block, on a terminal only.

    It stands below the bar of the training and disappears at the end. Yields the function that
    receives the progress.
    """
    with ProgressBar(enabled=enabled and logger.isEnabledFor(logging.INFO)) as bar:

        def show(progress: TranslationProgress) -> None:
            bar.show(ProgressText((text,), progress.fraction), at_once=progress.is_complete)

        bar.show(ProgressText((text,), 0.0), at_once=True)
        yield show


def format_bar(
    position: Position | None, numbers: Numbers | None, *, activity: str | None = None
) -> ProgressText:
    """Return what the progress bar shows: the time left first, or what the run does now."""
    first = []
    if activity is not None:
        first.append(activity)
    elif position is not None:
        first.append(_format_time_left(position))
    rest = []
    if numbers is not None:
        first.append(f"loss {numbers.loss:.3f}")
        rest.append(f"{numbers.tokens_per_second:,.0f} tok/s")
    if position is None:
        return ProgressText(tuple(first))
    rest += [_format_step(position), f"epoch {position.epoch:.1f}"]
    if numbers is not None:
        rest.append(f"lr {numbers.lr:.2e}")
    return ProgressText(tuple(first), position.fraction, tuple(rest))


def format_line(position: Position, numbers: Numbers) -> str:
    """Return a line for a log file."""
    fields = [
        _format_step(position),
        f"loss {numbers.loss:.3f}",
        f"{numbers.tokens_per_second:,.0f} tok/s",
        f"lr {numbers.lr:.2e}",
        _format_time_left(position),
    ]
    return " | ".join(fields)


def _format_step(position: Position) -> str:
    total = f"/{position.total_steps:,}" if position.total_steps else ""
    return f"step {position.step:,}{total}"


def _format_time_left(position: Position) -> str:
    if position.seconds_left is None:
        return "-:-- left"
    return f"{format_duration(position.seconds_left)} left"


def format_validation(step: int, validation: Validation, *, is_best: bool) -> str:
    """Return a line with the scores of a validation, and lines with its samples below."""
    fields = [
        f"valid {step:,}",
        f"loss {validation.loss:.3f}",
        f"ppl {validation.perplexity:.2f}",
        *(f"{name} {value:.2f}" for name, value in validation.scores.items()),
    ]
    if validation.scope is not None:
        fields.append(str(validation.scope))
    if is_best:
        fields.append("best")
    lines = [" | ".join(fields), *_format_sets(validation.sets)]
    for sample in validation.samples:
        lines += [f"    src {sample.src}", f"    ref {sample.ref}", f"    hyp {sample.hyp}", ""]
    return "\n".join(lines).rstrip()


def format_final_score(final: FinalRecord) -> str:
    """Return a line with the score of the best checkpoint at the end of the run."""
    fields = [
        f"final score of {final.checkpoint}",
        *(f"{name} {value:.2f}" for name, value in final.scores.items()),
        str(final.scope),
    ]
    if final.scope.is_sample:
        fields.append("all lines would take more than 10 % of max_minutes")
    return "\n".join([" | ".join(fields), *_format_sets(final.sets)])


def _format_sets(sets: Sequence[SetResult]) -> list[str]:
    """Return a line for each of several validation sets; the scores above are their means."""
    lines = []
    for item in sets:
        fields = [f"    {item.name}"]
        if item.loss is not None:
            fields.append(f"loss {item.loss:.3f}")
        fields += [f"{name} {value:.2f}" for name, value in item.scores.items()]
        lines.append(" | ".join(fields))
    return lines
