"""A file or directory that is written atomically is complete, or as it was before."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mt.storage.atomic
from mt.errors import DiskError
from mt.storage.atomic import atomic_directory, atomic_file, remove


class WritingFailedError(Exception):
    """An error in the middle of writing."""


# Files


def test_file_appears_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


def test_failed_writing_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(WritingFailedError), atomic_file(path) as file:  # noqa: PT012
        file.write(b"new")
        raise WritingFailedError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


# Writes sys.argv[1] and kills itself at the moment that sys.argv[2] names.
KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
import mt.storage.atomic

def kill_at(moment):
    if moment == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

def watch(owner, name):
    original = getattr(owner, name)
    def watched(*arguments):
        kill_at(f"before {name}")
        result = original(*arguments)
        kill_at(f"after {name}")
        return result
    setattr(owner, name, watched)

watch(os, "fsync")
watch(Path, "replace")
with mt.storage.atomic.atomic_file(Path(sys.argv[1])) as file:
    kill_at("nothing written")
    file.write(b"new" * 9999)
    kill_at("partly written")
    file.write(b"new")
    file.flush()
    kill_at("all written")
"""


@pytest.mark.parametrize(
    ("moment", "is_replaced"),
    [
        ("nothing written", False),
        ("partly written", False),
        ("all written", False),
        ("before fsync", False),
        ("after fsync", False),
        ("before replace", False),
        ("after replace", True),
        ("never", True),
    ],
)
@pytest.mark.parametrize("old_content", [None, b"old"], ids=["new", "old"])
def test_killed_writer_leaves_the_old_file_or_the_whole_new_one(
    tmp_path: Path, moment: str, is_replaced: bool, old_content: bytes | None
) -> None:
    path = tmp_path / "file"
    if old_content is not None:
        path.write_bytes(old_content)
    command = [sys.executable, "-c", KILLED_WRITER, path, moment]
    process = subprocess.run(command, check=False)
    assert process.returncode == (0 if moment == "never" else -signal.SIGKILL)
    content = path.read_bytes() if path.exists() else None
    assert content == (b"new" * 10_000 if is_replaced else old_content)


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_file(path) as slow_file:
        slow_file.write(b"slow ")
        slow_file.flush()
        with atomic_file(path) as fast_file:
            fast_file.write(b"fast")
        assert path.read_bytes() == b"fast"
        slow_file.write(b"but whole")
    assert path.read_bytes() == b"slow but whole"
    assert os.listdir(tmp_path) == ["file"]


def test_target_of_a_link_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(target)
    with atomic_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127])
def test_name_of_the_largest_size(tmp_path: Path, name: str) -> None:
    with atomic_file(tmp_path / name) as file:
        file.write(b"new")
    assert (tmp_path / name).read_bytes() == b"new"
    with atomic_directory(tmp_path / "directory" / name) as partial:
        (partial / "new").touch()
    assert os.listdir(tmp_path / "directory") == [name]


def test_private_file_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    with atomic_file(path) as file:
        (partial,) = tmp_path.glob(".*.partial")
        assert mode_of(partial) == 0o600, "before the first byte is written"
        file.write(b"secret")
    assert mode_of(path) == 0o600


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Devices and pipes


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's devices")
def test_full_device_is_named() -> None:
    with (
        pytest.raises(DiskError, match=r"^/dev/full: cannot write: No space left on device$"),
        atomic_file(Path("/dev/full")) as file,
    ):
        file.write(b"x")


def test_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    with atomic_file(path) as file:
        file.write(b"through")
    reader.join()
    assert received == [b"through"]
    assert path.is_fifo()


