"""Tests of trainings with a second term in the loss: R-Drop, and distillation from other runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from copy_task import write_copy_task
from runs import (
    CONFIG,
    RANDOM,
    assert_same_run,
    checkpoint_path,
    configure,
    read_lines_without_timing,
    train,
    train_until,
)

from mt.distributed import open_runtime
from mt.errors import CheckpointError, ConfigError, RunDirError
from mt.preflight.run_checks import check_training
from mt.storage.checkpoint import load_meta


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture(scope="module")
def teachers(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two runs of 6 updates, which are larger than CONFIG and differ in their seed."""
    overrides = ("model.d_ff=48", "train.max_steps=6")
    return [
        train(configure(config_path, tmp_path_factory.mktemp("teacher"), *overrides, seed))
        for seed in ("train.seed=2", "train.seed=3")
    ]


def logged_kl(run_dir: Path) -> list[float]:
    lines = read_lines_without_timing(run_dir)
    return [line["kl"] for line in lines if line["kind"] == "train"]


def test_r_drop_resumes_exactly(config_path: Path, tmp_path: Path) -> None:
    overrides = (*RANDOM, "train.r_drop=5")
    whole = train(configure(config_path, tmp_path / "whole", *overrides))
    half = train_until(6, configure(config_path, tmp_path / "half", *overrides))
    train(configure(config_path, half, *overrides))
    assert_same_run(whole, half)
    assert all(kl > 0.0 for kl in logged_kl(whole))


def test_distillation_resumes_exactly_with_teachers_in_another_place(
    config_path: Path, teachers: list[Path], tmp_path: Path
) -> None:
    overrides = (*RANDOM, "train.teacher_weight=0.7")
    names = f"train.teacher=[{teachers[0]}, {teachers[1]}]"
    whole = train(configure(config_path, tmp_path / "whole", *overrides, names))
    moved = [Path(shutil.copytree(path, tmp_path / f"moved_{path.name}")) for path in teachers]
    half = train_until(6, configure(config_path, tmp_path / "half", *overrides, names))
    names = f"train.teacher=[{moved[0]}, {moved[1]}]"
    train(configure(config_path, half, *overrides, names))
    assert_same_run(whole, half)
    assert all(kl > 0.0 for kl in logged_kl(whole))
    assert len(set(load_meta(checkpoint_path(whole))["teacher_digests"])) == 2


def test_student_learns_the_distribution_of_its_teacher(
    config_path: Path, teachers: list[Path], tmp_path: Path
) -> None:
    overrides = (
        "train.teacher_weight=1.0",
        "train.max_steps=40",
        "train.validate_every=40",
        "train.warmup_steps=0",
    )
    teacher = f"train.teacher={teachers[0]}"
    run_dir = train(configure(config_path, tmp_path, *overrides, teacher))
    kl = logged_kl(run_dir)
    assert kl[-1] < 0.7 * kl[0]


@pytest.mark.parametrize("changed", ["", "[]"])
def test_other_teacher_is_refused_on_resume(
    config_path: Path, teachers: list[Path], tmp_path: Path, changed: str
) -> None:
    train_until(3, configure(config_path, tmp_path, f"train.teacher={teachers[0]}"))
    with pytest.raises(CheckpointError, match=r"train\.teacher"):
        train(configure(config_path, tmp_path, f"train.teacher={changed or teachers[1]}"))


def test_new_teacher_is_refused_on_resume(
    config_path: Path, teachers: list[Path], tmp_path: Path
) -> None:
    train_until(3, configure(config_path, tmp_path))
    with pytest.raises(CheckpointError, match=r"train\.teacher"):
        train(configure(config_path, tmp_path, f"train.teacher={teachers[0]}"))


def test_chosen_checkpoint_of_the_teacher_is_used(
    config_path: Path, teachers: list[Path], tmp_path: Path
) -> None:
    digests = []
    for name in ("step_00000003", "step_00000006"):
        overrides = (f"train.teacher={teachers[0]}", f"train.teacher_checkpoint={name}")
        run_dir = train_until(3, configure(config_path, tmp_path / name, *overrides))
        digests += load_meta(checkpoint_path(run_dir))["teacher_digests"]
    assert len(set(digests)) == 2


def test_teacher_with_another_tokenizer_is_refused(
    config_path: Path, teachers: list[Path], tmp_path: Path
) -> None:
    overrides = (f"train.teacher={teachers[0]}", "tokenizer.vocab_size=340")
    with pytest.raises(ConfigError) as caught:
        train(configure(config_path, tmp_path / "run", *overrides))
    assert f"tokenizer.model: {teachers[0]}/tokenizer.model" in str(caught.value)
    assert not (tmp_path / "run").exists()

    # What the message says is enough.
    lines = config_path.read_text(encoding="utf-8").replace("  vocab_size: 330\n", "")
    path = config_path.with_name("with_tokenizer_of_teacher.yaml")
    path.write_text(lines.replace("tokenizer:", "tokenizer:\n  bpe_dropout: 0.0"), "utf-8")
    overrides = (
        f"train.teacher={teachers[0]}",
        f"tokenizer.model={teachers[0]}/tokenizer.model",
        "train.max_steps=2",
    )
    train(configure(path, tmp_path / "run", *overrides))


def test_missing_teacher_is_named_before_anything_is_made(
    config_path: Path, tmp_path: Path
) -> None:
    config = configure(config_path, tmp_path / "run", f"train.teacher={tmp_path}/nowhere")
    with pytest.raises(RunDirError, match=r"^train\.teacher: .*nowhere: no such run directory"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_check_of_a_distillation_has_no_errors(
    config_path: Path, teachers: list[Path], tmp_path: Path
) -> None:
    config = configure(config_path, tmp_path / "run", f"train.teacher={teachers[0]}")
    findings = list(check_training(config, open_runtime("cpu"), resume=False))
    assert [finding.text for finding in findings if finding.level == "error"] == []
    assert "memory" in {finding.topic for finding in findings}
