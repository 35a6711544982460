"""Tests of `mt average`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from copy_task import write_copy_task
from runs import CONFIG, configure, train
from safetensors.torch import load_file
from shell import mt


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with four checkpoints; the loss of each is lower than that of the one before."""
    top = tmp_path_factory.mktemp("task")
    config = write_copy_task(top, CONFIG)
    overrides = ("train.keep_checkpoints=4", "train.ema_decay=0")
    return train(configure(config, top / "run", *overrides))


@pytest.fixture
def run_dir(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, which a test may change."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def load_model(run_dir: Path, name: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(
        run_dir / "checkpoints" / name / "model.safetensors"
    )
    return tensors


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--last", "2"), ["step_00000012", "step_00000009"]),
        (("--best", "2"), ["step_00000003", "step_00000012"]),
    ],
)
def test_average_is_the_mean_and_every_command_takes_it(
    run_dir: Path, options: tuple[str, ...], names: list[str]
) -> None:
    metrics = run_dir / "metrics.jsonl"
    text = metrics.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        if line["kind"] == "valid" and line["step"] == 3:
            line["loss"] = 0.001  # now the first checkpoint is the best
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")

    ended = mt("average", run_dir, *options)
    assert ended.code == 0, ended.err
    assert ended.out == f"average of {', '.join(names)}\n"
    mean = load_model(run_dir, "average")
    first, second = (load_model(run_dir, name) for name in names)
    for name, value in mean.items():
        assert torch.allclose(value, (first[name] + second[name]) / 2, atol=1e-6)
    ended = mt("translate", run_dir, "--checkpoint", "average", stdin="balo\n")
    assert ended.code == 0, ended.err
    assert len(ended.out.splitlines()) == 1


def test_lower_loss_is_better_where_the_scores_are_equal(run_dir: Path) -> None:
    metrics = run_dir / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["kind"] == "valid":
            line["BLEU"] = 0.0
            line["loss"] = 1.0 if line["step"] == 6 else 2.0
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    config = run_dir / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("metric: loss", "metric: bleu"), encoding="utf-8")
    ended = mt("average", run_dir, "--best", "1")
    assert ended.out == "average of step_00000006\n", ended.err


def test_too_few_checkpoints_are_counted(run_dir: Path) -> None:
    ended = mt("average", run_dir, "--last", "5")
    assert ended.code == 1
    assert "wanted 5 checkpoints, found 4" in ended.err


def test_best_is_refused_where_moving_averages_were_validated(run_dir: Path) -> None:
    config = run_dir / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("ema_decay: 0.0", "ema_decay: 0.9"), encoding="utf-8")
    ended = mt("average", run_dir, "--best", "2")
    assert ended.code == 1
    assert "wanted --last" in ended.err


@pytest.mark.parametrize("options", [(), ("--last", "2", "--best", "2")])
def test_one_choice_is_needed(tmp_path: Path, options: tuple[str, ...]) -> None:
    ended = mt("average", tmp_path, *options)
    assert ended.code == 2
    assert "--last or --best" in ended.err
