"""A file or directory is there whole, or as it was before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mt.errors import DiskError
from mt.storage.atomic import atomic_directory, atomic_file, remove


class AccidentError(Exception):
    """Something in the middle of writing."""


def test_a_file_takes_its_name_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


def test_an_accident_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(AccidentError), atomic_file(path) as file:  # noqa: PT012
        file.write(b"new")
        raise AccidentError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


KILLED = """
import os, signal, sys
from pathlib import Path
import mt.storage.atomic

def kill_at(moment):
    if moment == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

def watch(owner, name):
    call = getattr(owner, name)
    def watched(*arguments):
        kill_at(f"before {name}")
        result = call(*arguments)
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
    ("moment", "is_there"),
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
@pytest.mark.parametrize("old", [None, b"old"], ids=["new", "old"])
def test_whenever_it_is_killed_a_file_is_the_old_one_or_whole(
    tmp_path: Path, moment: str, is_there: bool, old: bytes | None
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    done = subprocess.run([sys.executable, "-c", KILLED, path, moment], check=False)
    assert done.returncode == (0 if moment == "never" else -signal.SIGKILL)
    assert (path.read_bytes() if path.exists() else None) == (b"new" * 10_000 if is_there else old)


def test_of_two_that_write_one_file_each_writes_its_own_and_the_last_one_stays(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    with atomic_file(path) as slow:
        slow.write(b"slow ")
        slow.flush()
        with atomic_file(path) as quick:
            quick.write(b"quick")
        assert path.read_bytes() == b"quick"
        slow.write(b"but whole")
    assert path.read_bytes() == b"slow but whole"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's devices")
def test_a_full_device_is_named() -> None:
    with (
        pytest.raises(DiskError, match=r"^/dev/full: cannot write: No space left on device$"),
        atomic_file(Path("/dev/full")) as file,
    ):
        file.write(b"x")


def test_a_pipe_whose_reader_has_left_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(BrokenPipeError), atomic_file(tmp_path / "pipe") as file:  # noqa: PT012
        os.close(reader)
        file.write(b"x")


def test_a_directory_takes_the_place_of_another_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    for content in ("old", "new"):
        with atomic_directory(path) as partial:
            (partial / content).write_text(content)
        assert os.listdir(path) == [content]
    with pytest.raises(AccidentError), atomic_directory(path) as partial:  # noqa: PT012
        (partial / "newest").write_text("newest")
        raise AccidentError
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["directory"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
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


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with atomic_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_what_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(DiskError, match=r"file/below: cannot write: (Not a directory|File exists)"),
        atomic_file(tmp_path / "file" / "below"),
    ):
        pass


def test_remove_takes_files_directories_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name in ("directory", "file", "nothing"):
        remove(tmp_path / name)
    assert os.listdir(tmp_path) == []
