"""Tests of how runs and files are scored: languages, options, and text without spaces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from random_run import TEXTS, make_run, make_tokenizers
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from shell import mt

from mt.cli.evaluate_progress import format_evaluation_progress
from mt.decoding.translation import TranslationProgress
from mt.decoding.translator import Translator
from mt.evaluation.evaluate import EvaluationProgress, evaluate
from mt.evaluation.metrics import Scoring, score_corpus
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
    assert err.startswith("warning: hyp: the references ")
    assert "one word a line" in err
    assert "tok:13a" in err
    assert err.count("\n") == 1


def test_translations_of_one_word_get_no_warning(tmp_path: Path) -> None:
    """A model that has learned little writes them, whatever its language is."""
    hyp = write(tmp_path / "hyp", ["Ein....."] * 3)
    ref = write(tmp_path / "ref", ["Eine Frau sieht einen Hund ."] * 3)
    ended = mt("evaluate", "--hyp", hyp, "--ref", ref)
    assert ended.code == 0
    assert "one word a line" not in ended.err


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


# From Python


def evaluation_files(folder: Path) -> dict[str, Any]:
    """Return the arguments of `evaluate` for a set of files."""
    src = write(folder / "set.aa", TEXTS)
    ref = write(folder / "set.bb", TEXTS[::-1])
    return {"src": src, "refs": [ref]}


def test_metrics_choose_the_scores(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_tokenizers(tmp_path))
    (result,) = evaluate(run_dir, **evaluation_files(tmp_path), metrics=["chrf++", "bleu"])
    assert [score.name for score in result.scores] == ["chrF++", "BLEU"]
    assert "|nw:2|" in result.scores[0].signature


def test_runs_of_an_ensemble_translate_together(tmp_path: Path) -> None:
    tokenizers = make_tokenizers(tmp_path)
    first = make_run(tmp_path / "first", tokenizers)
    second = make_run(tmp_path / "second", tokenizers, ["model.num_encoder_layers=1"])
    files = evaluation_files(tmp_path)
    (alone,) = evaluate(first, **files)
    (together,) = evaluate(first, **files, ensemble_with=[second])
    hyps = Translator.load(first, ensemble_with=[second]).translate(TEXTS)
    scoring = Scoring.for_language("bb")
    expected = score_corpus(hyps, [TEXTS[::-1]], scoring=scoring)
    assert [score.value for score in together.scores] == [score.value for score in expected]
    assert together.scores != alone.scores


def test_progress_is_reported_from_the_start_of_a_set_to_its_end(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_tokenizers(tmp_path))
    reports: list[EvaluationProgress] = []
    evaluate(run_dir, **evaluation_files(tmp_path), on_progress=reports.append)
    start, *others = reports
    assert (start.set_number, start.num_sets, start.num_lines) == (1, 1, len(TEXTS))
    assert start.translation is None
    num_segments = [report.translation.num_segments for report in others if report.translation]
    assert len(num_segments) == len(others) > 0
    assert num_segments == sorted(num_segments)
    last = others[-1].translation
    assert last is not None
    assert last.is_complete


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


# Several systems


SOURCES = [f"source {number}" for number in range(20)]
REFERENCES = [f"Der Satz {number} steht hier und ist lang." for number in range(20)]


def write_systems(folder: Path) -> tuple[Path, Path, Path, Path]:
    """Write a source file, references, good translations and bad translations."""
    good = [line.replace("steht", "ist") for line in REFERENCES]
    bad = [line.replace("hier und ist", "dort oder war") for line in REFERENCES]
    return (
        write(folder / "src", SOURCES),
        write(folder / "ref", REFERENCES),
        write(folder / "good", good),
        write(folder / "bad", bad),
    )


def test_several_files_are_compared_with_the_first(tmp_path: Path) -> None:
    _, ref, good, bad = write_systems(tmp_path)
    arguments = ("evaluate", "--hyp", good, "--hyp", bad, "--ref", ref, "--metric", "bleu")
    ended = mt(*arguments, "--json")
    assert ended.code == 0, ended.err
    compared = json.loads(ended.out)["ref"]
    assert compared["num_lines"] == 20
    first, second = compared["systems"]
    assert [first["system"], second["system"]] == [str(good), str(bad)]
    assert first["BLEU"]["score"] > second["BLEU"]["score"]
    assert first["BLEU"]["p_bootstrap"] is None
    assert second["BLEU"]["p_bootstrap"] < 0.01
    assert second["BLEU"]["p_randomization"] < 0.01
    low, high = second["BLEU"]["interval"]
    assert low - 0.01 <= second["BLEU"]["score"] <= high + 0.01
    single = json.loads(mt("evaluate", "--hyp", bad, "--ref", ref, "--json").out)
    assert single["bad"]["BLEU"]["score"] == second["BLEU"]["score"]

    table = mt(*arguments).out
    rows = [line.split() for line in table.splitlines() if line.startswith("BLEU  ")]
    assert rows[0][:3] == ["BLEU", str(good), f"{first['BLEU']['score']:.2f}"]
    assert rows[1][-2:] == [
        f"{second['BLEU']['p_bootstrap']:.4f}",
        f"{second['BLEU']['p_randomization']:.4f}",
    ]
    assert compared["signatures"]["BLEU"]["bootstrap"] in table
    assert compared["signatures"]["BLEU"]["randomization"] in table


def test_file_with_another_number_of_lines_is_refused(tmp_path: Path) -> None:
    _, ref, good, _ = write_systems(tmp_path)
    short = write(tmp_path / "short", REFERENCES[:7])
    ended = mt("evaluate", "--hyp", good, "--hyp", short, "--ref", ref)
    assert ended.code == 1
    assert f"{short}: 7 lines, but" in ended.err
    assert "20" in ended.err
    assert ended.err.count("\n") == 1


def test_chrf_with_words_is_computed_when_asked_for(tmp_path: Path) -> None:
    scores, _ = score(tmp_path, slice(2, 3), "--metric", "chrf++", "--metric", "bleu")
    assert list(scores) == ["num_lines", "chrF++", "BLEU"]
    assert "|nw:2|" in scores["chrF++"]["signature"]


def test_sentences_are_written_with_their_scores(tmp_path: Path) -> None:
    src, ref, good, bad = write_systems(tmp_path)
    output = tmp_path / "sentences.jsonl"
    ended = mt(
        "evaluate", "--src", src, "--hyp", good, "--hyp", bad, "--ref", ref,
        "--metric", "chrf", "--per-sentence", output,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2 * len(SOURCES)
    first, second, *_, last = lines
    assert (first["index"], first["system"], second["system"]) == (0, str(good), str(bad))
    assert last["index"] == len(SOURCES) - 1
    assert last["src"] == SOURCES[-1]
    assert last["refs"] == [REFERENCES[-1]]
    assert last["hyp"] == REFERENCES[-1].replace("hier und ist", "dort oder war")
    expected = CHRF().sentence_score(last["hyp"], last["refs"]).score
    assert last["chrF"] == pytest.approx(expected)
    expected = BLEU(effective_order=True).sentence_score(last["hyp"], last["refs"]).score
    assert last["BLEU"] == pytest.approx(expected)
    assert "eff:yes" in ended.err


def test_unknown_source_is_null(tmp_path: Path) -> None:
    _, ref, good, _ = write_systems(tmp_path)
    output = tmp_path / "sentences.jsonl"
    assert mt("evaluate", "--hyp", good, "--ref", ref, "--per-sentence", output).code == 0
    first = json.loads(output.read_text(encoding="utf-8").splitlines()[0])
    assert first["src"] is None


def test_scores_by_length_are_those_of_the_lines_of_that_length(tmp_path: Path) -> None:
    sources = ["a b c"] * 12 + ["a b c d e f g"] * 8
    _, ref, good, _ = write_systems(tmp_path)
    src = write(tmp_path / "src", sources)
    arguments = ("evaluate", "--src", src, "--hyp", good, "--ref", ref, "--by-length")
    result = json.loads(mt(*arguments, "--json").out)["src"]["by_length"]
    assert result["unit"] == "words"
    assert [(item["length"], item["num_lines"]) for item in result["buckets"]] == [
        ("up to 5", 12),
        ("6–10", 8),
    ]
    short_lines = [line.replace("steht", "ist") for line in REFERENCES[:12]]
    short_hyp = write(tmp_path / "short_hyp", short_lines)
    short_ref = write(tmp_path / "short_ref", REFERENCES[:12])
    short = json.loads(mt("evaluate", "--hyp", short_hyp, "--ref", short_ref, "--json").out)
    for name in ("BLEU", "chrF", "TER"):
        assert result["buckets"][0][name] == short["short_hyp"][name]["score"]
    assert f"6–10              8{result['buckets'][1]['BLEU']:8.2f}" in mt(*arguments).out
