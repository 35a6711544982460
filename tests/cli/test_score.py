"""Tests of `mt score`: line i of the output is the score of pair i."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from copy_task import write_copy_task
from runs import CONFIG, configure, train
from shell import mt

from mt.decoding.translator import Translator

SOURCES = ["balo deru", "", "gona", "balo", "hako\u2028x"]
TARGETS = ["balo deru", "", "deru " * 300, "gona fimi hako", "||| ü"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config_path = write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)
    folder = tmp_path_factory.mktemp("run")
    return train(configure(config_path, folder / "run", "train.max_steps=2"))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    src = tmp_path / "src"
    tgt = tmp_path / "tgt"
    for path, lines in ((src, SOURCES), (tgt, TARGETS)):
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return src, tgt


def test_each_pair_gets_a_line(run_dir: Path, files: tuple[Path, Path]) -> None:
    src, tgt = files
    ended = mt("score", run_dir, "--src", src, "--tgt", tgt)
    assert ended.code == 0, ended.err
    expected = Translator.load(run_dir, device="cpu").score(SOURCES, TARGETS)
    assert [float(line) for line in ended.out.splitlines()] == pytest.approx(
        [score.log_prob for score in expected], abs=1e-4
    )
    assert ended.out.splitlines()[1:3] == ["0.000000", "-inf"]
    assert "line 3" in ended.err


def test_json_lines_have_the_tokens(
    run_dir: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    src, tgt = files
    output = tmp_path / "scores.jsonl"
    ended = mt("score", run_dir, "--src", src, "--tgt", tgt, "--jsonl", "-o", output)
    assert ended.code == 0, ended.err
    objects = [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [values["index"] for values in objects] == [0, 1, 2, 3, 4]
    assert objects[2] == {"index": 2, "log_prob": None, "tokens": []}
    tokens = objects[0]["tokens"]
    assert "".join(token["piece"] for token in tokens) == "▁balo▁deru<eos>"
    assert objects[0]["log_prob"] == pytest.approx(sum(token["log_prob"] for token in tokens))


def test_files_of_different_lengths_are_a_mistake(
    run_dir: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    src, tgt = files
    output = tmp_path / "scores"
    tgt.write_text("balo\n", encoding="utf-8")
    ended = mt("score", run_dir, "--src", src, "--tgt", tgt, "-o", output)
    assert ended.code == 1
    assert "5 lines" in ended.err
    assert not output.exists()


def test_the_input_is_not_overwritten(run_dir: Path, files: tuple[Path, Path]) -> None:
    src, tgt = files
    ended = mt("score", run_dir, "--src", src, "--tgt", tgt, "-o", tgt)
    assert ended.code == 1
    assert tgt.read_text(encoding="utf-8").startswith("balo deru\n")
