"""Samples of evaluation sets."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mt.config.schema import DataConfig, EvalSetConfig
from mt.data.eval_set import EvalSet, load_eval_set

NUM_LINES = 1000
SET = EvalSet(
    "valid",
    [f"source {number}" for number in range(NUM_LINES)],
    [
        [f"first {number}" for number in range(NUM_LINES)],
        [f"second {number}" for number in range(NUM_LINES)],
    ],
)


def line_numbers(eval_set: EvalSet) -> list[int]:
    return [int(line.split()[1]) for line in eval_set.src]


@pytest.mark.parametrize("num_lines", [NUM_LINES, NUM_LINES + 1])
def test_sample_that_is_not_smaller_is_the_whole_set(num_lines: int) -> None:
    assert SET.sample(num_lines) is SET


def test_sample_keeps_the_order_and_the_references_of_its_lines() -> None:
    sample = SET.sample(100)
    numbers = line_numbers(sample)
    assert len(numbers) == 100
    assert numbers == sorted(set(numbers))
    assert sample.refs[0] == [f"first {number}" for number in numbers]
    assert sample.refs[1] == [f"second {number}" for number in numbers]
    assert sample.name == "valid"


def test_sample_depends_on_the_lines_alone() -> None:
    copy = EvalSet("another name", list(SET.src), [list(lines) for lines in SET.refs])
    assert copy.sample(100).src == SET.sample(100).src
    assert line_numbers(SET.sample(3)) == [466, 754, 829]


def test_sample_is_part_of_a_larger_sample() -> None:
    assert set(SET.sample(50).src) < set(SET.sample(400).src)


def test_sample_comes_from_all_of_the_set_and_follows_no_period() -> None:
    numbers = line_numbers(SET.sample(400))
    assert 100 < sum(number < NUM_LINES // 2 for number in numbers) < 300
    assert 100 < sum(number % 2 == 0 for number in numbers) < 300


def test_equal_lines_can_all_be_in_a_sample() -> None:
    repeated = EvalSet("valid", ["Hello."] * 9, [["Hallo."] * 9])
    assert repeated.sample(4).src == ["Hello."] * 4


def test_incomplete_row_of_a_table_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "test.tsv"
    path.write_text("a\tb\n" * 200 + "alone\n", encoding="utf-8")
    section = EvalSetConfig(name="test", tsv=str(path))
    data = DataConfig(src_lang="en", tgt_lang="de", train=("x",), valid="y")  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "mt"):
        assert len(load_eval_set(section, data).src) == 200
    (message,) = caplog.messages
    assert "1 of 201" in message
    assert "number 201" in message


@pytest.mark.parametrize(
    ("path", "name"), [("my test", "my_test"), ("news/größe.tsv", "gr__e.tsv")]
)
def test_path_with_any_characters_gives_a_name(path: str, name: str) -> None:
    assert EvalSetConfig.model_validate(path).name == name
