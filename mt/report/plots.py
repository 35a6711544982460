"""Plots as inline SVG for HTML pages.

Text stays text, colors follow the page, and tooltips give values.

Matplotlib draws the plots. Afterwards the SVG is changed in two ways: colors become CSS variables,
so that the page can be light or dark, and each artist with a gid of the form `CLASS:TOOLTIP` (the
tooltip percent-encoded) gets this CSS class and a <title>, which browsers show as a tooltip.
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
from numpy.typing import NDArray

# Matplotlib is imported only when something is drawn: importing it takes long.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

# The CSS variables of the colors in a plot, with their values in the light scheme of `base.css`.
PALETTE = {
    "ink": "#1d2230",
    "muted": "#5d6472",
    "grid": "#e3dfd5",
    "paper": "#fcfbf8",
    "alarm": "#b3202c",
    "first": "#2d5b8f",
    "second": "#b4430f",
    "third": "#2c7a5e",
    "fourth": "#7448a8",
    "fifth": "#8a670c",
    "sixth": "#b03a70",
}
STYLE: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",
    "font.size": 8.0,
    "font.sans-serif": "DejaVu Sans",  # only for measuring text: the page sets its own font
    "text.color": PALETTE["ink"],
    "text.parse_math": False,
    "axes.edgecolor": PALETTE["muted"],
    "xtick.color": PALETTE["muted"],
    "ytick.color": PALETTE["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "legend.frameon": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.7,
    "grid.color": PALETTE["grid"],
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
    "lines.linewidth": 1.4,
}
METRIC_COLORS = ("second", "first", "third")  # of BLEU, chrF and TER in every plot
MAX_BANDS = 80  # areas along a curve that have a tooltip
MAX_VALUE = 1e100  # larger values are not drawn
MAX_DOTS = 60  # a curve with more points has no dots


class Line(NamedTuple):
    """Values over updates, drawn as a curve or as single points."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]  # values that are not finite leave a gap
    color: str = "first"  # a name in PALETTE
    as_points: bool = False
    value_format: str = ",.3f"  # of a value in a tooltip


class Curve(NamedTuple):
    """The values of one run, or of a group of runs, over any measure of its progress."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()  # with `high`: the range of a group; empty for a single run
    high: Sequence[float] = ()
    color: str = "first"  # a name in PALETTE
    has_dots: bool = False  # mark each point with a dot, which has a tooltip


def plot_lines(
    lines: Sequence[Line],
    *,
    label: str,
    log: bool = False,
    events: Sequence[tuple[float, str]] = (),
) -> str:
    """Plot lines over updates as an SVG element.

    `events` are (update, description): vertical lines across the plot. `label` describes the plot
    to screen readers. `log` sets a logarithmic scale.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Matplotlib derives the ids in the SVG from the salt: they depend on the content alone.
    salt = repr((lines, events))
    with rc_context({**STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(4.6, 2.2), layout="constrained")
        axes = figure.add_subplot()
        curves = [line for line in lines if not line.as_points]
        _draw_tooltip_bands(axes, curves)
        for line in lines:
            if line.as_points:
                _draw_points(axes, line, log=log)
            else:
                _draw_curve(axes, line, log=log)
        for step, description in events:
            _draw_event(axes, step, description)
        if log:
            _set_log_scale(axes)
        elif curves:
            _start_at_zero(axes)
        _format_ticks(axes)
        return _to_svg(figure, label)


def plot_curves(curves: Sequence[Curve], *, label: str, x_name: str) -> str:
    """Plot the curves of several runs over `x_name` as an SVG element, without a legend.

    `label` describes the plot to screen readers. The first curves are drawn above the others.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "svg.hashsalt": repr((label, curves))}):
        figure = Figure(figsize=(4.0, 2.3), layout="constrained")
        axes = figure.add_subplot()
        for curve in reversed(curves):
            color = PALETTE[curve.color]
            values = _within_range(curve.y)
            if curve.low:
                low = _within_range(curve.low)
                high = _within_range(curve.high)
                axes.fill_between(curve.x, low, high, color=color, alpha=0.2, linewidth=0)
            axes.plot(curve.x, values, color=color)
            if curve.has_dots and len(curve.x) <= MAX_DOTS:
                _draw_dots(axes, curve, x_name=x_name)
        _start_at_zero(axes)
        _format_ticks(axes)
        return _to_svg(figure, label)


def plot_intervals(
    categories: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    label: str,
) -> str:
    """Plot the values of each series, side by side in each category, as an SVG element.

    A value is (value, low, high); low and high are nan where it has no interval.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "svg.hashsalt": repr((categories, series))}):
        figure = Figure(figsize=(4.9, 2.1), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, values) in enumerate(series.items()):
            color = PALETTE[METRIC_COLORS[number]]
            axes.plot([], [], "o", color=color, markersize=4.5, label=name)  # for the legend
            offset = 0.24 * (number - (len(series) - 1) / 2)
            for place, category in enumerate(categories):
                value, low, high = values[place]
                has_interval = math.isfinite(low)
                interval = f" ({low:.1f} to {high:.1f})" if has_interval else ""
                tooltip = f"{category}\n{name} {value:.2f}{interval}"
                x = place + offset
                axes.plot([x, x], [low, high], color=color, linewidth=1.6)
                axes.plot(
                    [x],
                    [value],
                    "o",
                    color=color,
                    markersize=4.5,
                    markerfacecolor=color if has_interval else PALETTE["paper"],
                    gid=_gid("dot", tooltip),
                )
        axes.set_xticks(range(len(categories)), categories)
        axes.set_xlim(-0.5, len(categories) - 0.5)
        axes.grid(visible=False, axis="x")
        return _to_svg(figure, label)


