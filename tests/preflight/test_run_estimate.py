"""How long a run takes, and how much of its time validation takes."""

from __future__ import annotations

import math
import re

import pytest

from mt.config.schema import TrainConfig
from mt.preflight.run_estimate import RunEstimate, check_validation_time, estimate_run


def estimate(
    num_updates: int = 1000,
    *,
    update_seconds: float = 1.0,
    validation_seconds: float,
    validate_every: int = 100,
) -> RunEstimate:
    return estimate_run(
        TrainConfig(max_steps=num_updates, validate_every=validate_every),
        update_seconds=update_seconds,
        validation_seconds=validation_seconds,
        updates_per_epoch=50,
    )


@pytest.mark.parametrize(
    ("limits", "num_updates"),
    [
        ({"max_steps": 700}, 700),
        ({"max_epochs": 3}, 150),
        ({"max_steps": 700, "max_epochs": 3}, 150),
        ({"max_minutes": 1.0}, 100),  # 100 updates take 50 seconds, and 2 validations 10
        ({"max_minutes": 1.0, "max_steps": 30}, 30),
    ],
)
def test_estimated_time_ends_at_the_first_limit(limits: dict[str, float], num_updates: int) -> None:
    config = TrainConfig(**limits, validate_every=50)
    estimated = estimate_run(
        config, update_seconds=0.5, validation_seconds=5.0, updates_per_epoch=50
    )
    num_validations = math.ceil(num_updates / 50)
    assert estimated.num_updates == num_updates
    assert estimated.total_seconds == num_updates * 0.5 + num_validations * 5.0


def test_fraction_counts_a_last_validation_of_its_own() -> None:
    fraction = estimate(250, validation_seconds=50.0).validation_fraction
    assert fraction == pytest.approx(3 * 50 / (250 + 3 * 50))


@pytest.mark.parametrize("validation_seconds", [0.001, 17.0])
def test_validation_that_takes_little_time_gets_no_warning(validation_seconds: float) -> None:
    estimated = estimate(validation_seconds=validation_seconds)
    assert list(check_validation_time(estimated, num_lines=500)) == []


@pytest.mark.parametrize("validation_seconds", [18.0, 50.0, 150.0])
def test_remedy_brings_validation_to_its_largest_fraction(validation_seconds: float) -> None:
    estimated = estimate(validation_seconds=validation_seconds)
    (finding,) = check_validation_time(estimated, num_lines=500)
    assert finding.level == "warning"
    assert "train.validation_lines" in finding.text
    found = re.search(r"train\.validate_every: (\d+)", finding.text)
    assert found is not None
    validate_every = int(found.group(1))
    assert 100 < validate_every <= 1000
    changed = estimate(validation_seconds=validation_seconds, validate_every=validate_every)
    assert list(check_validation_time(changed, num_lines=500)) == []


def test_short_run_gets_no_warning() -> None:
    estimated = estimate(12, update_seconds=0.01, validation_seconds=2.0)
    assert list(check_validation_time(estimated, num_lines=6)) == []


def test_remedy_for_a_single_validation_is_fewer_lines() -> None:
    estimated = estimate(60, update_seconds=0.1, validation_seconds=50.0)
    (finding,) = check_validation_time(estimated, num_lines=1791)
    assert "train.validation_lines (now 1,791)" in finding.text
    assert "validate_every" not in finding.text
