"""Tests of the fast linear layer: it equals F.linear, except for the last bits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mt.kernels.linear import Linear, _LinearFunction, linear

D_IN = 12
D_OUT = 9


def random_inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return x of this shape, a weight and a bias."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*shape, generator=generator).to(dtype)
    weight = torch.randn(D_OUT, D_IN, generator=generator).to(dtype)
    bias = torch.randn(D_OUT, generator=generator).to(dtype)
    return x, weight, bias


def gradients(y: Tensor, x: Tensor, layer: torch.nn.Module) -> tuple[Tensor, ...]:
    """Return the gradients of x and the parameters, for a sum of y with unequal weights."""
    generator = torch.Generator().manual_seed(3)
    grad_output = torch.randn(y.shape, generator=generator).to(y.dtype)
    return torch.autograd.grad(y, [x, *layer.parameters()], grad_output)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    difference = actual.detach().double() - expected.detach()
    return float(difference.norm() / expected.detach().norm())


@pytest.mark.parametrize(
    "shape", [(7, 12), (3, 5, 12), (1, 1, 12), (2, 3, 4, 12), (0, 12), (3, 0, 12)], ids=str
)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_without_gradient_equals_f_linear(
    shape: tuple[int, ...], has_bias: bool, dtype: torch.dtype
) -> None:
    x, weight, bias = random_inputs(shape, dtype)
    if not has_bias:
        bias = torch.zeros_like(bias)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


def test_strided_inputs_are_read_correctly() -> None:
    x = torch.randn(12, 2, 7).transpose(0, 2)[1:, :, ::2]
    weight = torch.randn(6, 18).t()[::2]
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_relu_is_applied(dtype: torch.dtype, autocast: bool) -> None:
    x, weight, bias = random_inputs((3, 5, 12), dtype)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = linear(x, weight, bias, activation="relu")
        torch.testing.assert_close(output, F.linear(x, weight, bias).relu())


def test_layer_trains_like_nn_linear() -> None:
    fast = Linear(D_IN, D_OUT)
    plain = torch.nn.Linear(D_IN, D_OUT)
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(5, D_IN)
    for layer in (fast, plain):
        layer(x).square().sum().backward()
    assert torch.equal(fast(x), plain(x))
    assert fast.weight.grad is not None
    assert plain.weight.grad is not None
    assert torch.equal(fast.weight.grad, plain.weight.grad)


@pytest.mark.parametrize(
    "shape", [(7, 12), (3, 5, 12), (1, 1, 12), (2, 3, 4, 12), (3, 0, 12)], ids=str
)
@pytest.mark.parametrize("has_bias", [True, False])
def test_backward_kernel_equals_nn_linear(shape: tuple[int, ...], has_bias: bool) -> None:
    fast = Linear(D_IN, D_OUT, bias=has_bias, dtype=torch.float64)
    plain = torch.nn.Linear(D_IN, D_OUT, bias=has_bias, dtype=torch.float64)
    plain.load_state_dict(fast.state_dict())
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    y = _LinearFunction.apply(x, fast.weight, fast.bias)  # type: ignore[no-untyped-call]
    expected = plain(x)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-12)
    fast_gradients = gradients(y, x, fast)
    plain_gradients = gradients(expected, x, plain)
    for fast_gradient, plain_gradient in zip(fast_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(fast_gradient, plain_gradient, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("autocast", [False, True])
def test_autocast_sets_the_precision(autocast: bool) -> None:
    torch.manual_seed(1)
    layer = Linear(D_IN, D_OUT)
    exact_layer = torch.nn.Linear(D_IN, D_OUT, dtype=torch.float64)
    exact_layer.load_state_dict(layer.state_dict())
    x = torch.randn(50, D_IN, requires_grad=True)
    exact_x = x.detach().double().requires_grad_()

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
        with torch.inference_mode():
            assert layer(x).dtype is y.dtype
    assert y.dtype is (torch.bfloat16 if autocast else torch.float32)

    exact_y = exact_layer(exact_x)
    largest_error = 0.01 if autocast else 1e-6
    assert relative_error(y, exact_y) < largest_error
    exact_gradients = gradients(exact_y, exact_x, exact_layer)
    for gradient, exact_gradient in zip(gradients(y, x, layer), exact_gradients, strict=True):
        assert gradient.dtype is torch.float32
        assert relative_error(gradient, exact_gradient) < largest_error
