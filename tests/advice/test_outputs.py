"""Advice from translations: faults are counted, and a few are no reason to speak."""

from __future__ import annotations

from typing import Any

import pytest

from mt.advice.outputs import (
    OutputCounts,
    advise_on_copied_outputs,
    advise_on_faulty_outputs,
    advise_on_same_outputs,
    advise_on_scores,
    count_outputs,
    has_repetition,
)
from mt.evaluation.metrics import Score


def make_counts(**changes: int) -> OutputCounts:
    values: dict[str, Any] = {
        "num_sentences": 500,
        "num_empty": 0,
        "num_copied": 0,
        "num_repetitive": 0,
        "num_same": 2,
    }
    return OutputCounts(**(values | changes))


def make_score(name: str, value: float) -> Score:
    return Score(name, value, "nrefs:1|tok:13a", value, 1.0)


def test_faults_of_translations_are_counted() -> None:
    lines = [
        ("Hello.", "Hallo.", "Hallo."),
        ("Tom!", "Tom!", "Tom!"),  # a copy that is right
        ("The old dog.", "The old dog. ", "Der alte Hund."),
        ("A cat.", " ", "Eine Katze."),
        ("", "", ""),
        ("One man.", "Ein Mann Mann Mann.", "Ein Mann."),
        ("Two men.", "Hallo.", "Zwei Männer."),
        ("Two men.", "Hallo.", "Zwei Männer."),  # the same source
    ]
    sources, hyps, refs = (list(column) for column in zip(*lines, strict=True))
    assert count_outputs(sources, hyps, refs) == OutputCounts(
        num_sentences=8, num_empty=1, num_copied=1, num_repetitive=1, num_same=2
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ein Mann ein Mann ein Mann", True),
        ("ein Mann, ein Mann, ein Mann", True),  # with punctuation between
        ("auf einem einem einem", True),
        ("a b c d a b c d a b c d", True),
        ("a b c d e a b c d e a b c d e", False),  # longer than a phrase
        ("ein Mann und ein Mann und eine Frau", False),
        ("sehr sehr gut", False),
        ("ja ja, nein nein, ja ja", False),
        ("Warte ... ... ...", False),
        ("", False),
    ],
)
def test_repetitions_are_found(text: str, expected: bool) -> None:
    assert has_repetition(text) == expected


def test_few_faults_are_no_reason_to_speak() -> None:
    limits = {"train.max_minutes": 10}
    assert advise_on_copied_outputs(make_counts(num_copied=10)) is None
    assert advise_on_copied_outputs(make_counts(num_copied=11)) is not None
    few = make_counts(num_empty=4, num_repetitive=6)
    assert advise_on_faulty_outputs(few, limits=limits) is None
    many = advise_on_faulty_outputs(make_counts(num_empty=5, num_repetitive=6), limits=limits)
    assert many is not None
    assert "5 empty, 6 with a repeated phrase" in many.observation
    assert "train.max_minutes" in many.remedy
    assert advise_on_same_outputs(make_counts(num_same=50)) is None
    assert advise_on_same_outputs(make_counts(num_same=51)) is not None


def test_few_sentences_are_too_few_to_judge() -> None:
    assert advise_on_copied_outputs(make_counts(num_sentences=49, num_copied=49)) is None
    assert advise_on_copied_outputs(make_counts(num_sentences=50, num_copied=49)) is not None


@pytest.mark.parametrize(
    ("bleu", "chrf", "is_low"), [(7.9, 40.0, True), (8.1, 40.0, False), (0.0, 29.0, False)]
)
def test_bleu_far_below_chrf(bleu: float, chrf: float, is_low: bool) -> None:
    advice = advise_on_scores(make_score("BLEU", bleu), make_score("chrF", chrf))
    assert (advice is not None) == is_low
    if advice is not None:
        assert "tok:13a" in advice.observation
