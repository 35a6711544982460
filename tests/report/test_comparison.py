"""The page of `mt compare`: groups of seeds, mean curves, scores, and text shown as text."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from page_access import check_contrast, check_focus
from page_text import PageText
from shell import mt

from mt.config.load import config_from_values
from mt.config.schema import Config
from mt.data.eval_set import EvalSet
from mt.evaluation import significance
from mt.evaluation.evaluate import SystemOutput, TranslatedSet, TranslatedSets
from mt.evaluation.metrics import Scoring
from mt.report.compared_runs import ComparedRun, group_by_seed, unique_names
from mt.report.comparison import ComparedSet, Comparison, compare_sets, comparison_page
from mt.report.comparison_plots import Points, comparison_plots, mean_curve
from mt.training.metrics_log import MetricsHistory

HOSTILE_TEXT = "<script>document.title='broken'</script></title><img src=x> &amp; {{7*7}} 'so' שלום"
REFERENCES = [f"Der alte Hund {number} schläft im Haus." for number in range(12)]


def make_config(**train: Any) -> Config:
    data = {
        "src_lang": "en",
        "tgt_lang": "de",
        "train": [{"prefix": "t"}],
        "valid": {"prefix": "v"},
    }
    data["valid"] = {"name": "valid", "prefix": "v"}
    return config_from_values({"data": data, "train": {"max_steps": 10, **train}})


def make_history(scale: float = 1.0) -> MetricsHistory:
    lines: list[dict[str, Any]] = []
    for step in (100, 200, 300):
        timing = {"elapsed_seconds": 0.6 * step}
        train = {"kind": "train", "step": step, "nll": scale * 100 / step, "timing": timing}
        lines.append({**train, "tokens_seen": 10_000 * step})
        valid = {"kind": "valid", "step": step, "loss": scale * 200 / step, "timing": timing}
        lines.append({**valid, "BLEU": scale * step / 10, "signatures": {"BLEU": "nrefs:1"}})
    return MetricsHistory(lines)


def make_run(name: str, group: int, **changes: Any) -> ComparedRun:
    values = {
        "path": Path(name),
        "name": name,
        "config": make_config(),
        "history": make_history(1.0 + group),
        "differences": [],
        "group": group,
    }
    return ComparedRun(**{**values, **changes})


def make_runs() -> list[ComparedRun]:
    """Return two runs of one group, and one of another."""
    return [make_run("a", 0), make_run("b", 0), make_run("c", 1)]


def translate(*hypotheses: list[str], text: str = "source") -> TranslatedSets:
    """Return an evaluation set with translations of the systems 0, 1 and so on."""
    eval_set = EvalSet("test", [f"{text} {number}" for number in range(12)], [REFERENCES])
    outputs = [SystemOutput(str(number), lines) for number, lines in enumerate(hypotheses)]
    return TranslatedSets([TranslatedSet(eval_set, outputs, Scoring())], [])


@pytest.fixture(autouse=True)
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "NUM_RESAMPLES", 50)
    monkeypatch.setattr(significance, "NUM_TRIALS", 50)


# Groups


def test_runs_that_differ_in_the_seed_only_are_a_group() -> None:
    configs = [
        make_config(seed=1, run_dir="a"),
        make_config(seed=2, run_dir="b"),
        make_config(seed=1, run_dir="c", learning_rate=0.1),
        make_config(seed=3, run_dir="d"),
        make_config(seed=7, run_dir="e", learning_rate=0.1),
    ]
    assert group_by_seed(configs) == [0, 0, 1, 0, 1]


def test_equal_names_get_numbers() -> None:
    assert unique_names([Path("x/run"), Path("y/run"), Path("z/run"), Path("other")]) == [
        "run",
        "run (2)",
        "run (3)",
        "other",
    ]


# Curves


def test_mean_curve_covers_what_all_curves_cover() -> None:
    curve = mean_curve([Points([0, 2, 4], [0, 2, 4]), Points([1, 3], [5, 7])])
    assert curve.x == [1, 2, 3]
    assert curve.y == [3, 4, 5]
    assert curve.low == [1, 2, 3]
    assert curve.high == [5, 6, 7]


def test_mean_of_curves_without_a_common_part_is_empty() -> None:
    assert mean_curve([Points([0, 1], [0, 1]), Points([2, 3], [0, 1])]).x == []


def test_curves_are_plotted_over_updates_tokens_and_time() -> None:
    plots = comparison_plots(make_runs())
    titles = ["Training loss", "Validation loss", "Validation BLEU"]
    axes = ["updates", "million target tokens", "minutes"]
    assert [(plot.title, plot.x_name) for plot in plots] == [(t, x) for t in titles for x in axes]
    tooltips = PageText("".join(plot.svg for plot in plots)).tooltips
    assert "c\n200 updates\n2.000" in tooltips
    assert "c\n2 million target tokens\n2.000" in tooltips
    assert "c\n2 minutes\n40.000" in tooltips
    assert "a, mean of 2 seeds\n2 minutes\n20.000 (20.000 to 20.000)" in tooltips


def test_runs_without_records_have_no_plots() -> None:
    history = MetricsHistory([], file_exists=False)
    assert comparison_plots([make_run("a", 0, history=history)] * 2) == []


# Scores


@cache
def compared_set() -> ComparedSet:
    """Return a set on which the second run is a little worse than the first, and the third bad."""
    worse = [line.replace("im Haus", "dort") for line in REFERENCES]
    bad = [line if number == 5 else "Nein!" for number, line in enumerate(REFERENCES)]
    (compared,) = compare_sets(translate(REFERENCES, worse, bad), make_runs())
    return compared


def test_groups_have_mean_and_standard_deviation(few_trials: None) -> None:
    compared = compared_set()
    (group,) = compared.groups
    assert (group.name, group.num_runs) == ("a", 2)
    for scores, spread in zip(compared.scores, group.spreads, strict=True):
        values = [system.score.value for system in scores.systems[:2]]
        assert spread.mean == pytest.approx(sum(values) / 2)
        assert spread.deviation == pytest.approx(statistics.stdev(values))
        assert (spread.lowest, spread.highest) == (min(values), max(values))


def test_sentences_with_the_largest_differences_come_first(few_trials: None) -> None:
    sentences = compared_set().sentences
    assert len(sentences) == 10
    assert 6 not in [sentence.line for sentence in sentences]  # the only small difference
    first = sentences[0]
    assert [version.runs[0].name for version in first.versions] == ["a", "b", "c"]
    assert first.versions[0].chrf == 100.0
    assert first.versions[2].hyp == "Nein!"


def test_equal_translations_are_one_version_and_no_difference() -> None:
    worse = [line.replace("im Haus", "dort") for line in REFERENCES]
    (compared,) = compare_sets(translate(worse, worse, REFERENCES), make_runs())
    assert [len(version.runs) for version in compared.sentences[0].versions] == [1, 2]
    (compared,) = compare_sets(translate(worse, worse, worse), make_runs())
    assert compared.sentences == []


# The page


def hostile_page() -> str:
    """Return a page with hostile text in every place that can show text of a user."""
    runs = [
        make_run(HOSTILE_TEXT, 0, differences=[f"data.train.0.prefix: {HOSTILE_TEXT} -> x"]),
        make_run(f"{HOSTILE_TEXT} (2)", 0, differences=[f"a: b -> {HOSTILE_TEXT}"]),
        make_run("c", 1),
    ]
    hypotheses = [HOSTILE_TEXT] * 12
    translated = translate(REFERENCES, hypotheses, hypotheses, text=HOSTILE_TEXT)
    sets = compare_sets(translated, runs)
    return comparison_page(
        Comparison("en → de", runs, comparison_plots(runs), sets, [HOSTILE_TEXT])
    )


def test_hostile_text_is_escaped_everywhere() -> None:
    page = PageText(hostile_page())
    assert not {"script", "img"} & page.tags
    assert page.text.count(HOSTILE_TEXT) >= 20
    assert any(HOSTILE_TEXT in tooltip for tooltip in page.tooltips)


def test_page_has_no_script_and_no_external_address() -> None:
    html = comparison_page(Comparison("en → de", make_runs(), [], [compared_set()], []))
    assert re.search(r"<script|https?:|url\((?!#)|@import| on\w+=", html) is None


def test_page_shows_scores_and_settings() -> None:
    runs = [*make_runs()[:2], make_run("c", 1, differences=["train.learning_rate: 0.001 -> 0.1"])]
    compared = compared_set()
    text = PageText(comparison_page(Comparison("en → de", runs, [], [compared], []))).text
    for scores in compared.scores:
        for system in scores.systems:
            assert f"{system.score.value:.2f}" in text
        assert scores.bootstrap_signature in text
    assert "train.learning_rate: 0.001 → 0.1" in text
    assert "the same settings" in text
    assert "2 seeds of a" in " ".join(text.split())


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1400])
def test_page_fits_the_window(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    path = tmp_path / "compare.html"
    path.write_text(hostile_page(), encoding="utf-8")
    page = browser.open(path, width=width, dark=dark)
    assert page.console_messages == []
    assert page.requests == [path.as_uri()]
    assert "broken" not in page.evaluate("document.title")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    check_contrast(page)
    check_focus(page)
    page.close()


# The command


def test_compare_shows_scores_of_evaluate(trained_run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(trained_run, tmp_path / "other"))
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("  seed: 1\n", "  seed: 5\n"), encoding="utf-8")
    output = tmp_path / "compare.html"
    ended = mt("compare", trained_run, other, "-o", output)
    assert ended.code == 0, ended.err
    text = " ".join(PageText(output.read_text(encoding="utf-8")).text.split())
    table = mt("evaluate", trained_run, other).out
    scores = re.findall(r"^(?:BLEU|chrF|TER) .*? (\d+\.\d\d)(?: |$)", table, re.MULTILINE)
    assert len(scores) == 12
    assert all(score in text for score in scores)
    assert "train.seed: 1 → 5" in text
    assert "p 1.0000 · 1.0000" in text
    assert "2 seeds of small" in text
    assert "sources" in text
    assert re.search(r": in the training text too: \d+ of \d+ sources? \(", text)


def test_run_without_checkpoint_is_named(run_dir: Path, tmp_path: Path) -> None:
    new = Path(shutil.copytree(run_dir, tmp_path / "new"))
    shutil.rmtree(new / "checkpoints")
    output = tmp_path / "compare.html"
    ended = mt("compare", run_dir, new, "-o", output)
    assert ended.code == 0, ended.err
    text = PageText(output.read_text(encoding="utf-8")).text
    assert "new has no checkpoint yet" in text
    assert "nothing was translated" in text


def test_runs_of_other_languages_are_not_scored(run_dir: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run_dir, tmp_path / "other"))
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("tgt_lang: bb", "tgt_lang: cc"), encoding="utf-8")
    ended = mt("evaluate", run_dir, other)
    assert ended.code == 1
    assert "aa to cc" in ended.err
    assert ended.err.count("\n") == 1


def test_compare_needs_two_runs(run_dir: Path) -> None:
    ended = mt("compare", run_dir)
    assert ended.code == 2
    assert "two runs" in ended.err


def test_file_needs_a_single_set(run_dir: Path, tmp_path: Path) -> None:
    hyp = tmp_path / "hyp"
    hyp.write_text("x\n", encoding="utf-8")
    ended = mt("evaluate", run_dir, "--hyp", hyp)
    assert ended.code == 1
    assert "test, other" in ended.err
    assert "--src" in ended.err


def test_ensemble_is_compared_with_a_file(run_dir: Path, tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.write_text("balo deru.\n" * 3, encoding="utf-8")
    files = ("--src", src, "--ref", src, "--hyp", src)
    ended = mt("evaluate", run_dir, "--with", run_dir, *files, "--json")
    assert ended.code == 0, ended.err
    systems = json.loads(ended.out)["src"]["systems"]
    assert [item["system"] for item in systems] == [f"{run_dir} + {run_dir}", str(src)]
    assert systems[1]["chrF"]["score"] == 100.0
    assert mt("evaluate", run_dir, run_dir, "--with", run_dir).code == 2
