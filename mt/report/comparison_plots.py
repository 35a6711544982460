"""Learning curves of several runs in the same plots: over updates, tokens and time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mt.report.compared_runs import ComparedRun
from mt.report.plots import Curve, plot_curves
from mt.training.metrics_log import MetricsHistory, MetricsLine

# Names of colors in `plots.PALETTE`, one for each group of runs.
GROUP_COLORS = ("first", "second", "third", "fourth", "fifth", "sixth")
NUM_GRID_POINTS = 200  # at most, of the mean curve of a group


class Points(NamedTuple):
    """The values of one run over the length of its training; x increases."""

    x: list[float]
    y: list[float]


class Plot(NamedTuple):
    """A plot with what it shows."""

    title: str
    x_name: str
    svg: str


@dataclass(frozen=True)
class Axis:
    """How far a training has come, in one unit."""

    name: str
    position: Callable[[MetricsHistory, MetricsLine], float]  # nan where it is not known


def group_color(group: int) -> str:
    """Return the color of a group, a name in PALETTE. There may be more groups than colors."""
    return GROUP_COLORS[group % len(GROUP_COLORS)]


def comparison_plots(runs: Sequence[ComparedRun]) -> list[Plot]:
    """Return a plot for each curve and each axis for which there is data."""
    plots = []
    for title, kind, key in (
        ("Training loss", "train", "nll"),
        ("Validation loss", "valid", "loss"),
        (f"Validation {_score_name(runs)}", "valid", _score_name(runs)),
    ):
        for axis in AXES:
            points = [_points(run.history, axis, kind=kind, key=key) for run in runs]
            if any(item.x for item in points):
                curves = _curves(runs, points, has_dots=kind == "valid")
                svg = plot_curves(curves, label=f"{title} over {axis.name}", x_name=axis.name)
                plots.append(Plot(title, axis.name, svg))
    return plots


def _score_name(runs: Sequence[ComparedRun]) -> str:
    """Return the name of the score to show: BLEU, or the first one if there is no BLEU."""
    names = [name for run in runs for line in run.history.valid for name in _scores(line)]
    if not names or "BLEU" in names:
        return "BLEU"
    return names[0]


def _scores(line: MetricsLine) -> list[str]:
    return list(line.get("signatures", {}))


def _updates(history: MetricsHistory, line: MetricsLine) -> float:
    return float(line["step"])


def _million_tokens(history: MetricsHistory, line: MetricsLine) -> float:
    """Return the target tokens seen until a line, from the lines of the training around it."""
    if "tokens_seen" in line:
        return float(line["tokens_seen"]) / 1e6
    known = [item for item in history.train if "tokens_seen" in item]
    if not known:
        return math.nan
    tokens_by_step = {0: 0} | {item["step"]: item["tokens_seen"] for item in known}
    steps = sorted(tokens_by_step)
    tokens = [tokens_by_step[step] for step in steps]
    return float(np.interp(line["step"], steps, tokens)) / 1e6


def _minutes(history: MetricsHistory, line: MetricsLine) -> float:
    seconds = line.get("timing", {}).get("elapsed_seconds")
    return math.nan if seconds is None else float(seconds) / 60.0


AXES = (
    Axis("updates", _updates),
    Axis("million target tokens", _million_tokens),
    Axis("minutes", _minutes),
)


def _points(history: MetricsHistory, axis: Axis, *, kind: str, key: str) -> Points:
    """Return the values of one key of the lines of one kind, where both numbers are known."""
    values: dict[float, float] = {}  # a later line replaces an earlier one at the same place
    for line in history.of_kind(kind):
        value = line.get(key)
        x = axis.position(history, line)
        if value is not None and math.isfinite(x):
            values[x] = float(value)
    in_order = sorted(values)
    return Points(in_order, [values[x] for x in in_order])


def _curves(
    runs: Sequence[ComparedRun], points: Sequence[Points], *, has_dots: bool
) -> list[Curve]:
    """Return a curve for each group: that of its run, or the mean of its runs with their range."""
    curves = []
    for group in sorted({run.group for run in runs}):
        members = [index for index, run in enumerate(runs) if run.group == group]
        members = [index for index in members if points[index].x]
        if not members:
            continue
        name = runs[members[0]].name
        color = group_color(group)
        if len(members) > 1:
            curve = mean_curve([points[index] for index in members])
            name = f"{name}, mean of {len(members)} seeds"
            curves.append(curve._replace(name=name, color=color, has_dots=has_dots))
        else:
            x, y = points[members[0]]
            curves.append(Curve(name, x, y, color=color, has_dots=has_dots))
    return curves


def mean_curve(points: Sequence[Points]) -> Curve:
    """Return the mean of several curves, with the smallest and largest value as its range.

    It covers the part that all curves cover. Between their points, curves are straight lines.
    """
    start = max(item.x[0] for item in points)
    end = min(item.x[-1] for item in points)
    grid = sorted({x for item in points for x in item.x if start <= x <= end})
    if len(grid) > NUM_GRID_POINTS:
        grid = [float(x) for x in np.linspace(start, end, NUM_GRID_POINTS)]
    values = np.array([np.interp(grid, item.x, item.y) for item in points])
    return Curve(
        "mean",
        grid,
        [float(value) for value in values.mean(axis=0)],
        low=[float(value) for value in values.min(axis=0)],
        high=[float(value) for value in values.max(axis=0)],
    )
