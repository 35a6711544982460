"""What to try next: few, without contradictions, and with keys that the config has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from mt.advice import curves as curve_rules
from mt.advice.advice import (
    Advice,
    TrainingFacts,
    advise_on_training,
    advise_on_vocabulary,
)
from mt.advice.curves import RunCurves, TrainPoint, ValidationPoint
from mt.advice.next_steps import suggest_next_steps, without_contradictions
from mt.advice.outputs import (
    OutputCounts,
    advise_on_copied_outputs,
    advise_on_faulty_outputs,
    advise_on_same_outputs,
    advise_on_scores,
)
from mt.config.schema import Config
from mt.evaluation.metrics import Score

GOOD_OUTPUTS = OutputCounts(500, 0, 0, 0, 2)
BAD_OUTPUTS = OutputCounts(500, 100, 100, 100, 100)
BLEU = Score("BLEU", 1.0, "tok:13a", 1.0, 0.1)
CHRF = Score("chrF", 40.0, "nc:6", 40.0, 0.1)
CURVE_RULES = [rule for name, rule in vars(curve_rules).items() if name.startswith("advise_on_")]


def make_curves(*points: tuple[float, float, float, bool], **changes: Any) -> RunCurves:
    """Return curves; each point is validation loss, training loss, BLEU and whether it is best."""
    validations = []
    train = []
    for index, (loss, nll, bleu, is_best) in enumerate(points):
        step = 500 * (index + 1)
        validations.append(ValidationPoint(step, loss, bleu, is_best))
        train.append(TrainPoint(step, nll, 1e-3 if index == 0 else 1e-5))
    values: dict[str, Any] = {
        "num_skipped": 0,
        "dropout": 0.1,
        "bpe_dropout": 0.0,
        "limits": {"train.max_steps": 2000},
    }
    return RunCurves(train, validations, **(values | changes))


GOOD_CURVES = make_curves(
    (2.67, 2.63, 26.0, True),
    (2.18, 1.53, 35.9, True),
    (2.05, 1.12, 40.6, True),
    (2.04, 1.02, 41.0, True),
)
OVERFITTING_CURVES = make_curves(
    (3.97, 4.0, 3.5, True), (4.2, 3.0, 5.0, True), (4.9, 1.0, 5.5, True), (5.0, 0.5, 7.0, True)
)


def topics(curves: RunCurves, outputs: OutputCounts | None = GOOD_OUTPUTS) -> list[str]:
    return [advice.topic for advice in suggest_next_steps(curves, outputs, bleu=None, chrf=None)]


def test_nothing_stands_out_in_a_good_run() -> None:
    good_bleu = BLEU._replace(value=37.6)
    good_chrf = CHRF._replace(value=52.0)
    assert suggest_next_steps(GOOD_CURVES, GOOD_OUTPUTS, bleu=good_bleu, chrf=good_chrf) == []
    assert topics(GOOD_CURVES, None) == []


def test_an_overfitting_run_is_not_told_to_train_longer() -> None:
    """Its BLEU still rises, and its outputs repeat themselves."""
    outputs = OutputCounts(500, 0, 0, 50, 2)
    assert topics(OVERFITTING_CURVES, outputs) == ["Overfitting", "More text"]


def test_a_run_that_fails_gets_three_pieces_of_advice_at_most() -> None:
    steps = suggest_next_steps(OVERFITTING_CURVES, BAD_OUTPUTS, bleu=BLEU, chrf=CHRF)
    assert [advice.topic for advice in steps] == ["Same outputs", "Copies", "Overfitting"]


def test_a_run_that_learns_nothing_is_told_to_lower_its_learning_rate_only() -> None:
    curves = make_curves(
        (5.3, 5.5, 0.4, True),
        (5.09, 5.2, 0.9, True),
        (5.04, 5.1, 0.8, False),
        (5.01, 5.1, 0.6, False),
    )
    assert topics(curves) == ["Learning rate"]
    same_outputs = OutputCounts(500, 0, 0, 0, 200)
    assert topics(curves, same_outputs) == ["Learning rate"]


def test_advice_in_opposite_directions_is_left_out() -> None:
    first = Advice("a", "", "", {"model.dropout": 1})
    second = Advice("b", "", "", {"model.dropout": -1, "train.seed": 1})
    third = Advice("c", "", "", {"model.dropout": 1, "train.seed": -1})
    assert without_contradictions([first, second, third]) == [first, third]


def test_advice_that_repeats_earlier_advice_is_left_out() -> None:
    first = Advice("a", "", "", {"model.dropout": 1, "train.seed": 1})
    same_change = Advice("b", "", "", {"train.seed": 1})
    same_topic = Advice("a", "", "")
    no_change = Advice("c", "", "")
    advice = [first, same_change, same_topic, no_change]
    assert without_contradictions(advice) == [first, no_change]


# Keys


def all_advice() -> Iterator[Advice]:
    """Yield advice of every rule, and of every branch that names another key."""
    for changes in (
        {},
        {"num_parameters": 10**4, "tokens_per_update": 1e5, "num_updates": 499},
        {"limit_key": "train.max_epochs"},
        {"limit_key": "train.max_minutes"},
    ):
        values: dict[str, Any] = {
            "num_parameters": 10**8,
            "num_tgt_tokens": 10**5,
            "num_updates": 1900,
            "tokens_per_update": 1e3,
            "warmup_updates": 1000,
            "dropout": 0.0,
            "limit_key": "train.max_steps",
            "limit": 1900.0,
        }
        yield from advise_on_training(TrainingFacts(**(values | changes)))
    yield advise_on_vocabulary(np.array([1]), vocab_size=300, side="target")  # type: ignore[misc]

    limits = {"train.max_steps": 2000, "train.max_epochs": 3, "train.max_minutes": 10}
    for dropouts in ((0.1, 0.0), (0.3, 0.0), (0.3, 0.1)):
        dropout = {"dropout": dropouts[0], "bpe_dropout": dropouts[1], "limits": limits}
        for curves in (
            make_curves(*[(4.0, 4.5, 2.0, False)] * 4, num_skipped=100, **dropout),
            make_curves(
                (4.0, 3.0, 2.0, True),
                (3.0, 2.0, 4.0, True),
                (2.8, 1.8, 6.0, True),
                (2.6, 3.8, 8.0, True),
                **dropout,
            ),
            make_curves(
                (4.0, 4.0, 2.0, True), (4.1, 3.0, 1.0, False), (4.2, 1.0, 1.0, False), **dropout
            ),
        ):
            high_rate = [point._replace(learning_rate=1e-3) for point in curves.train]
            for rule in CURVE_RULES:
                advice = rule(RunCurves(**(vars(curves) | {"train": high_rate})))
                if advice is not None:
                    yield advice
    for advice in (
        advise_on_same_outputs(BAD_OUTPUTS),
        advise_on_copied_outputs(BAD_OUTPUTS),
        advise_on_faulty_outputs(BAD_OUTPUTS, limits=limits),
        advise_on_scores(BLEU, CHRF),
    ):
        assert advice is not None
        yield advice


def has_key(key: str) -> bool:
    """Return whether the config has a dotted key."""
    model: type[BaseModel] = Config
    *sections, last = key.split(".")
    for section in sections:
        annotation = model.model_fields[section].annotation
        assert isinstance(annotation, type)
        model = annotation
    return last in model.model_fields


def test_every_rule_gives_advice_here() -> None:
    """Otherwise the next test would not see its keys."""
    found = {advice.topic for advice in all_advice()}
    assert found >= {
        *("too short", "warm-up", "model size", "vocabulary"),
        *("Skipped updates", "Learning rate", "Overfitting", "Best at first", "Longer training"),
        *("Less dropout", "More text", "Same outputs", "Copies", "Repetitions", "BLEU and chrF"),
    }


def test_advice_names_keys_that_the_config_has() -> None:
    sections = "|".join(Config.model_fields)
    num_keys = 0
    for advice in all_advice():
        text = f"{advice.observation} {advice.remedy}"
        keys = re.findall(rf"\b((?:{sections})\.[a-z_.]*[a-z_])", text)
        for key in [*keys, *advice.changes]:
            assert has_key(key), (key, advice)
            num_keys += 1
    assert num_keys > 50


@pytest.mark.parametrize("key", ["model.d_modle", "train.sections"])
def test_key_that_the_config_lacks_is_seen(key: str) -> None:
    assert not has_key(key)


def test_advice_reads_as_sentences() -> None:
    for advice in all_advice():
        assert not advice.observation.endswith(" ")
        assert "  " not in advice.observation + advice.remedy
        if advice.topic[0].isupper():  # of the report; those of mt check are parts of a line
            assert advice.observation.endswith(".")
            assert advice.remedy.endswith(".")
