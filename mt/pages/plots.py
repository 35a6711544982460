"""Plots as inline SVG: text stays text, colours follow the page, and what is pointed at tells its figures.

Matplotlib draws them; then colours become CSS variables, so that a page can be light or dark, and marked artists get
titles, which browsers show under the pointer.
"""

import io
import math
import re
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

# CSS variables that a page may set, and the colours that stand where it does not.
PALETTE = {"ink": "#1c2733", "muted": "#64707d", "grid": "#e3e8ee", "paper": "#fefefd", "alarm": "#c0281f"}
PALETTE |= {"first": "#2563b8", "second": "#d4650a", "third": "#0e8a72"}
STYLE: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mt",  # ids depend on the content alone
    "font.size": 8.0,
    "text.color": PALETTE["ink"],
    "text.parse_math": False,
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), PALETTE["muted"]),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left", "legend.frameon"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.linewidth", "grid.linewidth"), 0.7),
    "grid.color": PALETTE["grid"],
    **dict.fromkeys(("ytick.major.size", "ytick.minor.size"), 0.0),
    "lines.linewidth": 1.4,
}
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


class Mark(NamedTuple):
    """Something that happened at an update."""

    step: float
    text: str


class Intervals(NamedTuple):
    """A value and its interval for each category; nan where there is none."""

    name: str
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    colour: str = "first"


def plot_lines(lines: Sequence[Line], *, label: str, log: bool = False, marks: Sequence[Mark] = ()) -> str:
    """Lines over updates, and marks across them, as an SVG element; `label` is for those who cannot see it."""
    from matplotlib import rc_context
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    with rc_context(STYLE):
        axes, titles = _new_axes(width=4.6, height=2.2), list[str]()
        _draw_bands(axes, [line for line in lines if not line.points], titles)
        for line in lines:
            _draw_line(axes, line, titles, log=log)
        for mark in marks:
            name = _title(titles, f"update {mark.step:,.0f}\n{mark.text}", kind="mark")
            axes.axvline(mark.step, color=PALETTE["alarm"], dashes=(3, 2), gid=name)
        if log and math.isfinite(axes.dataLim.minposy):  # else there is nothing to draw
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
        axes.set_xlim(left=0)
        if not log and not all(line.points for line in lines) and axes.get_ylim()[0] < axes.get_ylim()[1] / 2:
            axes.set_ylim(bottom=min(0.0, axes.dataLim.y0))
        if len(lines) > 1:
            axes.legend(loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=len(lines), handlelength=1.2)
        return _svg(axes, titles, label)


def plot_intervals(categories: Sequence[str], series: Sequence[Intervals], *, label: str) -> str:
    """Values with their intervals, category by category and side by side, as an SVG element."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        axes, titles = _new_axes(width=4.9, height=2.1), list[str]()
        for number, each in enumerate(series):
            colour = PALETTE[each.colour]
            axes.plot([], [], "o", color=colour, markersize=4.5, label=each.name)
            for place, row in enumerate(zip(categories, each.values, each.lows, each.highs, strict=True)):
                category, value, low, high = row
                x = place + 0.24 * (number - (len(series) - 1) / 2)
                interval = f" ({low:.1f} to {high:.1f})" if math.isfinite(low) else ""
                axes.plot([x, x], [low, high], color=colour, linewidth=1.6)
                (dot,) = axes.plot([x], [value], "o", color=colour, markersize=4.5)
                dot.set_markerfacecolor(colour if interval else PALETTE["paper"])
                dot.set_gid(_title(titles, f"{category}\n{each.name} {value:.2f}{interval}"))
        axes.set_xticks(range(len(categories)), categories)
        axes.set_xlim(-0.5, len(categories) - 0.5)
        axes.grid(visible=False, axis="x")
        axes.legend(loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=len(series), handlelength=1.2)
        return _svg(axes, titles, label)


def _new_axes(*, width: float, height: float) -> "Axes":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def _draw_line(axes: "Axes", line: Line, titles: list[str], *, log: bool) -> None:
    values = np.array(line.values, float)
    values[~(np.abs(values) < LARGEST) | (log & (values < 1 / LARGEST))] = np.nan
    colour = PALETTE[line.colour]
    if not line.points:
        axes.plot(line.steps, values, color=colour, label=line.name)
        return
    axes.plot(line.steps, values, color=colour, alpha=0.45, linewidth=1.0)
    for number, (step, value) in enumerate(zip(line.steps, values, strict=True)):
        (dot,) = axes.plot([step], [value], "o", color=colour, markersize=5.0, label=line.name if number == 0 else None)
        dot.set(markeredgecolor=PALETTE["paper"], markeredgewidth=0.8)
        dot.set_gid(_title(titles, f"update {step:,.0f}\n{line.name} {value:{line.form}}"))


def _draw_bands(axes: "Axes", lines: Sequence[Line], titles: list[str]) -> None:
    """Upright bands, unseen until pointed at, that tell the values of all `lines` there; these share their updates."""
    if not lines or not len(lines[0].steps):
        return
    steps = np.array(lines[0].steps, float)
    chosen = np.unique(np.linspace(0, len(steps) - 1, NUM_BANDS).round().astype(int))
    middles = (steps[chosen][1:] + steps[chosen][:-1]) / 2
    edges = [2 * steps[0] - middles[0] if len(middles) else 0.0, *middles, steps[-1]]
    for place, (left, right) in zip(chosen, pairwise(edges), strict=True):
        values = "\n".join(f"{line.name} {line.values[place]:{line.form}}" for line in lines)
        name = _title(titles, f"update {steps[place]:,.0f}\n{values}", kind="band")
        axes.axvspan(max(left, 0.0), right, color=PALETTE["muted"], linewidth=0, alpha=0.004, gid=name)


def _title(titles: list[str], text: str, *, kind: str = "dot") -> str:
    """Keep a text to be shown under the pointer; the name to give to its artist, whose CSS class is `kind`."""
    titles.append(text)
    return f"{kind}:{len(titles) - 1}"


def _svg(axes: "Axes", titles: Sequence[str], label: str) -> str:
    """The figure as an SVG element for the middle of an HTML page."""
    drawn = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes out of their figure"
    figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(drawn.getvalue())
    prefix = f"p{zlib.crc32(drawn.getvalue()):x}-"
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        _rewrite(element, titles, prefix)
    root.attrib = {"viewBox": root.attrib["viewBox"], "class": "plot", "role": "img", "aria-label": label}
    text = ElementTree.tostring(root, encoding="unicode")
    used = {*re.findall(r"url\(#([^)]+)\)", text), *re.findall(r' href="#([^"]+)"', text)}
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    for name, colour in PALETTE.items():
        text = text.replace(colour, f"var(--{name}, {colour})")
    return text


def _rewrite(element: ElementTree.Element, titles: Sequence[str], prefix: str) -> None:
    """Make an element HTML's: no namespaces, ids of this plot alone, the page's font, and its title."""
    element.tag = element.tag.split("}")[-1]
    kind, _, number = element.get("id", "").partition(":")
    if number:
        title = ElementTree.Element("title")
        title.text = titles[int(number)]
        element.insert(0, title)
        element.set("class", kind)
    attributes = {key.split("}")[-1]: value for key, value in element.attrib.items()}
    for key, value in attributes.items():
        if key == "id":
            attributes[key] = prefix + value
        if key in ("href", "clip-path"):
            attributes[key] = value.replace("#", f"#{prefix}")
        if key == "style":  # the font is the page's
            attributes[key] = re.sub(r"font-family: [^;]*; ", "", value)
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    element.attrib, element.tail = attributes, None
    element.text = (element.text or "").strip()
