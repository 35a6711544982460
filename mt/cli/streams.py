"""Input and output of the commands: files, stdin and stdout."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from mt.data.text import Errors, decode_lines, raw_lines, read_lines
from mt.errors import DataError, DiskError
from mt.storage.atomic import OutputFile, atomic_file


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
        yield from decode_lines(raw_lines(sys.stdin.buffer), name="stdin", errors=errors)
    except OSError as error:
        raise DataError(f"stdin: cannot read: {error.strerror}") from error


class StandardOutput:
    """Stdout as a binary file.

    `write` and `flush` raise DiskError when stdout is closed or full. When its reader has gone, as
    with `| head`, the command ends without a message, and with the exit code that the shell
    reports for SIGPIPE.
    """

    def write(self, data: bytes) -> None:
        with _stdout_errors():
            sys.stdout.buffer.write(data)

    def flush(self) -> None:
        with _stdout_errors():
            sys.stdout.flush()


@contextmanager
def standard_output() -> Iterator[StandardOutput]:
    """Provide stdout as a binary file, and flush it at the end.

    Raises DiskError when stdout is closed. An OSError of the caller's own work is not changed.
    """
    if sys.stdout is None:
        raise DiskError("stdout: cannot write: it is closed")
    file = StandardOutput()
    yield file
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

    The encoding is UTF-8, whatever the locale is. `with_bar` shows a progress bar. `at_once`
    flushes after each line.
    """
    with _open_output(output) as file:
        for line in tqdm(lines, unit="line", dynamic_ncols=True, disable=not with_bar):
            file.write(f"{line}\n".encode())
            if at_once:
                file.flush()


@contextmanager
def _open_output(path: Path | None) -> Iterator[StandardOutput | OutputFile]:
    """Open a file, or stdout if `path` is None."""
    if path is None:
        with standard_output() as stdout:
            yield stdout
        return
    with atomic_file(path) as file:
        yield file


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
