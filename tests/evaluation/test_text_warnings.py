"""Tests of the warnings about the text that is scored."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from shell import mt

from mt.config.load import config_from_values
from mt.config.schema import DataConfig
from mt.data.eval_set import EvalSet
from mt.evaluation import text_warnings
from mt.evaluation.metrics import Scoring
from mt.evaluation.text_warnings import (
    find_lowercased,
    find_seen_source_problems,
    find_seen_sources,
    find_tokenized,
    is_lowercased,
    is_tokenized,
)

SENTENCE = "Der Hund, der laut bellt, läuft über die Straße zum Haus des Nachbarn."
TOKENIZED = [
    "Der Hund , der laut bellt , läuft .",
    "It &apos;s a well @-@ known dog",
    "Der Nach@@ bar schläft",
    "\u2581Der \u2581Hund",
]


# Tokenized text


@pytest.mark.parametrize("line", TOKENIZED)
def test_traces_of_a_tokenizer_are_found(line: str) -> None:
    assert is_tokenized([line] * 20)
    assert is_tokenized([*[line] * 3, *[SENTENCE] * 17])


@pytest.mark.parametrize(
    "line",
    [
        SENTENCE,
        "Que veux-tu ? Viens ! Voici : « oui » ; non.",  # French has spaces here
        "It's 3,5 kg at 9 a.m. ... and .NET or user@mail.org",
        "Tom & Jerry ate R&B; AT&T paid.",
        "我喜欢吃苹果和香蕉。",
        "",
    ],
)
def test_plain_text_is_not_tokenized(line: str) -> None:
    assert not is_tokenized([line] * 20)


def test_a_few_lines_say_nothing_about_a_text() -> None:
    assert not is_tokenized([TOKENIZED[0], *[SENTENCE] * 19])


def test_tokenized_sides_are_named() -> None:
    sides = {"translations": [SENTENCE] * 9, "references": [TOKENIZED[0]] * 9}
    warning = find_tokenized("test", sides, Scoring())
    assert warning is not None
    assert warning.startswith("test: the references look tokenized")
    assert find_tokenized("test", sides, Scoring(tokenize="none")) is None


# Lowercased text


def test_text_without_capitals_is_lowercased() -> None:
    assert is_lowercased([SENTENCE.lower()] * 100)
    assert not is_lowercased([SENTENCE.lower()] * 10), "too little text to judge"
    assert not is_lowercased([SENTENCE] * 100)
    assert is_lowercased(["მოხუცი ქალი ხედავს ძაღლს"] * 500) is False, "Georgian has no capitals"
    assert is_lowercased(["我喜欢吃苹果和香蕉。"] * 500) is False


def test_lowercased_sides_are_named_unless_scores_ignore_case() -> None:
    sides = {"translations": [SENTENCE.lower()] * 100, "references": [SENTENCE] * 100}
    warning = find_lowercased("test", sides, Scoring())
    assert warning is not None
    assert warning.startswith("test: the translations have no capital letters")
    assert "--lowercase" in warning
    assert find_lowercased("test", sides, Scoring(lowercase=True)) is None


def test_evaluate_warns_of_tokenized_and_lowercased_text(tmp_path: Path) -> None:
    ref = tmp_path / "ref"
    ref.write_text(f"{SENTENCE}\n" * 100, encoding="utf-8")
    hyp = tmp_path / "hyp"
    hyp.write_text(f"{TOKENIZED[0].lower()}\n" * 100, encoding="utf-8")
    ended = mt("evaluate", "--hyp", hyp, "--ref", ref)
    tokenized, lowercased = ended.err.splitlines()
    assert tokenized.startswith("warning: hyp: the translations look tokenized")
    assert lowercased.startswith("warning: hyp: the translations have no capital letters")
    ended = mt("evaluate", "--hyp", hyp, "--ref", ref, "--tokenize", "none", "--lowercase")
    assert ended.err == ""


# Sources in the training text


def write_training_text(folder: Path, sources: list[str]) -> DataConfig:
    """Write a training text in which each source is its own translation; return its config."""
    text = "".join(f"{line}\n" for line in sources)
    for lang in ("aa", "bb"):
        (folder / f"train.{lang}").write_text(text, encoding="utf-8")
    train = [{"prefix": folder / "train"}]
    data = {
        "src_lang": "aa",
        "tgt_lang": "bb",
        "train": train,
        "valid": {"name": "v", "prefix": "v"},
    }
    return config_from_values({"data": data, "train": {"max_steps": 1}}).data


def test_sources_in_the_training_text_are_found_after_normalization(tmp_path: Path) -> None:
    data = write_training_text(tmp_path, ["a  dog", "caf\u00e9", "", "A cat"])
    sources = ["a dog", "a bird", "cafe\u0301", "", "a cat"]
    sets = [EvalSet("test", sources, [sources]), EvalSet("other", ["x"], [["x"]])]
    assert find_seen_sources(sets, data) == [[1, 3], []]
    (problem,) = find_seen_source_problems(sets, data)
    assert "test: in the training text too: 2 of 5 sources (40.0%; the first: line 1)" in problem


def test_nothing_is_said_when_the_training_text_is_gone_or_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mt")
    data = write_training_text(tmp_path, ["a dog"])
    sets = [EvalSet("test", ["a dog"], [["a dog"]])]
    monkeypatch.setattr(text_warnings, "MAX_SEARCHED_BYTES", 5)
    assert find_seen_sources(sets, data) == []
    monkeypatch.undo()
    assert find_seen_sources(sets, data) == [[1]]
    (tmp_path / "train.aa").unlink()
    assert find_seen_sources(sets, data) == []
    assert caplog.text == ""
