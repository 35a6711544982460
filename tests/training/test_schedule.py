"""The plan of a run, its revisions, and the learning rate of each update."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, get_args

import pytest

from mt.config.schema import TrainConfig
from mt.training.run_plan import UNKNOWN_TOTAL, Ramp, RunPlan
from mt.training.schedule import SCHEDULES, learning_rate

EVERY_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES)
OLD = {
    "max_warmup_fraction": None,
    "cooldown_fraction": 0.0,
}  # the values of runs before these keys


def make_config(**settings: Any) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 0.01, "warmup_steps": 10, "max_steps": 100, **settings})


def rates(config: TrainConfig, total_steps: int = 100) -> list[float]:
    """Return the learning rates of all updates of a run; that of update 1 comes first."""
    plan = RunPlan.of_new_run(total_steps, config)
    return [learning_rate(step, plan, config) for step in range(1, total_steps + 1)]


# A plan that is not revised


@EVERY_SCHEDULE
@pytest.mark.parametrize("total_steps", [15, 100, 20_000])
@pytest.mark.parametrize("warmup_steps", [0, 8, 1000])
def test_every_schedule_lands(schedule: str, total_steps: int, warmup_steps: int) -> None:
    """The peak comes within the first tenth, and the last learning rate is close to zero."""
    config = make_config(schedule=schedule, warmup_steps=warmup_steps)
    values = rates(config, total_steps)
    peak_step = values.index(max(values)) + 1
    assert peak_step <= max(1, total_steps // 10)
    assert values[-1] < 0.02 * config.learning_rate
    after_peak = values[peak_step:]
    assert after_peak == sorted(after_peak, reverse=True)
    assert min(values[:-1]) > 0.0


@EVERY_SCHEDULE
def test_warm_up_is_linear(schedule: str) -> None:
    config = make_config(schedule=schedule)
    expected = [config.learning_rate * step / 10 for step in range(1, 11)]
    assert rates(config)[:10] == pytest.approx(expected)
    assert max(rates(config)) == config.learning_rate


@EVERY_SCHEDULE
def test_without_warm_up_training_starts_at_the_peak(schedule: str) -> None:
    config = make_config(schedule=schedule, warmup_steps=0)
    assert rates(config)[0] == pytest.approx(config.learning_rate, rel=0.02)


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "cosine", "constant"])
def test_old_schedules_keep_their_values_to_the_last_bit(schedule: str) -> None:
    """The formulas are those of mt 0.1, which had no plan."""
    peak = 0.0123
    warmup_steps = 30
    config = make_config(schedule=schedule, learning_rate=peak, warmup_steps=warmup_steps, **OLD)
    factors = {
        "inverse_sqrt": lambda step: math.sqrt(warmup_steps / step),
        "cosine": lambda step: 0.5 * (1.0 + math.cos(math.pi * ((step - warmup_steps) / 70))),
        "constant": lambda step: 1.0,
    }
    expected = [peak * step / warmup_steps for step in range(1, 31)]
    expected += [peak * factors[schedule](step) for step in range(31, 101)]
    assert rates(config) == expected


def test_old_warm_up_may_be_longer_than_the_run() -> None:
    config = make_config(warmup_steps=1000, **OLD)
    assert rates(config)[-1] == config.learning_rate * 100 / 1000


def test_inverse_sqrt_halves_after_four_times_the_steps() -> None:
    config = make_config()
    plan = RunPlan.of_new_run(10_000, config)
    for step in (10, 15, 300):
        later = learning_rate(4 * step, plan, config)
        assert later == pytest.approx(learning_rate(step, plan, config) / 2)


def test_inverse_sqrt_equals_the_formula_of_the_paper() -> None:
    """d_model^-0.5 * min(step^-0.5, step * warmup^-1.5), for the peak that this d_model gives."""
    d_model = 512
    warmup_steps = 40
    config = make_config(warmup_steps=warmup_steps, learning_rate=(d_model * warmup_steps) ** -0.5)
    plan = RunPlan.of_new_run(10_000, config)
    for step in (1, 7, 39, 40, 41, 1000):
        expected = d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)
        assert learning_rate(step, plan, config) == pytest.approx(expected)


def test_cosine_is_symmetrical_about_its_middle() -> None:
    config = make_config(schedule="cosine")
    plan = RunPlan.of_new_run(100, config)
    assert learning_rate(55, plan, config) == pytest.approx(config.learning_rate / 2)
    for distance in (5, 20, 45):
        both = learning_rate(55 - distance, plan, config) + learning_rate(
            55 + distance, plan, config
        )
        assert both == pytest.approx(config.learning_rate)


def test_linear_falls_by_the_same_amount_at_each_update() -> None:
    values = rates(make_config(schedule="linear"))[9:]
    differences = [first - second for first, second in pairwise(values)]
    assert differences == pytest.approx([0.01 / 90] * 90)


@pytest.mark.parametrize("cooldown", [0.0, 0.2, 1.0])
def test_cooldown_falls_linearly_at_the_end(cooldown: float) -> None:
    config = make_config(schedule="constant", warmup_steps=0, cooldown_fraction=cooldown)
    values = rates(config, 1000)
    num_falling = sum(value < config.learning_rate for value in values)
    assert num_falling == pytest.approx(cooldown * 1000, abs=1)
    if cooldown > 0.0:
        assert values[-1] == 0.0
        middle = 1000 - round(cooldown * 500)
        assert values[middle - 1] == pytest.approx(config.learning_rate / 2)


def test_table_covers_the_schema() -> None:
    assert set(get_args(TrainConfig.model_fields["schedule"].annotation)) == set(SCHEDULES)


# Revisions


@EVERY_SCHEDULE
@pytest.mark.parametrize(
    ("step", "total_steps"), [(5, 80), (5, 120), (50, 70), (90, 300), (97, 98)]
)
def test_revision_continues_from_the_rate_and_lands_at_the_new_end(
    schedule: str, step: int, total_steps: int
) -> None:
    config = make_config(schedule=schedule)
    plan = RunPlan.of_new_run(100, config)
    revised = plan.revised(total_steps, config, step=step)
    before = learning_rate(step, plan, config)
    assert learning_rate(step, revised, config) == pytest.approx(before, rel=1e-9)
    values = [learning_rate(later, revised, config) for later in range(step, total_steps + 1)]
    falling = values[values.index(max(values)) :]
    assert falling == sorted(falling, reverse=True)
    assert values[-1] == pytest.approx(0.0, abs=1e-12)


@EVERY_SCHEDULE
def test_many_small_revisions_never_make_the_rate_jump(schedule: str) -> None:
    """The estimate of a clock varies by 5 % of the updates that are left."""
    config = make_config(schedule=schedule, warmup_steps=1000)
    plan = RunPlan.of_new_run(1000, config)
    values = []
    for step in range(1, 2000):
        if step >= plan.total_steps:
            break
        if step % 10 == 0:
            left = 1000 - step if step < 1000 else 1
            plan = plan.revised(step + round(left * (1 + 0.05 * (-1) ** step)), config, step=step)
        values.append(learning_rate(step, plan, config))
    peak_step = values.index(max(values)) + 1
    assert 90 <= peak_step <= 110
    falling = values[peak_step:]
    assert falling == sorted(falling, reverse=True)
    steps = [abs(a - b) for a, b in pairwise(values)]
    assert max(steps) < 0.02 * config.learning_rate
    assert values[-1] < 0.02 * config.learning_rate


@EVERY_SCHEDULE
def test_warm_up_of_a_run_that_gets_much_shorter_does_not_jump(schedule: str) -> None:
    """The new plan would have ended its warm-up long ago."""
    config = make_config(schedule=schedule, warmup_steps=1000)
    plan = RunPlan.of_new_run(10_000, config)
    shorter = plan.revised(3000, config, step=500)
    values = [learning_rate(step, shorter, config) for step in range(500, 3001)]
    assert values[0] == pytest.approx(0.5 * config.learning_rate)
    # The slope is at most that of a run planned with 3,000 updates and 300 of warm-up.
    steepest = max(after - before for before, after in pairwise(values))
    assert steepest <= 1.01 * config.learning_rate / 300
    assert max(values) > 0.99 * config.learning_rate or schedule == "inverse_sqrt"
    assert values[-1] < 0.02 * config.learning_rate


def test_equal_total_changes_nothing() -> None:
    config = make_config()
    plan = RunPlan.of_new_run(100, config)
    for step in (0, 5, 50):
        assert plan.revised(100, config, step=step) == plan


@pytest.mark.parametrize("step", [0, 5])
def test_first_measured_plan_shortens_the_warm_up(step: int) -> None:
    config = make_config(warmup_steps=1000)
    plan = RunPlan.of_new_run(UNKNOWN_TOTAL, config).extended(200, config, step=step)
    assert plan.warmup.to_step == 20
    assert learning_rate(20, plan, config) == config.learning_rate
    assert learning_rate(200, plan, config) == 0.0


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_run_that_is_extended_after_its_end_trains_at_a_useful_rate(schedule: str) -> None:
    config = make_config(schedule=schedule)
    plan = RunPlan.of_new_run(100, config).extended(200, config, step=100)
    fresh = RunPlan.of_new_run(200, config)
    for step in (101, 150, 200):
        expected = learning_rate(step, fresh, config)
        assert learning_rate(step, plan, config) == pytest.approx(expected, rel=0.15)
    assert learning_rate(101, plan, config) > 0.4 * config.learning_rate


@EVERY_SCHEDULE
def test_run_that_is_shortened_comes_down_without_a_jump(schedule: str) -> None:
    config = make_config(schedule=schedule)
    plan = RunPlan.of_new_run(100, config)
    shortened = plan.extended(70, config, step=50)
    before = learning_rate(50, plan, config)
    assert learning_rate(50, shortened, config) == pytest.approx(before)
    assert learning_rate(70, shortened, config) == 0.0


def test_ramp_stays_at_its_ends() -> None:
    ramp = Ramp(10, 20, start=1.0, end=3.0)
    assert [ramp.value(step) for step in (0, 10, 15, 20, 99)] == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert Ramp(0, 0, start=0.0, end=1.0).value(0) == 1.0
