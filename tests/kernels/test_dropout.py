"""Tests of dropout: the share of zeros, the scale of the rest, and independence of the draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mt.model.layers import Dropout

NUM_ELEMENTS = 200_000
RATES = [0.05, 0.1, 0.3, 0.5, 0.9]


def drop(x: Tensor, p: float, *, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return Dropout(p).train()(x)


def drawn_rate(dropped_ones: Tensor) -> float:
    """Return the rate that a call used, from the scale of its output for an input of ones."""
    scale = float(dropped_ones.max())
    return 1.0 - 1.0 / scale


def assert_share_is(share: float, p: float, num_elements: int) -> None:
    """Check that the share of zeros is `p` within five standard deviations."""
    deviation = math.sqrt(p * (1 - p) / num_elements)
    assert abs(share - p) < 5 * deviation


@pytest.mark.parametrize("p", RATES)
def test_share_of_zeros_is_p(p: float) -> None:
    dropped = drop(torch.ones(NUM_ELEMENTS), p)
    num_zeros = int((dropped == 0).sum())
    assert_share_is(num_zeros / NUM_ELEMENTS, p, NUM_ELEMENTS)


@pytest.mark.parametrize("p", RATES)
def test_kept_elements_are_scaled_so_that_the_mean_stays(p: float) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(NUM_ELEMENTS, generator=generator).add(2.0)
    rate = drawn_rate(drop(torch.ones(NUM_ELEMENTS), p))
    dropped = drop(x, p)  # the same seed, so the same rate

    is_kept = dropped != 0
    torch.testing.assert_close(dropped[is_kept], x[is_kept] / (1 - rate), rtol=1e-5, atol=0.0)

    root_mean_square = float(x.square().mean().sqrt())
    deviation = root_mean_square * math.sqrt(p / (1 - p) / NUM_ELEMENTS)
    assert abs(float(dropped.mean() - x.mean())) < 5 * deviation


@pytest.mark.parametrize("p", [0.001, 0.1, 0.123456, 0.5])
def test_rates_are_multiples_of_1_256_with_mean_p(p: float) -> None:
    """Each call uses one of the two multiples of 1/256 next to `p`; their mean is `p`."""
    module = Dropout(p).train()
    ones = torch.ones(1000)
    torch.manual_seed(1)
    rates = torch.tensor([drawn_rate(module(ones)) for _ in range(2000)])

    distance_to_multiple = ((rates * 256).round() - rates * 256).abs()
    assert bool((distance_to_multiple < 1e-3).all())
    assert float((rates - p).abs().max()) < 1 / 256
    deviation_of_mean = float(rates.std()) / math.sqrt(len(rates))
    assert abs(float(rates.mean()) - p) < 5 * deviation_of_mean + 1e-6


def test_neighbors_are_dropped_independently() -> None:
    """Eight elements share one random word, but are not dropped together more often than chance."""
    dropped = drop(torch.ones(NUM_ELEMENTS), 0.5)
    is_zero = (dropped == 0).view(-1, 8).float()
    correlations = torch.corrcoef(is_zero.t()) - torch.eye(8)
    assert float(correlations.abs().max()) < 5 / math.sqrt(len(is_zero))


@pytest.mark.parametrize("p", RATES)
def test_gradient_has_the_mask_and_scale_of_the_output(p: float) -> None:
    x = torch.rand(64, 33).add(0.5).requires_grad_()
    dropped = drop(x, p)
    dropped.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, dropped == 0)
    torch.testing.assert_close(x.grad * x, dropped)


def test_mask_depends_on_the_seed() -> None:
    x = torch.ones(1000)
    assert torch.equal(drop(x, 0.3, seed=7), drop(x, 0.3, seed=7))
    assert not torch.equal(drop(x, 0.3, seed=7), drop(x, 0.3, seed=8))


def test_each_call_draws_a_new_mask() -> None:
    module = Dropout(0.5).train()
    x = torch.ones(1000)
    assert not torch.equal(module(x), module(x))


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True), (0.0, False)])
def test_without_dropout_the_input_is_returned(p: float, training: bool) -> None:
    x = torch.randn(10)
    random_state = torch.get_rng_state()
    assert Dropout(p).train(training)(x) is x
    assert torch.equal(torch.get_rng_state(), random_state), "random numbers were drawn"


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (5, 7), (2, 3, 4, 5)])
def test_shape_is_kept(shape: tuple[int, ...]) -> None:
    assert drop(torch.ones(shape), 0.4).shape == shape


def test_transposed_tensor_is_dropped_by_element() -> None:
    x = torch.arange(1.0, 13.0).view(3, 4).t()
    dropped = drop(x, 0.5)
    is_zero_or_scaled = (dropped == 0) | (dropped == 2 * x)
    assert bool(is_zero_or_scaled.all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    dropped = drop(torch.ones(1000, dtype=dtype), 0.5)
    assert dropped.dtype is dtype
    assert set(dropped.tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("p", [1e-9, 0.999999])
def test_extreme_rates_give_finite_numbers(p: float) -> None:
    assert bool(drop(torch.ones(100), p).isfinite().all())


@pytest.mark.gpu
def test_gpu_drops_the_same_share_with_the_same_mean() -> None:
    dropped = drop(torch.ones(NUM_ELEMENTS, device="cuda"), 0.3)
    num_zeros = int((dropped == 0).sum())
    assert_share_is(num_zeros / NUM_ELEMENTS, 0.3, NUM_ELEMENTS)
    kept = dropped[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.7))
