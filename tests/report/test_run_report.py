"""The page of a run tells what was written down and scored, equal to other commands' figures, and nothing as markup."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from browser import Browser, Page, open_browser
from shell import Ended, mt

from mt.data.eval_set import EvalSet
from mt.decoding.translator import Segment, Translation, Translator
from mt.evaluation.analysis import Bucket, Example, ScoredSentence
from mt.evaluation.metrics import Score
from mt.report.attention_page import AxisTokens
from mt.report.charts import show_control_chars
from mt.report.run_report import (
    HeatMap,
    Report,
    ScoredSet,
    Version,
    draw_heat_maps,
    examine,
    follow_samples,
    pair_counts,
    read_metrics,
    report_page,
    subwords_if_unspaced,
)
from mt.storage.run_dir import RunDir

HOSTILE = [
    "<script>document.title='broken'</script>",
    "</title></style><img src=x onerror=document.title='broken'>",
    "&amp; {{7*7}} {% x %}",
    "\u202eright שלום",
    "👩‍👩‍👧 'so' \"quoted\"",
]
WORDS = ["balo", "deru", "fimi", "gona", "hupe", "jasi", "kelo", "mavu", "nira", "potu"]
SIGNATURE = "nrefs:1|case:mixed"


class Text(HTMLParser):
    """What a browser would show of a page, and its elements with their titles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.shown, self.tags, self.titles, self.silent = "", set[str](), list[str](), ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.shown += " " if tag in ("td", "th", "div", "dt", "dd") else ""
        self.silent = tag if tag in ("style", "script", "title") else ""
        self.titles += [value or "" for name, value in attrs if name == "title"]

    def handle_endtag(self, tag: str) -> None:
        self.silent = ""

    def handle_data(self, data: str) -> None:
        if self.silent == "title":
            self.titles.append(data)
        elif not self.silent:
            self.shown += data


def sentence(number: int) -> str:
    return " ".join(WORDS[(number * 7 + k * k) % len(WORDS)] for k in range(1 + number % 9)) + "."


