"""Advice from curves: a made-up curve triggers each rule, and a nearly equal one does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mt.advice.advice import Advice
from mt.advice.curves import (
    RunCurves,
    TrainPoint,
    ValidationPoint,
    advise_on_diverged_training,
    advise_on_failed_training,
    advise_on_final_rate,
    advise_on_first_best,
    advise_on_less_dropout,
    advise_on_longer_training,
    advise_on_more_text,
    advise_on_overfitting,
    advise_on_skipped_updates,
)

RULES = [
    advise_on_diverged_training,
    advise_on_failed_training,
    advise_on_final_rate,
    advise_on_first_best,
    advise_on_less_dropout,
    advise_on_longer_training,
    advise_on_more_text,
    advise_on_overfitting,
    advise_on_skipped_updates,
]

# Losses and BLEU of a good run (Tatoeba in RECORDS.md) after each quarter of it.
GOOD_LOSSES = (2.67, 2.18, 2.05, 2.04)
GOOD_TRAIN_LOSSES = (2.63, 1.53, 1.12, 1.02)
GOOD_BLEU = (26.0, 35.9, 40.6, 41.0)


def make_curves(
    losses: Sequence[float] = GOOD_LOSSES,
    *,
    train_losses: Sequence[float] = GOOD_TRAIN_LOSSES,
    bleu: Sequence[float] = GOOD_BLEU,
    best: Sequence[int] = (0, 1, 2, 3),
    final_rate: float = 0.0,
    **changes: Any,
) -> RunCurves:
    """Return the curves of a run with a validation, and a training loss, each 500 updates."""
    validations = []
    train = [TrainPoint(150, 8.0, 2e-3)]
    for index, loss in enumerate(losses):
        step = 500 * (index + 1)
        validations.append(ValidationPoint(step, loss, bleu[index], index in best))
        is_last = index == len(losses) - 1
        rate = 2e-3 * (final_rate if is_last else 0.5)
        train.append(TrainPoint(step, train_losses[index], rate))
    values: dict[str, Any] = {
        "num_skipped": 0,
        "dropout": 0.1,
        "bpe_dropout": 0.0,
        "limits": {"train.max_steps": 2000},
    }
    return RunCurves(train, validations, **(values | changes))


@pytest.mark.parametrize("rule", RULES)
def test_a_good_run_gets_no_advice(rule: Callable[[RunCurves], Advice | None]) -> None:
    assert rule(make_curves()) is None


def test_a_few_points_are_too_few_to_judge() -> None:
    assert make_curves().is_enough
    assert make_curves(GOOD_LOSSES[:3]).is_enough
    assert not make_curves(GOOD_LOSSES[:2]).is_enough


def test_skipped_updates() -> None:
    assert advise_on_skipped_updates(make_curves(num_skipped=20)) is None
    advice = advise_on_skipped_updates(make_curves(num_skipped=21))
    assert advice is not None
    assert "21 of 2,000" in advice.observation
    assert "train.learning_rate" in advice.remedy


def test_training_loss_that_rises() -> None:
    assert advise_on_diverged_training(make_curves(train_losses=(4.0, 3.0, 3.5, 3.29))) is None
    advice = advise_on_diverged_training(make_curves(train_losses=(4.0, 3.0, 3.5, 3.31)))
    assert advice is not None
    assert "0.31" in advice.observation


def test_training_that_stops_before_anything_is_learned() -> None:
    bleu = (0.4, 0.9, 0.8, 0.6)
    assert advise_on_failed_training(make_curves((5.3, 5.09, 5.04, 5.02), bleu=bleu)) is not None
    still_learning = make_curves((5.3, 5.09, 4.95, 4.65), bleu=bleu)
    assert advise_on_failed_training(still_learning) is None
    translates = make_curves((5.3, 5.09, 5.04, 5.02), bleu=(0.4, 0.9, 3.1, 3.0))
    assert advise_on_failed_training(translates) is None


def test_validation_loss_that_rises_while_training_loss_falls() -> None:
    curves = make_curves((2.67, 2.10, 2.15, 2.16), bleu=(26.0, 35.0, 36.0, 35.0))
    advice = advise_on_overfitting(curves)
    assert advice is not None
    assert "From update 1,000 on" in advice.observation
    assert "rose by 0.06" in advice.observation
    assert "fell by 0.51" in advice.observation
    assert "model.dropout to 0.2" in advice.remedy
    assert "train.patience" in advice.remedy
    assert advice.changes["train.max_steps"] == -1

    nearly_flat = make_curves((2.67, 2.10, 2.11, 2.14))
    assert advise_on_overfitting(nearly_flat) is None
    training_rises_too = make_curves((2.67, 2.10, 2.15, 2.16), train_losses=(2.6, 1.5, 1.6, 1.6))
    assert advise_on_overfitting(training_rises_too) is None


def test_remedy_for_overfitting_depends_on_what_is_used_already() -> None:
    losses = (2.67, 2.10, 2.15, 2.16)
    much = advise_on_overfitting(make_curves(losses, dropout=0.3))
    assert much is not None
    assert "tokenizer.bpe_dropout" in much.remedy
    assert "model.dropout" not in much.remedy
    all_of_it = advise_on_overfitting(make_curves(losses, dropout=0.3, bpe_dropout=0.1))
    assert all_of_it is not None
    assert "dropout" not in all_of_it.remedy
    strong = advise_on_overfitting(make_curves((2.67, 2.10, 2.5, 2.6), dropout=0.0))
    assert strong is not None
    assert "model.dropout to 0.3" in strong.remedy


def test_early_stopping_is_no_remedy_while_bleu_still_rises() -> None:
    advice = advise_on_overfitting(make_curves((2.67, 2.10, 2.15, 2.16)))
    assert advice is not None
    assert "train.patience" not in advice.remedy


def test_first_validation_is_the_best() -> None:
    assert advise_on_first_best(make_curves(best=(0, 1))) is None
    advice = advise_on_first_best(make_curves(best=(0,)))
    assert advice is not None
    assert "after 500 updates" in advice.observation


def test_validation_that_still_improves() -> None:
    """The last quarter is that of the updates, whatever the number of validations."""
    advice = advise_on_longer_training(make_curves((2.67, 2.18, 2.05, 2.029)))
    assert advice is not None
    assert "0.02 nats" in advice.observation
    assert "raise train.max_steps" in advice.remedy
    assert advise_on_longer_training(make_curves((2.67, 2.18, 2.05, 2.031))) is None

    flat_bleu = (26.0, 35.9, 36.0)  # the loss after 1,125 updates is between the last two
    three = make_curves((3.01, 2.43, 2.41), bleu=flat_bleu)
    assert advise_on_longer_training(three) is None
    three = make_curves((3.01, 2.43, 2.39), bleu=flat_bleu)
    assert advise_on_longer_training(three) is not None


def test_bleu_that_still_rises() -> None:
    curves = make_curves(bleu=(26.0, 35.9, 39.9, 41.0))
    advice = advise_on_longer_training(curves)
    assert advice is not None
    assert "BLEU" in advice.observation
    assert advise_on_longer_training(make_curves(bleu=(26.0, 35.9, 40.1, 41.0))) is None
    overfitting = make_curves((2.67, 2.05, 2.05, 2.11), bleu=(26.0, 35.9, 39.9, 41.0))
    assert advise_on_longer_training(overfitting) is None


def test_learning_rate_that_did_not_come_down() -> None:
    assert advise_on_final_rate(make_curves(final_rate=0.25)) is None
    advice = advise_on_final_rate(make_curves(final_rate=0.41))
    assert advice is not None
    assert "41 % of its peak" in advice.observation


def test_training_loss_above_validation_loss() -> None:
    losses = {"train_losses": (4.0, 3.0, 2.5, 2.35)}
    advice = advise_on_less_dropout(make_curves(**losses))
    assert advice is not None
    assert "Lower model.dropout, which is 0.1" in advice.remedy
    assert advise_on_less_dropout(make_curves(train_losses=(4.0, 3.0, 2.5, 2.33))) is None
    assert advise_on_less_dropout(make_curves(**losses, dropout=0.0)) is None
    with_bpe_dropout = advise_on_less_dropout(make_curves(**losses, bpe_dropout=0.1))
    assert with_bpe_dropout is not None
    assert "tokenizer.bpe_dropout to 0" in with_bpe_dropout.remedy


def test_validation_loss_far_above_training_loss() -> None:
    assert advise_on_more_text(make_curves(train_losses=(2.63, 1.53, 0.8, 0.55))) is None
    advice = advise_on_more_text(make_curves(train_losses=(2.63, 1.53, 0.8, 0.53)))
    assert advice is not None
    assert "1.51 nats" in advice.observation


def test_training_loss_is_averaged_over_a_tenth_of_the_run() -> None:
    train = [TrainPoint(step, float(step), 1e-3) for step in range(10, 1010, 10)]
    validations = [ValidationPoint(step, 1.0, 1.0, True) for step in (300, 600, 1000)]
    curves = RunCurves(train, validations, 0, 0.1, 0.0, {"train.max_steps": 1000})
    assert curves.train_loss(600) == sum(range(510, 610, 10)) / 10
    assert curves.train_loss(5) == 10.0  # the nearest, where there is none before
