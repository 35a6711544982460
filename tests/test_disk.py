"""A file or directory is there whole, or as it was before."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mt.disk import remove, whole_directory, whole_file
from mt.errors import DiskError


class AccidentError(Exception):
    """Something in the middle of writing."""


def test_a_file_takes_its_name_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


def test_an_accident_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(AccidentError), whole_file(path) as file:  # noqa: PT012
        file.write(b"new")
        raise AccidentError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_takes_the_place_of_another_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    for content in ("old", "new"):
        with whole_directory(path) as partial:
            (partial / content).write_text(content)
        assert os.listdir(path) == [content]
    with pytest.raises(AccidentError), whole_directory(path) as partial:  # noqa: PT012
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
    with whole_file(path) as file:
        file.write(b"through")
    reader.join()
    assert received == [b"through"]
    assert path.is_fifo()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with whole_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_what_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(DiskError, match=r"file/below: cannot write: (Not a directory|File exists)"),
        whole_file(tmp_path / "file" / "below"),
    ):
        pass


def test_remove_takes_files_directories_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name in ("directory", "file", "nothing"):
        remove(tmp_path / name)
    assert os.listdir(tmp_path) == []