def test_pipe_without_a_reader_is_no_disk_error(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(BrokenPipeError), atomic_file(path) as file:  # noqa: PT012
        os.close(reader)
        file.write(b"x")


# Directories


def test_directory_replaces_another_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    for name in ("old", "new"):
        with atomic_directory(path) as partial:
            (partial / name).write_text("content")
        assert os.listdir(path) == [name]
    assert os.listdir(tmp_path) == ["directory"]


def test_failed_writing_leaves_only_the_old_directory(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    with atomic_directory(path) as partial:
        (partial / "old").write_text("content")
    with pytest.raises(WritingFailedError), atomic_directory(path) as partial:  # noqa: PT012
        (partial / "new").write_text("content")
        raise WritingFailedError
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["directory"]


def test_private_directory_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    path.mkdir(mode=0o700)
    with atomic_directory(path) as partial:
        (partial / "new").write_text("content")
    assert os.listdir(path) == ["new"]
    assert mode_of(path) == 0o700


# Writes a directory over sys.argv[1] and kills itself before or after each call that may change a
# name: sys.argv[2] is the number of calls to let pass.
KILLED_DIRECTORY_WRITER = """
import os, signal, sys
from pathlib import Path
import mt.storage.atomic as atomic

num_left = int(sys.argv[2])

def count():
    global num_left
    if num_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    num_left -= 1

def watch(owner, name):
    original = getattr(owner, name)
    def watched(*arguments):
        count()
        original(*arguments)
        count()
    setattr(owner, name, watched)

watch(Path, "replace")
watch(atomic, "_exchange")
watch(atomic, "remove")
with atomic.atomic_directory(Path(sys.argv[1])) as partial:
    (partial / "new").write_text("content")
"""


@pytest.mark.parametrize("num_calls", range(8))
def test_killed_writer_leaves_one_of_two_whole_directories(tmp_path: Path, num_calls: int) -> None:
    path = tmp_path / "directory"
    path.mkdir()
    (path / "old").write_text("content")
    command = [sys.executable, "-c", KILLED_DIRECTORY_WRITER, path, str(num_calls)]
    process = subprocess.run(command, check=False)
    assert os.listdir(path) in (["old"], ["new"])
    if process.returncode == 0:
        assert os.listdir(tmp_path) == ["directory"]
        assert os.listdir(path) == ["new"]
    else:
        assert process.returncode == -signal.SIGKILL


def test_two_writers_of_one_directory_do_not_collide(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    with atomic_directory(path) as slow:
        (slow / "slow").write_text("content")
        with atomic_directory(path) as fast:
            (fast / "fast").write_text("content")
        assert os.listdir(path) == ["fast"]
    assert os.listdir(path) == ["slow"]
    assert os.listdir(tmp_path) == ["directory"]


def test_directory_is_exchanged_on_a_filesystem_without_an_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mt.storage.atomic.ctypes, "CDLL", lambda *_, **__: object())
    test_directory_replaces_another_when_all_is_written(tmp_path)


# Errors and removing


def test_error_of_the_callers_own_work_is_not_changed(tmp_path: Path) -> None:
    def read_missing_file() -> None:
        (tmp_path / "missing").read_bytes()

    with pytest.raises(FileNotFoundError, match="missing"), atomic_file(tmp_path / "file"):
        read_missing_file()
    with (
        pytest.raises(FileNotFoundError, match="missing"),
        atomic_directory(tmp_path / "directory"),
    ):
        read_missing_file()
    assert os.listdir(tmp_path) == []


def test_error_of_writing_into_a_directory_names_it(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    with pytest.raises(DiskError, match="directory: cannot write: "), atomic_directory(path) as new:
        (new / "absent" / "file").write_text("content")
    with pytest.raises(DiskError, match="directory: cannot write: "), atomic_directory(path):
        raise OSError(errno.ENOSPC, "No space left on device")  # without a file name, as by write()
    assert os.listdir(tmp_path) == []


def test_full_disk_is_named_when_the_file_is_closed(full_disk: Path) -> None:
    """A few bytes stay in the buffer until then."""
    (full_disk / "fill").write_bytes(bytes(2**20 - 4096))
    with (
        pytest.raises(DiskError, match="file: cannot write: No space left on device"),
        atomic_file(full_disk / "file") as file,
    ):
        file.write(bytes(6000))
    assert os.listdir(full_disk) == ["fill"]


def test_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(DiskError, match=r"file/below: cannot write: (Not a directory|File exists)"),
        atomic_file(tmp_path / "file" / "below"),
    ):
        pass


def test_remove_deletes_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "inner").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    for name in ("directory", "file", "missing"):
        remove(tmp_path / name)
    assert os.listdir(tmp_path) == []
