"""Tests of the feed-forward layer; test_equivalence.py compares its two versions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mt.kernels.dropout import DropoutMask, draw_mask
from mt.kernels.feed_forward import feed_forward
from mt.model.layers import Linear

SHAPE = (3, 5)
D_MODEL = 6
D_FF = 8


def make_layers(dtype: torch.dtype = torch.float64) -> tuple[Linear, Linear]:
    torch.manual_seed(1)
    inner = Linear(D_MODEL, D_FF).to(dtype)
    outer = Linear(D_FF, D_MODEL).to(dtype)
    return inner, outer


def make_input(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(*SHAPE, D_MODEL, generator=generator).to(dtype).requires_grad_()


def apply(x: Tensor, inner: Linear, outer: Linear, *, dropout: float | DropoutMask = 0.0) -> Tensor:
    weights = (inner.weight, inner.bias, outer.weight, outer.bias)
    return feed_forward(x, *weights, dropout=dropout)


def reference(x: Tensor, inner: Linear, outer: Linear, dropout_factors: Tensor) -> Tensor:
    """Compute the formula; dropout multiplies the hidden states by `dropout_factors`."""
    hidden = (x @ inner.weight.t() + inner.bias).relu() * dropout_factors
    return hidden @ outer.weight.t() + outer.bias


def gradients(y: Tensor, x: Tensor, inner: Linear, outer: Linear) -> tuple[Tensor, ...]:
    """Return the gradients of x and all parameters, for a sum of y with unequal weights."""
    generator = torch.Generator().manual_seed(3)
    grad_output = torch.randn(y.shape, generator=generator).to(y.dtype)
    return torch.autograd.grad(y, [x, *inner.parameters(), *outer.parameters()], grad_output)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    difference = actual.detach().double() - expected.detach()
    return float(difference.norm() / expected.detach().norm())


@pytest.mark.usefixtures("kernels")
def test_no_random_numbers_are_drawn_without_dropout() -> None:
    inner, outer = make_layers()
    random_state = torch.get_rng_state()
    apply(make_input(), inner, outer, dropout=0.0).sum().backward()
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.usefixtures("kernels")
def test_share_of_dropped_elements_is_the_rate() -> None:
    """Every hidden element is one and has its own output, which is 0 or 1 / (1 - p)."""
    inner = Linear(D_MODEL, D_MODEL)
    outer = Linear(D_MODEL, D_MODEL)
    torch.nn.init.eye_(inner.weight)
    torch.nn.init.eye_(outer.weight)
    torch.nn.init.constant_(inner.bias, 1.0)
    torch.nn.init.constant_(outer.bias, 0.0)
    torch.manual_seed(1)
    y = apply(torch.zeros(100, 100, D_MODEL), inner, outer, dropout=0.25)
    assert {round(value, 5) for value in y.unique().tolist()} == {0.0, round(4 / 3, 5)}
    share = float((y == 0).double().mean())
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / y.numel())


@pytest.mark.parametrize(
    ("dtype", "largest_error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)]
)
def test_input_sets_the_precision(dtype: torch.dtype, largest_error: float) -> None:
    """The weights are float32, and so are their gradients."""
    torch.manual_seed(4)
    mask = draw_mask(torch.Size((*SHAPE, D_FF)), 0.4)
    x = make_input(torch.float32)
    layers = make_layers(torch.float32)
    y = apply(x.to(dtype), *layers, dropout=mask)
    assert y.dtype is dtype

    exact_x = make_input()
    exact_layers = make_layers()
    exact_y = reference(exact_x, *exact_layers, mask.factors(torch.float64))
    assert relative_error(y, exact_y) < largest_error
    actual_gradients = gradients(y, x, *layers)
    exact_gradients = gradients(exact_y, exact_x, *exact_layers)
    for actual, exact in zip(actual_gradients, exact_gradients, strict=True):
        assert actual.dtype is torch.float32
        assert relative_error(actual, exact) < largest_error
