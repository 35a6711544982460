"""The report of a run directory: its scores equal those of `mt evaluate`, and it says what is
missing.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from page_text import PageText
from shell import Ended, mt

from mt.config.load import load_run_config
from mt.data.eval_set import EvalSet
from mt.decoding.translation import Segment, Translation
from mt.decoding.translator import Translator
from mt.evaluation.analysis import ScoredSentence
from mt.evaluation.metrics import Score, Scoring
from mt.report.run_report import find_next_steps
from mt.report.scored_set import ScoredSet, translate_and_score
from mt.report.template import show_control_chars
from mt.training.metrics_log import MetricsHistory


class ReportAndScores(NamedTuple):
    """The text of a run's report, and the output of `mt evaluate --json` for the same run."""

    text: str
    scores: dict[str, Any]


@pytest.fixture(scope="module")
def report(trained_run: Path) -> ReportAndScores:
    with good_translations():
        html, _ = write_report(trained_run)
        evaluated = mt("evaluate", trained_run, "--json")
    return ReportAndScores(PageText(html).text, json.loads(evaluated.out))


@contextmanager
def good_translations() -> Iterator[None]:
    """Replace the model's translations by ones that are good enough for scores above zero."""

    def n_best(self: Translator, texts: str | list[str], **options: Any) -> list[Any]:
        if isinstance(texts, str):
            (translations,) = n_best(self, [texts])
            return list(translations)
        hyps = [drop_a_word(text) for text in texts]
        src_rows = self.src_tokenizer.encode(texts)
        tgt_rows = self.tgt_tokenizer.encode(hyps)
        results = []
        for text, hyp, src, tgt in zip(texts, hyps, src_rows, tgt_rows, strict=True):
            log_prob = -3.0 - len(text) % 5
            results.append([Translation(hyp, -1.0, log_prob, (Segment(src, tgt),))])
        return results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Translator, "n_best", n_best)
        yield


def drop_a_word(text: str) -> str:
    """Return the text without its last word but one, if the number of words is divisible by 3."""
    words = text.split(" ")
    if len(words) % 3 == 0:
        del words[-2]
    return " ".join(words)


def write_report(run_dir: Path, *options: str) -> tuple[str, Ended]:
    path = run_dir.parent / "report.html"
    ended = mt("report", run_dir, "-o", path, *options)
    assert ended.code == 0, ended.err
    return path.read_text(encoding="utf-8"), ended


def report_text(run_dir: Path) -> str:
    html, _ = write_report(run_dir)
    return single_spaces(PageText(html).text)


def single_spaces(text: str) -> str:
    return " ".join(text.split())


def test_scores_and_signatures_equal_mt_evaluate(report: ReportAndScores) -> None:
    for name in ("test", "other"):
        for metric in ("BLEU", "chrF", "TER"):
            score = report.scores[name][metric]["score"]
            assert score > 0.0, "a score of zero would not show a difference"
            assert re.search(rf"\b{score:.2f}\b", report.text), (name, metric, score)
            num_refs, settings = report.scores[name][metric]["signature"].split("|", 1)
            assert f"{metric}|{num_refs}|bs:1000|seed:12345|{settings}" in report.text
    bleu = report.scores["test"]["BLEU"]["score"]
    assert f"BLEU {bleu:.2f} ±" in single_spaces(report.text)


def test_small_sets_have_no_intervals(report: ReportAndScores) -> None:
    row = re.search(r"other 4 (.*?) BLEU\|", single_spaces(report.text))
    assert row is not None
    assert "±" not in row[1]


