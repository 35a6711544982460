"""What the page of a run draws of metrics.jsonl, and how it shows what a page would lose."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mt.report.plots import COLOURS, Line, plot_lines

MetricsLine = Mapping[str, Any]  # of metrics.jsonl


def show_control_chars(text: str) -> str:
    """The text, its control characters as the pictures that Unicode has of them: a page would lose them."""
    return text.translate({code: 0x2400 + code for code in range(32)} | {127: 0x2421})


def of_kind(metrics: Sequence[MetricsLine], kind: str) -> list[MetricsLine]:
    """The lines of one kind."""
    return [line for line in metrics if line.get("kind") == kind]


def training_plots(metrics: Sequence[MetricsLine]) -> dict[str, str]:
    """The course of training in SVG elements, by their titles, as far as there are lines to draw."""
    train, valid = of_kind(metrics, "train"), of_kind(metrics, "valid")
    marks = [(line["step"], str(line.get("text", ""))) for line in of_kind(metrics, "incident")]
    curve = partial(Line, steps=_column(train, "step"))
    points = partial(Line, steps=_column(valid, "step"), colour="second", points=True)
    nll, smoothed, valid_loss = (
        _column(train, "nll"),
        _column(train, "loss"),
        _column(valid, "loss"),
    )
    losses = [] if smoothed == nll else [curve("minimised", values=smoothed, colour="muted")]
    losses += [curve("training", values=nll), points("validation", values=valid_loss)]
    perplexities = [curve("training", values=_exp(nll), form=",.2f")]
    perplexities += [points("validation", values=_exp(valid_loss), form=",.2f")]
    names = dict.fromkeys(name for line in valid for name in line.get("signatures", {}))
    scores = [
        points(n, values=_column(valid, n), form=".2f", colour=c)
        for n, c in zip(names, COLOURS, strict=False)
    ]
    timing = [line.get("timing", {}) for line in train]
    memory = [value / 1e9 for value in _column(timing, "peak_memory")]
    drawn = {
        "Loss": losses,
        "Perplexity": perplexities,
        "Translation": scores,
        "Learning rate": [curve("rate", values=_column(train, "lr"), form=".2e")],
        "Gradient norm": [curve("norm", values=_column(train, "grad_norm"))],
        "Speed": [curve("tokens/s", values=_column(timing, "tokens_per_second"), form=",.0f")],
        "Memory": [curve("GB", values=memory, form=",.2f")] * any(map(math.isfinite, memory)),
    }
    return {
        title: plot_lines(lines, label=title, marks=marks, log=title == "Perplexity")
        for title, lines in drawn.items()
        if any(len(line.steps) for line in lines)
    }


def _column(lines: Sequence[MetricsLine], key: str) -> list[float]:
    """One value of each line; nan where it is missing or null."""
    return [math.nan if line.get(key) is None else float(line[key]) for line in lines]


def _exp(values: Sequence[float]) -> list[float]:
    return [math.exp(min(value, 700.0)) for value in values]
