"""The plots of a run report: training curves, and scores by source length."""

import math
from collections.abc import Sequence

from mt.report.plots import METRIC_COLORS, Line, plot_intervals, plot_lines
from mt.report.scored_set import ScoredSet
from mt.training.metrics_log import LARGEST_EXPONENT, MetricsHistory, MetricsLine


def training_plots(history: MetricsHistory) -> dict[str, str]:
    """Return the training curves as SVG elements by title, as far as there is data for them."""
    events = [(line["step"], str(line.get("text", ""))) for line in history.incidents]
    lines_by_title = {
        "Loss": _loss_lines(history),
        "Perplexity": _perplexity_lines(history),
        "Validation scores": _score_lines(history),
        **_optimizer_lines(history.train),
        **_machine_lines(history.train),
    }
    plots = {}
    for title, lines in lines_by_title.items():
        if any(len(line.steps) > 0 for line in lines):
            is_log = title == "Perplexity"
            plots[title] = plot_lines(lines, label=title, events=events, log=is_log)
    return plots


def length_plot(scored_set: ScoredSet) -> str:
    """Plot BLEU and chrF with their intervals by source length, as an SVG element."""
    categories = []
    series: dict[str, list[tuple[float, float, float]]] = {}
    for bucket, scores in scored_set.by_length:
        categories.append(f"{bucket.label}\n{len(bucket.indices):,}")
        for score in scores:
            low, high = score.interval
            series.setdefault(score.name, []).append((score.value, low, high))
    label = f"{scored_set.name}: scores by source length"
    return plot_intervals(categories, series, label=label)


def _loss_lines(history: MetricsHistory) -> list[Line]:
    """Return training and validation loss, after the objective if it differs from the loss."""
    train_steps = _column(history.train, "step")
    nll = _column(history.train, "nll")
    objective = _column(history.train, "loss")
    lines = []
    if objective != nll:
        lines.append(Line("objective", train_steps, objective, "muted"))
    lines.append(Line("training", train_steps, nll))
    lines.append(_validation_line("validation", history, _column(history.valid, "loss")))
    return lines


def _perplexity_lines(history: MetricsHistory) -> list[Line]:
    train_steps = _column(history.train, "step")
    train_values = _exp(_column(history.train, "nll"))
    valid_values = _exp(_column(history.valid, "loss"))
    training = Line("training", train_steps, train_values, value_format=",.2f")
    validation = _validation_line("validation", history, valid_values)
    return [training, validation._replace(value_format=",.2f")]


def _score_lines(history: MetricsHistory) -> list[Line]:
    """Return a line for each metric of the validations, in order of first appearance."""
    names: list[str] = []
    for line in history.valid:
        names += [name for name in line.get("signatures", {}) if name not in names]
    lines = []
    for name, color in zip(names, METRIC_COLORS, strict=False):
        scores = _validation_line(name, history, _column(history.valid, name))
        lines.append(scores._replace(color=color, value_format=".2f"))
    return lines


def _validation_line(name: str, history: MetricsHistory, values: Sequence[float]) -> Line:
    steps = _column(history.valid, "step")
    return Line(name, steps, values, "second", as_points=True)


def _optimizer_lines(train: Sequence[MetricsLine]) -> dict[str, list[Line]]:
    steps = _column(train, "step")
    return {
        "Learning rate": [Line("rate", steps, _column(train, "lr"), value_format=".2e")],
        "Gradient norm": [Line("norm", steps, _column(train, "grad_norm"))],
    }


def _machine_lines(train: Sequence[MetricsLine]) -> dict[str, list[Line]]:
    """Return speed, and memory if it was recorded (older versions did not)."""
    steps = _column(train, "step")
    timing = [line.get("timing", {}) for line in train]
    speed = _column(timing, "tokens_per_second")
    lines = {"Speed": [Line("tokens/s", steps, speed, value_format=",.0f")]}
    gigabytes = [value / 1e9 for value in _column(timing, "peak_memory")]
    if any(math.isfinite(value) for value in gigabytes):
        lines["Memory"] = [Line("GB", steps, gigabytes, value_format=",.2f")]
    return lines


def _column(lines: Sequence[MetricsLine], key: str) -> list[float]:
    """Return one value of each line; nan where it is missing or null."""
    return [math.nan if line.get(key) is None else float(line[key]) for line in lines]


def _exp(values: Sequence[float]) -> list[float]:
    return [math.exp(min(value, LARGEST_EXPONENT)) for value in values]