def test_all_samples_are_on_the_page(trained_run: Path, report: ReportAndScores) -> None:
    samples = []
    for raw_line in (trained_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(raw_line)
        if line["kind"] == "valid":
            samples += line["samples"]
    assert len(samples) == 9
    for sample in samples:
        for key in ("src", "ref", "hyp"):
            assert show_control_chars(sample[key]) in report.text


def test_facts_about_the_run_are_on_the_page(trained_run: Path, report: ReportAndScores) -> None:
    first_line = (trained_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0]
    num_parameters = json.loads(first_line)["num_parameters"]
    text = single_spaces(report.text)
    for fact in (
        "79 of 80 pairs kept (left out: 1 blank)",
        "train.aa, train.bb",
        "max_steps 6",
        "cpu, fp32",
        f"torch {torch.__version__}, machine ",
        f"{num_parameters:,}",
        "max_length_factor: 1.0",  # a default, so only in the whole config
    ):
        assert fact in text, fact


def test_report_is_reproducible_and_has_a_default_path(run_dir: Path) -> None:
    html, _ = write_report(run_dir)
    assert mt("report", run_dir).code == 0
    assert (run_dir / "report.html").read_text(encoding="utf-8") == html


def test_report_of_an_unfinished_run_says_what_is_missing(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    metrics = run_dir / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-40])  # within the last line
    html, ended = write_report(run_dir)
    text = single_spaces(PageText(html).text)
    for sentence in ("has no checkpoint yet", "metrics.jsonl: 1 line cannot be read"):
        assert sentence in text, sentence
        assert sentence in ended.err, sentence
    assert "on the validation set, at update" in text
    assert html.count('class="plot"') == 7


def test_memory_plot_needs_recorded_memory(run_dir: Path) -> None:
    assert "Memory" in report_text(run_dir)
    metrics = run_dir / "metrics.jsonl"
    metrics.write_text(re.sub(r', "peak_memory": \d+', "", metrics.read_text()))
    assert "Memory" not in report_text(run_dir)


def test_report_of_a_run_without_any_records(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    shutil.rmtree(run_dir / "cache")
    (run_dir / "metrics.jsonl").unlink()
    text = report_text(run_dir)
    for sentence in ("No score yet", "There is no metrics.jsonl", "number of pairs unknown"):
        assert sentence in text, sentence


def test_report_with_a_damaged_cache_lacks_only_pair_counts(run_dir: Path) -> None:
    (meta,) = (run_dir / "cache").glob("*/meta.json")
    meta.write_text("", encoding="utf-8")
    text = report_text(run_dir)
    assert "number of pairs unknown" in text
    assert "BLEU" in text


def test_validation_set_is_scored_without_test_sets(run_dir: Path) -> None:
    config = run_dir / "config.yaml"
    without_tests = re.sub(
        r"  test:\n.*?(?=  max_length:)", "  test: []\n", config.read_text(), flags=re.DOTALL
    )
    config.write_text(without_tests)
    with good_translations():
        text = report_text(run_dir)
        evaluated = json.loads(mt("evaluate", run_dir, "--json").out)
    assert "The config has no test sets" in text
    assert f"BLEU {evaluated['valid']['BLEU']['score']:.2f} on valid" in text


def test_sources_in_the_training_text_are_reported(report: ReportAndScores) -> None:
    assert (
        "test: in the training text too: 39 of 40 sources (97.5%; the first: line 1)" in report.text
    )


def test_unreadable_test_set_is_named_and_skipped(run_dir: Path) -> None:
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("/test\n", "/gone\n"))
    html, ended = write_report(run_dir)
    text = PageText(html).text
    assert "test could not be scored: " in text
    assert "gone.aa" in ended.err
    assert "Details: other" in text
    assert "Details: test" not in text


