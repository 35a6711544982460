"""Tests of RMSNorm; test_equivalence.py compares its two versions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mt.model.layers import RMSNorm

WIDTH = 6


def make_input(*, size: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = size * torch.randn(2, 3, WIDTH, generator=generator, dtype=torch.float64)
    return x.requires_grad_()


def make_norm() -> RMSNorm:
    norm = RMSNorm(WIDTH).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, WIDTH))
    return norm


def output_and_gradients(norm: nn.Module, x: Tensor) -> list[Tensor]:
    output = norm(x)
    weights = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).view_as(output)
    return [output.detach(), *torch.autograd.grad(output, [x, *norm.parameters()], weights)]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("size", [1.0, 1e-3])  # the small one shows an error in epsilon
def test_norm_equals_that_of_pytorch(size: float) -> None:
    norm = make_norm()
    pytorch_norm = nn.RMSNorm(WIDTH, eps=1e-5, dtype=torch.float64)
    pytorch_norm.load_state_dict(norm.state_dict())
    x = make_input(size=size)
    actual = output_and_gradients(norm, x)
    expected = output_and_gradients(pytorch_norm, x)
    for actual_tensor, expected_tensor in zip(actual, expected, strict=True):
        torch.testing.assert_close(actual_tensor, expected_tensor, atol=1e-10, rtol=1e-10)


@pytest.mark.usefixtures("kernels")
def test_norm_equals_its_formula() -> None:
    x = make_input(size=1e-3)
    norm = make_norm()
    for vector, output in zip(x.view(-1, WIDTH), norm(x).view(-1, WIDTH), strict=True):
        mean_square = sum(float(number) ** 2 for number in vector.detach()) / WIDTH
        expected = vector / (mean_square + 1e-5) ** 0.5 * norm.weight
        torch.testing.assert_close(output, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.usefixtures("kernels")
def test_zeros_stay_zeros_with_finite_gradients() -> None:
    """Padding or dropout can make a vector of zeros."""
    x = torch.zeros(1, 2, WIDTH, requires_grad=True)
    norm = RMSNorm(WIDTH)
    output = norm(x)
    output.sum().backward()
    assert not output.any()
    assert x.grad is not None
    assert x.grad.isfinite().all()
