"""Advice before a training: each rule speaks on one side of its threshold, and not on the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mt.advice.advice import (
    TrainingFacts,
    advise_on_length,
    advise_on_model_size,
    advise_on_training,
    advise_on_vocabulary,
    advise_on_warmup,
    round_down,
    round_up,
)
from mt.project.settings import REFERENCE_SIZE, TABLE, find_row


def make_facts(**changes: Any) -> TrainingFacts:
    """Return the facts of the README's config on 17,665 pairs, with changes."""
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
    return TrainingFacts(**(values | changes))


def test_the_readme_config_gets_no_advice() -> None:
    assert advise_on_training(make_facts()) == []


def test_a_plan_of_less_than_a_token_per_parameter_is_too_short() -> None:
    """1,438,208 parameters at 1,400 tokens an update are 1,028 updates."""
    assert advise_on_length(make_facts(num_updates=1028, limit=1028)) is None
    advice = advise_on_length(make_facts(num_updates=1027, limit=1027))
    assert advice is not None
    assert "raise train.max_steps to 1,100" in advice.remedy
    assert "model.d_model" in advice.remedy
    assert advice.changes == {"train.max_steps": 1, "model.d_model": -1}


def test_a_plan_in_minutes_gets_minutes() -> None:
    plan = make_facts(num_updates=257, limit_key="train.max_minutes", limit=10.0)
    advice = advise_on_length(plan)
    assert advice is not None
    assert "raise train.max_minutes to 40 or more" in advice.remedy


def test_a_plan_of_a_few_large_updates_is_too_short() -> None:
    plan = make_facts(tokens_per_update=20_000.0, num_tgt_tokens=10**7)
    assert advise_on_length(plan) is None
    assert advise_on_length(make_facts(**(vars(plan) | {"num_updates": 500}))) is None
    advice = advise_on_length(make_facts(**(vars(plan) | {"num_updates": 499, "limit": 499})))
    assert advice is not None
    assert "train.max_steps to 500" in advice.remedy
    assert "train.batch_tokens" in advice.remedy
    assert "model.d_model" not in advice.remedy


def test_a_plan_of_many_epochs_is_not_too_short() -> None:
    little_text = make_facts(num_tgt_tokens=7000, num_updates=100)  # 20 epochs
    assert advise_on_length(little_text) is None
    assert advise_on_length(make_facts(num_tgt_tokens=7000, num_updates=99)) is not None


@pytest.mark.parametrize(("warmup_updates", "is_long"), [(200, False), (201, True), (5000, True)])
def test_a_warmup_of_more_than_a_tenth_is_long(warmup_updates: int, is_long: bool) -> None:
    advice = advise_on_warmup(make_facts(warmup_updates=warmup_updates))
    assert (advice is not None) == is_long
    if advice is not None:
        assert "train.warmup_steps to 200 or less" in advice.remedy


@pytest.mark.parametrize(
    ("num_epochs", "parameters_per_token", "dropout", "wanted"),
    [
        (9, 100, 0.0, None),
        (11, 9, 0.0, None),
        (11, 11, 0.0, 0.1),
        (11, 100, 0.1, None),
        (59, 100, 0.1, None),
        (61, 9, 0.1, None),
        (61, 11, 0.1, 0.2),
        (61, 49, 0.2, None),
        (61, 51, 0.2, 0.3),
        (1000, 1000, 0.3, None),
    ],
)
def test_a_large_model_that_sees_its_text_often_wants_dropout(
    num_epochs: int, parameters_per_token: int, dropout: float, wanted: float | None
) -> None:
    plan = make_facts(
        num_parameters=153_000 * parameters_per_token,
        tokens_per_update=1530.0,
        num_updates=100 * num_epochs,
        dropout=dropout,
    )
    advice = advise_on_model_size(plan)
    if wanted is None:
        assert advice is None
    else:
        assert advice is not None
        assert f"model.dropout to {wanted}" in advice.remedy


# Target tokens of a pair in the tokens of `mt init`: 8 in Tatoeba, 17 in Multi30k, 30 in news.
@pytest.mark.parametrize("tokens_per_pair", [8, 17, 30])
@pytest.mark.parametrize("num_pairs", [500, 1001, 3000, 5001, 20_001, 60_001, 300_001, 2_000_001])
def test_check_agrees_with_init_about_dropout(num_pairs: int, tokens_per_pair: int) -> None:
    """The rows of the table are tried at their beginnings and shortly before the next."""
    for row in {find_row(num_pairs, epochs) for epochs in range(2500)}:
        longer = [
            other.min_epochs
            for other in TABLE
            if other.max_pairs == row.max_pairs and other.min_epochs > row.min_epochs
        ]
        for reference_epochs in (row.min_epochs, min(longer, default=5000.0) - 1):
            num_parameters = row.size.num_parameters(row.vocab_size)
            relative_cost = row.size.num_layer_parameters / REFERENCE_SIZE.num_layer_parameters
            num_epochs = max(1.0, reference_epochs / relative_cost)
            num_tgt_tokens = num_pairs * tokens_per_pair
            plan = make_facts(
                num_parameters=num_parameters,
                num_tgt_tokens=num_tgt_tokens,
                num_updates=round(num_epochs * num_tgt_tokens / 1000),
                tokens_per_update=1000.0,
                dropout=row.dropout,
            )
            assert advise_on_model_size(plan) is None, (row, reference_epochs)


def test_the_most_useful_advice_is_first() -> None:
    plan = make_facts(
        num_parameters=10**7,
        num_updates=1200,
        warmup_updates=1000,
        tokens_per_update=1530.0,
        dropout=0.0,
    )
    assert [advice.topic for advice in advise_on_training(plan)] == [
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
