"""How much of a run's time validation takes."""

from __future__ import annotations

import re

import pytest

from mt.config.schema import TrainConfig
from mt.planning.validation_time import advise_on_validation, validation_fraction


def make_train(validate_every: int = 100) -> TrainConfig:
    return TrainConfig(max_steps=1000, validate_every=validate_every)


def test_share_counts_a_last_validation_of_its_own() -> None:
    fraction = validation_fraction(
        make_train(), num_updates=250, update_seconds=1.0, validation_seconds=50.0
    )
    assert fraction == pytest.approx(3 * 50 / (250 + 3 * 50))


@pytest.mark.parametrize("validation_seconds", [0.001, 17.0])
def test_validation_that_takes_little_time_needs_no_advice(validation_seconds: float) -> None:
    advice = advise_on_validation(
        make_train(),
        num_lines=500,
        num_updates=1000,
        update_seconds=1.0,
        validation_seconds=validation_seconds,
    )
    assert advice is None


@pytest.mark.parametrize("validation_seconds", [18.0, 50.0, 150.0])
def test_advice_brings_validation_to_its_largest_fraction(validation_seconds: float) -> None:
    def advise(validate_every: int) -> str | None:
        return advise_on_validation(
            make_train(validate_every),
            num_lines=500,
            num_updates=1000,
            update_seconds=1.0,
            validation_seconds=validation_seconds,
        )

    advice = advise(100)
    assert advice is not None
    assert "train.validation_lines" in advice
    found = re.search(r"train\.validate_every: (\d+)", advice)
    assert found is not None
    validate_every = int(found.group(1))
    assert 100 < validate_every <= 1000
    assert advise(validate_every) is None


def test_short_run_needs_no_advice() -> None:
    advice = advise_on_validation(
        make_train(), num_lines=6, num_updates=12, update_seconds=0.01, validation_seconds=2.0
    )
    assert advice is None


def test_advice_for_a_single_validation_is_fewer_lines() -> None:
    advice = advise_on_validation(
        make_train(), num_lines=1791, num_updates=60, update_seconds=0.1, validation_seconds=50.0
    )
    assert advice is not None
    assert "train.validation_lines (now 1,791)" in advice
    assert "validate_every" not in advice
