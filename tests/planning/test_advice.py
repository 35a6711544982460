"""Advice before a training: each rule speaks on one side of its threshold, and not on the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mt.planning.advice import (
    TrainingPlan,
    advise_on_length,
    advise_on_model_size,
    advise_on_plan,
    advise_on_vocabulary,
    advise_on_warmup,
    round_down,
    round_up,
)


def make_plan(**changes: Any) -> TrainingPlan:
    """Return the plan of the README's config on 17,665 pairs, with changes."""
    values: dict[str, Any] = {
        "num_parameters": 1_438_208,
        "num_tgt_tokens": 153_000,
        "num_updates": 2000,
        "tokens_per_update": 1400.0,
        "warmup_updates": 150,
        "dropout": 0.1,
        "limit_key": "train.max_steps",
        "limit": 2000,
    }
    return TrainingPlan(**(values | changes))


def test_the_readme_config_gets_no_advice() -> None:
    assert advise_on_plan(make_plan()) == []


def test_a_plan_of_less_than_a_token_per_parameter_is_too_short() -> None:
    """1,438,208 parameters at 1,400 tokens an update are 1,028 updates."""
    assert advise_on_length(make_plan(num_updates=1028, limit=1028)) is None
    advice = advise_on_length(make_plan(num_updates=1027, limit=1027))
    assert advice is not None
    assert "raise train.max_steps to 1,100" in advice.remedy
    assert "model.d_model" in advice.remedy
    assert advice.changes == {"train.max_steps": 1, "model.d_model": -1}


def test_a_plan_in_minutes_gets_minutes() -> None:
    plan = make_plan(num_updates=257, limit_key="train.max_minutes", limit=10.0)
    advice = advise_on_length(plan)
    assert advice is not None
    assert "raise train.max_minutes to 40 or more" in advice.remedy


def test_a_plan_of_a_few_large_updates_is_too_short() -> None:
    plan = make_plan(tokens_per_update=20_000.0, num_tgt_tokens=10**7)
    assert advise_on_length(plan) is None
    assert advise_on_length(make_plan(**(vars(plan) | {"num_updates": 500}))) is None
    advice = advise_on_length(make_plan(**(vars(plan) | {"num_updates": 499, "limit": 499})))
    assert advice is not None
    assert "train.max_steps to 500" in advice.remedy
    assert "train.batch_tokens" in advice.remedy
    assert "model.d_model" not in advice.remedy


def test_a_plan_of_many_epochs_is_not_too_short() -> None:
    little_text = make_plan(num_tgt_tokens=7000, num_updates=100)  # 20 epochs
    assert advise_on_length(little_text) is None
    assert advise_on_length(make_plan(num_tgt_tokens=7000, num_updates=99)) is not None


@pytest.mark.parametrize(("warmup_updates", "is_long"), [(200, False), (201, True), (5000, True)])
def test_a_warmup_of_more_than_a_tenth_is_long(warmup_updates: int, is_long: bool) -> None:
    advice = advise_on_warmup(make_plan(warmup_updates=warmup_updates))
    assert (advice is not None) == is_long
    if advice is not None:
        assert "train.warmup_steps to 200 or less" in advice.remedy


@pytest.mark.parametrize(
    ("parameters_per_token", "dropout", "wanted"),
    [(9, 0.0, None), (11, 0.1, 0.2), (11, 0.2, None), (26, 0.2, 0.3), (200, 0.3, None)],
)
def test_a_large_model_wants_dropout(
    parameters_per_token: int, dropout: float, wanted: float | None
) -> None:
    plan = make_plan(num_parameters=153_000 * parameters_per_token, dropout=dropout)
    advice = advise_on_model_size(plan)
    if wanted is None:
        assert advice is None
    else:
        assert advice is not None
        assert f"model.dropout to {wanted}" in advice.remedy


def test_a_large_model_that_sees_its_text_a_few_times_is_no_fault() -> None:
    large = {"num_parameters": 3_000_000, "tokens_per_update": 1530.0}
    assert advise_on_model_size(make_plan(**large, num_updates=1001)) is not None
    assert advise_on_model_size(make_plan(**large, num_updates=999)) is None


def test_the_most_useful_advice_is_first() -> None:
    plan = make_plan(
        num_parameters=10**7, num_updates=1200, warmup_updates=1000, tokens_per_update=1530.0
    )
    assert [advice.topic for advice in advise_on_plan(plan)] == [
        "too short",
        "warm-up",
        "model size",
    ]


def test_a_vocabulary_of_rare_tokens_is_too_large() -> None:
    """The smaller one has the tokens with ten examples, and those that any vocabulary has."""
    counts = np.array([500] * 1200 + [9] * 1201)
    advice = advise_on_vocabulary(counts, vocab_size=2801, side="both sides")
    assert advice is not None
    assert "9 times or less" in advice.observation
    assert "tokenizer.vocab_size to about 1,600" in advice.remedy

    counts = np.array([500] * 1200 + [9] * 1199)
    assert advise_on_vocabulary(counts, vocab_size=2799, side="both sides") is None


def test_a_vocabulary_of_characters_cannot_be_too_large() -> None:
    counts = np.zeros(0, np.int64)
    assert advise_on_vocabulary(counts, vocab_size=300, side="source") is None


def test_numbers_are_rounded_to_two_digits() -> None:
    assert [round_up(value) for value in (7, 99.2, 100, 1201, 123_456)] == [
        7,
        100,
        100,
        1300,
        130_000,
    ]
    assert [round_down(value) for value in (7, 99, 1299, 2000)] == [7, 99, 1200, 2000]
