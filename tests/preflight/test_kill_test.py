"""The comparison of a killed and resumed training with an uninterrupted one. No training is run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mt.distributed import Runtime
from mt.preflight import kill_test
from mt.preflight.file_checks import Finding
from mt.preflight.kill_test import KilledRun, RunDigests, check_resume
from mt.storage.run_dir import RunDir


def compare_fake_runs(
    monkeypatch: pytest.MonkeyPatch, directory: Path, *, resumed: RunDigests
) -> list[Finding]:
    """Return the findings where the uninterrupted run has the digests "w", "o" and "m"."""
    whole = RunDigests("w", "a", "o", "m")
    digests = {"whole": whole, "killed": resumed}
    killed = KilledRun(RunDir(directory / "killed"), "step_00000002")
    monkeypatch.setattr(kill_test, "make_short_config", lambda *_: None)
    monkeypatch.setattr(kill_test, "dump_config", lambda _: "")
    monkeypatch.setattr(kill_test, "train_to_end", lambda *_: None)
    monkeypatch.setattr(kill_test, "train_until_killed", lambda *_: killed)
    monkeypatch.setattr(kill_test, "digest_run", lambda run_dir: digests[run_dir.path.name])
    runtime = Runtime(torch.device("cpu"))
    config: Any = None  # not used, as make_short_config is replaced
    trial_dir = RunDir(directory / "trial")
    return list(check_resume(config, runtime, trial_dir, directory=directory))


def test_equal_runs_are_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    findings = compare_fake_runs(monkeypatch, tmp_path, resumed=RunDigests("w", "a", "o", "m"))
    assert {finding.level for finding in findings} == {"ok"}
    assert "step_00000002" in findings[0].text


@pytest.mark.parametrize("name", RunDigests._fields)
def test_different_result_of_a_resumed_run_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    whole = RunDigests("w", "a", "o", "m")
    resumed = whole._replace(**{name: "other"})
    findings = compare_fake_runs(monkeypatch, tmp_path, resumed=resumed)
    (finding,) = (finding for finding in findings if finding.level != "ok")
    assert finding.level == "error"
    assert finding.topic == "resume"
    assert finding.text.startswith(f"{name}: different")
    assert getattr(whole, name) in finding.text
    assert "other" in finding.text


def test_training_too_short_to_be_killed_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders = []

    def end_before_the_kill(config_path: Path, run_dir: RunDir, trial_dir: RunDir) -> None:
        folders.append(run_dir.path.name)

    monkeypatch.setattr(kill_test, "train_and_kill", end_before_the_kill)
    monkeypatch.setattr(kill_test, "make_short_config", lambda *_: None)
    monkeypatch.setattr(kill_test, "dump_config", lambda _: "")
    monkeypatch.setattr(kill_test, "train_to_end", lambda *_: None)
    runtime = Runtime(torch.device("cpu"))
    config: Any = None
    (finding,) = check_resume(config, runtime, RunDir(tmp_path), directory=tmp_path)
    assert finding.level == "warning"
    assert len(set(folders)) == kill_test.MAX_TRIES


def test_training_is_killed_when_the_check_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    def interrupt(_: float) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(kill_test, "start_training", lambda *_: process)
    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(SystemExit):
        kill_test.train_and_kill(tmp_path / "short.yaml", RunDir(tmp_path), RunDir(tmp_path))
    assert process.wait() < 0
