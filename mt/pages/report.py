"""One page that tells all of a run: what was trained on what, how that went, how well it translates and where it fails.

The page is handed what it shows as plain values; what it computes is how to show them.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mt.pages import render
from mt.pages.plots import Intervals, Line, Mark, plot_intervals, plot_lines

MetricsLine = Mapping[str, Any]  # of metrics.jsonl
Marked = Sequence[tuple[str, str | None]]  # a text in spans, each with what another has there; None: the same

NUM_EARLY, NUM_LATE = 3, 4  # versions of a sample that are shown at once
COLOURS = ("second", "first", "third")  # of BLEU, chrF and TER in every plot
CELL, LETTER = 21, 7.4  # of a heat map: the side of a cell, the mean width of a letter, in pixels
LONGEST = 18  # letters of a word beside it


class Fact(NamedTuple):
    """A line of a table; `clock` marks what depends on the machine and its load."""

    name: str
    value: str
    clock: bool = False


class Score(NamedTuple):
    """A corpus score and its 95 % interval, as ± and as from where to where; nan where there is none."""

    name: str
    value: float
    half_width: float
    low: float
    high: float
    signature: str


class LengthScores(NamedTuple):
    """The scores of the sentences of like length."""

    label: str
    num_sentences: int
    scores: Sequence[Score]


class Example(NamedTuple):
    """A translated sentence: `number` is its line, from 1; `probability` the geometric mean of its tokens'."""

    number: int
    reason: str
    src: str
    ref: Marked
    hyp: Marked
    chrf: float
    probability: float


class ScoredSet(NamedTuple):
    """A set that was translated and scored, and what there is to learn from it."""

    name: str
    num_sentences: int
    scores: Sequence[Score]
    length_unit: str
    by_length: Sequence[LengthScores]
    examples: Mapping[str, Sequence[Example]]  # best, worst, instructive


class Version(NamedTuple):
    """What a sample's translation was from one validation to another."""

    first_step: int
    last_step: int
    hyp: Marked
    chrf: float


class Sample(NamedTuple):
    """A validation sentence, and its translations in the order of time."""

    src: str
    ref: str
    versions: Sequence[Version]


class HeatMap(NamedTuple):
    """Who looks (queries) at whom (keys): rows of weights, each adding up to one."""

    queries: Sequence[str]
    keys: Sequence[str]
    weights: NDArray[np.float32]  # (num_queries, num_keys)


class Report(NamedTuple):
    """All that the page tells."""

    name: str
    languages: str
    summary: Sequence[Fact]  # what, when, how long, at a glance
    facts: Mapping[str, Sequence[Fact]]  # by heading
    metrics: Sequence[MetricsLine]
    samples: Sequence[Sample]
    sets: Sequence[ScoredSet]
    heat_maps: Sequence[HeatMap]
    instructive: str  # which sentences are called so
    fewest: int  # sentences that have an interval
    missing: Sequence[str]  # what could not be shown, in sentences
    config: str
    made_with: str


class Plot(NamedTuple):
    """A drawn plot with its words."""

    title: str
    caption: str
    svg: str
    clock: bool = False


def report_page(report: Report) -> str:
    """The page as HTML: one file that needs nothing beside it."""
    headline, headline_of = _headline(report)
    values = {
        "report": report,
        "headline": headline,
        "headline_of": headline_of,
        "signatures": dict.fromkeys(f"{s.name}|{s.signature}" for each in report.sets for s in each.scores),
        "plots": training_plots(report.metrics),
        "length_plots": {each.name: _length_plot(each) for each in report.sets},
        "heat_maps": [_lay_out(each) for each in report.heat_maps],
        "incidents": of_kind(report.metrics, "incident"),
        "num_validations": len(of_kind(report.metrics, "valid")),
        "early": NUM_EARLY,
        "late": NUM_LATE,
        "visible": visible,
    }
    return render("report.html", values)


def _headline(report: Report) -> tuple[Score | None, str]:
    """The score to put first, and what it is of: the first test set's or, without one, the best validation's."""
    for each in report.sets:
        return each.scores[0], each.name
    for line in reversed(of_kind(report.metrics, "valid")):
        for name, signature in line.get("signatures", {}).items():
            if line.get("is_best"):
                found = Score(name, float(line[name]), math.nan, math.nan, math.nan, signature)
                return found, f"the validation set, at update {line['step']:,}"
    return None, ""


