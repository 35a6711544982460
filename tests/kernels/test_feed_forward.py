"""The feed-forward layer written out for a CPU is the one line of its formula, and so is its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mt.kernels.feed_forward as module
from mt.kernels.feed_forward import feed_forward
from mt.kernels.linear import Linear

SHAPE, D_MODEL, D_FF = (3, 5), 6, 8


def layers(dtype: torch.dtype = torch.float64) -> tuple[Linear, Linear]:
    torch.manual_seed(1)
    inner, outer = Linear(D_MODEL, D_FF).to(dtype), Linear(D_FF, D_MODEL).to(dtype)
    return inner, outer


def some_input(dtype: torch.dtype = torch.float64) -> Tensor:
    return (
        torch.randn(*SHAPE, D_MODEL, generator=torch.Generator().manual_seed(2))
        .to(dtype)
        .requires_grad_()
    )


def plain(x: Tensor, inner: Linear, outer: Linear, scaled: Tensor | float = 1.0) -> Tensor:
    """The formula; `scaled` (*SHAPE, D_FF) is what dropout multiplies with."""
    hidden = (x @ inner.weight.t() + inner.bias).relu() * scaled
    return hidden @ outer.weight.t() + outer.bias


def gradients(y: Tensor, x: Tensor, inner: Linear, outer: Linear) -> tuple[Tensor, ...]:
    """Of a sum in which each number counts differently."""
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)
    return torch.autograd.grad(y, [x, *inner.parameters(), *outer.parameters()], upstream)


def draw(monkeypatch: pytest.MonkeyPatch, *, scale: float = 1.5) -> Tensor:
    """Have dropout keep certain elements: what it multiplies with."""
    kept = (
        torch.rand(*SHAPE, D_FF, generator=torch.Generator().manual_seed(4)).lt(0.6).to(torch.int8)
    )
    monkeypatch.setattr(
        module, "draw_kept", lambda shape, p: (kept.clone(), scale) if shape == kept.shape else None
    )
    return scale * kept.double()


def test_without_dropout_it_is_the_formula_and_its_gradient_too() -> None:
    x, pair = some_input(), layers()
    y, expected = feed_forward(x, *pair, dropout=0.0), plain(x, *pair)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-12)
    for one, other in zip(gradients(y, x, *pair), gradients(expected, x, *pair), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_without_dropout_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    feed_forward(some_input(), *layers(), dropout=0.0).sum().backward()
    assert torch.equal(torch.get_rng_state(), before), "randomness was drawn for nothing"


def test_with_dropout_it_is_the_formula_and_its_gradient_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, pair, scaled = some_input(), layers(), draw(monkeypatch)
    y, expected = feed_forward(x, *pair, dropout=0.4), plain(x, *pair, scaled)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-12)
    for one, other in zip(gradients(y, x, *pair), gradients(expected, x, *pair), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_the_share_that_dropout_leaves_out_is_what_was_asked_for() -> None:
    """Every hidden element is one, and each has an output to itself."""
    inner, outer = Linear(D_MODEL, D_MODEL), Linear(D_MODEL, D_MODEL)
    for layer, bias in ((inner, 1.0), (outer, 0.0)):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.constant_(layer.bias, bias)
    torch.manual_seed(1)
    y = feed_forward(torch.zeros(100, 100, D_MODEL), inner, outer, dropout=0.25)
    assert {round(value, 5) for value in y.unique().tolist()} == {0.0, round(4 / 3, 5)}
    assert abs(float((y == 0).double().mean()) - 0.25) < 5 * math.sqrt(0.25 * 0.75 / y.numel())


@pytest.mark.parametrize("autocast", [False, True])
def test_autocast_still_chooses_the_precision(
    autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, exact, pair, scaled = (
        some_input(torch.float32),
        layers(),
        layers(torch.float32),
        draw(monkeypatch),
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = feed_forward(x, *pair, dropout=0.4)
    assert y.dtype is (torch.bfloat16 if autocast else torch.float32)
    wide = some_input()
    expected = plain(wide, *exact, scaled)
    found = [y, *gradients(y, x, *pair)]
    for one, other in zip(found, [expected, *gradients(expected, wide, *exact)], strict=True):
        assert one is y or one.dtype is torch.float32
        error = (one.detach().double() - other.detach()).norm() / other.detach().norm()
        assert float(error) < (0.02 if autocast else 1e-6)


def test_what_it_was_given_stays_as_it_was() -> None:
    x, (inner, outer) = some_input(), layers()
    given = [x, *inner.parameters(), *outer.parameters()]
    before = [tensor.detach().clone() for tensor in given]
    feed_forward(x, inner, outer, dropout=0.5).sum().backward()
    for one, other in zip(given, before, strict=True):
        assert torch.equal(one, other)
