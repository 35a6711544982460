"""Tests of the linear layer; test_equivalence.py compares its two versions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mt.kernels.linear import linear, linear_without_gradient
from mt.model.layers import Linear

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


def test_strided_inputs_are_read_correctly() -> None:
    x = torch.randn(12, 2, 7).transpose(0, 2)[1:, :, ::2]
    weight = torch.randn(6, 18).t()[::2]
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_product_applies_relu(dtype: torch.dtype) -> None:
    x, weight, bias = random_inputs((3, 5, 12), dtype)
    with torch.inference_mode():
        output = linear_without_gradient(x, weight, bias, activation="relu")
        torch.testing.assert_close(output, F.linear(x, weight, bias).relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_without_onednn_is_the_same(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a processor without bf16, where oneDNN's operator raises an error."""
    x, weight, bias = random_inputs((3, 5, 12), dtype)
    for activation in ("none", "relu"):
        with torch.inference_mode():
            expected = linear_without_gradient(x, weight, bias, activation=activation)
            with monkeypatch.context() as patch:
                patch.setattr("mt.kernels.linear.ONEDNN_DTYPES", ())
                output = linear_without_gradient(x, weight, bias, activation=activation)
        torch.testing.assert_close(output, expected)


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
    ("dtype", "largest_error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)]
)
def test_input_sets_the_precision(dtype: torch.dtype, largest_error: float) -> None:
    """The weights are float32, and so are their gradients."""
    torch.manual_seed(1)
    layer = Linear(D_IN, D_OUT)
    exact_layer = torch.nn.Linear(D_IN, D_OUT, dtype=torch.float64)
    exact_layer.load_state_dict(layer.state_dict())
    x = torch.randn(50, D_IN, requires_grad=True)
    exact_x = x.detach().double().requires_grad_()

    y = layer(x.to(dtype))
    with torch.inference_mode():
        assert layer(x.to(dtype)).dtype is dtype
    assert y.dtype is dtype

    exact_y = exact_layer(exact_x)
    assert relative_error(y, exact_y) < largest_error
    exact_gradients = gradients(exact_y, exact_x, exact_layer)
    for gradient, exact_gradient in zip(gradients(y, x, layer), exact_gradients, strict=True):
        assert gradient.dtype is torch.float32
        assert relative_error(gradient, exact_gradient) < largest_error
