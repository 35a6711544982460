"""Output of the commands: files and stdout."""

import gzip
import os
import select
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mt.errors import DiskError, MtError
from mt.storage.atomic import OutputFile, atomic_file


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


def write_lines(lines: Iterable[str], output: Path | None = None, *, at_once: bool = False) -> None:
    """Write lines to a file, which appears when the last line is written, or to stdout.

    The encoding is UTF-8, whatever the locale is. A file named *.gz is compressed. `at_once`
    flushes after each line.
    """
    with _open_output(output) as file:
        for line in lines:
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
