"""Tests of dot-product attention; test_equivalence.py compares its two versions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

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


def gradients(output: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of the inputs, for a sum of the output with unequal weights."""
    generator = torch.Generator().manual_seed(2)
    grad_output = torch.randn(output.shape, generator=generator).to(output.dtype)
    return torch.autograd.grad(output, inputs, grad_output)


@EVERY_MASK
def test_gradient_equals_numerical_gradient(mask: Tensor) -> None:
    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return dot_product_attention(queries, keys, values, mask)

    assert torch.autograd.gradcheck(attend, make_inputs())


@pytest.mark.usefixtures("kernels")
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
