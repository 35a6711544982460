"""A plot is an SVG element that a page can take in: text stays text, colours are the page's, and figures can be had."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from mt.report.plots import PALETTE, Line, plot_intervals, plot_lines

STEPS = list(range(50, 2050, 50))
CURVE = Line("training", STEPS, [7.0 / (1 + step / 300) for step in STEPS])
POINTS = Line("validation", STEPS[9::10], [2.5, 1.25, 0.875, 0.75], "second", points=True)
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'so' $x_2$"
NAN = math.nan


def draw(*lines: Line, log: bool = False, marks: tuple[tuple[float, str], ...] = ()) -> str:
    return plot_lines(lines or (CURVE, POINTS), label="Loss", log=log, marks=marks)


def intervals() -> str:
    rows = {"BLEU": [(30.0, 28.0, 32.0), (20.0, NAN, NAN)], "chrF": [(50, 49, 51), (40, NAN, NAN)]}
    return plot_intervals(["up to 5\n12", "6–10\n3"], rows, label="by length")


def titles(svg: str) -> list[str]:
    return [title.text or "" for title in ElementTree.fromstring(svg).iter("title")]


@pytest.mark.parametrize(
    "svg", [draw(), draw(log=True), draw(marks=((700, HOSTILE),)), intervals()]
)
def test_a_plot_is_one_element_that_html_understands_as_it_stands(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg", "a namespace would be lost in HTML"
    assert not {"metadata", "style", "image", "script"} & {element.tag for element in root.iter()}
    assert re.search(r"http|xlink|<\?xml|<!", svg) is None
    assert root.get("width") is None, "as wide as the page wants it"


def test_text_stays_text() -> None:
    texts = ["".join(text.itertext()) for text in ElementTree.fromstring(draw()).iter("text")]
    assert {"training", "validation", "1,000", "2,000"} <= {*texts}
    assert {"up to 5", "6–10", "12", "3", "BLEU"} <= {
        "".join(t.itertext()) for t in ElementTree.fromstring(intervals()).iter("text")
    }


def test_every_point_and_every_stretch_of_a_curve_tells_its_figures() -> None:
    found = titles(draw())
    for step, value in zip(POINTS.steps, POINTS.values, strict=True):
        assert f"update {step:,}\nvalidation {value:.3f}" in found
    for step, value in zip(CURVE.steps, CURVE.values, strict=True):
        assert f"update {step:,}\ntraining {value:.3f}" in found
    assert len(found) == len(POINTS.steps) + len(CURVE.steps)


def test_lines_that_share_their_updates_are_told_together() -> None:
    lr = Line("rate", STEPS, [step * 1e-6 for step in STEPS], form=".2e")
    assert "update 100\ntraining 5.250\nrate 1.00e-04" in titles(draw(CURVE, lr))


def test_a_long_run_has_no_more_stretches_than_one_can_point_at() -> None:
    steps = list(range(1, 50_001))
    svg = draw(Line("training", steps, [1.0 / step for step in steps]))
    assert len(titles(svg)) <= 80
    assert len(svg) < 150_000


def test_intervals_are_told_where_there_are_any() -> None:
    assert titles(intervals()) == [
        "up to 5\n12\nBLEU 30.00 (28.0 to 32.0)",
        "6–10\n3\nBLEU 20.00",
        "up to 5\n12\nchrF 50.00 (49.0 to 51.0)",
        "6–10\n3\nchrF 40.00",
    ]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values", [[NAN, math.inf, 2.0], [NAN] * 3, [0.0, -1.0, 3.0], [1e300, 1e-300, 5.0]]
)
def test_what_is_not_a_number_leaves_a_gap(values: list[float], log: bool) -> None:
    svg = draw(Line("a", [1, 2, 3], values), Line("b", [1, 2, 3], values, points=True), log=log)
    drawn = " ".join(element.get("d", "") for element in ElementTree.fromstring(svg).iter("path"))
    assert re.search(r"nan|inf", drawn, re.IGNORECASE) is None


@pytest.mark.parametrize("steps", [[], [7]])
def test_a_run_that_has_just_begun_has_a_plot(steps: list[float]) -> None:
    values = [1.0] * len(steps)
    assert len(
        titles(draw(Line("a", steps, values), Line("b", steps, values, points=True)))
    ) == 2 * len(steps)


def test_an_incident_is_drawn_across_and_told() -> None:
    svg = draw(marks=((700, HOSTILE),))
    assert f"update 700\n{HOSTILE}" in titles(svg)
    assert "<script" not in svg
    assert svg.count('class="mark"') == 1


def test_the_same_values_give_the_same_bytes() -> None:
    assert draw() == draw()
    assert draw() != draw(CURVE)


@pytest.mark.parametrize("svg", [draw(marks=((3, "x"),)), intervals()])
def test_every_colour_is_one_that_the_page_may_set(svg: str) -> None:
    without = re.sub(
        r"var\(--(\w+), (#\w+)\)",
        lambda found: "" if PALETTE[found[1]] == found[2] else found[0],
        svg,
    )
    assert re.search(r"#[0-9a-f]{6}\b", without) is None


def test_plots_do_not_share_names_on_a_page() -> None:
    first, second = draw(), draw(CURVE)
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (first, second)]
    assert not {*ids[0]} & {*ids[1]}
    for svg, own in zip((first, second), ids, strict=True):
        assert len(own) == len({*own})
        assert {*re.findall(r"url\(#([^)]+)\)", svg), *re.findall(r'href="#([^"]+)"', svg)} == {
            *own
        }


def test_drawing_changes_nobody_elses_settings() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw()
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_is_not_waited_for_until_something_is_drawn() -> None:
    program = "import sys, mt.report.plots, mt.report.charts; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
