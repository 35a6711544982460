"""One process trains in a run directory, and when it is gone, however it went, another may."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mt.errors import DiskError, RunDirError
from mt.storage.run_dir import RunDir, open_run_dir

HOLD = """
import sys, time, pathlib
from mt.storage.run_dir import RunDir
with RunDir(pathlib.Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    one, other = RunDir(tmp_path / "run"), RunDir(tmp_path / "run")
    with (
        one.lock(),
        pytest.raises(RunDirError, match="another process is training here"),
        other.lock(),
    ):
        pass
    with other.lock():
        pass


def test_a_lock_is_given_back_when_its_block_fails(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        pass


def test_a_process_that_is_killed_leaves_no_lock_behind(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunDirError, match="another process"), run.lock():
            pass
        holder.send_signal(signal.SIGKILL)
    with run.lock():
        pass


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    (tmp_path / "checkpoints" / ".step_00000007.partial").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".step_00000007.partial" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".config.yaml.1a2b3c4d.partial").write_bytes(b"half")
    (tmp_path / "config.yaml").write_bytes(b"whole")
    with run.lock():
        left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left - {".lock"} == {"config.yaml"}


@pytest.mark.skipif(os.name != "posix", reason="needs /proc")
def test_a_directory_that_cannot_be_made_is_one_line() -> None:
    run = RunDir(Path("/proc/nowhere/run"))
    with pytest.raises(DiskError, match=r"^/proc/nowhere/run: cannot write: "), run.lock():
        pass


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no such run directory"):
        open_run_dir(tmp_path / "none")
    with pytest.raises(RunDirError, match=r"it has no config\.yaml"):
        open_run_dir(tmp_path)
