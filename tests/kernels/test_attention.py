"""Attention written out for a CPU is the two lines of its formula, and so is its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mt.kernels import attention as dot_product
from mt.kernels.attention import attend

ROWS, HEADS, QUERY_LENGTH, KEY_LENGTH, HEAD_DIM = 3, 2, 4, 5, 6
EVERYTHING = torch.ones(1, 1, 1, KEY_LENGTH, dtype=torch.bool)
CAUSAL = torch.ones(QUERY_LENGTH, KEY_LENGTH, dtype=torch.bool).tril(1)
PADDED = (torch.arange(KEY_LENGTH) < torch.tensor([[5], [3], [1]]))[:, None, None, :]
EVERY_MASK = pytest.mark.parametrize("mask", [EVERYTHING, CAUSAL, PADDED, CAUSAL & PADDED])


def inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys and values, of which a gradient is wanted."""
    generator = torch.Generator().manual_seed(1)
    lengths = [QUERY_LENGTH, KEY_LENGTH, KEY_LENGTH]
    shapes = [(ROWS, HEADS, length, HEAD_DIM) for length in lengths]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def plain(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaled: Tensor | None = None
) -> Tensor:
    """The formula; `scaled` (rows, heads, queries, keys) is what dropout multiplies the weights with."""
    scores = queries @ keys.mT / math.sqrt(HEAD_DIM)
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    return (weights if scaled is None else weights * scaled) @ values


def gradients(attended: Tensor, of: list[Tensor]) -> tuple[Tensor, ...]:
    """Of a sum in which each number counts differently."""
    upstream = torch.randn(attended.shape, generator=torch.Generator().manual_seed(2)).to(
        attended.dtype
    )
    return torch.autograd.grad(attended, of, upstream)


@EVERY_MASK
def test_it_is_the_formula_and_its_gradient_too(mask: Tensor) -> None:
    given = inputs()
    attended, expected = attend(*given, mask), plain(*given, mask)
    torch.testing.assert_close(attended, expected, atol=1e-12, rtol=1e-12)
    for one, other in zip(gradients(attended, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@EVERY_MASK
def test_the_gradient_is_what_small_steps_say(mask: Tensor) -> None:
    assert torch.autograd.gradcheck(lambda *given: attend(*given, mask), inputs())


@EVERY_MASK
def test_dropout_falls_on_the_weights(mask: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights lie with keys before queries, so what dropout draws does."""
    given, shape = inputs(), (ROWS * HEADS, KEY_LENGTH, QUERY_LENGTH)
    kept = torch.rand(shape, generator=torch.Generator().manual_seed(3)).lt(0.6).to(torch.int8)
    monkeypatch.setattr(
        dot_product, "draw_kept", lambda found, p: (kept.clone(), 1.5) if found == shape else None
    )
    scaled = 1.5 * kept.double().view(ROWS, HEADS, KEY_LENGTH, QUERY_LENGTH).mT
    attended, expected = attend(*given, mask, dropout=0.4), plain(*given, mask, scaled)
    torch.testing.assert_close(attended, expected, atol=1e-12, rtol=1e-12)
    for one, other in zip(gradients(attended, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_the_share_that_dropout_leaves_out_is_what_was_asked_for() -> None:
    """With one key and values of one, an output is 0 or 1 / (1 - p)."""
    queries, keys, values = (torch.ones(100, 4, length, 2) for length in (25, 1, 1))
    torch.manual_seed(1)
    attended = attend(queries, keys, values, torch.ones(1, dtype=torch.bool)[None], dropout=0.25)
    assert {round(value, 5) for value in attended.unique().tolist()} == {0.0, round(4 / 3, 5)}
    assert abs(float((attended[..., 0] == 0).double().mean()) - 0.25) < 5 * math.sqrt(
        0.25 * 0.75 / 10_000
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_a_narrower_format_it_stays_close(dtype: torch.dtype) -> None:
    exact, narrow = inputs(), inputs(dtype)
    attended, expected = attend(*narrow, CAUSAL), plain(*exact, CAUSAL)
    assert attended.dtype is dtype
    found = [attended, *gradients(attended, narrow)]
    for one, other in zip(found, [expected, *gradients(expected, exact)], strict=True):
        assert one.dtype is dtype
        error = (one.detach().double() - other.detach()).norm() / other.detach().norm()
        assert float(error) < 4 * torch.finfo(dtype).eps


def test_heads_that_are_slices_of_a_projection_are_taken_as_they_lie() -> None:
    given = inputs()
    slices = [
        tensor.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        for tensor in given
    ]
    attended, expected = attend(*slices, CAUSAL), attend(*given, CAUSAL)
    assert torch.equal(attended, expected)
    for one, other in zip(gradients(attended, slices), gradients(expected, given), strict=True):
        torch.testing.assert_close(one, other)


def test_what_it_was_given_stays_as_it_was() -> None:
    given = inputs()
    before = [tensor.detach().clone() for tensor in given]
    attend(*given, PADDED, dropout=0.5).sum().backward()
    for one, other in zip(given, before, strict=True):
        assert torch.equal(one, other)
