"""The quick linear layer is PyTorch's own, but for last bits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mt.kernels.linear import Linear, _Linear, linear


@pytest.mark.parametrize(
    "shape", [(7, 12), (3, 5, 12), (1, 1, 12), (2, 3, 4, 12), (0, 12), (3, 0, 12)], ids=str
)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_without_a_gradient_it_is_the_plain_product(
    shape: tuple[int, ...], has_bias: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight, bias = (
        torch.randn(*size, generator=generator).to(dtype) for size in (shape, (9, 12), (9,))
    )
    with torch.inference_mode():
        torch.testing.assert_close(
            linear(x, weight, bias * has_bias), F.linear(x, weight, bias * has_bias)
        )
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


def test_parts_and_transposes_of_tensors_are_read_as_they_lie() -> None:
    x, weight = torch.randn(12, 2, 7).transpose(0, 2)[1:, :, ::2], torch.randn(6, 18).t()[::2]
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_relu_is_what_it_was_asked_for(dtype: torch.dtype, autocast: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight, bias = (
        torch.randn(*size, generator=generator).to(dtype) for size in ((3, 5, 12), (9, 12), (9,))
    )
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        torch.testing.assert_close(
            linear(x, weight, bias, activation="relu"), F.linear(x, weight, bias).relu()
        )


def gradients(y: Tensor, x: Tensor, layer: torch.nn.Module) -> tuple[Tensor, ...]:
    """Of a sum in which each number counts differently."""
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)
    return torch.autograd.grad(y, [x, *layer.parameters()], upstream)


def test_a_layer_learns_as_a_plain_one_does() -> None:
    quick, plain = Linear(12, 9), torch.nn.Linear(12, 9)
    plain.load_state_dict(quick.state_dict())
    x = torch.randn(5, 12)
    for layer in (quick, plain):
        layer(x).square().sum().backward()
    assert torch.equal(quick(x), plain(x))
    assert quick.weight.grad is not None
    assert plain.weight.grad is not None
    assert torch.equal(quick.weight.grad, plain.weight.grad)


@pytest.mark.parametrize(
    "shape", [(7, 12), (3, 5, 12), (1, 1, 12), (2, 3, 4, 12), (3, 0, 12)], ids=str
)
@pytest.mark.parametrize("has_bias", [True, False])
def test_written_out_it_learns_as_a_plain_one_does(shape: tuple[int, ...], has_bias: bool) -> None:
    quick, plain = (
        kind(12, 9, bias=has_bias, dtype=torch.float64) for kind in (Linear, torch.nn.Linear)
    )
    plain.load_state_dict(quick.state_dict())
    x = torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    ).requires_grad_()
    y, expected = _Linear.apply(x, quick.weight, quick.bias), plain(x)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-12)
    for one, other in zip(gradients(y, x, quick), gradients(expected, x, plain), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("autocast", [False, True])
def test_autocast_still_chooses_the_precision(autocast: bool) -> None:
    torch.manual_seed(1)
    layer, exact = Linear(12, 9), torch.nn.Linear(12, 9, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(50, 12, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
        with torch.inference_mode():
            assert layer(x).dtype is y.dtype
    assert y.dtype is (torch.bfloat16 if autocast else torch.float32)
    expected = exact(wide)
    for one, other in zip(
        [y, *gradients(y, x, layer)], [expected, *gradients(expected, wide, exact)], strict=True
    ):
        assert one is y or one.dtype is torch.float32
        error = (one.detach().double() - other.detach()).norm() / other.detach().norm()
        assert float(error) < (0.01 if autocast else 1e-6)