def _draw_curve(axes: "Axes", line: Line, *, log: bool) -> None:
    values = _drawable_values(line, log=log)
    axes.plot(line.steps, values, color=PALETTE[line.color], label=line.name)


def _draw_points(axes: "Axes", line: Line, *, log: bool) -> None:
    """Draw points with a tooltip each, connected by a thin line."""
    values = _drawable_values(line, log=log)
    color = PALETTE[line.color]
    dot_style: dict[str, Any] = {
        "color": color,
        "markersize": 5.0,
        "markeredgecolor": PALETTE["paper"],
    }
    axes.plot(line.steps, values, color=color, alpha=0.45, linewidth=1.0)
    axes.plot([], [], "o", **dot_style, label=line.name)  # for the legend
    for step, value in zip(line.steps, values, strict=True):
        tooltip = f"update {step:,.0f}\n{line.name} {value:{line.value_format}}"
        axes.plot([step], [value], "o", **dot_style, gid=_gid("dot", tooltip))


def _draw_dots(axes: "Axes", curve: Curve, *, x_name: str) -> None:
    """Draw a dot with a tooltip at each point of a curve."""
    for index, (x, y) in enumerate(zip(curve.x, _within_range(curve.y), strict=True)):
        tooltip = f"{curve.name}\n{x:,.6g} {x_name}\n{y:,.3f}"
        if curve.low:
            tooltip += f" ({curve.low[index]:,.3f} to {curve.high[index]:,.3f})"
        gid = _gid("dot", tooltip)
        axes.plot(
            [x],
            [y],
            "o",
            color=PALETTE[curve.color],
            markersize=4.0,
            markeredgecolor=PALETTE["paper"],
            markeredgewidth=0.6,
            gid=gid,
        )


def _drawable_values(line: Line, *, log: bool) -> NDArray[np.float64]:
    """Return the values with nan in place of what cannot be drawn."""
    values = _within_range(line.values)
    if log:
        values = np.where(values >= 1 / MAX_VALUE, values, np.nan)
    return values


def _within_range(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the values with nan for each value that is not finite or too large."""
    array = np.array(values, float)
    return np.where(np.abs(array) < MAX_VALUE, array, np.nan)


def _draw_event(axes: "Axes", step: float, description: str) -> None:
    gid = _gid("event", f"update {step:,.0f}\n{description}")
    axes.axvline(step, color=PALETTE["alarm"], dashes=(3, 2), gid=gid)


def _draw_tooltip_bands(axes: "Axes", curves: Sequence[Line]) -> None:
    """Draw nearly invisible vertical bands with the values of all curves there as tooltips.

    The curves must have the same steps.
    """
    if not curves or len(curves[0].steps) == 0:
        return
    steps = np.array(curves[0].steps, float)
    chosen = np.unique(np.linspace(0, len(steps) - 1, MAX_BANDS).round().astype(int))
    middles = (steps[chosen][1:] + steps[chosen][:-1]) / 2
    edges = [0.0, *middles, steps[-1]]
    for index, (left, right) in zip(chosen, pairwise(edges), strict=True):
        rows = [f"update {steps[index]:,.0f}"]
        rows += [f"{curve.name} {curve.values[index]:{curve.value_format}}" for curve in curves]
        gid = _gid("band", "\n".join(rows))
        axes.axvspan(left, right, color=PALETTE["muted"], linewidth=0, alpha=0.004, gid=gid)


def _set_log_scale(axes: "Axes") -> None:
    """Set a logarithmic scale, unless nothing positive was drawn."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if not math.isfinite(axes.dataLim.minposy):
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _start_at_zero(axes: "Axes") -> None:
    """Extend the vertical axis to zero where that costs less than half of its height."""
    low, high = axes.get_ylim()
    if low < high / 2:
        axes.set_ylim(bottom=min(0.0, axes.dataLim.y0))


def _format_ticks(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
    axes.set_xlim(left=0)


def _gid(css_class: str, tooltip: str) -> str:
    """Return the gid of an artist; `_to_svg` turns it into a class and a tooltip."""
    return f"{css_class}:{quote(tooltip, errors='replace')}"


def _to_svg(figure: "Figure", label: str) -> str:
    """Return the figure as an SVG element that can stand in the middle of an HTML page."""
    _add_legend(figure)
    root = ElementTree.fromstring(_clean_svg(figure))
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": "plot",
        "role": "img",
        "aria-label": label,
    }
    for group in list(root.iter("g")):
        css_class, _, tooltip = group.attrib.pop("id", "").partition(":")
        if tooltip:
            group.set("class", css_class)
            title = ElementTree.Element("title")
            title.text = unquote(tooltip)
            group.insert(0, title)
    svg = ElementTree.tostring(root, encoding="unicode")
    for name, color in PALETTE.items():
        svg = svg.replace(color, f"var(--{name}, {color})")
    return svg


def _add_legend(figure: "Figure") -> None:
    """Add a legend above the plot if it has several lines."""
    (axes,) = figure.axes
    _, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=len(names), handlelength=1.2
        )


def _clean_svg(figure: "Figure") -> str:
    """Return Matplotlib's SVG without what would be wrong inside an HTML page.

    Namespaces are not needed there, and a <style> would apply to the whole page.
    """
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    unwanted = [
        r' xmlns(:xlink)?="[^"]*"',
        r"xlink:(?=href)",
        r"<style.*?</style>",
        r"(?<=>)\s+(?=<)",  # white space between elements
    ]
    return re.sub("|".join(unwanted), "", svg)
