"""The progress bars of commands that work line by line."""

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from mt.cli.text_input import count_lines
from mt.decoding.translation import TranslationProgress
from mt.progress_bar import ProgressBar, ProgressText, format_duration
from mt.wording import count_of

logger = logging.getLogger(__name__)

T = TypeVar("T")


class TranslateProgress:
    """Counts lines, and shows how many are translated and how long the others will take."""

    def __init__(self, bar: ProgressBar, *, total: int | None) -> None:
        """Start to measure the time. `total` is the number of lines; None: it is not known."""
        self._bar = bar
        self._total = total
        self._num_read = 0
        self._num_done = 0
        self._start = time.monotonic()
        self._show(num_lines=0, fraction=0.0)

    def count_reading(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the lines, which are about to be translated."""
        for line in lines:
            self._num_read += 1
            yield line

    def on_progress(self, progress: TranslationProgress) -> None:
        """Show the progress inside the chunk of lines that is being translated."""
        num_lines = self._num_read - self._num_done
        fraction_of_segments = progress.num_segments / progress.total_segments
        self._show(
            num_lines=self._num_done + int(num_lines * fraction_of_segments),
            fraction=self._fraction(self._num_done + num_lines * progress.fraction),
        )

    def finish_chunk(self) -> None:
        """Count all lines that were read as translated."""
        self._num_done = self._num_read
        self._show(num_lines=self._num_done, fraction=self._fraction(self._num_done))

    def _fraction(self, num_lines: float) -> float:
        return num_lines / self._total if self._total else 0.0

    def _show(self, *, num_lines: int, fraction: float) -> None:
        seconds = time.monotonic() - self._start
        text = format_line_progress(num_lines, self._total, fraction=fraction, seconds=seconds)
        self._bar.show(text)


def show_lines(items: Iterable[T], src: Path, *, enabled: bool) -> Iterator[T]:
    """Yield the items, one for each line of `src`.

    If `enabled`, a bar shows how many lines are done and how long the rest takes.
    """
    with ProgressBar(enabled=enabled and logger.isEnabledFor(logging.INFO)) as bar:
        total = count_lines(src) if bar.is_shown else None
        start = time.monotonic()
        for number, item in enumerate(items, start=1):
            yield item
            fraction = number / total if total else 0.0
            seconds = time.monotonic() - start
            bar.show(format_line_progress(number, total, fraction=fraction, seconds=seconds))


def format_line_progress(
    num_lines: int, total: int | None, *, fraction: float, seconds: float
) -> ProgressText:
    """Return what the bar shows after `num_lines` of `total` lines and some seconds."""
    speed = f"{num_lines / seconds:,.1f} lines/s" if num_lines > 0 else ""
    rest = (speed,) if speed else ()
    if total is None:
        return ProgressText((count_of(num_lines, "line"), *rest, format_duration(seconds)))
    count = f"{num_lines:,}/{total:,} lines"
    if fraction == 0.0:
        return ProgressText((count,), fraction)
    seconds_left = seconds * (1.0 / fraction - 1.0)
    return ProgressText((f"{format_duration(seconds_left)} left", count), fraction, rest)
