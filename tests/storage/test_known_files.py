"""Tests of what is remembered of unchanged files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

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


def test_change_during_a_slow_read_is_noticed_when_the_times_are_coarse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"abc")
    start_ns = path.stat().st_mtime_ns
    now_ns = start_ns
    real_stat = Path.stat

    def coarse_stat(file: Path, **options: bool) -> SimpleNamespace:
        status = real_stat(file, **options)
        return SimpleNamespace(
            st_mode=status.st_mode,
            st_size=status.st_size,
            st_mtime_ns=start_ns,
            st_ctime_ns=start_ns,
            st_ino=status.st_ino,
        )

    def read_slowly(file: Path) -> str:
        nonlocal now_ns
        digest = sha256_of(file.read_bytes())
        file.write_bytes(b"xyz")
        now_ns += 10_000_000_000
        return digest

    known = KnownFiles(tmp_path / "known.json")
    monkeypatch.setattr(Path, "stat", coarse_stat)
    monkeypatch.setattr("time.time_ns", lambda: now_ns)
    with monkeypatch.context() as patch:
        patch.setattr(mt.storage.known_files, "sha256", read_slowly)
        assert known.digest(path) == sha256_of(b"abc")
    assert known.digest(path) == sha256_of(b"xyz")


def test_record_of_an_earlier_version_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"abc")
    os.utime(path, ns=(0, 0))
    status = path.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    (tmp_path / "known.json").write_text(json.dumps({str(path): [state, "a fact"]}))
    later_ns = status.st_ctime_ns + 10_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: later_ns)
    assert KnownFiles(tmp_path / "known.json").fact(path) == "a fact"


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
