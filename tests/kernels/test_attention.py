"""Tests of the attention kernel: outputs and gradients equal those of the formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mt.kernels.attention as attention_module
from mt.kernels.attention import dot_product_attention

ROWS = 3
NUM_HEADS = 2
QUERY_LENGTH = 4
KEY_LENGTH = 5
HEAD_DIM = 6

FULL = torch.ones(1, 1, 1, KEY_LENGTH, dtype=torch.bool)
CAUSAL = torch.ones(QUERY_LENGTH, KEY_LENGTH, dtype=torch.bool).tril(1)
PADDING = (torch.arange(KEY_LENGTH) < torch.tensor([[5], [3], [1]]))[:, None, None, :]
EVERY_MASK = pytest.mark.parametrize(
    "mask",
    [
        pytest.param(FULL, id="full"),
        pytest.param(CAUSAL, id="causal"),
        pytest.param(PADDING, id="padding"),
        pytest.param(CAUSAL & PADDING, id="causal-and-padding"),
    ],
)


def make_inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return queries, keys and values that require gradients."""
    generator = torch.Generator().manual_seed(1)
    inputs = []
    for length in (QUERY_LENGTH, KEY_LENGTH, KEY_LENGTH):
        tensor = torch.randn(ROWS, NUM_HEADS, length, HEAD_DIM, generator=generator)
        inputs.append(tensor.to(dtype).requires_grad_())
    return inputs


def reference(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    dropout_factors: Tensor | float = 1.0,
) -> Tensor:
    """Compute the formula; dropout multiplies the weights by `dropout_factors`."""
    scores = queries @ keys.mT / math.sqrt(HEAD_DIM)
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    return (weights * dropout_factors) @ values


def gradients(output: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of the inputs, for a sum of the output with unequal weights."""
    generator = torch.Generator().manual_seed(2)
    grad_output = torch.randn(output.shape, generator=generator).to(output.dtype)
    return torch.autograd.grad(output, inputs, grad_output)


def assert_equal_with_gradients(output: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=1e-12)
    actual_gradients = gradients(output, inputs)
    expected_gradients = gradients(expected, inputs)
    for actual, wanted in zip(actual_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-12, rtol=1e-12)


@EVERY_MASK
def test_equals_formula(mask: Tensor) -> None:
    inputs = make_inputs()
    output = dot_product_attention(*inputs, mask)
    assert_equal_with_gradients(output, reference(*inputs, mask), inputs)


@EVERY_MASK
def test_gradient_equals_numerical_gradient(mask: Tensor) -> None:
    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return dot_product_attention(queries, keys, values, mask)

    assert torch.autograd.gradcheck(attend, make_inputs())


@EVERY_MASK
def test_equals_formula_with_dropout(mask: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel stores its weights with keys before queries, and draws the mask in that shape."""
    mask_shape = (ROWS * NUM_HEADS, KEY_LENGTH, QUERY_LENGTH)
    generator = torch.Generator().manual_seed(3)
    keep_mask = torch.rand(mask_shape, generator=generator).lt(0.6).to(torch.int8)
    scale = 1.5

    def draw_keep_mask(shape: torch.Size, p: float) -> tuple[Tensor, float]:
        assert shape == mask_shape
        return keep_mask.clone(), scale

    monkeypatch.setattr(attention_module, "draw_keep_mask", draw_keep_mask)
    factors = scale * keep_mask.double().view(ROWS, NUM_HEADS, KEY_LENGTH, QUERY_LENGTH).mT
    inputs = make_inputs()
    output = dot_product_attention(*inputs, mask, dropout=0.4)
    assert_equal_with_gradients(output, reference(*inputs, mask, factors), inputs)


def test_share_of_dropped_weights_is_the_rate() -> None:
    """With one key and values of one, an output is 0 or 1 / (1 - p)."""
    queries = torch.ones(100, 4, 25, 2)
    keys = torch.ones(100, 4, 1, 2)
    values = torch.ones(100, 4, 1, 2)
    mask = torch.ones(1, 1, dtype=torch.bool)
    torch.manual_seed(1)
    output = dot_product_attention(queries, keys, values, mask, dropout=0.25)
    assert {round(value, 5) for value in output.unique().tolist()} == {0.0, round(4 / 3, 5)}
    share = float((output[..., 0] == 0).double().mean())
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 10_000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_lower_precision_stays_close(dtype: torch.dtype) -> None:
    exact_inputs = make_inputs()
    exact_output = reference(*exact_inputs, CAUSAL)
    inputs = make_inputs(dtype)
    output = dot_product_attention(*inputs, CAUSAL)
    actual_tensors = [output, *gradients(output, inputs)]
    exact_tensors = [exact_output, *gradients(exact_output, exact_inputs)]
    for actual, exact in zip(actual_tensors, exact_tensors, strict=True):
        assert actual.dtype is dtype
        difference = actual.detach().double() - exact.detach()
        error = float(difference.norm() / exact.detach().norm())
        assert error < 4 * torch.finfo(dtype).eps


def test_inputs_need_not_be_contiguous() -> None:
    inputs = make_inputs()
    strided_inputs = []
    for tensor in inputs:
        strided = tensor.detach().transpose(1, 2).contiguous().transpose(1, 2)
        assert not strided.is_contiguous()
        strided_inputs.append(strided.requires_grad_())
    output = dot_product_attention(*strided_inputs, CAUSAL)
    expected = dot_product_attention(*inputs, CAUSAL)
    assert torch.equal(output, expected)
    actual_gradients = gradients(output, strided_inputs)
    for actual, wanted in zip(actual_gradients, gradients(expected, inputs), strict=True):
        torch.testing.assert_close(actual, wanted)


def test_inputs_are_not_changed() -> None:
    inputs = make_inputs()
    copies = [tensor.detach().clone() for tensor in inputs]
    dot_product_attention(*inputs, PADDING, dropout=0.5).sum().backward()
    for tensor, copy in zip(inputs, copies, strict=True):
        assert torch.equal(tensor, copy)
