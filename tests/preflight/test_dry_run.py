"""The estimates of a dry run."""

from __future__ import annotations

import math

import pytest

from mt.config.schema import TrainConfig
from mt.preflight.dry_run import estimate_run


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
    estimate = estimate_run(
        config, update_seconds=0.5, validation_seconds=5.0, updates_per_epoch=50
    )
    num_validations = math.ceil(num_updates / 50)
    assert estimate.num_updates == num_updates
    assert estimate.total_seconds == num_updates * 0.5 + num_validations * 5.0
