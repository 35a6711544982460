"""The quick form of additive scores is the plain one, and so is its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mt.kernels import additive
from mt.kernels.additive import additive_scores

ROWS, HEADS, QUERY_LENGTH, KEY_LENGTH, HEAD_DIM = 2, 3, 5, 4, 6
CHUNKS = [
    1,
    2 * ROWS * HEADS * KEY_LENGTH * HEAD_DIM,
    10**9,
]  # one query at a time, two (and one left over), all


def plain_scores(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    """The formula as it stands in the paper, with all pairs at once."""
    return ((queries.unsqueeze(3) + keys.unsqueeze(2)).tanh() * weight[:, None, None]).sum(-1)


def inputs(
    *, scale: float = 1.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and weight, of which a gradient is wanted."""
    generator = torch.Generator().manual_seed(1)
    shapes = [
        (ROWS, HEADS, QUERY_LENGTH, HEAD_DIM),
        (ROWS, HEADS, KEY_LENGTH, HEAD_DIM),
        (HEADS, HEAD_DIM),
    ]
    queries, keys, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return (
        (scale * queries).to(dtype).requires_grad_(),
        (scale * keys).to(dtype).requires_grad_(),
        weight.requires_grad_() if dtype is torch.float64 else weight.float().requires_grad_(),
    )


@pytest.fixture(params=CHUNKS)
def chunk_elements(request: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(additive, "CHUNK_ELEMENTS", {"cpu": request.param})
    return int(request.param)


@pytest.mark.usefixtures("chunk_elements")
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 30.0, 1000.0])
def test_the_quick_form_is_the_plain_one_and_its_gradient_too(scale: float) -> None:
    quick, plain = inputs(scale=scale), inputs(scale=scale)
    scores, expected = additive_scores(*quick), plain_scores(*plain)
    torch.testing.assert_close(scores, expected, atol=1e-12, rtol=1e-12)
    upstream = torch.randn(
        scores.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    scores.backward(upstream)
    expected.backward(upstream)
    for one, other in zip(quick, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-12, rtol=1e-12)


@pytest.mark.usefixtures("chunk_elements")
def test_the_gradient_is_what_small_steps_say() -> None:
    assert torch.autograd.gradcheck(additive_scores, inputs())


def test_heads_that_are_slices_of_a_projection_are_taken_as_they_lie() -> None:
    queries, keys, weight = inputs()
    sliced = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (queries, keys)]
    assert not sliced[0].is_contiguous()
    torch.testing.assert_close(
        additive_scores(*sliced, weight), plain_scores(queries, keys, weight)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_are_float32_whatever_the_queries_are_and_whatever_autocast_does(
    dtype: torch.dtype,
) -> None:
    queries, keys, weight = inputs(dtype=dtype)
    expected = plain_scores(queries.float(), keys.float(), weight)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            scores = additive_scores(queries, keys, weight)
        assert scores.dtype is torch.float32
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
        scores.sum().backward()
        for tensor in (queries, keys, weight):
            assert tensor.grad is not None
            assert tensor.grad.dtype is tensor.dtype


def test_nothing_the_size_of_all_pairs_is_kept_for_the_backward_pass() -> None:
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        additive_scores(*inputs())
        assert 0 < max(kept) <= ROWS * HEADS * max(QUERY_LENGTH, KEY_LENGTH) * HEAD_DIM
        plain_scores(*inputs())
        assert max(kept) == ROWS * HEADS * QUERY_LENGTH * KEY_LENGTH * HEAD_DIM, (
            "which the plain form does"
        )


def test_no_query_is_computed_together_with_more_than_a_chunk_of_keys(
    chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    sigmoids = additive._sigmoids

    def measured(*tensors: Tensor) -> Any:
        for chunk in sigmoids(*tensors):
            sizes.append(chunk[0].numel())
            yield chunk

    monkeypatch.setattr(additive, "_sigmoids", measured)
    additive_scores(*inputs()).sum().backward()
    keys = ROWS * HEADS * KEY_LENGTH * HEAD_DIM
    assert max(sizes) <= max(chunk_elements, keys)
    assert sum(sizes) == 2 * QUERY_LENGTH * keys, "once forward, once backward"


@pytest.mark.gpu
def test_a_gpu_scores_as_a_cpu_does() -> None:
    queries, keys, weight = inputs(dtype=torch.float32)
    on_gpu = [tensor.detach().cuda().requires_grad_() for tensor in (queries, keys, weight)]
    expected, scores = additive_scores(queries, keys, weight), additive_scores(*on_gpu)
    expected.square().sum().backward()
    scores.square().sum().backward()
    torch.testing.assert_close(scores.cpu(), expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(on_gpu, (queries, keys, weight), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.cpu(), other.grad, atol=1e-5, rtol=1e-4)
