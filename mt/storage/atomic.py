"""Atomic writing: a file, or a directory of files, is complete or as it was before."""

import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from mt.errors import DiskError

MAX_NAME_SIZE = 255  # bytes in the name of a file, on most systems

# Arguments of Linux's renameat2().
AT_FDCWD = -100  # paths are relative to the working directory
RENAME_EXCHANGE = 2


class OutputFile:
    """A file that is being written. `write` and `flush` raise a DiskError that names the output."""

    def __init__(self, file: BinaryIO, output: Path) -> None:
        self._file = file
        self._output = output

    def write(self, data: bytes) -> None:
        with os_errors_as_disk_error(self._output):
            self._file.write(data)

    def flush(self) -> None:
        with os_errors_as_disk_error(self._output):
            self._file.flush()


@contextmanager
def atomic_file(path: Path) -> Iterator[OutputFile]:
    """Open a file for writing that replaces `path` once all is written and on the disk.

    Until then its name is `.NAME.<8 hexadecimal digits>.partial`, and a killed process leaves it
    under that name. The digits keep apart two processes that write the same file. The new file
    keeps the permissions of the old one. Raises DiskError when the file cannot be written; an
    OSError of the caller's own work is not changed.
    """
    if path.exists() and not path.is_file():  # a device or a pipe, which must not be replaced
        with _open_output(path, "wb", output=path) as file:
            yield OutputFile(file, path)
        return
    path = path.resolve()  # so that the target of a link is replaced, not the link
    with _partial_output(path) as partial:
        with _open_output(partial, "xb", output=path) as file:
            if path.exists():
                os.fchmod(file.fileno(), _permissions(path))
            yield OutputFile(file, path)
        with os_errors_as_disk_error(path):
            fsync_path(partial)
            partial.replace(path)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Make a directory that replaces `path` once all files in it are written and on the disk.

    Until then its name is `.NAME.<8 hexadecimal digits>.partial`, as for a file. The new directory
    keeps the permissions of the old one. Raises DiskError when it cannot be written; an OSError
    that names a file elsewhere is not changed.
    """
    with _partial_output(path) as partial:
        with os_errors_as_disk_error(path):
            partial.mkdir()
            if path.is_dir():
                partial.chmod(_permissions(path))
        try:
            yield partial
        except OSError as error:
            if _names_file_outside(partial, error):
                raise
            with os_errors_as_disk_error(path):
                raise  # as a DiskError
        with os_errors_as_disk_error(path):
            for file in partial.rglob("*"):
                fsync_path(file)
            fsync_path(partial)
            _replace_directory(partial, path)


@contextmanager
def _open_output(path: Path, mode: Literal["wb", "xb"], *, output: Path) -> Iterator[BinaryIO]:
    """Open a file. Raises a DiskError that names `output` if it cannot be opened or closed."""
    with os_errors_as_disk_error(output):
        file = path.open(mode)
    try:
        yield file
        with os_errors_as_disk_error(output):
            file.close()  # writes what is still in the buffer
    finally:
        with suppress(OSError):  # after an error, which is more important than this one
            file.close()


def _partial_path(path: Path) -> Path:
    """Return `.NAME.<8 hexadecimal digits>.partial` beside `path`; a long name is cut."""
    ending = f".{secrets.token_hex(4)}.partial"
    name = os.fsencode(path.name)[: MAX_NAME_SIZE - 1 - len(ending)]
    return path.with_name(f".{os.fsdecode(name)}{ending}")


@contextmanager
def _partial_output(path: Path) -> Iterator[Path]:
    """Yield the temporary path. The block writes the output there and renames it to `path`.

    The directory of `path` is made first. After the block, the directory is flushed to the disk,
    and what still has the temporary path is removed.
    """
    partial = _partial_path(path)
    try:
        with os_errors_as_disk_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with os_errors_as_disk_error(path):
            fsync_path(path.parent)  # so that the new name is on the disk
    finally:
        remove(partial)


def _permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _names_file_outside(directory: Path, error: OSError) -> bool:
    """Return whether an error names files, none of them in `directory`."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return bool(names) and not any(name.startswith(str(directory)) for name in names)


def _replace_directory(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`, or exchange the two if `path` exists.

    After an exchange, the caller removes `partial`, which is the old directory.
    """
    try:
        partial.replace(path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        _exchange(partial, path)


def _exchange(first: Path, second: Path) -> None:
    """Exchange the names of two existing paths: on Linux in one step.

    Elsewhere a process that is killed between the steps leaves both under partial names.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        names = (os.fsencode(first), os.fsencode(second))
        code = libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)
        if code == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL):  # what a filesystem without it answers
            raise OSError(number, os.strerror(number))
    aside = _partial_path(second)
    second.replace(aside)
    first.replace(second)
    aside.replace(first)


@contextmanager
def os_errors_as_disk_error(path: Path) -> Iterator[None]:
    """Raise a DiskError that names `path` for an OSError in the block.

    A BrokenPipeError is not changed: the reader of a pipe has gone, which is not an error of the
    disk.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DiskError(f"{path}: cannot write: {error.strerror or error}") from error


def remove(path: Path) -> None:
    """Delete a file or a directory if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.unlink()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
