"""Tests of what is remembered of unchanged files."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

import mt.storage.known_files
from mt.errors import DataError
from mt.storage.known_files import FileState, KnownFiles


@pytest.fixture
def any_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files be remembered that have only just been written."""
    monkeypatch.setattr(mt.storage.known_files, "MIN_AGE_NS", -(10**18))


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.usefixtures("any_age")
def test_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"abc")
    first = KnownFiles(tmp_path / "known.json")
    assert first.digest(path) == sha256_of(b"abc")
    first.save()
    monkeypatch.setattr(mt.storage.known_files, "sha256", None)  # to read it again would fail
    assert KnownFiles(tmp_path / "known.json").digest(path) == sha256_of(b"abc")


@pytest.mark.usefixtures("any_age")
def test_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"abc")
    known = KnownFiles(tmp_path / "known.json")
    known.digest(path)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"xyz")
    os.utime(path, ns=times)  # the same size and time, as after `cp -p`
    assert known.digest(path) == sha256_of(b"xyz")
    other = tmp_path / "other"
    other.write_bytes(b"new")
    shutil.move(other, path)
    assert known.digest(path) == sha256_of(b"new")


def test_file_that_has_just_changed_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"abc")
    known = KnownFiles(tmp_path / "known.json")
    known.digest(path)
    assert known.fact(path) is None
    known.save()
    assert not (tmp_path / "known.json").exists()


@pytest.mark.usefixtures("any_age")
def test_change_while_a_file_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"abc")
    known = KnownFiles(tmp_path / "known.json")
    state = FileState.of(path)
    path.write_bytes(b"abcd")
    known.remember(path, "fact about abc", state=state)
    assert known.fact(path) is None


@pytest.mark.usefixtures("any_age")
@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', '{"a": [[1, 2], "b"]}', "\x00"])
def test_damaged_record_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / "known.json").write_text(content)
    path = tmp_path / "text"
    path.write_bytes(b"abc")
    assert KnownFiles(tmp_path / "known.json").digest(path) == sha256_of(b"abc")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.txt: cannot read"):
        KnownFiles(tmp_path / "known.json").digest(tmp_path / "no.txt")


@pytest.mark.usefixtures("any_age")
def test_directory_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"abc")
    known = KnownFiles(path / "known.json")  # below a file, where nothing can be written
    known.digest(path)
    known.save()
    assert not (path / "known.json").exists()