def garble(text: str) -> str:
    """A translation that is right but for a word here and there."""
    words = text.split(" ")
    return " ".join(words[:-2] + words[-1:] if len(words) % 3 == 0 else words)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few updates, whose test set has a reference for every sentence."""
    folder = tmp_path_factory.mktemp("run")
    for name, numbers in (
        ("train", range(80)),
        ("valid", range(6)),
        ("test", range(40)),
        ("other", range(40, 44)),
    ):
        for lang in ("aa", "bb"):
            lines = ["" if name == "train" and i == 3 else sentence(i) for i in numbers]
            (folder / f"{name}.{lang}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "small.yaml").write_text(
        f"data: {{src_lang: aa, tgt_lang: bb, train: [{{prefix: {folder}/train}}], max_length: 32,"
        f" valid: {{name: valid, prefix: {folder}/valid}},"
        f" test: [{{name: test, prefix: {folder}/test}}, {{name: other, prefix: {folder}/other}}]}}\n"
        "tokenizer: {vocab_size: 320}\n"
        "model: {d_model: 16, d_ff: 16, num_heads: 2, num_encoder_layers: 1, num_decoder_layers: 2}\n"
        "train: {precision: fp32, batch_tokens: 512, max_steps: 6, validate_every: 2, log_every: 1}\n"
        "search: {max_length_factor: 1, max_length_offset: 4, beam_size: 2}\n",
        encoding="utf-8",
    )
    ended = mt("train", "--config", folder / "small.yaml", "--run-dir", folder / "small")
    assert ended.code == 0, ended.err
    return folder / "small"


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(trained, tmp_path / "small"))


@contextmanager
def good_model() -> Iterator[None]:
    """Let the model translate well enough for every score to be above zero."""

    def n_best(self: Translator, texts: list[str]) -> list[list[Translation]]:
        found = []
        for text, src, tgt in zip(
            texts,
            self.src_tokenizer.encode(texts),
            self.tgt_tokenizer.encode(list(map(garble, texts))),
            strict=True,
        ):
            found.append(
                [Translation(garble(text), -1.0, -3.0 - len(text) % 5, (Segment(src, tgt),))]
            )
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Translator, "n_best", n_best)
        yield


class Told(NamedTuple):
    """What the page of a run shows, and what `mt evaluate` says of it."""

    shown: str
    scores: dict[str, Any]


@pytest.fixture(scope="module")
def told(trained: Path) -> Told:
    with good_model():
        page, _ = write(trained)
        return Told(Text(page).shown, json.loads(mt("evaluate", trained, "--json").out))


def write(run_dir: Path, *options: str) -> tuple[str, Ended]:
    path = run_dir.parent / "report.html"
    ended = mt("report", run_dir, "-o", path, *options)
    assert ended.code == 0, ended.err
    return path.read_text(encoding="utf-8"), ended


def squeezed(text: str) -> str:
    return " ".join(text.split())


# From a run directory


def test_the_scores_are_those_of_mt_evaluate_with_their_signatures(told: Told) -> None:
    shown, scores = told
    for name in ("test", "other"):
        for metric in ("BLEU", "chrF", "TER"):
            value, signature = scores[name][metric]["score"], scores[name][metric]["signature"]
            assert value > 0.0, "a score of nothing is no test"
            assert re.search(rf"\b{value:.2f}\b", shown), (name, metric, value)
            head, tail = signature.split("|", 1)
            assert f"{metric}|{head}|bs:1000|seed:12345|{tail}" in shown
    assert f"BLEU {scores['test']['BLEU']['score']:.2f} ±" in squeezed(shown)


def test_a_set_too_small_for_an_interval_has_none(told: Told) -> None:
    row = re.search(r"other 4 (.*?) BLEU\|", squeezed(told.shown))
    assert row is not None
    assert "±" not in row[1]


def test_every_sample_that_was_written_down_is_on_the_page(trained: Path, told: Told) -> None:
    lines = [
        json.loads(line)
        for line in (trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    samples = [sample for line in lines if line["kind"] == "valid" for sample in line["samples"]]
    assert len(samples) == 9
    for sample in samples:
        assert all(show_control_chars(sample[key]) in told.shown for key in ("src", "ref", "hyp"))


def test_what_is_known_of_the_run_is_said(trained: Path, told: Told) -> None:
    shown = squeezed(told.shown)
    for fact in (
        "79 of 80 pairs kept (left out: 1 blank)",
        "train.{aa,bb}",
        "max_steps 6",
        "cpu, fp32",
        f"torch {torch.__version__}, machine ",
    ):
        assert fact in shown, fact
    parameters = json.loads(
        (trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0]
    )["num_parameters"]
    assert f"{parameters:,}" in shown
    assert "max_length_factor: 1.0" in shown, "the whole config"


def test_the_page_is_the_same_whenever_it_is_made_and_goes_into_the_run_directory_by_default(
    run_dir: Path,
) -> None:
    page, _ = write(run_dir)
    assert mt("report", run_dir).code == 0
    assert (run_dir / "report.html").read_text(encoding="utf-8") == page


def test_a_run_that_is_going_has_a_page_that_says_what_is_not_there_yet(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    metrics = run_dir / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-40])  # in the middle of the last line
    page, ended = write(run_dir)
    shown = squeezed(Text(page).shown)
    for sentence in ("has no checkpoint yet", "metrics.jsonl: 1 line cannot be read"):
        assert sentence in shown, sentence
        assert sentence in ended.err, sentence
    assert "on the validation set, at update" in shown
    assert page.count('class="plot"') == 7


def test_a_run_of_before_memory_was_recorded_has_no_plot_of_it(run_dir: Path) -> None:
    assert "Memory" in Text(write(run_dir)[0]).shown
    metrics = run_dir / "metrics.jsonl"
    metrics.write_text(re.sub(r', "peak_memory": \d+', "", metrics.read_text()))
    assert "Memory" not in Text(write(run_dir)[0]).shown


def test_a_run_that_has_just_begun_has_a_page(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    shutil.rmtree(run_dir / "cache")
    (run_dir / "metrics.jsonl").unlink()
    shown = squeezed(Text(write(run_dir)[0]).shown)
    for sentence in ("No score yet", "There is no metrics.jsonl", "the run's cache is gone"):
        assert sentence in shown, sentence


def test_without_test_sets_the_validation_set_is_scored_and_the_page_says_so(run_dir: Path) -> None:
    config = run_dir / "config.yaml"
    config.write_text(
        re.sub(r"(?s)  test:\n.*?(?=  max_length:)", "  test: []\n", config.read_text())
    )
    with good_model():
        shown = squeezed(Text(write(run_dir)[0]).shown)
        score = json.loads(mt("evaluate", run_dir, "--json").out)["valid"]["BLEU"]["score"]
    assert "The config has no test sets" in shown
    assert f"BLEU {score:.2f} on valid" in shown


def test_a_test_set_whose_files_are_gone_is_named_and_the_others_are_scored(run_dir: Path) -> None:
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("/test\n", "/gone\n"))
    page, ended = write(run_dir)
    assert "test could not be scored: " in Text(page).shown
    assert "gone.aa" in ended.err
    assert "A closer look: other" in Text(page).shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--checkpoint", "step_7"), "step_7: no such checkpoint"),
        (("-o", "config.yaml/page"), "page: cannot write"),
    ],
)
def test_a_mistake_is_one_line(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str], complaint: str
) -> None:
    monkeypatch.chdir(run_dir)
    ended = mt("report", run_dir, *arguments)
    assert ended.code == 1
    assert complaint in ended.err.splitlines()[-1]


def test_the_number_of_pairs_is_that_of_the_runs_own_data(run_dir: Path) -> None:
    shutil.copytree(next((run_dir / "cache").iterdir()), run_dir / "cache/other")
    counts = pair_counts(RunDir(run_dir))
    assert counts is not None
    assert (list(counts.kept), counts.all.blank) == ([79], 1)
    shutil.rmtree(run_dir / "checkpoints")
    shutil.rmtree(run_dir / "cache/other")
    assert pair_counts(RunDir(run_dir)) is None, "it may be of an earlier try, with other corpora"


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"num_pairs": [79]}', '{"num_pairs": [79], "counts": {"kept": 1, "x": 2}}'],
)
def test_a_damaged_cache_costs_the_page_its_number_of_pairs_alone(
    run_dir: Path, content: str
) -> None:
    (meta,) = (run_dir / "cache").glob("*/meta.json")
    meta.write_text(content, encoding="utf-8")
    page, _ = write(run_dir)
    assert "number of pairs not known" in Text(page).shown


def test_lines_that_are_none_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"kind": "train", "step": 1}\n\xff\n[]\n{"kind": "valid"}\n{"kind": "valid", "step": 2}\n{"ki'
    )
    metrics, missing = read_metrics(path)
    assert [line["step"] for line in metrics] == [1, 2]
    assert missing == [
        "metrics.jsonl: 4 lines cannot be read; a run that goes on may be writing the last."
    ]


def test_a_heat_map_has_the_words_of_the_source_and_rows_that_add_up_to_one(trained: Path) -> None:
    sources = [" ".join(WORDS[k : k + 7]) for k in range(3)] + ["balo", " ".join(WORDS * 5)]
    sources.insert(
        1, f"{'q' * 40} " + " ".join(WORDS[:6])
    )  # few words, but more tokens than the model has learned
    found = draw_heat_maps(sources, Translator.load(trained))
    assert [list(each.keys) for each in found] == [[*WORDS[k : k + 7], "<eos>"] for k in range(3)]
    for each in found:
        assert each.weights.shape == (len(each.queries), len(each.keys))
        assert each.weights.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_a_text_without_spaces_is_shown_by_its_subwords() -> None:
    pieces = ["▁今日", "は", "天気", "が", "良い", "<eos>"]
    side = AxisTokens(pieces, ["今日は天気が良い", "<eos>"], [0, 0, 0, 0, 0, 1], [1])
    assert subwords_if_unspaced(side).words == ["今日", "は", "天気", "が", "良い", "<eos>"]
    assert subwords_if_unspaced(side).word_index == [0, 1, 2, 3, 4, 5]
    spaced = AxisTokens(["▁ein", "▁Hund", "<eos>"], ["ein", "Hund", "<eos>"], [0, 1, 2], [2])
    assert subwords_if_unspaced(spaced) == spaced


def test_of_several_references_the_nearest_is_shown(trained: Path) -> None:
    sources = [f"{word} deru fimi gona" for word in WORDS]
    refs = [[f"{text} nira hupe" for text in sources], [f"{text} nira" for text in sources]]
    with good_model():
        found = examine(EvalSet("x", sources, refs), Translator.load(trained), tgt_lang="bb")
    shown = [example for kind in found.examples.values() for example in kind]
    assert shown
    for example in shown:
        assert found.judged[example.sentence].ref == refs[1][example.sentence]
        assert found.judged[example.sentence].src == sources[example.sentence]


def test_a_translation_that_stays_is_one_version() -> None:
    said = {1: "a", 2: "a", 3: "b", 4: "a"}
    lines = [
        {"kind": "valid", "step": step, "samples": [{"src": "s", "ref": "a", "hyp": hyp}]}
        for step, hyp in said.items()
    ]
    (versions,) = follow_samples(lines).values()
    assert [(v.first_step, v.last_step, v.hyp, v.chrf) for v in versions] == [
        (1, 2, "a", 100.0),
        (3, 3, "b", 0.0),
        (4, 4, "a", 100.0),
    ]


# From values


def make_report(**changes: Any) -> Report:
    metrics: list[dict[str, Any]] = [{"kind": "start", "step": 0, "num_parameters": 1234567}]
    for step in range(50, 1050, 50):
        nll = 0.5 + 400 / (step + 100)
        values = {
            "loss": nll + 1,
            "nll": nll,
            "lr": 1e-3,
            "grad_norm": 0.5,
            "timing": {"tokens_per_second": 9000.0, "peak_memory": 1.5e9},
        }
        metrics.append({"kind": "train", "step": step, **values})
    for step in range(250, 1250, 250):
        scores = {
            "BLEU": step / 50,
            "chrF": step / 25,
            "signatures": {"BLEU": SIGNATURE, "chrF": SIGNATURE},
        }
        metrics.append(
            {"kind": "valid", "step": step, "loss": 500 / step, **scores, "is_best": step == 750}
        )
    metrics.append({"kind": "incident", "step": 600, "text": "3 updates were skipped"})
    judged = ScoredSentence(
        "The old dog sleeps", "Der Hund bellt laut", "Der alte Hund schläft", 45.6, 0.789
    )
    score = Score("BLEU", 37.451, SIGNATURE, 37.45, 1.65)
    example = Example(11, "lost: Maria")
    by_length = [
        (Bucket("up to 5", list(range(30))), [score]),
        (Bucket("6–10", list(range(30, 34))), [score._replace(half_width=math.nan)]),
    ]
    values = {
        "name": "a run",
        "languages": "en → de",
        "summary": [("updates", "1,000"), ("training time", "3:32")],
        "facts": {"Data": [("languages", "en → de")]},
        "metrics": metrics,
        "samples": {
            ("A source", "Ein alter Satz"): [Version(k, k, f"Satz {k}", 50.0) for k in range(12)]
        },
        "sets": [
            ScoredSet(
                "test",
                [judged] * 34,
                [score],
                "words",
                by_length,
                {"best": [], "worst": [example], "instructive": [example]},
            )
        ],
        "heat_maps": [
            HeatMap(
                ["Ein", "Hund", "<eos>"],
                ["a", "dog", "<eos>"],
                np.eye(3, dtype=np.float32) * 0.9 + 0.033,
            )
        ],
        "missing": [],
        "config": "data: {}\n",
    }
    return Report(**{**values, **changes})


@cache
def plain_page() -> str:
    return report_page(make_report())


@cache
def hostile_page() -> str:
    return report_page(hostile_report())


def hostile_report() -> Report:
    plain, text = make_report(), " ".join(HOSTILE)
    judged = ScoredSentence(
        text, f"{text} {text}", text, 1.0, 0.1
    )  # so the text is plain, marked, and missing
    (one,) = plain.sets
    return plain._replace(
        name=text,
        samples={(text, text): [Version(1, 2, f"{text} {text}", 3.0), Version(3, 4, "", 0.0)]},
        metrics=[*plain.metrics, {"kind": "incident", "step": 9, "text": text}],
        facts={text: [(text, text)]},
        sets=[one._replace(judged=[judged], examples={"worst": [Example(0, text)]})],
        heat_maps=[HeatMap([text, "x"], ["y", text], np.full((2, 2), 0.5, np.float32))],
        missing=[text],
        config=text,
    )


def test_hostile_text_is_text_and_nothing_else() -> None:
    page = hostile_page()
    text = Text(page)
    assert not {"script", "img"} & text.tags
    assert text.shown.count(" ".join(HOSTILE)) >= 12
    assert any(" ".join(HOSTILE) in title for title in text.titles)
    assert f"reference: {' '.join(HOSTILE)}" in text.titles
    assert text.tags == Text(report_page(make_report(missing=["x"]))).tags


def test_a_page_holds_no_script_and_no_address() -> None:
    page = plain_page()
    assert re.search(r"<script|https?:|url\((?!#)|@import| on\w+=", page) is None
    assert set(re.findall(r'href="([^"]*)"', page)) >= {"#scores", "data:,"}
    assert all(
        target.startswith(("#", "data:,")) for target in re.findall(r'(?:href|src)="([^"]*)"', page)
    )


def test_control_characters_are_shown_as_pictures_of_themselves() -> None:
    shown = Text(report_page(make_report(missing=["a\x00b\x1bc\x7f"]))).shown
    assert "a␀b␛c␡" in shown


def test_what_a_clock_said_is_marked() -> None:
    shown = squeezed(Text(plain_page()).shown)
    assert "3:32 ◷" in shown
    assert "Speed ◷" in shown
    assert "1,000 ◷" not in shown


def test_incidents_are_listed_and_drawn_in_every_plot() -> None:
    page = plain_page()
    assert "update 6003 updates were skipped" in squeezed(Text(page).shown)
    assert page.count('class="mark"') == 7
    calm = [line for line in make_report().metrics if line["kind"] != "incident"]
    assert "No incident is recorded." in Text(report_page(make_report(metrics=calm))).shown


def test_all_versions_of_a_sample_are_there_those_between_folded_away() -> None:
    page = plain_page()
    shown = Text(page).shown
    assert all(f"Satz {k}" in shown for k in range(12))
    assert "5 versions between" in shown


def test_values_that_are_not_known_do_not_spoil_a_page() -> None:
    lines = [
        {"kind": "train", "step": 1, "loss": None},
        {"kind": "valid", "step": 2},
        {"kind": "incident", "step": 3},
    ]
    page = report_page(make_report(metrics=lines, sets=[], heat_maps=[], samples=[]))
    assert "No score yet" in Text(page).shown


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as found:
        yield found


def opened(browser: Browser, html: str, folder: Path, **options: Any) -> Page:
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    page = browser.open(path, **options)
    assert page.complaints == []
    assert page.requests == [path.as_uri()]
    return page


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_hostile_text_as_it_was_written_and_complains_of_nothing(
    browser: Browser, tmp_path: Path, dark: bool
) -> None:
    page = opened(browser, hostile_page(), tmp_path, dark=dark)
    assert "broken" not in page.evaluate("document.title").replace(" ".join(HOSTILE), "")
    found = page.evaluate("[...document.querySelectorAll('.pair .src')].map(e => e.textContent)")
    assert found == [" ".join(HOSTILE)] * 2
    assert page.evaluate("document.querySelectorAll('script, img').length") == 0
    page.close()


def test_what_is_pointed_at_tells_its_figures(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, plain_page(), tmp_path)
    told = "(() => {{ const e = document.querySelector('{0}'), b = e.getBoundingClientRect();" + (
        "const at = document.elementFromPoint(b.left + b.width / 2, b.top + b.height / 2);"
        "for (let n = at; n; n = n.parentElement) {{"
        "  const t = [...n.children].find(c => c.localName == 'title'); if (t) return t.textContent;"
        "  if (n.title) return n.title; }} return null; }})()"
    )
    for selector, title in {
        ".plots .dot": "update 250\nvalidation 2.000",
        ".plots .band:nth-of-type(9)": "update ",
        ".by-length .dot": "up to 5\n30\nBLEU 37.45 (35.8 to 39.1)",
        ".heat .cell": "Ein ← a: 0.93",
        ".pair mark": "translation: nothing here",
        ".scores td span": "95 % bootstrap interval: 35.80 to 39.10",
        ".clock": "A clock's figure",
    }.items():
        page.hover(selector)
        assert page.evaluate(told.format(selector)).startswith(title), selector
    page.close()


def test_every_entry_of_the_contents_leads_somewhere(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, plain_page(), tmp_path)
    links = page.evaluate(
        "[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))"
    )
    assert len(links) == 7
    assert page.evaluate(
        "[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))"
    )
    assert page.evaluate(
        "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
    ) == page.evaluate("document.querySelectorAll('[id]').length")
    page.close()


@pytest.mark.parametrize("width", [360, 700, 1400])
def test_the_page_is_as_wide_as_the_window(browser: Browser, tmp_path: Path, width: int) -> None:
    page = opened(browser, hostile_page(), tmp_path, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_it_prints(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, plain_page(), tmp_path)
    page.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    page.close()
