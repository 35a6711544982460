"""What a command reads, where its results go, and how it speaks while it works."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from mt.data.text import Errors, decode_lines, raw_lines, read_lines
from mt.errors import DataError, DiskError
from mt.storage.atomic import atomic_file


def read_input(path: Path | None, *, errors: Errors = "strict") -> Iterator[str]:
    """The lines of a file, which may have none, or of stdin as they come. Raises DataError."""
    if path is not None:
        yield from read_lines(path, errors=errors, may_be_empty=True)
    elif sys.stdin is None:
        raise DataError("stdin: it is closed (--input names a file to read)")
    else:
        try:
            yield from decode_lines(raw_lines(sys.stdin.buffer), name="stdin", errors=errors)
        except OSError as error:
            raise DataError(f"stdin: cannot read: {error.strerror}") from error


@contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Stdout, all of it written in the end; DiskError when that is closed or full.

    When the reader has left, as `head` does, the command ends quietly with the exit code of any filter.
    """
    if sys.stdout is None:
        raise DiskError("stdout: cannot write: it is closed")
    try:
        yield sys.stdout.buffer
        sys.stdout.flush()
    except OSError as error:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # lest Python try again when it leaves
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
    """Results, in UTF-8 whatever the terminal's habits, to stdout or to a file that appears when the last is there.

    `at_once` keeps none back until there are more.
    """
    with standard_output() if output is None else atomic_file(output) as file:
        for line in tqdm(lines, unit="line", dynamic_ncols=True, disable=not with_bar):
            file.write(f"{line}\n".encode())
            if at_once:
                file.flush()


def say(line: str) -> None:
    """Speak to the user, on stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)
