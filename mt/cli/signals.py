"""SIGTERM in all commands but `mt train`."""

import signal
import sys


def exit_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit, so that temporary files are removed as after Ctrl-C."""

    def exit_with_signal_code(number: int, frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, exit_with_signal_code)
