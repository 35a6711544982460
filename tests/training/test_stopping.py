"""Limits, early stopping, the planned number of updates and the time that is left."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from mt.config.schema import TrainConfig
from mt.training.pace import Pace
from mt.training.planner import RunPlanner
from mt.training.run_plan import UNKNOWN_TOTAL, RunPlan
from mt.training.state import TrainState
from mt.training.stopping import count_validations, stop_reason, updates_within

HALF_SECOND = Pace(seconds=50.0, num_updates=100.0, validation_seconds=0.0)


def make_config(**limits: Any) -> TrainConfig:
    if not limits.keys() & {"max_steps", "max_epochs", "max_minutes"}:
        limits["max_steps"] = 10**9
    return TrainConfig(**limits)


def make_plan(total_steps: int) -> RunPlan:
    return RunPlan.of_new_run(total_steps, make_config())


def make_planner(
    config: TrainConfig,
    total_steps: int = UNKNOWN_TOTAL,
    *,
    pace: Pace = HALF_SECOND,
    reserved: float = 0.0,
) -> RunPlanner:
    """Return the planner of a run with 9 batches in an epoch and 2 in an update."""
    planner = RunPlanner(config, batches_per_update=2)
    planner.epoch_length = 9
    planner.plan = make_plan(total_steps)
    planner.pace = replace(pace)
    planner.reserved_seconds = reserved
    return planner


def plan_steps(
    state: TrainState, config: TrainConfig, *, pace: Pace = HALF_SECOND, reserved: float = 0.0
) -> int | None:
    """Return the planned total of a run with 9 batches in an epoch and 2 in an update."""
    return make_planner(config, pace=pace, reserved=reserved).allowed_steps(state)


def is_revised(config: TrainConfig, total_steps: int, new_total_steps: int, *, step: int) -> bool:
    """Return whether a plan of `total_steps` gets another total after update `step`."""
    return make_planner(config, total_steps).revise(new_total_steps, step=step) is not None


# The end


def test_limit_is_named_with_every_digit() -> None:
    reason = stop_reason(
        TrainState(step=1_234_567), make_plan(1_234_567), make_config(max_steps=1_234_567)
    )
    assert reason == "max_steps 1234567 reached"


def test_nothing_stops_training_before_its_limits() -> None:
    state = TrainState(step=9, epoch=1, batch_index=9, validations_without_improvement=1)
    config = make_config(max_steps=10, max_epochs=2, max_minutes=1.0, patience=2)
    assert stop_reason(state, make_plan(10), config) is None


def test_epochs_count_to_the_last_batch() -> None:
    config = make_config(max_epochs=2)
    assert stop_reason(TrainState(epoch=1, batch_index=9), make_plan(10), config) is None
    assert stop_reason(TrainState(epoch=2), make_plan(10), config) == "max_epochs 2 reached"


def test_minutes_end_at_the_planned_update() -> None:
    config = make_config(max_minutes=2.5)
    assert stop_reason(TrainState(step=9), make_plan(10), config) is None
    reason = stop_reason(TrainState(step=10), make_plan(10), config)
    assert reason == "max_minutes 2.5 reached"


def test_patience_counts_validations() -> None:
    state = TrainState(validations_without_improvement=3)
    reason = stop_reason(state, make_plan(10), make_config(patience=3))
    assert reason == "no improvement in 3 validations"


# The planned number of updates


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_steps": 700}, 700),
        ({"max_epochs": 3}, 15),  # 9 batches are 4 updates of 2 and one of 1
        ({"max_minutes": 1.0, "validate_every": 1000}, 120),
        ({"max_steps": 700, "max_epochs": 3, "max_minutes": 1.0}, 15),
    ],
)
def test_plan_ends_at_the_first_limit(limits: dict[str, Any], expected: int) -> None:
    assert plan_steps(TrainState(), make_config(**limits)) == expected


def test_rest_of_an_epoch_is_counted_in_updates() -> None:
    state = TrainState(step=7, epoch=1, batch_index=4)
    assert plan_steps(state, make_config(max_epochs=3)) == 7 + 3 + 5


def test_plan_is_unknown_before_a_measurement() -> None:
    assert plan_steps(TrainState(), make_config(max_minutes=1.0), pace=Pace()) is None


def test_plan_of_minutes_leaves_the_reserved_time() -> None:
    state = TrainState(step=20, elapsed_seconds=10.0)
    config = make_config(max_minutes=1.0, validate_every=1000)
    assert plan_steps(state, config) == 20 + 100
    assert plan_steps(state, config, reserved=15.0) == 20 + 70


def test_plan_of_minutes_leaves_time_for_validations() -> None:
    pace = Pace(seconds=50.0, num_updates=100.0, validation_seconds=10.0)
    config = make_config(max_minutes=1.0, validate_every=30)
    assert plan_steps(TrainState(), config, pace=pace) == 2 * (60 - 3 * 10)
    assert plan_steps(TrainState(step=30, elapsed_seconds=25.0), config, pace=pace) == 30 + 30


def test_time_is_left_for_a_first_validation() -> None:
    pace = Pace(seconds=50.0, num_updates=100.0)
    config = make_config(max_minutes=1.0, validate_every=1000)
    assert plan_steps(TrainState(), config, pace=pace) == 0.85 * 120


def test_run_whose_time_is_over_ends_now_but_not_without_an_update() -> None:
    config = make_config(max_minutes=1.0)
    over = TrainState(step=20, elapsed_seconds=60.5)
    assert plan_steps(over, config) == 20
    assert plan_steps(over, config, pace=Pace()) == 20
    assert plan_steps(TrainState(elapsed_seconds=99.0), config) == 1


@pytest.mark.parametrize(
    ("step", "seconds", "expected"),
    [
        (0, 14.9, 4),  # and the validation of the last update; a fifth would end at 15
        (0, 15.0, 5),
        (0, 20.0, 10),  # with one validation, after the last update
        (0, 29.9, 10),
        (0, 31.0, 11),
        (10, 20.0, 10),
        (5, 15.0, 5),
        (0, 9.9, 0),
    ],
)
def test_validations_take_their_part_of_the_time(step: int, seconds: float, expected: int) -> None:
    num_updates = updates_within(
        seconds, step=step, update_seconds=1.0, validation_seconds=10.0, validate_every=10
    )
    assert num_updates == expected


def test_last_update_is_always_validated() -> None:
    totals = (1, 9, 10, 11, 20, 21)
    assert [count_validations(0, total, 10) for total in totals] == [1, 1, 1, 2, 2, 3]
    assert [count_validations(10, total, 10) for total in totals[3:]] == [1, 1, 2]


# Revisions by the clock


def test_plan_is_examined_more_often_near_the_end() -> None:
    config = make_config(max_minutes=10.0)
    planner = make_planner(config, 1200, pace=Pace(50.0, 100.0, planned_at=100.0))

    def is_due(step: int, seconds: float) -> bool:
        return planner.is_due(TrainState(step=step, elapsed_seconds=100.0 + seconds))

    assert not is_due(step=100, seconds=5.9)
    assert is_due(step=100, seconds=6.1)
    assert is_due(step=1160, seconds=2.1)  # a tenth of 40 updates of half a second
    assert not is_due(step=1200, seconds=99.0)


def test_first_plan_needs_some_updates() -> None:
    config = make_config(max_minutes=10.0)
    state = TrainState(step=3, elapsed_seconds=1.0)
    assert not make_planner(config, pace=Pace(1.0, 2.0)).is_due(state)
    assert make_planner(config, pace=Pace(1.5, 3.0)).is_due(state)


def test_only_estimates_by_the_clock_may_differ_a_little() -> None:
    by_clock = make_config(max_minutes=1.0)
    assert not is_revised(by_clock, 1000, 1001, step=900)
    assert is_revised(by_clock, 1000, 1003, step=900)
    assert is_revised(by_clock, 1000, 997, step=900)
    assert is_revised(make_config(max_epochs=3), 1000, 1001, step=900)
    assert not is_revised(make_config(max_epochs=3), 1000, 1000, step=900)


# Progress


def test_progress_of_minutes_is_that_of_the_clock() -> None:
    config = make_config(max_minutes=1.0)
    planner = make_planner(config, pace=Pace())
    assert planner.progress(TrainState(step=10, elapsed_seconds=45.0)) == (0.75, 15.0)
    assert planner.progress(TrainState(step=10, elapsed_seconds=75.0)) == (1.0, 0.0)


def test_progress_of_updates_counts_validations_and_final_scoring() -> None:
    config = make_config(max_steps=100, validate_every=40)
    pace = Pace(seconds=50.0, num_updates=100.0, validation_seconds=3.0)
    found = make_planner(config, 100, pace=pace, reserved=7.0).progress(TrainState(step=50))
    assert found.fraction == 0.5
    assert found.seconds_left == pytest.approx(25.0 + 2 * 3.0 + 7.0)


def test_time_that_is_left_is_unknown_before_the_first_updates() -> None:
    config = make_config(max_epochs=2)
    assert make_planner(config, pace=Pace()).progress(TrainState()) == (0.0, None)


# The speed


def test_pace_leaves_out_the_first_update_and_validations() -> None:
    pace = Pace()
    pace.count_update(100.0, memory_seconds=math.inf)
    assert pace.update_seconds is None
    pace.count_update(102.0, memory_seconds=math.inf)
    pace.count_validation(48.0, elapsed_seconds=150.0)
    pace.count_update(152.0, memory_seconds=math.inf)
    assert pace.update_seconds == pytest.approx(2.0)


def test_one_very_long_update_changes_the_pace_little() -> None:
    pace = Pace()
    for second in range(100):
        pace.count_update(float(second), memory_seconds=100.0)
    pace.count_update(5000.0, memory_seconds=100.0)
    assert pace.update_seconds == pytest.approx(1.0, rel=0.2)


def test_one_very_long_validation_changes_the_pace_little() -> None:
    pace = Pace()
    pace.count_validation(3.0, elapsed_seconds=10.0)
    pace.count_validation(500.0, elapsed_seconds=600.0)
    assert pace.validation_seconds == 6.0
    pace.count_validation(4.0, elapsed_seconds=610.0)
    assert pace.validation_seconds == 4.0
    for _ in range(10):
        pace.count_validation(500.0, elapsed_seconds=610.0)
    assert pace.validation_seconds == 500.0


@pytest.mark.parametrize("slow_seconds", [2, 100])
def test_pace_follows_a_change_of_the_speed(slow_seconds: int) -> None:
    pace = Pace()
    for second in range(100):
        pace.count_update(float(second), memory_seconds=20.0)
    for second in range(100, 100 + 99 * slow_seconds, slow_seconds):
        pace.count_update(float(second), memory_seconds=20.0)
    assert pace.update_seconds == pytest.approx(slow_seconds, rel=0.02)


def test_exact_limit_is_reached_although_minutes_are_set() -> None:
    """Epochs differ in length, so the total of 10 epochs changes a little with each epoch."""
    config = make_config(max_epochs=10, max_minutes=600.0)
    assert not is_revised(config, 10_000, 10_010, step=5000)
    assert is_revised(config, 10_000, 10_010, step=9600)
    assert is_revised(config, 10_000, 10_001, step=9999)
