"""Runs whose training text is not two plain files: they train and resume as all others do."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from copy_task import write_copy_task
from runs import CONFIG, configure, train, train_until

import mt.experiment
from mt.errors import CheckpointError, DataError

TUV = '<tuv xml:lang="{}"><seg>{}</seg></tuv>'


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    """Write the copy task with its training text as a TSV file and a TMX file, half in each."""
    path = write_copy_task(tmp_path, CONFIG)
    lines = (tmp_path / "train.aa").read_text(encoding="utf-8").splitlines()
    rows = [f"{number}\t{line}\t{line}\n" for number, line in enumerate(lines[:45])]
    units = [f"<tu>{TUV.format('aa', line)}{TUV.format('bb', line)}</tu>" for line in lines[45:]]
    (tmp_path / "text.tsv").write_text("id\tto\tfrom\n" + "".join(rows), encoding="utf-8")
    (tmp_path / "text.tmx").write_text(f"<tmx>{''.join(units)}</tmx>", encoding="utf-8")
    return path


def both_files(directory: Path, columns: str = "[from, to]") -> str:
    tsv = f"{{tsv: {directory / 'text.tsv'}, columns: {columns}}}"
    return f"data.train=[{tsv}, {directory / 'text.tmx'}]"


def test_run_with_a_table_and_a_memory_equals_one_with_two_files(
    config_path: Path, tmp_path: Path
) -> None:
    expected = train(configure(config_path, tmp_path / "two"))
    run_dir = tmp_path / "run"
    train_until(6, configure(config_path, run_dir, both_files(tmp_path)))
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("text.tsv", "text.tmx"):
        (tmp_path / name).rename(moved / name)
    train(configure(config_path, run_dir, both_files(moved)))
    model = "checkpoints/step_00000012/model.safetensors"
    assert (run_dir / model).read_bytes() == (expected / model).read_bytes()


def test_other_columns_are_another_text(config_path: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(configure(config_path, run_dir, both_files(tmp_path), "train.max_steps=2"))
    changed = both_files(tmp_path, "[to, from]")
    with pytest.raises(CheckpointError, match="training text has changed"):
        train(configure(config_path, run_dir, changed))


@pytest.mark.parametrize("name", ["train.aa", "text.tsv", "text.tmx"])
def test_text_that_cannot_be_read_shows_before_the_tokenizer_is_trained(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a tokenizer is trained")

    monkeypatch.setattr(mt.experiment, "train_tokenizer", fail)
    with (tmp_path / name).open("ab") as file:
        file.write(b"\xff\n")
    override = "train.seed=1" if name == "train.aa" else both_files(tmp_path)
    with pytest.raises(DataError, match=name):
        train(configure(config_path, tmp_path / "runs" / "new", override))
    assert not (tmp_path / "runs" / "new").exists()


def test_numbers_of_pairs_are_said_before_and_after_encoding(
    config_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mt")
    with (tmp_path / "text.tsv").open("a") as file:
        file.write("1\t \t\n")
    train(configure(config_path, tmp_path / "run", both_files(tmp_path), "train.max_steps=2"))
    messages = [line for line in caplog.messages if line.startswith(("train:", "tokenizer:"))]
    assert messages == [
        "train: 91 pairs (1 with a blank side)",
        "tokenizer: training bpe with 330 tokens",
        "train: 90 of 91 pairs kept (left out: 1 blank)",
    ]
