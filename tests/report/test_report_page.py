"""The HTML of a run report, made from values: it holds all text as text, and works in a browser."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, Page
from page_access import check_contrast, check_focus
from page_text import PageText

from mt.advice.advice import Advice
from mt.evaluation.analysis import Bucket, Example, PercentileExample, ScoredSentence
from mt.evaluation.metrics import Score
from mt.report.facts import Fact
from mt.report.heat_maps import HeatMap
from mt.report.run_report import Report, report_page
from mt.report.scored_set import ScoredSet
from mt.report.template import PageLink
from mt.report.training_history import SampleVersion
from mt.training.metrics_log import MetricsHistory

HOSTILE_TEXT = " ".join(
    [
        "<script>document.title='broken'</script>",
        "</title></style><img src=x onerror=document.title='broken'>",
        "&amp; {{7*7}} {% x %}",
        "\u202eright שלום",
        "👩‍👩‍👧 'so' \"quoted\"",
    ]
)
SIGNATURE = "nrefs:1|case:mixed"


def make_report(**changes: Any) -> Report:
    report = Report(
        name="a run",
        languages="en → de",
        src_lang="en",
        tgt_lang="de",
        summary=[Fact("updates", "1,000"), Fact("training time", "3:32", is_timing=True)],
        facts={"Data": [Fact("languages", "en → de")]},
        history=make_history(),
        samples={
            ("A source", "Ein alter Satz"): [
                SampleVersion(k, k, f"Satz {k}", 50.0) for k in range(12)
            ]
        },
        scored_sets=[make_scored_set()],
        heat_maps=[
            HeatMap(
                ["Ein", "Hund", "<eos>"],
                ["a", "dog", "<eos>"],
                np.eye(3, dtype=np.float32) * 0.9 + 0.033,
                src_lang="en",
                tgt_lang="de",
            )
        ],
        heat_maps_source="test",
        missing=[],
        config="data: {}\n",
    )
    return report._replace(**changes)


def make_history() -> MetricsHistory:
    lines: list[dict[str, Any]] = [{"kind": "start", "step": 0, "num_parameters": 1234567}]
    for step in range(50, 1050, 50):
        nll = 0.5 + 400 / (step + 100)
        lines.append(
            {
                "kind": "train",
                "step": step,
                "loss": nll + 1,
                "nll": nll,
                "lr": 1e-3,
                "grad_norm": 0.5,
                "timing": {"tokens_per_second": 9000.0, "peak_memory": 1.5e9},
            }
        )
    lines += [
        {
            "kind": "valid",
            "step": step,
            "loss": 500 / step,
            "BLEU": step / 50,
            "chrF": step / 25,
            "signatures": {"BLEU": SIGNATURE, "chrF": SIGNATURE},
            "is_best": step == 750,
        }
        for step in range(250, 1250, 250)
    ]
    lines.append({"kind": "incident", "step": 600, "text": "3 updates were skipped"})
    return MetricsHistory(lines)


def make_scored_set() -> ScoredSet:
    sentence = ScoredSentence(
        src="The old dog sleeps",
        hyp="Der Hund bellt laut",
        ref="Der alte Hund schläft",
        chrf=45.6,
        probability=0.789,
    )
    score = Score("BLEU", 37.451, SIGNATURE, 37.45, 1.65)
    score_without_interval = score._replace(half_width=math.nan)
    example = Example(11, "lost: Maria")
    return ScoredSet(
        name="test",
        src_lang="en",
        tgt_lang="de",
        sentences=[sentence] * 34,
        scores=[score],
        length_unit="words",
        by_length=[
            (Bucket("up to 5", list(range(30))), [score]),
            (Bucket("6–10", list(range(30, 34))), [score_without_interval]),
        ],
        examples={"best": [], "worst": [example], "instructive": [example]},
        percentile_examples=[PercentileExample(11, 50)],
    )


@cache
def plain_page() -> str:
    return report_page(make_report())


@cache
def hostile_page() -> str:
    """A page with hostile text in every place that can show text of a user."""
    twice = f"{HOSTILE_TEXT} {HOSTILE_TEXT}"  # so that some of it is marked as a difference
    incident = {"kind": "incident", "step": 9, "text": HOSTILE_TEXT}
    sentence = ScoredSentence(HOSTILE_TEXT, twice, HOSTILE_TEXT, 1.0, 0.1)
    scored_set = make_scored_set()._replace(
        sentences=[sentence],
        src_lang=HOSTILE_TEXT,
        examples={"worst": [Example(0, HOSTILE_TEXT)]},
        percentile_examples=[PercentileExample(0, 50)],
    )
    weights = np.full((2, 2), 0.5, np.float32)
    report = make_report(
        name=HOSTILE_TEXT,
        facts={HOSTILE_TEXT: [Fact(HOSTILE_TEXT, HOSTILE_TEXT)]},
        history=MetricsHistory([*make_history().lines, incident]),
        samples={
            (HOSTILE_TEXT, HOSTILE_TEXT): [
                SampleVersion(1, 2, twice, 3.0),
                SampleVersion(3, 4, "", 0.0),
            ]
        },
        scored_sets=[scored_set],
        heat_maps=[HeatMap([HOSTILE_TEXT, "x"], ["y", HOSTILE_TEXT], weights, "en", "de")],
        missing=[HOSTILE_TEXT],
        config=HOSTILE_TEXT,
    )
    return report_page(report)


def single_spaces(text: str) -> str:
    return " ".join(text.split())


def test_hostile_text_is_escaped_everywhere() -> None:
    page = PageText(hostile_page())
    assert not {"script", "img"} & page.tags
    assert page.text.count(HOSTILE_TEXT) >= 12
    assert any(HOSTILE_TEXT in tooltip for tooltip in page.tooltips)
    assert f"reference: {HOSTILE_TEXT}" in page.tooltips
    assert page.tags == PageText(report_page(make_report(missing=["x"]))).tags


def test_page_has_no_script_and_no_external_address() -> None:
    html = plain_page()
    assert re.search(r"<script|https?:|url\((?!#)|@import| on\w+=", html) is None
    links = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert {"#scores", "data:,"} <= set(links)
    assert all(link.startswith(("#", "data:,")) for link in links)


def test_control_characters_are_shown_as_pictures() -> None:
    html = report_page(make_report(missing=["a\x00b\x1bc\x7f"]))
    assert "a␀b␛c␡" in PageText(html).text


def test_measured_times_are_marked() -> None:
    text = single_spaces(PageText(plain_page()).text)
    assert "3:32 ◷" in text
    assert "Speed ◷" in text
    assert "1,000 ◷" not in text


def test_incidents_are_listed_and_drawn_in_every_plot() -> None:
    html = plain_page()
    assert "update 6003 updates were skipped" in single_spaces(PageText(html).text)
    assert html.count('class="event"') == 7


def test_page_without_incidents_says_so() -> None:
    lines = [line for line in make_history().lines if line["kind"] != "incident"]
    html = report_page(make_report(history=MetricsHistory(lines)))
    assert "No incident is recorded." in PageText(html).text


def test_next_steps_are_the_last_section_in_their_order() -> None:
    advice = [
        Advice("Overfitting", "It rose.", "Raise model.dropout to 0.2."),
        Advice("More <b> text", "A gap.", "Add some."),
    ]
    html = report_page(make_report(next_steps=advice))
    text = " ".join(PageText(html).text.split())
    section = text[text.rindex("What to try next") :]
    words = " ".join(section.replace(" .", ".").split())
    positions = [words.index(part) for part in ("Overfitting", "It rose.", "More <b> text")]
    assert positions == sorted(positions)
    assert "to 0.2" in words
    assert "<code>model.dropout</code>" in html
    for heading in ("Scores of the detokenized", "Details: test", "Cross-attention"):
        assert heading not in section


@pytest.mark.parametrize(
    ("next_steps", "words"), [([], "Nothing stands out"), (None, "too few validations")]
)
def test_page_without_advice_says_why(next_steps: list[Advice] | None, words: str) -> None:
    assert words in PageText(report_page(make_report(next_steps=next_steps))).text


def test_page_shows_what_the_model_can_do_before_its_training() -> None:
    ids = re.findall(r'<section id="([^"]*)"', plain_page())
    order = [
        "translations",
        "scores",
        "set-test",
        "attention",
        "curves",
        "samples",
        "setup",
        "next",
    ]
    assert ids == order


def test_run_without_scores_opens_with_its_latest_samples() -> None:
    html = report_page(make_report(scored_sets=[], heat_maps=[]))
    assert re.findall(r'<section id="([^"]*)"', html)[0] == "translations"
    section = html[html.index('id="translations"') : html.index('id="curves"')]
    assert "Satz 11" in PageText(section).text.replace("\n", "")
    assert "Satz 10" not in PageText(section).text


def test_texts_have_the_languages_of_the_config() -> None:
    html = report_page(make_report(tgt_lang="he", src_lang="pt_BR"))
    samples = html[html.index('id="samples"') : html.index('id="setup"')]
    assert samples.count('<bdi lang="pt-BR" dir="auto"') == 1
    assert samples.count('<bdi lang="he" dir="rtl"') == 1 + 12


def test_cells_of_score_tables_have_their_names() -> None:
    html = plain_page()
    tables = re.findall(r'<table class="[^"]*stack">.*?</table>', html, re.DOTALL)
    assert len(tables) == 2
    assert not any("<td>" in table for table in tables)


def test_page_links_to_the_attention_page() -> None:
    html = report_page(make_report(links=[PageLink("Attention page", "attention.html")]))
    assert '<a href="attention.html">Attention page</a>' in html


def test_middle_versions_of_a_sample_are_folded() -> None:
    text = PageText(plain_page()).text
    for k in range(12):
        assert f"Satz {k}" in text
    assert "5 versions between" in text


def test_missing_and_null_metrics_are_accepted() -> None:
    history = MetricsHistory(
        [
            {"kind": "train", "step": 1, "loss": None},
            {"kind": "valid", "step": 2},
            {"kind": "incident", "step": 3},
        ]
    )
    html = report_page(make_report(history=history, scored_sets=[], heat_maps=[], samples={}))
    assert "No score yet" in PageText(html).text


# In a browser


def open_page(browser: Browser, html: str, folder: Path, **options: Any) -> Page:
    """Show a page, which must not log anything nor request another file."""
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    page = browser.open(path, **options)
    assert page.console_messages == []
    assert page.requests == [path.as_uri()]
    return page


@pytest.mark.parametrize("dark", [False, True])
def test_browser_shows_hostile_text_unchanged(browser: Browser, tmp_path: Path, dark: bool) -> None:
    page = open_page(browser, hostile_page(), tmp_path, dark=dark)
    title = page.evaluate("document.title")
    assert "broken" not in title.replace(HOSTILE_TEXT, "")
    sources = page.evaluate("[...document.querySelectorAll('.pair .src')].map(e => e.textContent)")
    assert sources == [HOSTILE_TEXT] * 3
    assert page.evaluate("document.querySelectorAll('script, img').length") == 0
    page.close()


# The tooltip that the browser would show at the middle of an element: that of the innermost
# element there which has a <title> child or a title attribute.
TOOLTIP_SCRIPT = """(() => {
    const box = document.querySelector("SELECTOR").getBoundingClientRect();
    let element = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
    for (; element; element = element.parentElement) {
        const title = [...element.children].find((child) => child.localName === "title");
        if (title) return title.textContent;
        if (element.title) return element.title;
    }
    return null;
})()"""


def test_hovering_shows_values(browser: Browser, tmp_path: Path) -> None:
    page = open_page(browser, plain_page(), tmp_path)
    for selector, tooltip in {
        ".plots .dot": "update 250\nvalidation 2.000",
        ".plots .band:nth-of-type(9)": "update ",
        ".by-length .dot": "up to 5\n30\nBLEU 37.45 (35.8 to 39.1)",
        ".heat .cell": "Ein ← a: 0.93",
        ".pair mark": "translation: nothing here",
        ".scores td span": "95 % bootstrap interval: 35.80 to 39.10",
        ".timing": "Measured time",
    }.items():
        page.hover(selector)
        shown = page.evaluate(TOOLTIP_SCRIPT.replace("SELECTOR", selector))
        assert shown.startswith(tooltip), selector
    page.close()


def test_contents_link_to_existing_sections(browser: Browser, tmp_path: Path) -> None:
    page = open_page(browser, plain_page(), tmp_path)
    targets = page.evaluate("[...document.querySelectorAll('nav a')].map(a => a.hash)")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(targets) == 9
    assert {target.removeprefix("#") for target in targets} <= set(ids)
    assert len(ids) == len(set(ids))
    page.close()


@pytest.mark.parametrize("width", [360, 700, 1400])
def test_page_fits_the_window(browser: Browser, tmp_path: Path, width: int) -> None:
    page = open_page(browser, hostile_page(), tmp_path, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


@pytest.mark.parametrize("dark", [False, True])
def test_page_can_be_read_and_used(browser: Browser, tmp_path: Path, dark: bool) -> None:
    page = open_page(browser, plain_page(), tmp_path, dark=dark)
    check_contrast(page)
    check_focus(page)
    page.close()


def test_page_can_be_printed(browser: Browser, tmp_path: Path) -> None:
    page = open_page(browser, plain_page(), tmp_path)
    page.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    page.close()
