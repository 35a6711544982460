"""Signals: they end a run between two updates, after everything was saved, or ask for a checkpoint.

SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal) end the run. SIGUSR1 only saves.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


class InterruptedBySignal(BaseException):
    """A signal that asks to stop arrived during work that may be given up."""


@dataclass
class StopSignals:
    """Remembers the first signal that asks to stop; a second one ends the process at once."""

    announce: bool  # on stderr
    name: str | None = None  # of the signal received, such as "SIGTERM"
    save_requested: bool = False  # by SIGUSR1
    _may_interrupt: bool = False

    @property
    def number(self) -> int:
        """The number of the signal received; 0 if there is none."""
        return 0 if self.name is None else int(signal.Signals[self.name])

    def take_over(self, number: int) -> str:
        """Act as if this process had the signal of another rank. Return the signal's name."""
        name = signal.Signals(number).name
        if self.name is None:
            self.name = name
        return name

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Remember signals inside the `with` block, instead of ending the process.

        A signal that is ignored, such as SIGHUP after `nohup`, stays ignored. A handler that was
        not installed by Python stays too. Python handles signals in its main thread alone, so in
        another thread nothing is caught.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {
            signal.SIGINT: self._remember,
            signal.SIGTERM: self._remember,
            signal.SIGHUP: self._remember,
            signal.SIGUSR1: self._request_save,
        }
        old_handlers = {number: signal.getsignal(number) for number in handlers}
        left_alone = (signal.SIG_IGN, None)  # None: the handler is not Python's
        caught = [number for number, old in old_handlers.items() if old not in left_alone]
        for number in caught:
            signal.signal(number, handlers[number])
        try:
            yield
        finally:
            for number in caught:
                signal.signal(number, old_handlers[number])

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal that asks to stop raise InterruptedBySignal inside the `with` block."""
        self._may_interrupt = True
        try:
            if self.name is not None:  # it arrived just before
                raise InterruptedBySignal
            yield
        finally:
            self._may_interrupt = False

    def _remember(self, number: int, frame: object) -> None:
        """Handle a signal that asks to stop."""
        if self.name is not None:
            # A terminal that is closed sends SIGHUP twice: from the shell, and from the system.
            if number != signal.SIGHUP:
                raise KeyboardInterrupt
            return
        self.name = signal.Signals(number).name
        self._announce(f"{self.name}: saving after this update (again: stop at once)")
        if self._may_interrupt:
            raise InterruptedBySignal

    def _request_save(self, number: int, frame: object) -> None:
        self.save_requested = True
        self._announce("SIGUSR1: saving after this update")

    def _announce(self, message: str) -> None:
        if not self.announce:
            return
        # Written to the descriptor: the signal may have interrupted a write to the stream's buffer.
        with suppress(OSError):  # the terminal may be closed, which must not end training
            # On a terminal, the cursor is behind the text of the progress bar.
            line_start = "\n" if os.isatty(2) else ""
            os.write(2, f"{line_start}{message}\n".encode())
