"""The progress bar of `mt evaluate`."""

import time

from mt.cli.logs import escape_control_chars
from mt.evaluation.evaluate import EvaluationProgress
from mt.progress_bar import ProgressBar, ProgressText, format_duration
from mt.wording import count_of

MAX_NAME_LENGTH = 16  # characters that are shown of the name of a set


class EvaluationBar:
    """Shows which set is evaluated, and how long its translation will take."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._start = 0.0  # of the current set

    def on_progress(self, progress: EvaluationProgress) -> None:
        """Show the progress of the current set."""
        if progress.translation is None:
            self._start = time.monotonic()
        seconds = time.monotonic() - self._start
        # What is shown before a new set, or before a set is scored, stays for a while.
        stays = progress.translation is None or progress.translation.is_complete
        self._bar.show(format_evaluation_progress(progress, seconds=seconds), at_once=stays)


def format_evaluation_progress(progress: EvaluationProgress, *, seconds: float) -> ProgressText:
    """Return what the bar shows `seconds` after the start of a set."""
    name = escape_control_chars(progress.set_name)
    if len(name) > MAX_NAME_LENGTH:
        name = f"{name[: MAX_NAME_LENGTH - 3]}..."
    if progress.num_sets > 1:
        name = f"{name} ({progress.set_number} of {progress.num_sets})"
    translation = progress.translation
    if translation is None:
        return ProgressText((count_of(progress.num_lines, "line"), name), 0.0)
    # A line of several sentences may be translated in several segments.
    count = f"{translation.num_segments:,}/{translation.total_segments:,} sentences"
    if translation.is_complete:
        return ProgressText(("scoring", name), translation.fraction, (count,))
    seconds_left = seconds * (1.0 / translation.fraction - 1.0)
    first = (f"{format_duration(seconds_left)} left", name)
    return ProgressText(first, translation.fraction, (count,))
