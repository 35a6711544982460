"""train.tensorboard: the event file has the numbers of metrics.jsonl, whatever ends a process."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from copy_task import write_copy_task
from runs import CONFIG, configure, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mt.config.schema import TrainConfig
from mt.distributed import Runtime
from mt.errors import DiskError, PackageError
from mt.storage.run_dir import RunDir
from mt.training.metrics_log import MetricsLine, read_metrics_log
from mt.training.planner import RunPlanner
from mt.training.run_log import RunLog
from mt.training.state import TrainState
from mt.training.tensorboard_file import EventFile, curves
from mt.training.trainer import Trainer

OPTIONS = ("train.tensorboard=true", "train.log_every=1", "train.validate_every=3")
Points = list[tuple[int, float, float]]  # step, value, time


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


def read_curves(run_dir: Path) -> dict[str, Points]:
    """Return all curves that TensorBoard shows."""
    accumulator = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    found = {}
    for tag in accumulator.Tags()["scalars"]:
        events = accumulator.Scalars(tag)
        found[tag] = [(event.step, event.value, event.wall_time) for event in events]
    return found


def logged_curve(run_dir: Path, kind: str, key: str) -> Points:
    """Return the points of a number in metrics.jsonl, in the precision of an event file."""
    lines = read_metrics_log(run_dir / "metrics.jsonl").lines
    start_time = lines[0]["timing"]["unix_time"]
    points = []
    for line in lines:
        values = {**line, **line["timing"]}
        if line["kind"] == kind:
            time = start_time + values["elapsed_seconds"]
            points.append((line["step"], float(np.float32(values[key])), time))
    return points


def assert_curves_are_those_of_the_log(run_dir: Path) -> None:
    found = read_curves(run_dir)
    for kind, key in (
        ("train", "loss"),
        ("train", "lr"),
        ("train", "tokens_per_second"),
        ("valid", "loss"),
        ("valid", "BLEU"),
        ("final", "chrF"),
    ):
        expected = logged_curve(run_dir, kind, key)
        assert expected
        assert found[f"{kind}/{key}"] == expected


def test_curves_are_those_of_the_log(config_path: Path, tmp_path: Path) -> None:
    run_dir = train(configure(config_path, tmp_path / "run", *OPTIONS))
    assert_curves_are_those_of_the_log(run_dir)
    assert [step for step, _, _ in read_curves(run_dir)["train/loss"]] == list(range(1, 13))
    assert "train/step" not in read_curves(run_dir)


class Killed(BaseException):
    """Ends a training as a kill does: nothing is saved."""


def test_run_that_was_killed_has_each_event_once(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed after update 8, while it writes an event, and resumes from update 6."""
    update = Trainer.update

    def killed_update(trainer: Trainer, *arguments: Any) -> None:
        if trainer.state.step == 8:
            raise Killed
        update(trainer, *arguments)

    config = configure(config_path, tmp_path / "run", *OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", killed_update)
        with pytest.raises(Killed):
            train(config)
    run_dir = tmp_path / "run"
    assert len(read_curves(run_dir)["train/loss"]) == 8
    with (run_dir / "tensorboard" / "events.out.tfevents.mt").open("ab") as file:
        file.write(b"\x10\0\0\0\0half")
    train(config)
    assert_curves_are_those_of_the_log(run_dir)
    assert len(read_curves(run_dir)["train/loss"]) == 12


def test_event_file_of_a_run_that_had_none_begins_with_its_first_update(
    config_path: Path, tmp_path: Path
) -> None:
    train(configure(config_path, tmp_path / "run", *OPTIONS[1:], "train.max_steps=3"))
    assert not (tmp_path / "run" / "tensorboard").exists()
    run_dir = train(configure(config_path, tmp_path / "run", *OPTIONS, "train.max_steps=4"))
    assert_curves_are_those_of_the_log(run_dir)


def test_curves_of_a_line() -> None:
    line: MetricsLine = {
        "kind": "valid",
        "step": 3,
        "loss": 2.5,
        "perplexity": None,
        "is_best": True,
        "sets": [{"name": "en-sv", "BLEU": 7.0, "signatures": {}}],
        "timing": {"elapsed_seconds": 4.0, "translation_seconds": 1.5},
    }
    assert dict(curves(line)) == {
        "valid/loss": 2.5,
        "valid/translation_seconds": 1.5,
        "valid/en-sv/BLEU": 7.0,
    }


@pytest.mark.parametrize("method", ["append", "rewrite"])
def test_full_disk_ends_the_events_and_not_the_training(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fail(*arguments: Any) -> NoReturn:
        raise DiskError(os.strerror(errno.ENOSPC))

    config = configure(config_path, tmp_path / "run", *OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(EventFile, method, fail)
        run_dir = train(config)
    history = read_metrics_log(run_dir / "metrics.jsonl")
    assert history.train[-1]["step"] == 12
    (incident,) = history.incidents
    assert os.strerror(errno.ENOSPC) in incident["text"]


def test_only_rank_0_writes_events(tmp_path: Path) -> None:
    planner = RunPlanner(TrainConfig(max_steps=1), batches_per_update=1)
    for rank in (1, 0):
        runtime = Runtime(torch.device("cpu"), rank=rank, world_size=2)
        log = RunLog(RunDir(tmp_path), runtime=runtime, state=TrainState(), planner=planner)
        log.start_event_file()
        log.record_incident("a test")
        assert (tmp_path / "tensorboard").exists() == (rank == 0)


def test_missing_package_is_named_before_the_run_begins(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_tensorboard(monkeypatch)
    with pytest.raises(PackageError, match=r"train\.tensorboard.*pip install"):
        train(configure(config_path, tmp_path / "run", *OPTIONS))
    assert not (tmp_path / "run").exists()


def test_run_without_event_file_does_not_import_tensorboard(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import takes half a second, and the package is an extra."""
    forbid_tensorboard(monkeypatch)
    run_dir = train(configure(config_path, tmp_path / "run", "train.max_steps=3"))
    assert not (run_dir / "tensorboard").exists()


def forbid_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each import of tensorboard fail, as if it was not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
