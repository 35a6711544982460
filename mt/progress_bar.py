"""A progress bar on a terminal: one line that always fits the terminal's width."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from tqdm import tqdm
from tqdm.utils import disp_len

SEPARATOR = " | "
REDRAW_SECONDS = 0.1  # at most one redraw in this time
DEFAULT_WIDTH = 80  # of a terminal that does not tell its width
MIN_METER_CELLS = 10
MAX_METER_CELLS = 30
BLOCKS = " ▏▎▍▌▋▊▉█"  # a cell of the meter, from empty to full
ASCII_BLOCKS = " #"
# For the terminal. Spaces instead would be wrapped when the terminal becomes narrower.
ERASE_REST_OF_LINE = "\x1b[K"


@dataclass(frozen=True)
class ProgressText:
    """What a progress bar shows, in the order of importance."""

    first: tuple[str, ...]  # fields that stand before the meter
    fraction: float | None = None  # of the work that is done; None: there is no meter
    rest: tuple[str, ...] = ()  # fields that are shown as far as the width allows


def format_progress(text: ProgressText, *, width: int, blocks: str = BLOCKS) -> str:
    """Return a line of at most `width` columns.

    A field that does not fit is left out with all that follow it, so that no number is cut.
    """
    cells = min(max(width // 6, MIN_METER_CELLS), MAX_METER_CELLS)
    fields = list(text.first)
    if text.fraction is not None:
        fields.append(format_meter(text.fraction, cells=cells, blocks=blocks))
    fields += text.rest
    line = ""
    for field in fields:
        longer = f"{line}{SEPARATOR}{field}" if line else field
        if disp_len(longer) > width:
            break
        line = longer
    return line


def format_meter(fraction: float, *, cells: int, blocks: str = BLOCKS) -> str:
    """Return a meter and a percentage: `███▌       35%`."""
    fraction = min(max(fraction, 0.0), 1.0)
    steps_of_cell = len(blocks) - 1
    num_steps = int(fraction * cells * steps_of_cell)
    num_full, step = divmod(num_steps, steps_of_cell)
    meter = blocks[-1] * num_full
    if num_full < cells:
        meter += blocks[step]
    # Rounded down, because 100 % means that the work is done.
    return f"{meter:<{cells}} {int(fraction * 100):3}%"


def format_duration(seconds: float) -> str:
    """Return 75 seconds as 1:15, and 3700 seconds as 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_of_hour = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes_of_hour:02}:{rest:02}"
    return f"{minutes}:{rest:02}"


class ProgressBar:
    """Draws a ProgressText at the bottom of the terminal of stderr, in place.

    Without a terminal, or with `enabled=False`, it draws nothing. A bar that cannot be written, for
    example because its terminal was closed, is switched off: the work must not end. Log messages
    appear above the bar.
    """

    def __init__(self, *, enabled: bool = True, keep: bool = False) -> None:
        """Make a bar. With `keep`, its last state stays on the screen after `close`."""
        self._line = _Line(enabled=enabled and sys.stderr.isatty(), keep=keep)
        self._last_draw = -REDRAW_SECONDS

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal that shows this bar."""
        return not self._line.disable

    def show(self, text: ProgressText, *, at_once: bool = False) -> None:
        """Draw a text.

        Without `at_once`, it is skipped if the last one was drawn less than REDRAW_SECONDS ago.
        """
        if not self.is_shown:
            return
        self._line.text = text
        now = time.monotonic()
        if at_once or now - self._last_draw >= REDRAW_SECONDS:
            self._last_draw = now
            self._draw(self._line.refresh)

    def close(self) -> None:
        """Remove the bar from the screen, or leave its last state there."""
        self._draw(self._line.close)

    def _draw(self, draw: Callable[[], object]) -> None:
        try:
            draw()
        except OSError:
            self._line.disable = True

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Line(tqdm):  # type: ignore[type-arg]
    """The line of a ProgressBar. tqdm keeps it below log messages and above other bars."""

    def __init__(self, *, enabled: bool, keep: bool) -> None:
        self.text = ProgressText(())
        try:
            super().__init__(disable=not enabled, leave=keep, miniters=1)
        except OSError:
            self.disable = True

    def __str__(self) -> str:
        # The width is asked for at each drawing, because a window may be resized at any time. The
        # last column stays free: some terminals begin a new line after it.
        width = terminal_width(self.fp) - 1
        blocks = ASCII_BLOCKS if self.ascii else BLOCKS
        return format_progress(self.text, width=width, blocks=blocks)

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:
        """Draw the line. tqdm's own method would keep its lock when the terminal fails."""
        with self.get_lock():  # type: ignore[no-untyped-call]
            self.display()

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Return a function that replaces the whole line of a terminal."""

        def print_line(text: str) -> None:
            file.write(f"\r{text}{ERASE_REST_OF_LINE}")
            file.flush()

        return print_line


def terminal_width(file: IO[str]) -> int:
    """Return the number of columns of the terminal that a file writes to."""
    try:
        columns = os.get_terminal_size(file.fileno()).columns
    except OSError:
        columns = 0
    return columns or DEFAULT_WIDTH
