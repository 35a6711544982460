"""Writing so that a file, or a directory of files, is there whole or not at all."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mt.errors import DiskError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes its name, and another's place, once all is written and on the disk.

    Until then it is `.NAME.<8 digits>.partial`, which is what a killed process leaves: the digits keep two processes
    with one output apart. DiskError when the disk refuses.
    """
    if path.exists() and not path.is_file():  # a device or a pipe is written to, and never replaced
        with os_errors_as_disk_error(path), path.open("wb") as file:
            yield file
        return
    path = path.resolve()  # a link stays a link
    with _arriving(path, path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")) as partial:
        with partial.open("xb") as file:
            yield file
        fsync_path(partial)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A directory to write files into; it takes its name, and another's place, once all is on the disk."""
    with _arriving(path, path.with_name(f".{path.name}.partial")) as partial:
        partial.mkdir()
        yield partial
        for written in (*partial.iterdir(), partial):
            fsync_path(written)
        remove(path)


@contextmanager
def _arriving(path: Path, partial: Path) -> Iterator[Path]:
    """`partial`, a name beside `path` to write under: renamed to it in the end, or removed."""
    try:
        with os_errors_as_disk_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove(partial)  # left by a process that was killed
            yield partial
            partial.replace(path)
            fsync_path(path.parent)
    finally:
        remove(partial)


@contextmanager
def os_errors_as_disk_error(path: Path) -> Iterator[None]:
    """What the disk refuses is a DiskError that names `path`; that a pipe's reader has left stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DiskError(f"{path}: cannot write: {error.strerror or error}") from error


def remove(path: Path) -> None:
    """Delete a file or a directory if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.unlink()


def sha256(path: Path) -> str:
    """The checksum of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
