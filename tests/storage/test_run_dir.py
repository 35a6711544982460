"""Only one process trains in a run directory, and it leaves no lock behind however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mt.errors import DiskError, RunDirError
from mt.storage.run_dir import CTRANSLATE2_MODEL, RunDir, open_run_dir

LOCK_HOLDER = """
import pathlib, sys, time
from mt.storage.run_dir import RunDir
with RunDir(pathlib.Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_lock_excludes_others_until_released(tmp_path: Path) -> None:
    first = RunDir(tmp_path / "run")
    second = RunDir(tmp_path / "run")
    with (
        first.lock(),
        pytest.raises(RunDirError, match="another process is training here"),
        second.lock(),
    ):
        pass
    with second.lock():
        pass


def test_lock_holds_when_its_file_is_deleted(tmp_path: Path) -> None:
    first = RunDir(tmp_path / "run")
    with first.lock():
        (first.path / ".lock").unlink()
        with pytest.raises(RunDirError, match="another process"), RunDir(first.path).lock():
            pass
    with first.lock():
        pass


def test_lock_is_released_after_an_error(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        pass


def test_lock_is_released_when_its_process_is_killed(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    command = [sys.executable, "-c", LOCK_HOLDER, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(RunDirError, match="another process"), run.lock():
            pass
        holder.send_signal(signal.SIGKILL)
    with run.lock():
        pass


def test_lock_removes_partial_files_of_a_killed_process(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    digest = "0123456789abcdef" * 2
    for name in (
        "checkpoints/.step_00000007.partial",  # of an earlier version
        "checkpoints/.step_00000008.1a2b3c4d.partial",
        f"cache/.{digest}.1a2b3c4d.partial",
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "content").write_bytes(b"half")
    for name in (
        ".config.yaml.1a2b3c4d.partial",
        ".tokenizer.model.1a2b3c4d.partial",
        ".tokenizer.src.model.1a2b3c4d.partial",
        ".source_stats.json.1a2b3c4d.partial",
        "checkpoints/.last.1a2b3c4d.partial",
        "checkpoints/.best.1a2b3c4d.partial",
        "checkpoints/step_00000006/.SHA256SUMS.1a2b3c4d.partial",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "config.yaml").write_bytes(b"whole")
    with run.lock():
        names = {path.name for path in tmp_path.rglob("*")}
    assert names - {".lock"} == {"config.yaml", "checkpoints", "cache", "step_00000006"}


def test_lock_leaves_the_partial_files_of_others(tmp_path: Path) -> None:
    """Another command may be writing them just now."""
    names = [
        ".test.de.1a2b3c4d.partial",  # of `mt translate -o`
        "out/.test.de.1a2b3c4d.partial",
        "out/.config.yaml.1a2b3c4d.partial",
        "checkpoints/.mine.partial",
        "checkpoints/.step_00000007_good.partial",
        ".config.yaml.partial.partial",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    with RunDir(tmp_path).lock():
        assert all((tmp_path / name).is_file() for name in names)


def test_run_is_moved_aside_under_the_next_number(tmp_path: Path) -> None:
    for name in ("toy.2", "toy.10", "toy.old", "toy.03", "toys.99"):
        (tmp_path / name).mkdir()
    run = RunDir(tmp_path / "toy")
    run.checkpoints_dir.mkdir(parents=True)
    (run.path / "notes.txt").write_bytes(b"of the user")
    assert run.move_aside() == tmp_path / "toy.11"
    assert not run.path.exists()
    assert (tmp_path / "toy.11/notes.txt").read_bytes() == b"of the user"
    with RunDir(tmp_path / "toy.11").lock(), run.lock():
        pass


def test_directory_without_a_run_is_not_moved_aside(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "toy")
    assert run.move_aside() is None
    assert not run.path.exists()
    run.path.mkdir()
    (run.path / "notes.txt").write_bytes(b"of the user")
    assert run.move_aside() is None
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


@pytest.mark.skipif(os.name != "posix", reason="needs Linux's /proc")
def test_directory_that_cannot_be_made_is_named() -> None:
    run = RunDir(Path("/proc/nowhere/run"))
    with pytest.raises(DiskError, match=r"^/proc/nowhere/run: cannot write: "), run.lock():
        pass


def test_tokenizer_paths_are_one_file_if_joint(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    joint_src, joint_tgt = run.tokenizer_paths(joint=True)
    assert joint_src == joint_tgt
    separate_src, separate_tgt = run.tokenizer_paths(joint=False)
    assert separate_src != separate_tgt


@pytest.mark.parametrize(("key", "start"), [(None, ""), ("train.teacher", r"train\.teacher: ")])
def test_directory_without_a_run_is_refused(tmp_path: Path, key: str | None, start: str) -> None:
    with pytest.raises(RunDirError, match=f"^{start}/.*missing: no such run directory"):
        open_run_dir(tmp_path / "missing", key=key)
    with pytest.raises(RunDirError, match=rf"^{start}/.*: it has no config\.yaml"):
        open_run_dir(tmp_path, key=key)
    (tmp_path / CTRANSLATE2_MODEL).touch()
    with pytest.raises(RunDirError, match=f"^{start}/.*: an export for CTranslate2"):
        open_run_dir(tmp_path, key=key)


def test_display_path_without_a_current_directory(tmp_path: Path) -> None:
    deleted = tmp_path / "deleted"
    deleted.mkdir()
    with contextlib.chdir(tmp_path):
        os.chdir(deleted)
        deleted.rmdir()
        assert RunDir(tmp_path / "run").display_path == str(tmp_path / "run")
