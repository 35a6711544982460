"""Runs that an earlier version began are resumed to the numbers that it would have computed."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mt.config.load import load_config
from mt.training.run import train

OLD_RUNS = Path(__file__).resolve().parent / "data" / "old_runs"
EXPECTED: dict[str, Any] = json.loads((OLD_RUNS / "expected.json").read_text(encoding="utf-8"))
STOP, END = 13, 33  # the update each run was stopped after, and its last one


@pytest.mark.parametrize("name", EXPECTED["runs"])
def test_old_run_resumes_to_the_same_numbers(name: str, tmp_path: Path) -> None:
    run = copy_old_run(name, tmp_path)
    train(load_config(run / "config.yaml"))
    expected = EXPECTED["runs"][name]
    found = read_updates(run)
    if is_same_machine():
        assert found == {key: expected[key] for key in found}
        assert weights_digest(run) == expected["weights"]
    else:  # another processor sums in another order
        tolerance = 3e-2 if name.endswith("bf16") else 1e-3
        for key in found:
            assert found[key] == pytest.approx(expected[key], rel=tolerance), key


def copy_old_run(name: str, directory: Path) -> Path:
    """Copy a kept run into `directory`, with real paths in its config."""
    run = directory / "run"
    shutil.copytree(OLD_RUNS / name, run)
    config = (run / "config.yaml").read_text(encoding="utf-8")
    config = config.replace("RUNS", str(directory)).replace("DATA", str(OLD_RUNS))
    (run / "config.yaml").write_text(config, encoding="utf-8")
    return run


def read_updates(run: Path) -> dict[str, list[float]]:
    """Return the numbers of each update after STOP, by name."""
    lines = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    later = [line for line in lines if line["kind"] == "train" and line["step"] > STOP]
    assert [line["step"] for line in later] == list(range(STOP + 1, END + 1))
    return {
        key: [line[key] for line in later]
        for key in ("loss", "nll", "grad_norm", "lr", "tokens_seen")
    }


def weights_digest(run: Path) -> str:
    """Return a SHA-256 of all weights after the last update, in the order of their names."""
    tensors = load_file(run / "checkpoints" / f"step_{END:08d}" / "model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def is_same_machine() -> bool:
    """Return whether this machine and PyTorch give the bits that `expected.json` has."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    named = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    cpu = f"{platform.machine()} {named.get('vendor_id')} {named.get('cpu family')}/{named.get('model')}"
    return (cpu, torch.__version__) == (EXPECTED["cpu"], EXPECTED["torch"])
