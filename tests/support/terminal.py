"""A terminal for programs under test: what they send to it, and what remains on its screen."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from runs import one_thread

from mt.progress_bar import ERASE_REST_OF_LINE

TIMEOUT = 120.0  # seconds; only a program that waits for ever reaches it


class Terminal:
    """A pseudo-terminal of `columns` columns, seen from the side of the person who uses it."""

    def __init__(self, *, columns: int = 100) -> None:
        self.controller, self.descriptor = pty.openpty()
        self.resize(columns)
        self.received = ""
        self._position = 0  # in what was received; what stands before it was waited for
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def resize(self, columns: int) -> None:
        termios.tcsetwinsize(self.descriptor, (24, columns))

    def type(self, text: str) -> None:
        os.write(self.controller, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until the terminal has received `text`, after the text of the call before."""
        deadline = time.monotonic() + TIMEOUT
        while (found := self.received.find(text, self._position)) < 0:
            seconds_left = max(deadline - time.monotonic(), 0.0)
            readable, _, _ = select.select([self.controller], [], [], seconds_left)
            assert readable, f"wanted {text!r}, received {self.received!r}"
            self.received += self._decoder.decode(os.read(self.controller, 4096))
        self._position = found + len(text)

    def wait_for_end(self, process: subprocess.Popen[bytes]) -> int:
        """Read until a program has ended, so that it never waits for its terminal.

        Returns its exit code.
        """
        deadline = time.monotonic() + TIMEOUT
        while process.poll() is None:
            assert time.monotonic() < deadline, f"still running, received {self.received!r}"
            readable, _, _ = select.select([self.controller], [], [], 0.1)
            if readable:
                self.received += os.read(self.controller, 4096).decode(errors="replace")
        return process.returncode

    def close(self) -> None:
        os.close(self.controller)
        os.close(self.descriptor)


@contextmanager
def terminal(*, columns: int = 100) -> Iterator[Terminal]:
    """Provide a terminal, and close it at the end."""
    opened = Terminal(columns=columns)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def mt_process(
    *arguments: object, stdin: int, stdout: int, stderr: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command in a process of its own; end it at the end of the block."""
    command = [sys.executable, "-m", "mt", *map(str, arguments)]
    environment = one_thread()
    environment.pop("PYTHONUNBUFFERED", None)  # it would flush all output at once
    with subprocess.Popen(
        command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[bytes]) -> str:
    """Return the next line of a process's stdout, which must come."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], TIMEOUT)
    assert readable, "the process waits"
    return process.stdout.readline().decode()


def screen_lines(sent: str) -> list[str]:
    """Return the lines that remain visible: text after a carriage return overwrites the line."""
    lines = []
    for line in sent.split("\n"):
        shown = ""
        for text in line.split("\r"):
            written, *erased = text.split(ERASE_REST_OF_LINE)
            shown = written if erased else written + shown[len(written) :]
        lines.append(shown.rstrip())
    return lines


def longest_line(sent: str) -> int:
    """Return the number of characters of the longest line, or state of a progress bar."""
    return max(len(line) for line in re.split(r"[\r\n]", sent.replace(ERASE_REST_OF_LINE, "")))
