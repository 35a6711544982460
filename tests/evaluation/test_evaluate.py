"""Tests of how runs and files are scored: languages, options, and text without spaces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shell import mt

from mt.cli.evaluate_progress import format_evaluation_progress
from mt.decoding.translator import TranslationProgress
from mt.evaluation.evaluate import EvaluationProgress, evaluate
from mt.progress_bar import ProgressText, format_progress

HYPS = ["我喜欢吃苹果和香蕉。", "他昨天去了北京大学。", "Das ist GUT."]
REFS = ["我喜欢吃苹果和梨。", "他昨天去了上海大学。", "Das ist gut."]
CHINESE = slice(2)


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def score(tmp_path: Path, lines: slice, *options: str) -> tuple[dict[str, Any], str]:
    """Return the scores of HYPS by `mt evaluate`, by metric, and what it wrote to stderr."""
    hyp = write(tmp_path / "hyp", HYPS[lines])
    ref = write(tmp_path / "ref", REFS[lines])
    ended = mt("evaluate", "--hyp", hyp, "--ref", ref, "--json", *options)
    assert ended.code == 0, ended.err
    return json.loads(ended.out)["hyp"], ended.err


@pytest.mark.parametrize("code", ["zho", "zho_Hans", "zh-Hans-CN", "cmn"])
def test_chinese_is_scored_alike_in_every_spelling(tmp_path: Path, code: str) -> None:
    scores, err = score(tmp_path, CHINESE, "--lang", code)
    assert scores["BLEU"]["score"] > 30
    assert "|tok:zh|" in scores["BLEU"]["signature"]
    assert "|asian:yes|" in scores["TER"]["signature"]
    assert 0 < scores["TER"]["score"] < 50
    assert err == ""
    assert scores == score(tmp_path, CHINESE, "--lang", "zh")[0]


def test_language_without_words_gets_no_ter(tmp_path: Path) -> None:
    scores, err = score(tmp_path, CHINESE, "--lang", "tha_Thai")
    assert scores.keys() == {"num_lines", "BLEU", "chrF"}
    assert err == ""


def test_tokenize_chooses_the_tokenizer_whatever_the_language(tmp_path: Path) -> None:
    scores, _ = score(tmp_path, CHINESE, "--lang", "zh", "--tokenize", "char")
    assert "|tok:char|" in scores["BLEU"]["signature"]
    scores, _ = score(tmp_path, CHINESE, "--tokenize", "none")
    assert "|tok:none|" in scores["BLEU"]["signature"]
    ended = mt("evaluate", "--hyp", "a", "--ref", "b", "--tokenize", "14a")
    assert ended.code == 2
    assert "14a" in ended.err


def test_lowercase_ignores_case_in_bleu_and_chrf(tmp_path: Path) -> None:
    german = slice(2, 3)
    cased, _ = score(tmp_path, german)
    lowercased, _ = score(tmp_path, german, "--lowercase")
    for name in ("BLEU", "chrF"):
        assert cased[name]["score"] < 99
        assert lowercased[name]["score"] == pytest.approx(100)
        assert "|case:lc|" in lowercased[name]["signature"]
    assert cased["TER"] == lowercased["TER"]


@pytest.mark.parametrize("options", [(), ("--lang", "zh", "--tokenize", "13a")])
def test_text_without_spaces_scored_by_words_gets_a_warning(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    _, err = score(tmp_path, CHINESE, *options)
    assert err.startswith("warning: hyp: the translations ")
    assert "one word a line" in err
    assert "tok:13a" in err
    assert err.count("\n") == 1


def test_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mt.evaluation.languages.find_spec", lambda package: None)
    hyp = write(tmp_path / "hyp", HYPS)
    ended = mt("evaluate", "--hyp", hyp, "--ref", hyp, "--tokenize", "ja-mecab")
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith("mt: ")
    assert "pip install 'sacrebleu[ja]'" in ended.err
    assert ended.err.count("\n") == 1


def test_a_single_file_of_references_must_be_in_a_list(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="list of references"):
        evaluate(tmp_path, src="a.en", refs="a.de")


# Progress


def evaluation_progress(num_segments: int, fraction: float, **options: Any) -> EvaluationProgress:
    translation = TranslationProgress(num_segments, 1200, fraction)
    values = {"set_name": "test", "set_number": 2, "num_sets": 3, "num_lines": 1000, **options}
    return EvaluationProgress(**values, translation=translation)


def test_bar_shows_the_time_left_and_the_set() -> None:
    text = format_evaluation_progress(evaluation_progress(300, 0.4), seconds=30.0)
    assert text == ProgressText(("0:45 left", "test (2 of 3)"), 0.4, ("300/1,200 sentences",))
    only = evaluation_progress(300, 0.4, set_number=1, num_sets=1)
    assert format_evaluation_progress(only, seconds=30.0).first == ("0:45 left", "test")


def test_bar_says_that_a_set_is_scored() -> None:
    text = format_evaluation_progress(evaluation_progress(1200, 1.0), seconds=30.0)
    assert text.first == ("scoring", "test (2 of 3)")


def test_bar_shows_the_number_of_lines_before_the_first_batch() -> None:
    progress = EvaluationProgress("test", 1, 1, 1000)
    text = format_evaluation_progress(progress, seconds=0.0)
    assert text == ProgressText(("1,000 lines", "test"), 0.0)


@pytest.mark.parametrize("name", ["x" * 200, "\x1b]52;c;cm0gLXJm\x07" * 9])
def test_long_or_hostile_name_of_a_set_leaves_room_for_the_meter(name: str) -> None:
    progress = evaluation_progress(300, 0.4, set_name=name)
    line = format_progress(format_evaluation_progress(progress, seconds=30.0), width=59)
    assert line.startswith("0:45 left | ")
    assert line.endswith("40%")
    assert line.isprintable()
