"""Dropout silences the share of elements it was asked to, and leaves the mean alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mt.kernels.dropout import Dropout

NUM_ELEMENTS = 200_000
RATES = [0.05, 0.1, 0.3, 0.5, 0.9]


def drop(x: Tensor, p: float, *, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return Dropout(p).train()(x)


@pytest.mark.parametrize("p", RATES)
def test_the_share_of_zeros_is_p_within_five_standard_deviations(p: float) -> None:
    num_zeros = int((drop(torch.ones(NUM_ELEMENTS), p) == 0).sum())
    assert abs(num_zeros - p * NUM_ELEMENTS) < 5 * math.sqrt(NUM_ELEMENTS * p * (1 - p))


def rate_of(dropped: Tensor) -> float:
    """The rate that a call took, told by how it scaled up ones."""
    return 1.0 - 1.0 / float(dropped.max())


@pytest.mark.parametrize("p", RATES)
def test_what_is_kept_is_scaled_up_so_that_the_mean_stays(p: float) -> None:
    x = torch.randn(NUM_ELEMENTS, generator=torch.Generator().manual_seed(3)).add(2.0)
    rate = rate_of(drop(torch.ones(NUM_ELEMENTS), p))
    dropped = drop(x, p)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], x[kept] / (1 - rate), rtol=1e-5, atol=0.0)
    deviation = float(x.square().mean().sqrt()) * math.sqrt(p / (1 - p) / NUM_ELEMENTS)
    assert abs(float(dropped.mean() - x.mean())) < 5 * deviation


@pytest.mark.parametrize("p", [0.001, 0.1, 0.123456, 0.5])
def test_a_call_takes_one_of_the_two_rates_next_to_p_and_many_calls_take_p(p: float) -> None:
    module, ones = Dropout(p).train(), torch.ones(1000)
    torch.manual_seed(1)
    rates = torch.tensor([rate_of(module(ones)) for _ in range(2000)])
    assert bool((((rates * 256).round() - rates * 256).abs() < 1e-3).all())
    assert float((rates - p).abs().max()) < 1 / 256
    assert abs(float(rates.mean()) - p) < 5 * float(rates.std()) / math.sqrt(len(rates)) + 1e-6


def test_neighbours_are_dropped_independently() -> None:
    """Eight elements share one random word: no pair of them may fall together more often than chance has it."""
    dropped = (drop(torch.ones(NUM_ELEMENTS), 0.5) == 0).view(-1, 8).float()
    correlations = torch.corrcoef(dropped.t()) - torch.eye(8)
    assert float(correlations.abs().max()) < 5 / math.sqrt(len(dropped))


@pytest.mark.parametrize("p", RATES)
def test_the_gradient_goes_where_the_value_went(p: float) -> None:
    x = torch.rand(64, 33).add(0.5).requires_grad_()
    dropped = drop(x, p)
    dropped.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, dropped == 0)
    torch.testing.assert_close(x.grad * x, dropped)


def test_a_seed_repeats_it_and_another_does_not() -> None:
    x = torch.ones(1000)
    assert torch.equal(drop(x, 0.3, seed=7), drop(x, 0.3, seed=7))
    assert not torch.equal(drop(x, 0.3, seed=7), drop(x, 0.3, seed=8))


def test_each_call_draws_anew() -> None:
    module = Dropout(0.5).train()
    x = torch.ones(1000)
    assert not torch.equal(module(x), module(x))


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True), (0.0, False)])
def test_in_evaluation_or_without_a_rate_it_hands_back_what_it_got(
    p: float, training: bool
) -> None:
    x = torch.randn(10)
    before = torch.get_rng_state()
    assert Dropout(p).train(training)(x) is x
    assert torch.equal(torch.get_rng_state(), before), "randomness was drawn for nothing"


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (5, 7), (2, 3, 4, 5)])
def test_any_shape_comes_back_as_it_was(shape: tuple[int, ...]) -> None:
    assert drop(torch.ones(shape), 0.4).shape == shape


def test_a_transposed_tensor_is_dropped_element_by_element() -> None:
    x = torch.arange(1.0, 13.0).view(3, 4).t()
    dropped = drop(x, 0.5)
    assert bool(((dropped == 0) | (dropped == 2 * x)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_precision_stays(dtype: torch.dtype) -> None:
    dropped = drop(torch.ones(1000, dtype=dtype), 0.5)
    assert dropped.dtype is dtype
    assert set(dropped.tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("p", [1e-9, 0.999999])
def test_a_rate_next_to_zero_or_one_still_gives_numbers(p: float) -> None:
    assert bool(drop(torch.ones(100), p).isfinite().all())


@pytest.mark.gpu
def test_on_a_gpu_the_share_and_the_mean_are_the_same() -> None:
    dropped = drop(torch.ones(NUM_ELEMENTS, device="cuda"), 0.3)
    num_zeros = int((dropped == 0).sum())
    assert abs(num_zeros - 0.3 * NUM_ELEMENTS) < 5 * math.sqrt(NUM_ELEMENTS * 0.3 * 0.7)
    torch.testing.assert_close(
        dropped[dropped != 0], torch.full_like(dropped[dropped != 0], 1 / 0.7)
    )
