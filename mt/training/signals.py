"""Ctrl-C and SIGTERM: they end a run between two updates, after everything was saved."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass
class StopSignals:
    """Remembers the first signal that asks to stop; a second one ends the process at once."""

    announce: bool  # on stderr
    name: str | None = None  # of the signal received, such as "SIGTERM"

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Remember SIGINT and SIGTERM inside the `with` block, instead of ending the process."""
        old_handlers = {
            number: signal.signal(number, self._remember)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in old_handlers.items():
                signal.signal(number, handler)

    def _remember(self, number: int, frame: object) -> None:
        if self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if self.announce:
            # Written to the descriptor: the signal may have interrupted a write to the stream's
            # buffer.
            message = f"{self.name}: saving after this update (again: stop at once)\n"
            with suppress(OSError):  # the terminal may be closed, which must not end training
                os.write(2, message.encode())
