"""Progress of reading and preparing text, shown on a terminal only."""

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from mt.data.text import OnBytes

logger = logging.getLogger(__name__)

MIN_INTERVAL = 0.1  # seconds between two updates of a bar
REFRESH_SECONDS = 1.0  # between two updates of an elapsed time


@contextmanager
def bytes_bar(label: str, paths: Iterable[Path]) -> Iterator[OnBytes]:
    """Show a bar over the bytes of files; yield the function that counts the bytes read."""
    total = sum(path.stat().st_size for path in paths if path.is_file())
    with _bar(label, total=total, bar_format="{l_bar}{bar}| {remaining} left") as bar:

        def advance(num_bytes: int) -> None:
            with suppress(OSError):  # the terminal was closed
                bar.update(num_bytes)

        yield advance


@contextmanager
def elapsed_time(label: str) -> Iterator[None]:
    """Show how long the block has been running, for work that reports no progress."""
    is_done = threading.Event()

    def refresh(bar: "tqdm[NoReturn]") -> None:
        with suppress(OSError):  # the terminal was closed
            while not is_done.wait(REFRESH_SECONDS):
                bar.refresh()

    with _bar(label, bar_format="{desc}: {elapsed}") as bar:
        thread = threading.Thread(target=refresh, args=(bar,), daemon=True)
        if not bar.disable:
            thread.start()
        try:
            yield
        finally:
            is_done.set()
            if thread.is_alive():
                thread.join()


@contextmanager
def _bar(label: str, *, total: int | None = None, bar_format: str) -> Iterator["tqdm[NoReturn]"]:
    """Yield a progress bar that is removed at the end, and is hidden where there is no terminal."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    is_shown = is_terminal and logger.isEnabledFor(logging.INFO)
    bar: tqdm[NoReturn] = tqdm(disable=True)
    with suppress(OSError):  # the terminal was closed
        bar = tqdm(
            desc=label,
            total=total,
            bar_format=bar_format,
            dynamic_ncols=True,
            leave=False,
            mininterval=MIN_INTERVAL,
            disable=not is_shown,
        )
    try:
        yield bar
    finally:
        with suppress(OSError):  # the terminal was closed
            bar.close()
