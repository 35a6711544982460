"""Tests of the additive scores; test_equivalence.py compares their two versions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mt.kernels import additive
from mt.kernels.additive import additive_scores

ROWS = 2
NUM_HEADS = 3
QUERY_LENGTH = 5
KEY_LENGTH = 4
HEAD_DIM = 6

ELEMENTS_PER_QUERY = ROWS * NUM_HEADS * KEY_LENGTH * HEAD_DIM
CHUNK_ELEMENTS = [
    pytest.param(1, id="one-query"),
    pytest.param(2 * ELEMENTS_PER_QUERY, id="two-queries"),  # the last chunk has one
    pytest.param(10**9, id="all-queries"),
]


def reference(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    """Compute the formula of the paper, for all pairs at once."""
    return ((queries.unsqueeze(3) + keys.unsqueeze(2)).tanh() * weight[:, None, None]).sum(-1)


def make_inputs(
    *, scale: float = 1.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and weight that require gradients; the weight is float32 or float64."""
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(
        ROWS, NUM_HEADS, QUERY_LENGTH, HEAD_DIM, generator=generator, dtype=torch.float64
    )
    keys = torch.randn(
        ROWS, NUM_HEADS, KEY_LENGTH, HEAD_DIM, generator=generator, dtype=torch.float64
    )
    weight = torch.randn(NUM_HEADS, HEAD_DIM, generator=generator, dtype=torch.float64)
    weight_dtype = torch.float64 if dtype is torch.float64 else torch.float32
    return (
        (scale * queries).to(dtype).requires_grad_(),
        (scale * keys).to(dtype).requires_grad_(),
        weight.to(weight_dtype).requires_grad_(),
    )


@pytest.fixture(params=CHUNK_ELEMENTS)
def chunk_elements(request: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(additive, "CHUNK_ELEMENTS", request.param)
    return int(request.param)


@pytest.mark.usefixtures("chunk_elements")
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 30.0, 1000.0])
def test_equals_formula(scale: float) -> None:
    inputs = make_inputs(scale=scale)
    reference_inputs = make_inputs(scale=scale)
    scores = additive_scores(*inputs)
    expected = reference(*reference_inputs)
    torch.testing.assert_close(scores, expected, atol=1e-12, rtol=1e-12)

    generator = torch.Generator().manual_seed(2)
    grad_scores = torch.randn(scores.shape, generator=generator, dtype=torch.float64)
    scores.backward(grad_scores)
    expected.backward(grad_scores)
    for tensor, reference_tensor in zip(inputs, reference_inputs, strict=True):
        torch.testing.assert_close(tensor.grad, reference_tensor.grad, atol=1e-12, rtol=1e-12)


@pytest.mark.usefixtures("chunk_elements")
def test_gradient_equals_numerical_gradient() -> None:
    assert torch.autograd.gradcheck(additive_scores, make_inputs())


def test_inputs_need_not_be_contiguous() -> None:
    queries, keys, weight = make_inputs()
    strided_queries = queries.transpose(1, 2).contiguous().transpose(1, 2)
    strided_keys = keys.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided_queries.is_contiguous()
    scores = additive_scores(strided_queries, strided_keys, weight)
    torch.testing.assert_close(scores, reference(queries, keys, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_are_float32_whatever_the_inputs_are(dtype: torch.dtype) -> None:
    queries, keys, weight = make_inputs(dtype=dtype)
    expected = reference(queries.float(), keys.float(), weight)
    scores = additive_scores(queries, keys, weight)
    assert scores.dtype is torch.float32
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    scores.sum().backward()
    for tensor in (queries, keys, weight):
        assert tensor.grad is not None
        assert tensor.grad.dtype is tensor.dtype


def test_no_numbers_of_pairs_are_kept_for_backward() -> None:
    saved_sizes: list[int] = []

    def record_size(tensor: Tensor) -> Tensor:
        saved_sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record_size, lambda tensor: tensor):
        additive_scores(*make_inputs())
        largest_input = ROWS * NUM_HEADS * max(QUERY_LENGTH, KEY_LENGTH) * HEAD_DIM
        assert 0 < max(saved_sizes) <= largest_input
        # The formula does keep them, so the recording works.
        reference(*make_inputs())
        assert max(saved_sizes) == QUERY_LENGTH * ELEMENTS_PER_QUERY


def test_chunks_are_not_larger_than_the_limit(
    chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    pair_sigmoids = additive._pair_sigmoids

    def measured_pair_sigmoids(queries: Tensor, keys: Tensor) -> Tensor:
        sigmoids = pair_sigmoids(queries, keys)
        sizes.append(sigmoids.numel())
        return sigmoids

    monkeypatch.setattr(additive, "_pair_sigmoids", measured_pair_sigmoids)
    additive_scores(*make_inputs()).sum().backward()
    assert max(sizes) <= max(chunk_elements, ELEMENTS_PER_QUERY)
    # All pairs once in the forward pass and once in the backward pass.
    assert sum(sizes) == 2 * QUERY_LENGTH * ELEMENTS_PER_QUERY


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    cpu_inputs = make_inputs(dtype=torch.float32)
    gpu_inputs = [tensor.detach().cuda().requires_grad_() for tensor in cpu_inputs]
    expected = additive_scores(*cpu_inputs)
    scores = additive_scores(*gpu_inputs)
    expected.square().sum().backward()
    scores.square().sum().backward()
    torch.testing.assert_close(scores.cpu(), expected, atol=1e-5, rtol=1e-5)
    for gpu_tensor, cpu_tensor in zip(gpu_inputs, cpu_inputs, strict=True):
        assert gpu_tensor.grad is not None
        torch.testing.assert_close(gpu_tensor.grad.cpu(), cpu_tensor.grad, atol=1e-5, rtol=1e-4)