def visible(text: str) -> str:
    """The text, its control characters as the pictures that Unicode has of them: a page would lose them."""
    return text.translate({code: 0x2400 + code for code in range(32)} | {127: 0x2421})


def of_kind(metrics: Sequence[MetricsLine], kind: str) -> list[MetricsLine]:
    """The lines of one kind."""
    return [line for line in metrics if line.get("kind") == kind]


def training_plots(metrics: Sequence[MetricsLine]) -> list[Plot]:
    """The course of training, as far as there are lines to draw."""
    train, valid = of_kind(metrics, "train"), of_kind(metrics, "valid")
    marks = [Mark(line["step"], str(line.get("text", ""))) for line in of_kind(metrics, "incident")]
    steps, valid_steps = _column(train, "step"), _column(valid, "step")

    def curve(name: str, values: Sequence[float], form: str = ",.3f", colour: str = "first") -> Line:
        return Line(name, steps, values, colour, form=form)

    def points(name: str, values: Sequence[float], form: str = ",.3f", colour: str = "second") -> Line:
        return Line(name, valid_steps, values, colour, points=True, form=form)

    nll, smoothed, valid_loss = _column(train, "nll"), _column(train, "loss"), _column(valid, "loss")
    losses = [] if smoothed == nll else [curve("minimised", smoothed, colour="muted")]
    losses += [curve("training", nll), points("validation", valid_loss)]
    perplexities = [curve("training", _exp(nll), ",.2f"), points("validation", _exp(valid_loss), ",.2f")]
    names = dict.fromkeys(name for line in valid for name in line.get("signatures", {}))
    scores = [points(name, _column(valid, name), ".2f", c) for name, c in zip(names, COLOURS, strict=False)]
    speed = _column([line.get("timing", {}) for line in train], "tokens_per_second")
    drawn = [
        ("Loss", "nats per target token; “minimised” includes label smoothing", losses),
        ("Perplexity", "exp of the loss without label smoothing, on a log scale", perplexities),
        ("Translation", "of the validation set, detokenised, by sacreBLEU", scores),
        ("Learning rate", "of the latest update", [curve("rate", _column(train, "lr"), ".2e")]),
        ("Gradient norm", "L2 norm before clipping, mean of the updates", [curve("norm", _column(train, "grad_norm"))]),
        ("Speed", "target tokens per second, validation left out", [curve("tokens/s", speed, ",.0f")]),
    ]
    return [
        Plot(title, caption, plot_lines(lines, label=title, marks=marks, log=title == "Perplexity"), title == "Speed")
        for title, caption, lines in drawn
        if any(len(line.steps) for line in lines)
    ]


def _column(lines: Sequence[MetricsLine], key: str) -> list[float]:
    """One value of each line; nan where it is missing or null."""
    return [math.nan if line.get(key) is None else float(line[key]) for line in lines]


def _exp(values: Sequence[float]) -> list[float]:
    return [math.exp(min(value, 700.0)) for value in values]


def _length_plot(each: ScoredSet) -> str:
    """BLEU and chrF with their intervals by source length."""
    categories = [f"{row.label}\n{row.num_sentences:,}" for row in each.by_length]
    columns = zip(*(row.scores for row in each.by_length), strict=True)  # of one metric each
    series = [
        Intervals(scores[0].name, [s.value for s in scores], [s.low for s in scores], [s.high for s in scores], colour)
        for scores, colour in zip(columns, COLOURS, strict=False)
    ]
    return plot_intervals(categories, series, label=f"{each.name}: scores by source length")


def _lay_out(each: HeatMap) -> dict[str, Any]:
    """A heat map with its labels, those of its cells that one could see, and its measures in pixels."""
    queries, keys = (
        [word if _width(word) <= LONGEST else word[:LONGEST] + "…" for word in words] for words in each[:2]
    )
    cells = [
        (row, column, float(each.weights[row, column])) for row, column in np.argwhere(each.weights >= 0.02).tolist()
    ]
    left, above = 10 + LETTER * max(map(_width, queries)), 14 + LETTER * 0.75 * max(map(_width, keys))
    width = left + CELL * len(keys) + LETTER * 0.65 * max(map(_width, keys[-2:]))
    sizes = {"cell": CELL, "left": left, "top": above, "width": width, "height": above + CELL * len(queries) + 4}
    return {"map": each, "queries": queries, "keys": keys, "cells": cells, **sizes}


def _width(text: str) -> int:
    """Letters, those of East Asia being twice as wide and combining marks of no width."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))
