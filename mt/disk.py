"""Writing so that a file, or a directory of files, is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mt.errors import DiskError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes its name once all is written and on the disk."""
    if path.exists() and not path.is_file():  # a device or a pipe is written to, and never replaced
        with path.open("wb") as file:
            yield file
        return
    with _arriving(path.resolve()) as partial:  # a link stays a link
        with partial.open("wb") as file:
            yield file
        flush(partial)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A directory to write files into; it takes its name, and another's place, once all is on the disk."""
    with _arriving(path) as partial:
        partial.mkdir()
        yield partial
        for written in (*partial.iterdir(), partial):
            flush(written)
        remove(path)


@contextmanager
def _arriving(path: Path) -> Iterator[Path]:
    """A name beside `path` to write under, renamed to it in the end; DiskError when the disk refuses."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)  # left by a process that was killed
        yield partial
        partial.replace(path)
        flush(path.parent)
    except OSError as error:
        raise DiskError(f"{path}: cannot write: {error.strerror or error}") from error
    finally:
        remove(partial)


def remove(path: Path) -> None:
    """Delete a file or a directory if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.unlink()


def flush(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
