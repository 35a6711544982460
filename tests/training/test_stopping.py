"""Limits, early stopping and the time that is left."""

from __future__ import annotations

from typing import Any

import pytest

from mt.config.schema import TrainConfig
from mt.training.state import TrainState
from mt.training.stopping import seconds_left, stop_reason


def make_config(**limits: Any) -> TrainConfig:
    return TrainConfig(**{"max_steps": 10**9, **limits})


def test_limit_is_named_with_every_digit() -> None:
    state = TrainState(step=1_234_567)
    reason = stop_reason(state, make_config(max_steps=1_234_567), epoch_length=10)
    assert reason == "max_steps 1234567 reached"


def test_nothing_stops_training_before_its_limits() -> None:
    state = TrainState(step=9, epoch=1, batch_index=9, validations_without_improvement=1)
    config = make_config(max_steps=10, max_epochs=2, max_minutes=1.0, patience=2)
    assert stop_reason(state, config, epoch_length=10) is None


def test_epochs_count_to_the_last_batch() -> None:
    config = make_config(max_epochs=2)
    assert stop_reason(TrainState(epoch=1, batch_index=9), config, epoch_length=10) is None
    assert stop_reason(TrainState(epoch=2), config, epoch_length=10) == "max_epochs 2 reached"


def test_patience_counts_validations() -> None:
    state = TrainState(validations_without_improvement=3)
    reason = stop_reason(state, make_config(patience=3), epoch_length=10)
    assert reason == "no improvement in 3 validations"


@pytest.mark.parametrize(("elapsed", "expected"), [(45.0, 15.0), (75.0, 0.0)])
def test_seconds_left_is_never_negative(elapsed: float, expected: float) -> None:
    state = TrainState(elapsed_seconds=elapsed)
    left = seconds_left(state, make_config(max_minutes=1.0), epoch_length=10)
    assert left == pytest.approx(expected)


def test_seconds_left_follows_the_first_limit() -> None:
    state = TrainState(step=50, epoch=1, batch_index=5, elapsed_seconds=100.0)
    config = make_config(max_steps=100, max_epochs=2)
    assert seconds_left(state, config, epoch_length=10) == pytest.approx(100.0 / 3)


def test_seconds_left_is_zero_before_the_first_update() -> None:
    assert seconds_left(TrainState(), make_config(max_steps=100), epoch_length=10) == 0.0
