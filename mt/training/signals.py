"""Ctrl-C and SIGTERM end a run between two updates, with all that it has done saved."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Signals:
    """Remembers the first signal to stop; a second one ends the process at once."""

    announce: bool  # say so on stderr
    name: str | None = None  # such as "SIGTERM"

    def _remember(self, number: int, frame: object) -> None:
        if self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if (
            self.announce
        ):  # straight to the descriptor, whose buffer the signal may have found half written
            os.write(2, f"{self.name}: saving after this update (again: leave at once)\n".encode())

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Within it, SIGINT and SIGTERM are remembered."""
        before = {
            number: signal.signal(number, self._remember)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
