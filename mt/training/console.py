"""What a person sees while a run trains: a progress bar on a terminal, plain lines elsewhere."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tqdm import tqdm

from mt.decoding.translator import Progress
from mt.training.metrics_log import FinalRecord, Validation

logger = logging.getLogger(__name__)


class Console:
    """Shows a run's progress on stderr. A disabled console, as on other ranks, shows nothing.

    A progress bar that cannot be written, for example because its terminal was closed, is switched
    off.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._bar = tqdm(disable=True)

    @contextmanager
    def progress_bar(self, total: int | None, *, step: int) -> Iterator[None]:
        """Show a progress bar at `step` of `total` inside the `with` block, on a terminal only."""
        is_shown = self.enabled and sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)
        bar_format = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
        with self._switching_off():
            self._bar = tqdm(
                total=total,
                initial=step,
                unit="step",
                dynamic_ncols=True,
                bar_format=None if total is None else bar_format,
                disable=not is_shown,
            )
        try:
            yield
        finally:
            with self._switching_off():
                self._bar.close()

    def advance(self, step: int) -> None:
        """Move the progress bar to `step`."""
        with self._switching_off():
            self._bar.update(step - self._bar.n)

    def show_progress(
        self, step: int, *, loss: float, lr: float, tokens_per_second: float, seconds_left: float
    ) -> None:
        """Show the latest numbers in the progress bar, or as a line where there is none."""
        numbers = f"loss {loss:.3f} | {tokens_per_second:,.0f} tok/s | lr {lr:.2e}"
        status = f"{numbers} | {format_duration(seconds_left)} left"
        if not self._bar.disable:
            with self._switching_off():
                self._bar.set_postfix_str(status)
            return
        total = f"/{self._bar.total:,}" if self._bar.total else ""
        self.info(f"step {step:,}{total} | {status}")

    def show_validation(self, step: int, validation: Validation, *, is_best: bool) -> None:
        """Show the scores of a validation, and its sample translations."""
        self.info(format_validation(step, validation, is_best=is_best))

    def show_final_score(self, final: FinalRecord) -> None:
        """Show the score of the best checkpoint at the end of the run."""
        self.info(format_final_score(final))

    @contextmanager
    def _switching_off(self) -> Iterator[None]:
        """Switch the progress bar off if it cannot be written: training must not end."""
        try:
            yield
        except OSError:
            self._bar.disable = True

    def info(self, text: str) -> None:
        """Show a line that stays."""
        if self.enabled:
            logger.info(text)

    def warning(self, text: str) -> None:
        """Show a warning that stays."""
        if self.enabled:
            logger.warning(text)


@contextmanager
def translation_bar(text: str) -> Iterator[Progress]:
    """Show a progress bar for translations inside the `with` block, on a terminal only.

    It stands below the bar of the training and disappears at the end. A bar that cannot be written
    does not end the training.
    """
    is_shown = sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)
    bar = tqdm(disable=True)
    with suppress(OSError):
        bar = tqdm(
            desc=text,
            total=100,
            bar_format="{desc}: {percentage:3.0f}% |{bar}| {remaining} left",
            leave=False,
            mininterval=0,
            dynamic_ncols=True,
            disable=not is_shown,
        )

    def show(num_done: int, num_segments: int) -> None:
        with suppress(OSError):
            bar.update(100 * num_done / num_segments - bar.n)

    try:
        yield show
    finally:
        with suppress(OSError):
            bar.close()


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
    lines = [" | ".join(fields)]
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
    if final.scope.num_lines < final.scope.num_lines_in_set:
        fields.append("all lines would take more than 10 % of max_minutes")
    return " | ".join(fields)


def format_duration(seconds: float) -> str:
    """Return 75 seconds as 1:15, and 3700 seconds as 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_of_hour = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes_of_hour:02}:{rest:02}"
    return f"{minutes}:{rest:02}"
