"""Plots as inline SVG: text stays text, colours follow the page, and what is pointed at tells its figures.

Matplotlib draws them; then colours become CSS variables, so that a page can be light or dark, and artists named
CLASS:TITLE, the latter percent-encoded, get both: browsers show a title under the pointer.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

# CSS variables that a page may set, and the colours that stand where it does not.
PALETTE = {
    "ink": "#1c2733",
    "muted": "#64707d",
    "grid": "#e3e8ee",
    "paper": "#fefefd",
    "alarm": "#c0281f",
}
PALETTE |= {"first": "#2563b8", "second": "#d4650a", "third": "#0e8a72"}
STYLE: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",
    "font.size": 8.0,
    "font.sans-serif": "DejaVu Sans",  # for measuring alone: pages have their own
    "text.color": PALETTE["ink"],
    "text.parse_math": False,
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), PALETTE["muted"]),
    **dict.fromkeys(
        ("axes.spines.top", "axes.spines.right", "axes.spines.left", "legend.frameon"), False
    ),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.linewidth", "grid.linewidth"), 0.7),
    "grid.color": PALETTE["grid"],
    **dict.fromkeys(("ytick.major.size", "ytick.minor.size"), 0.0),
    "lines.linewidth": 1.4,
}
COLOURS = ("second", "first", "third")  # of BLEU, chrF and TER in every plot
NUM_BANDS = 80  # places along a line that answer to the pointer
LARGEST = 1e100  # value that is drawn


class Line(NamedTuple):
    """Values over updates: a curve of many, or points where each is worth a look."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]  # what is not finite leaves a gap
    colour: str = "first"  # a name in PALETTE
    points: bool = False
    form: str = ",.3f"  # of a value under the pointer


def plot_lines(
    lines: Sequence[Line], *, label: str, log: bool = False, marks: Sequence[tuple[float, str]] = ()
) -> str:
    """Lines over updates as an SVG element, and marks across them at (update, what happened there).

    `label` is for those who cannot see it.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    with rc_context(
        {**STYLE, "svg.hashsalt": repr((lines, marks))}
    ):  # a plot's ids depend on its content alone
        figure = Figure(figsize=(4.6, 2.2), layout="constrained")
        axes = figure.add_subplot()
        _draw_bands(axes, [line for line in lines if not line.points])
        for line in lines:
            _draw_line(axes, line, log=log)
        for step, text in marks:
            axes.axvline(
                step,
                color=PALETTE["alarm"],
                dashes=(3, 2),
                gid=_name("mark", f"update {step:,.0f}\n{text}"),
            )
        if log and math.isfinite(axes.dataLim.minposy):  # else there is nothing to draw
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
        axes.set_xlim(left=0)
        if (
            not log
            and not all(line.points for line in lines)
            and axes.get_ylim()[0] < axes.get_ylim()[1] / 2
        ):
            axes.set_ylim(bottom=min(0.0, axes.dataLim.y0))
        return _svg(figure, label)


def plot_intervals(
    categories: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    label: str,
) -> str:
    """Values by name, side by side for each category, with their intervals, as an SVG element.

    A value is given as (value, low, high), the latter nan where it has no interval.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "svg.hashsalt": repr((categories, series))}):
        figure = Figure(figsize=(4.9, 2.1), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, rows) in enumerate(series.items()):
            colour = PALETTE[COLOURS[number]]
            axes.plot([], [], "o", color=colour, markersize=4.5, label=name)
            for place, (category, (value, low, high)) in enumerate(
                zip(categories, rows, strict=True)
            ):
                x = place + 0.24 * (number - (len(series) - 1) / 2)
                interval = f" ({low:.1f} to {high:.1f})" if math.isfinite(low) else ""
                title = _name("dot", f"{category}\n{name} {value:.2f}{interval}")
                filling = colour if interval else PALETTE["paper"]
                axes.plot([x, x], [low, high], color=colour, linewidth=1.6)
                axes.plot(
                    [x],
                    [value],
                    "o",
                    color=colour,
                    markersize=4.5,
                    markerfacecolor=filling,
                    gid=title,
                )
        axes.set_xticks(range(len(categories)), categories)
        axes.set_xlim(-0.5, len(categories) - 0.5)
        axes.grid(visible=False, axis="x")
        return _svg(figure, label)


def _draw_line(axes: "Axes", line: Line, *, log: bool) -> None:
    values = np.array(line.values, float)
    values[~(np.abs(values) < LARGEST) | (log & (values < 1 / LARGEST))] = np.nan
    colour = PALETTE[line.colour]
    if not line.points:
        axes.plot(line.steps, values, color=colour, label=line.name)
        return
    axes.plot(line.steps, values, color=colour, alpha=0.45, linewidth=1.0)
    axes.plot(
        [], [], "o", color=colour, markersize=5.0, markeredgecolor=PALETTE["paper"], label=line.name
    )
    for step, value in zip(line.steps, values, strict=True):
        name = _name("dot", f"update {step:,.0f}\n{line.name} {value:{line.form}}")
        axes.plot(
            [step],
            [value],
            "o",
            color=colour,
            markersize=5.0,
            markeredgecolor=PALETTE["paper"],
            gid=name,
        )


def _draw_bands(axes: "Axes", lines: Sequence[Line]) -> None:
    """Upright bands, unseen until pointed at, that tell the values of all `lines` there; these share their updates."""
    if not lines or not len(lines[0].steps):
        return
    steps = np.array(lines[0].steps, float)
    chosen = np.unique(np.linspace(0, len(steps) - 1, NUM_BANDS).round().astype(int))
    edges = [0.0, *(steps[chosen][1:] + steps[chosen][:-1]) / 2, steps[-1]]
    for place, (left, right) in zip(chosen, pairwise(edges), strict=True):
        values = "\n".join(f"{line.name} {line.values[place]:{line.form}}" for line in lines)
        name = _name("band", f"update {steps[place]:,.0f}\n{values}")
        axes.axvspan(left, right, color=PALETTE["muted"], linewidth=0, alpha=0.004, gid=name)


def _name(kind: str, title: str) -> str:
    """What to call an artist that has a title; `kind` is for style sheets."""
    return f"{kind}:{quote(title, errors='replace')}"


def _svg(figure: "Figure", label: str) -> str:
    """The figure as an SVG element for the middle of an HTML page: no namespaces, no style for the whole page."""
    (axes,) = figure.axes
    if (num_names := len(axes.get_legend_handles_labels()[1])) > 1:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=num_names, handlelength=1.2
        )
    drawn, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    text = re.sub(
        r' xmlns(:xlink)?="[^"]*"|xlink:(?=href)|<style.*?</style>|(?<=>)\s+(?=<)',
        "",
        drawn.getvalue(),
    )
    root = ElementTree.fromstring(text)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": "plot",
        "role": "img",
        "aria-label": label,
    }
    for group in list(root.iter("g")):
        kind, _, title = group.attrib.pop("id", "").partition(":")
        if title:
            group.set("class", kind)
            group.insert(0, ElementTree.Element("title"))
            group[0].text = unquote(title)
    text = ElementTree.tostring(root, encoding="unicode")
    for name, colour in PALETTE.items():
        text = text.replace(colour, f"var(--{name}, {colour})")
    return text
