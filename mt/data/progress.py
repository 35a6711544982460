"""Progress of reading and preparing text, shown on a terminal only."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mt.data.text import OnBytes
from mt.progress_bar import ProgressBar, ProgressText, format_duration

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0  # between two updates of an elapsed time


@contextmanager
def bytes_bar(label: str, paths: Iterable[Path]) -> Iterator[OnBytes]:
    """Show a bar over the bytes of files; yield the function that counts the bytes read."""
    total = sum(path.stat().st_size for path in paths if path.is_file())
    start_time = time.monotonic()
    num_read = 0
    with ProgressBar(enabled=logger.isEnabledFor(logging.INFO)) as bar:

        def advance(num_bytes: int) -> None:
            nonlocal num_read
            num_read += num_bytes
            if bar.is_shown and num_read > 0:
                seconds = time.monotonic() - start_time
                seconds_left = max(0.0, seconds * (total / num_read - 1.0))
                time_left = f"{format_duration(seconds_left)} left"
                bar.show(ProgressText((label,), num_read / max(total, 1), (time_left,)))

        yield advance


@contextmanager
def elapsed_time(label: str) -> Iterator[None]:
    """Show how long the block has been running, for work that reports no progress."""
    is_done = threading.Event()
    start_time = time.monotonic()
    with ProgressBar(enabled=logger.isEnabledFor(logging.INFO)) as bar:

        def refresh() -> None:
            while not is_done.wait(REFRESH_SECONDS):
                seconds = time.monotonic() - start_time
                bar.show(ProgressText((label, format_duration(seconds))))

        thread = threading.Thread(target=refresh, daemon=True)
        if bar.is_shown:
            thread.start()
        try:
            yield
        finally:
            is_done.set()
            if thread.is_alive():
                thread.join()
