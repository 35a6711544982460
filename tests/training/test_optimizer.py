"""Weight decay, clipping, skipped updates, and saving the optimizer."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from mt.config.schema import TrainConfig
from mt.training.optimizer import (
    OPTIMIZERS,
    build_optimizer,
    clip_gradients,
    pack_optimizer,
    unpack_optimizer,
)

EVERY_OPTIMIZER = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def make_config(**settings: Any) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 0.01, "warmup_steps": 10, "max_steps": 100, **settings})


def make_model() -> nn.Module:
    """Matrices and vectors, none of them zero."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model


def give_gradients(model: nn.Module, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


def test_table_covers_the_schema() -> None:
    names = get_args(TrainConfig.model_fields["optimizer"].annotation)
    assert set(names) == set(OPTIMIZERS)


# The optimizer


@EVERY_OPTIMIZER
def test_weight_decay_affects_matrices_only(optimizer: str) -> None:
    model = make_model()
    before = copy_weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, make_config(optimizer=optimizer, weight_decay=0.1)).step()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            assert bool((parameter.abs() < before[name].abs()).all()), name
        else:
            assert torch.equal(parameter, before[name]), name


@EVERY_OPTIMIZER
def test_every_parameter_is_optimized_once(optimizer: str) -> None:
    model = make_model()
    groups = build_optimizer(model, make_config(optimizer=optimizer)).param_groups
    optimized = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(optimized) == sorted(id(parameter) for parameter in model.parameters())


@EVERY_OPTIMIZER
def test_first_step_has_the_size_of_the_learning_rate(optimizer: str) -> None:
    """Adam's moments cancel at first: whatever the gradient's size, each weight moves by the
    rate.
    """
    model = make_model()
    before = copy_weights(model)
    give_gradients(model, seed=1)
    config = make_config(optimizer=optimizer)
    build_optimizer(model, config).step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        expected = before[name] - config.learning_rate * parameter.grad.sign()
        torch.testing.assert_close(parameter.detach(), expected, rtol=0.0, atol=1e-5)


@EVERY_OPTIMIZER
@pytest.mark.parametrize("num_good_steps", [0, 3])
def test_step_with_found_inf_changes_nothing(optimizer: str, num_good_steps: int) -> None:
    model = make_model()
    adam = build_optimizer(model, make_config(optimizer=optimizer, weight_decay=0.1))
    for step in range(num_good_steps):
        give_gradients(model, seed=step)
        adam.step()
    weights_before = copy_weights(model)
    state_before = {key: value.clone() for key, value in pack_optimizer(adam, model).items()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    adam.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    adam.step()
    assert_equal(copy_weights(model), weights_before)
    state = pack_optimizer(adam, model)
    if num_good_steps:
        assert_equal(state, state_before)
    else:  # the first step creates the state, as zeros
        assert not any(bool(value.any()) for value in state.values())


@EVERY_OPTIMIZER
def test_skipped_steps_do_not_affect_later_ones(optimizer: str) -> None:
    """Steps 1, 3 and 4 are done; steps 0 and 2 are absent from one model and skipped in the
    other.
    """
    weights = []
    for has_skipped_steps in (False, True):
        model = make_model()
        adam = build_optimizer(model, make_config(optimizer=optimizer, weight_decay=0.1))
        for step in range(5):
            is_skipped = step in (0, 2)
            if is_skipped and not has_skipped_steps:
                continue
            give_gradients(model, seed=step)
            if is_skipped:
                for parameter in model.parameters():
                    parameter.grad = torch.full_like(parameter, math.inf)
            adam.found_inf = torch.tensor(float(is_skipped))  # type: ignore[attr-defined]
            adam.step()
        weights.append(copy_weights(model))
    assert_equal(weights[1], weights[0])


@EVERY_OPTIMIZER
def test_unpacked_optimizer_continues_exactly(optimizer: str) -> None:
    config = make_config(optimizer=optimizer, weight_decay=0.1)
    model = make_model()
    adam = build_optimizer(model, config)
    for step in range(3):
        give_gradients(model, seed=step)
        adam.step()
    packed = {key: value.clone() for key, value in pack_optimizer(adam, model).items()}

    other_model = make_model()
    other_model.load_state_dict(model.state_dict())
    other_adam = build_optimizer(other_model, config)
    unpack_optimizer(other_adam, other_model, packed)
    assert_equal(pack_optimizer(other_adam, other_model), packed)
    give_gradients(model, seed=9)
    give_gradients(other_model, seed=9)
    adam.step()
    other_adam.step()
    assert_equal(copy_weights(other_model), copy_weights(model))


def test_packed_tensors_have_parameter_names() -> None:
    model = make_model()
    adam = build_optimizer(model, make_config())
    give_gradients(model, seed=1)
    adam.step()
    names = {name for name, _ in model.named_parameters()}
    expected = {f"{name}/{key}" for name in names for key in ("step", "exp_avg", "exp_avg_sq")}
    assert set(pack_optimizer(adam, model)) == expected


def test_unpack_accepts_an_optimizer_without_steps() -> None:
    model = make_model()
    adam = build_optimizer(model, make_config())
    unpack_optimizer(adam, model, {})
    assert pack_optimizer(adam, model) == {}


def test_unpack_refuses_tensors_of_another_model() -> None:
    model = make_model()
    adam = build_optimizer(model, make_config())
    give_gradients(model, seed=1)
    adam.step()
    packed = pack_optimizer(adam, model)
    wrong_shape = {**packed, "0.weight/exp_avg": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match=r"0\.weight/exp_avg has the shape .*2, 2"):
        unpack_optimizer(adam, model, wrong_shape)
    del packed["2.bias/step"]
    with pytest.raises(ValueError, match=r"2\.bias/step"):
        unpack_optimizer(adam, model, packed)


# Clipping


def joint_norm(model: nn.Module) -> float:
    return math.sqrt(
        sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
    )


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1.0, 1000.0])
def test_clipping_returns_the_norm_and_limits_it(max_norm: float) -> None:
    model = make_model()
    give_gradients(model, seed=1)
    before = joint_norm(model)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    norm = clip_gradients(model, max_norm)
    assert norm.shape == ()
    assert float(norm) == pytest.approx(before, rel=1e-5)
    limit = max_norm if 0.0 < max_norm < before else before
    assert joint_norm(model) == pytest.approx(limit, rel=1e-4)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(
            parameter.grad, gradient * (limit / before), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("max_norm", [0.0, 1.0, 1000.0])
def test_gradients_within_the_limit_are_unchanged(max_norm: float) -> None:
    model = make_model()
    give_gradients(model, seed=1)
    if max_norm == 1.0:
        for parameter in model.parameters():
            parameter.grad = 0.01 * torch.ones_like(parameter)
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    clip_gradients(model, max_norm)
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_norm_shows_one_non_finite_gradient(bad: float, max_norm: float) -> None:
    model = make_model()
    give_gradients(model, seed=1)
    last = list(model.parameters())[-1]
    assert last.grad is not None
    last.grad[0] = bad
    assert not math.isfinite(float(clip_gradients(model, max_norm)))


def test_parameters_without_gradient_are_ignored() -> None:
    model = make_model()
    give_gradients(model, seed=1)
    next(model.parameters()).grad = None
    assert float(clip_gradients(model, 0.0)) == pytest.approx(joint_norm(model), rel=1e-5)
