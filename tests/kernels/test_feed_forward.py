"""Tests of the feed-forward kernel: outputs and gradients equal those of the formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mt.kernels.feed_forward as feed_forward_module
from mt.kernels.feed_forward import feed_forward
from mt.kernels.linear import Linear

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


def reference(
    x: Tensor, inner: Linear, outer: Linear, dropout_factors: Tensor | float = 1.0
) -> Tensor:
    """Compute the formula; dropout multiplies the hidden states by `dropout_factors`."""
    hidden = (x @ inner.weight.t() + inner.bias).relu() * dropout_factors
    return hidden @ outer.weight.t() + outer.bias


def gradients(y: Tensor, x: Tensor, inner: Linear, outer: Linear) -> tuple[Tensor, ...]:
    """Return the gradients of x and all parameters, for a sum of y with unequal weights."""
    generator = torch.Generator().manual_seed(3)
    grad_output = torch.randn(y.shape, generator=generator).to(y.dtype)
    return torch.autograd.grad(y, [x, *inner.parameters(), *outer.parameters()], grad_output)


def fix_dropout_mask(monkeypatch: pytest.MonkeyPatch, *, scale: float = 1.5) -> Tensor:
    """Make dropout use a fixed mask; return the factors that it multiplies by, (*SHAPE, D_FF)."""
    generator = torch.Generator().manual_seed(4)
    keep_mask = torch.rand(*SHAPE, D_FF, generator=generator).lt(0.6).to(torch.int8)

    def draw_keep_mask(shape: torch.Size, p: float) -> tuple[Tensor, float]:
        assert shape == keep_mask.shape
        return keep_mask.clone(), scale

    monkeypatch.setattr(feed_forward_module, "draw_keep_mask", draw_keep_mask)
    return scale * keep_mask.double()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    difference = actual.detach().double() - expected.detach()
    return float(difference.norm() / expected.detach().norm())


def assert_equals_reference(dropout: float, dropout_factors: Tensor | float) -> None:
    x = make_input()
    inner, outer = make_layers()
    y = feed_forward(x, inner, outer, dropout=dropout)
    expected = reference(x, inner, outer, dropout_factors)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-12)
    actual_gradients = gradients(y, x, inner, outer)
    expected_gradients = gradients(expected, x, inner, outer)
    for actual, wanted in zip(actual_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-12, rtol=1e-12)


def test_equals_formula_without_dropout() -> None:
    assert_equals_reference(dropout=0.0, dropout_factors=1.0)


def test_equals_formula_with_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    dropout_factors = fix_dropout_mask(monkeypatch)
    assert_equals_reference(dropout=0.4, dropout_factors=dropout_factors)


def test_no_random_numbers_are_drawn_without_dropout() -> None:
    inner, outer = make_layers()
    random_state = torch.get_rng_state()
    feed_forward(make_input(), inner, outer, dropout=0.0).sum().backward()
    assert torch.equal(torch.get_rng_state(), random_state)


def test_share_of_dropped_elements_is_the_rate() -> None:
    """Every hidden element is one and has its own output, which is 0 or 1 / (1 - p)."""
    inner = Linear(D_MODEL, D_MODEL)
    outer = Linear(D_MODEL, D_MODEL)
    torch.nn.init.eye_(inner.weight)
    torch.nn.init.eye_(outer.weight)
    torch.nn.init.constant_(inner.bias, 1.0)
    torch.nn.init.constant_(outer.bias, 0.0)
    torch.manual_seed(1)
    y = feed_forward(torch.zeros(100, 100, D_MODEL), inner, outer, dropout=0.25)
    assert {round(value, 5) for value in y.unique().tolist()} == {0.0, round(4 / 3, 5)}
    share = float((y == 0).double().mean())
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / y.numel())


@pytest.mark.parametrize("autocast", [False, True])
def test_autocast_sets_the_precision(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    dropout_factors = fix_dropout_mask(monkeypatch)
    x = make_input(torch.float32)
    layers = make_layers(torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = feed_forward(x, *layers, dropout=0.4)
    assert y.dtype is (torch.bfloat16 if autocast else torch.float32)

    exact_x = make_input()
    exact_layers = make_layers()
    exact_y = reference(exact_x, *exact_layers, dropout_factors)
    largest_error = 0.02 if autocast else 1e-6
    assert relative_error(y, exact_y) < largest_error
    actual_gradients = gradients(y, x, *layers)
    exact_gradients = gradients(exact_y, exact_x, *exact_layers)
    for actual, exact in zip(actual_gradients, exact_gradients, strict=True):
        assert actual.dtype is torch.float32
        assert relative_error(actual, exact) < largest_error


def test_inputs_are_not_changed() -> None:
    x = make_input()
    inner, outer = make_layers()
    inputs = [x, *inner.parameters(), *outer.parameters()]
    copies = [tensor.detach().clone() for tensor in inputs]
    feed_forward(x, inner, outer, dropout=0.5).sum().backward()
    for tensor, copy in zip(inputs, copies, strict=True):
        assert torch.equal(tensor, copy)
