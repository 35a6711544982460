"""The quick linear layer is PyTorch's own, but for last bits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mt.model.linear import Linear, linear


@pytest.mark.parametrize("shape", [(7, 12), (3, 5, 12), (1, 1, 12), (2, 3, 4, 12), (0, 12), (3, 0, 12)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_without_a_gradient_it_is_the_plain_product(shape: tuple[int, ...], has_bias: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(*size, generator=generator).to(dtype) for size in (shape, (9, 12), (9,)))
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias * has_bias), F.linear(x, weight, bias * has_bias))
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


def test_parts_and_transposes_of_tensors_are_read_as_they_lie() -> None:
    x, weight = torch.randn(12, 2, 7).transpose(0, 2)[1:, :, ::2], torch.randn(6, 18).t()[::2]
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


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


def test_autocast_still_chooses_the_precision() -> None:
    layer, x = Linear(12, 9), torch.randn(5, 12)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype is torch.bfloat16
