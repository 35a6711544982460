"""Input and output of the commands: files, stdin and stdout."""

import gzip
import io
import os
import select
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tqdm import tqdm

from mt.data.text import Errors, decode_lines, raw_lines, read_lines
from mt.errors import DataError, DiskError, MtError
from mt.storage.atomic import OutputFile, atomic_file

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def read_input(path: Path | None, *, errors: Errors = "strict") -> Iterator[str]:
    """Yield the lines of a file, which may be empty, or of stdin as they arrive.

    Raises DataError.
    """
    if path is not None:
        yield from read_lines(path, errors=errors, may_be_empty=True)
        return
    if sys.stdin is None:
        raise DataError("stdin: it is closed (--input names a file to read)")
    try:
        yield from decode_lines(raw_lines(_blocking(sys.stdin.buffer)), name="stdin", errors=errors)
    except OSError as error:
        raise DataError(f"stdin: cannot read: {error.strerror}") from error


class BlockingReader(io.RawIOBase):
    """Reads a file and waits for data, even if the file is non-blocking.

    Another program that shares the terminal or the pipe may make it non-blocking at any time. A
    read would then return nothing as long as there is nothing to read, as if the file had ended.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        while (num_bytes := self._file.readinto(buffer)) is None:
            select.select([self._file], [], [])
        return num_bytes


def _blocking(file: BinaryIO) -> BinaryIO:
    """Return a file that waits for its data."""
    if not isinstance(file, io.BufferedReader):  # it is in memory
        return file
    return io.BufferedReader(BlockingReader(file.raw))


class StandardOutput:
    """Stdout as a binary file, which waits for its reader even if it is non-blocking.

    `write` and `flush` raise DiskError when stdout is closed or full. When its reader has gone, as
    with `| head`, the command ends without a message, and with the exit code that the shell
    reports for SIGPIPE.
    """

    def write(self, data: bytes) -> None:
        with _stdout_errors():
            while data:
                try:
                    sys.stdout.buffer.write(data)
                    return
                except BlockingIOError as error:
                    data = data[error.characters_written :]
                    select.select([], [sys.stdout], [])

    def flush(self) -> None:
        with _stdout_errors():
            while True:
                try:
                    sys.stdout.flush()
                    return
                except BlockingIOError:
                    select.select([], [sys.stdout], [])


@contextmanager
def standard_output() -> Iterator[StandardOutput]:
    """Provide stdout as a binary file, and flush it at the end, also after an MtError.

    Raises DiskError when stdout is closed. An OSError of the caller's own work is not changed.
    """
    if sys.stdout is None:
        raise DiskError("stdout: cannot write: it is closed")
    file = StandardOutput()
    try:
        yield file
    except MtError:
        file.flush()
        raise
    file.flush()


@contextmanager
def _stdout_errors() -> Iterator[None]:
    """Convert an OSError of writing to stdout."""
    try:
        yield
    except OSError as error:
        # Python flushes stdout again when it exits. This must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        raise DiskError(f"stdout: cannot write: {error.strerror}") from error


def write_lines(
    lines: Iterable[str],
    output: Path | None = None,
    *,
    with_bar: bool = False,
    at_once: bool = False,
) -> None:
    """Write lines to a file, which appears when the last line is written, or to stdout.

    The encoding is UTF-8, whatever the locale is. A file named *.gz is compressed. `with_bar` shows
    a progress bar. `at_once` flushes after each line.
    """
    with _open_output(output) as file:
        for line in tqdm(lines, unit="line", dynamic_ncols=True, disable=not with_bar):
            # Only names of files can have characters that are not valid.
            file.write(f"{line}\n".encode(errors="backslashreplace"))
            if at_once:
                file.flush()


@contextmanager
def _open_output(path: Path | None) -> Iterator[StandardOutput | OutputFile | gzip.GzipFile]:
    """Open a file, or stdout if `path` is None. A file named *.gz is compressed."""
    if path is None:
        with standard_output() as stdout:
            yield stdout
        return
    with atomic_file(path) as file:
        if path.suffix != ".gz":
            yield file
            return
        # Without a name and a time, equal lines give equal bytes.
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
            yield packed


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
