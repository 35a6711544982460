"""The text that a command reads: a file, stdin, or arguments of the command line."""

import io
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self

from mt.data.text import MAX_LINE_SIZE, Errors, decode_lines, raw_lines, read_lines
from mt.errors import DataError, DiskError

BLOCK_SIZE = 2**16  # bytes, as many as a pipe of Linux holds


class TextInput(NamedTuple):
    """Lines of text. Reading them raises DataError."""

    lines: Iterator[str]
    # Returns whether the next line can be read without a wait. None: it always can.
    is_line_waiting: Callable[[], bool] | None = None


def open_input(path: Path | None, *, errors: Errors = "strict") -> TextInput:
    """Return the lines of a file, which may be empty, or of stdin as they arrive.

    Raises DataError when stdin is closed.
    """
    if path is not None:
        return TextInput(read_lines(path, errors=errors, may_be_empty=True))
    stdin_lines = StdinLines()
    lines = decode_lines(stdin_lines, name="stdin", errors=errors)
    return TextInput(lines, stdin_lines.is_line_waiting)


def arguments_as_input(texts: Sequence[str], *, errors: Errors = "strict") -> TextInput:
    """Return the lines of texts that stand on the command line."""
    content = "".join(f"{text}\n" for text in texts)
    lines = raw_lines(io.BytesIO(os.fsencode(content)))
    return TextInput(decode_lines(lines, name="argument", errors=errors))


class StdinLines:
    """Yields the lines of stdin with their line ends, and knows whether one more is there.

    As `raw_lines` does, it yields at most MAX_LINE_SIZE + 1 bytes at once.
    """

    def __init__(self) -> None:
        """Raise DataError when stdin is closed."""
        if sys.stdin is None:
            raise DataError("stdin: it is closed (--input names a file to read)")
        self._file: IO[bytes] | io.RawIOBase = sys.stdin.buffer
        # A buffered reader would wait until its buffer is full or the file ends.
        if isinstance(sys.stdin.buffer, io.BufferedReader):
            self._file = sys.stdin.buffer.raw
        self._buffer = bytearray()
        self._at_end = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        while not self._has_line():
            if self._at_end:
                raise StopIteration
            self._read_block()
        end = self._buffer.find(b"\n") + 1
        if end == 0:
            end = len(self._buffer)
        end = min(end, MAX_LINE_SIZE + 1)
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return line

    def is_line_waiting(self) -> bool:
        """Return whether the next line can be read without a wait. Raises DataError."""
        while not self._has_line():
            if self._at_end or not self._is_readable():
                return False
            self._read_block()
        return True

    def _has_line(self) -> bool:
        """Return whether the buffer has a line, or what `__next__` takes for one."""
        if self._at_end:
            return len(self._buffer) > 0
        return b"\n" in self._buffer or len(self._buffer) > MAX_LINE_SIZE

    def _is_readable(self) -> bool:
        """Return whether a read would return at once."""
        if not isinstance(self._file, io.RawIOBase):  # it is in memory
            return True
        readable, _, _ = select.select([self._file], [], [], 0)
        return bool(readable)

    def _read_block(self) -> None:
        """Read what is there, or wait for it. Raises DataError.

        Another program that shares the terminal or the pipe may make it non-blocking at any time. A
        read then returns None when nothing is there.
        """
        try:
            while (block := self._file.read(BLOCK_SIZE)) is None:
                select.select([self._file], [], [])
        except OSError as error:
            raise DataError(f"stdin: cannot read: {error.strerror}") from error
        self._at_end = not block
        self._buffer += block


def count_lines(path: Path | None) -> int | None:
    """Return how many lines a file has, or the rest of stdin.

    Returns None for a pipe or a terminal, and for a file that cannot be read.
    """
    if path is None:
        return _count_lines_of_stdin()
    if not path.is_file():
        return None
    try:
        return sum(1 for _ in read_lines(path, errors="replace", may_be_empty=True))
    except DataError:  # it will be raised again, with the lines before it translated
        return None


def _count_lines_of_stdin() -> int | None:
    """Return how many lines are left in stdin, without reading it; None if it is no file."""
    num_lines = 0
    block = b"\n"
    try:
        descriptor = sys.stdin.fileno()
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        while next_block := os.pread(descriptor, BLOCK_SIZE, position):
            block = next_block
            position += len(block)
            num_lines += block.count(b"\n")
    except OSError:
        return None
    if not block.endswith(b"\n"):
        num_lines += 1
    return num_lines


def refuse_overwriting_input(source: Path | None, output: Path | None, *, written: str) -> None:
    """Raise DiskError when the output is the same file as the input.

    `source` is None for stdin, which may be redirected from a file. `written` names what would
    replace the input, for the message.
    """
    if output is None or not output.is_file():
        return
    if source is not None and not source.exists():
        return
    stdin_descriptor = 0
    input_stat = os.stat(stdin_descriptor) if source is None else source.stat()
    if os.path.samestat(input_stat, output.stat()):
        raise DiskError(f"{output}: is the input too, and would be replaced by {written}")
