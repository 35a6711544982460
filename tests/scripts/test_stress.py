"""Short forms of scripts/stress/resume.py and scripts/stress/serve.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


def run_stress_test(*options: str) -> str:
    command = [sys.executable, "-m", "scripts.stress.resume", *options]
    process = subprocess.run(command, capture_output=True, text=True, cwd=TOP)
    assert process.returncode == 0, process.stdout + process.stderr
    (counts,) = re.findall(r"(\d+) of (\d+) runs ended like", process.stdout)
    num_equal, num_runs = counts
    assert num_equal == num_runs
    assert int(num_runs) > 0
    return process.stdout


# Two tests, so that two cores share them.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs Linux's fork")
def test_run_killed_at_random_moments_ends_like_an_uninterrupted_one() -> None:
    output = run_stress_test("--kills", "8", "--forced", "0")
    assert "8 kills in" in output
    assert output.count("#") == 16, "each of the 8 kills is in two histograms"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs Linux's fork")
def test_run_killed_at_critical_moments_ends_like_an_uninterrupted_one() -> None:
    output = run_stress_test("--kills", "0", "--forced", "1")
    assert "6 of 6 runs" in output


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_server_stands_hostile_requests_and_ends_under_load() -> None:
    command = [sys.executable, "-m", "scripts.stress.serve"]
    command += ["tests/data/old_runs/dot_pre_joint", "--checkpoint", "last", "--requests", "90"]
    command += ["--slow-bodies", "0", "--clients", "4", "--seconds", "0.5"]
    process = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=TOP,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "0 wrong answers" in process.stdout
    assert re.search(r"SIGTERM with 4 clients: answered [1-9]", process.stdout)