def test_advice_uses_the_curves_and_the_translations(trained_run: Path) -> None:
    config = load_run_config(trained_run / "config.yaml")
    lines: list[dict[str, Any]] = []
    for step, loss, bleu in ((100, 2.67, 26.0), (200, 2.05, 40.6), (300, 2.045, 40.9)):
        rate = 1e-3 if step == 100 else 1e-5
        lines.append({"kind": "train", "step": step, "nll": loss - 0.1, "lr": rate})
        lines.append({"kind": "valid", "step": step, "loss": loss, "BLEU": bleu, "is_best": True})
    history = MetricsHistory(lines)
    assert find_next_steps(config, history, []) == []
    assert find_next_steps(config, MetricsHistory(lines[:4]), []) is None

    empty = ScoredSentence("a source", "", "eine Quelle", 0.0, 0.5)
    scores = [Score("BLEU", 1.0, "tok:13a", 1.0, 0.1), Score("chrF", 40.0, "nc:6", 40.0, 0.1)]
    scored_set = ScoredSet("test", "en", "de", [empty] * 60, scores, "words", [], {}, [])
    steps = find_next_steps(config, history, [scored_set])
    assert steps is not None
    assert [advice.topic for advice in steps] == ["BLEU and chrF", "Repetitions"]
    assert "60 empty" in steps[1].observation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--checkpoint", "step_7"), "step_7: no such checkpoint"),
        (("-o", "config.yaml/page"), "page: cannot write"),
    ],
)
def test_mistakes_are_one_line_on_stderr(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str], message: str
) -> None:
    monkeypatch.chdir(run_dir)
    ended = mt("report", run_dir, *arguments)
    assert ended.code == 1
    assert message in ended.err.splitlines()[-1]


def test_example_shows_the_nearest_of_several_references(trained_run: Path) -> None:
    sources = [f"{word} deru fimi gona" for word in ("balo", "hupe", "jasi", "kelo", "mavu")]
    distant_refs = [f"{source} nira hupe" for source in sources]
    near_refs = [f"{source} nira" for source in sources]
    eval_set = EvalSet("x", sources, [distant_refs, near_refs])
    with good_translations():
        scored_set = translate_and_score(eval_set, Translator.load(trained_run), scoring=Scoring())
    examples = [example for kind in scored_set.examples.values() for example in kind]
    assert examples
    for example in examples:
        sentence = scored_set.sentences[example.sentence]
        assert sentence.src == sources[example.sentence]
        assert sentence.ref == near_refs[example.sentence]


def test_scored_set_has_its_own_languages(trained_run: Path) -> None:
    """A model of several languages translates sets of several directions."""
    translator = Translator.load(trained_run)
    eval_set = EvalSet("x", ["balo"] * 3, [["balo"] * 3])
    plain = translate_and_score(eval_set, translator, scoring=Scoring())
    assert (plain.src_lang, plain.tgt_lang) == (translator.src_lang, translator.tgt_lang)
    with_language = eval_set._replace(src_lang="sv", tgt_lang=translator.tgt_lang)
    assert translate_and_score(with_language, translator, scoring=Scoring()).src_lang == "sv"


@pytest.mark.parametrize("command", ["report", "attention"])
def test_page_of_a_run_whose_name_is_not_utf_8(run_dir: Path, command: str) -> None:
    renamed = run_dir.rename(run_dir.with_name("x\udcff"))
    arguments = ["balo"] if command == "attention" else []
    page = run_dir.parent / "page.html"
    ended = mt(command, renamed, *arguments, "-o", page)
    assert ended.code == 0, ended.err
    assert r"x\udcff" in page.read_text(encoding="utf-8")


def test_records_of_wrong_types_are_counted_in_the_report(run_dir: Path) -> None:
    metrics = run_dir / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines):
        if json.loads(line)["kind"] == "valid":
            lines[index] = line.replace('"signatures": {', '"signatures": [], "x": {')
    metrics.write_text("\n".join(lines), encoding="utf-8")
    (cache_meta,) = run_dir.glob("cache/*/meta.json")
    cache_meta.write_text('{"num_pairs": ["79"], "counts": {"kept": "79"}}', encoding="utf-8")
    text = report_text(run_dir)
    assert "metrics.jsonl: 3 lines cannot be read" in text
    assert "There has been no validation yet." in text
    assert "number of pairs unknown" in text
