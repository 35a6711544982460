"""Tests of how runs and files are scored: languages, options, and text without spaces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shell import mt

from mt.evaluation.evaluate import evaluate

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
