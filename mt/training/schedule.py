"""The learning rate of each update.

It depends on the number of the update, the plan of the run and the config only. It rises linearly
during the warm-up and then follows `train.schedule` down to the end of the plan.
"""

import math
from collections.abc import Callable

from mt.config.schema import TrainConfig
from mt.training.run_plan import RunPlan


def learning_rate(step: int, plan: RunPlan, config: TrainConfig) -> float:
    """Return the learning rate of update `step`, counted from 1."""
    if step <= plan.warmup.to_step:
        return plan.warmup.value(step)
    return config.learning_rate * SCHEDULES[config.schedule](step, plan, config)


def _inverse_sqrt(step: int, plan: RunPlan, config: TrainConfig) -> float:
    """Return the factor of Vaswani et al. 2017, section 5.3, scaled to 1 after the warm-up."""
    return math.sqrt(max(plan.warmup.to_step, 1) / step) * _cooldown(step, plan, config)


def _constant(step: int, plan: RunPlan, config: TrainConfig) -> float:
    """Return 1 until the cooldown: a trapezoidal schedule (Hägele et al. 2024)."""
    return _cooldown(step, plan, config)


def _cooldown(step: int, plan: RunPlan, config: TrainConfig) -> float:
    """Return a factor of 1 that falls linearly to 0 over the last part of the plan."""
    fraction_left = 1.0 - plan.decay.value(step)
    if fraction_left >= config.cooldown_fraction:
        return 1.0
    return fraction_left / config.cooldown_fraction


def _cosine(step: int, plan: RunPlan, config: TrainConfig) -> float:
    """Return a factor that falls from 1 after the warm-up to 0 at the end of the plan.

    Loshchilov and Hutter 2017, without restarts.
    """
    return 0.5 * (1.0 + math.cos(math.pi * plan.decay.value(step)))


def _linear(step: int, plan: RunPlan, config: TrainConfig) -> float:
    """Return a factor that falls linearly from 1 to 0 (Bergsma et al. 2025)."""
    return 1.0 - plan.decay.value(step)


SCHEDULES: dict[str, Callable[[int, RunPlan, TrainConfig], float]] = {
    "inverse_sqrt": _inverse_sqrt,
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
}
