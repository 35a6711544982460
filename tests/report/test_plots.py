"""Plots as SVG elements for HTML: text stays text, colors can be set by the page, tooltips show
values.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from mt.report.plots import MAX_BANDS, PALETTE, Line, plot_intervals, plot_lines

STEPS = list(range(50, 2050, 50))
CURVE = Line("training", STEPS, [7.0 / (1 + step / 300) for step in STEPS])
POINTS = Line("validation", STEPS[9::10], [2.5, 1.25, 0.875, 0.75], "second", as_points=True)
HOSTILE_TEXT = "<script>alert(1)</script> & \"quoted\" 'so' $x_2$"
NAN = math.nan


def make_plot(*lines: Line, log: bool = False, events: tuple[tuple[float, str], ...] = ()) -> str:
    return plot_lines(lines or (CURVE, POINTS), label="Loss", log=log, events=events)


def make_interval_plot() -> str:
    series = {
        "BLEU": [(30.0, 28.0, 32.0), (20.0, NAN, NAN)],
        "chrF": [(50.0, 49.0, 51.0), (40.0, NAN, NAN)],
    }
    return plot_intervals(["up to 5\n12", "6–10\n3"], series, label="by length")


def texts(svg: str) -> set[str]:
    root = ElementTree.fromstring(svg)
    return {"".join(element.itertext()) for element in root.iter("text")}


def tooltips(svg: str) -> list[str]:
    return [title.text or "" for title in ElementTree.fromstring(svg).iter("title")]


@pytest.mark.parametrize(
    "svg",
    [
        make_plot(),
        make_plot(log=True),
        make_plot(events=((700, HOSTILE_TEXT),)),
        make_interval_plot(),
    ],
)
def test_plot_is_an_svg_element_for_html(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg", "HTML has no namespace prefixes"
    tags = {element.tag for element in root.iter()}
    assert not {"metadata", "style", "image", "script"} & tags
    assert re.search(r"http|xlink|<\?xml|<!", svg) is None
    assert root.get("width") is None, "the page sets the width"


def test_text_is_not_drawn_as_paths() -> None:
    assert {"training", "validation", "1,000", "2,000"} <= texts(make_plot())
    assert {"up to 5", "6–10", "12", "3", "BLEU"} <= texts(make_interval_plot())


def test_every_point_and_band_has_a_tooltip() -> None:
    found = tooltips(make_plot())
    for step, value in zip(POINTS.steps, POINTS.values, strict=True):
        assert f"update {step:,}\nvalidation {value:.3f}" in found
    for step, value in zip(CURVE.steps, CURVE.values, strict=True):
        assert f"update {step:,}\ntraining {value:.3f}" in found
    assert len(found) == len(POINTS.steps) + len(CURVE.steps)


def test_curves_share_a_tooltip() -> None:
    learning_rate = Line("rate", STEPS, [step * 1e-6 for step in STEPS], value_format=".2e")
    svg = make_plot(CURVE, learning_rate)
    assert "update 100\ntraining 5.250\nrate 1.00e-04" in tooltips(svg)


def test_long_curves_have_a_limited_number_of_bands() -> None:
    steps = list(range(1, 50_001))
    svg = make_plot(Line("training", steps, [1.0 / step for step in steps]))
    assert len(tooltips(svg)) <= MAX_BANDS
    assert len(svg) < 150_000


def test_interval_tooltips_show_existing_intervals() -> None:
    assert tooltips(make_interval_plot()) == [
        "up to 5\n12\nBLEU 30.00 (28.0 to 32.0)",
        "6–10\n3\nBLEU 20.00",
        "up to 5\n12\nchrF 50.00 (49.0 to 51.0)",
        "6–10\n3\nchrF 40.00",
    ]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values", [[NAN, math.inf, 2.0], [NAN] * 3, [0.0, -1.0, 3.0], [1e300, 1e-300, 5.0]]
)
def test_values_that_cannot_be_drawn_leave_gaps(values: list[float], log: bool) -> None:
    steps = [1, 2, 3]
    svg = make_plot(Line("a", steps, values), Line("b", steps, values, as_points=True), log=log)
    paths = [element.get("d", "") for element in ElementTree.fromstring(svg).iter("path")]
    assert re.search(r"nan|inf", " ".join(paths), re.IGNORECASE) is None


@pytest.mark.parametrize("steps", [[], [7]])
def test_plots_with_at_most_one_value(steps: list[float]) -> None:
    values = [1.0] * len(steps)
    svg = make_plot(Line("a", steps, values), Line("b", steps, values, as_points=True))
    assert len(tooltips(svg)) == 2 * len(steps)


def test_events_have_escaped_tooltips() -> None:
    svg = make_plot(events=((700, HOSTILE_TEXT),))
    assert f"update 700\n{HOSTILE_TEXT}" in tooltips(svg)
    assert "<script" not in svg
    assert svg.count('class="event"') == 1


def test_equal_values_give_equal_bytes() -> None:
    assert make_plot() == make_plot()
    assert make_plot() != make_plot(CURVE)


@pytest.mark.parametrize("svg", [make_plot(events=((3, "x"),)), make_interval_plot()])
def test_every_color_is_a_css_variable(svg: str) -> None:
    variables = re.findall(r"var\(--(\w+), (#\w+)\)", svg)
    assert variables
    for name, color in variables:
        assert PALETTE[name] == color
    without_variables = re.sub(r"var\(--\w+, #\w+\)", "", svg)
    assert re.search(r"#[0-9a-f]{6}\b", without_variables) is None


def test_ids_differ_between_plots() -> None:
    svgs = [make_plot(), make_plot(CURVE)]
    ids_by_plot = []
    for svg in svgs:
        ids = re.findall(r' id="([^"]+)"', svg)
        references = re.findall(r"url\(#([^)]+)\)", svg) + re.findall(r'href="#([^"]+)"', svg)
        assert len(ids) == len(set(ids))
        assert set(references) == set(ids)
        ids_by_plot.append(set(ids))
    assert not ids_by_plot[0] & ids_by_plot[1]


def test_matplotlib_settings_are_restored() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    make_plot()
    assert dict(matplotlib.rcParams) == before


def test_importing_plots_does_not_import_matplotlib() -> None:
    program = (
        "import sys, mt.report.plots, mt.report.run_plots; sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
