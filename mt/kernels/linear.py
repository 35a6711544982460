"""Linear layer.

Why the fast version exists: in float32, PyTorch computes this product with MKL, which does not use
AVX-512 on AMD processors. oneDNN does: 220 instead of 100 GFLOP/s on Zen 5. In bfloat16, oneDNN
adds the bias inside the product: 1.50 instead of 1.61 ms (256 to 256 channels), 2.80 instead of
3.07 ms (256 to 512), and with ReLU inside the product 5.8 instead of 6.2 ms (256 to 1,024), all on
Zen 4. PyTorch has this product only without a gradient. That is enough for translation, and for the
backward pass written here, which pays off in bfloat16 only.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mt.kernels.dispatch import use_fast_kernel

# `_linear_pointwise` is a private operator of PyTorch, so a version without it must still work.
HAS_ONEDNN: bool = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias, computed in the dtype of `x`.

    `x` is (..., d_in), `weight` is (d_out, d_in), `bias` is (d_out,); the result is (..., d_out).
    """
    weight = weight.to(x.dtype)
    if bias is not None:
        bias = bias.to(x.dtype)
    if use_fast_kernel(x):
        return fast(x, weight, bias)
    return reference(x, weight, bias)


def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the layer with plain PyTorch; all arguments have one dtype."""
    return F.linear(x, weight, bias)


def fast(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the layer with oneDNN where it can; all arguments have one dtype."""
    if not torch.is_grad_enabled():
        return product(x, weight, bias)
    if x.dtype is not torch.bfloat16:
        return F.linear(x, weight, bias)
    output: Tensor = _LinearFunction.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return output


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str = "none"
) -> Tensor:
    """Return x @ weight.T + bias without a gradient, followed by a ReLU if `activation` is "relu".

    The shapes are those of `linear`.
    """
    assert not torch.is_grad_enabled(), "oneDNN's product has no gradient"
    if HAS_ONEDNN and x.dtype in (torch.float32, torch.bfloat16):
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")
        return output
    output = F.linear(x, weight, bias)
    return output.relu_() if activation == "relu" else output


def backward_products(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `x`, `weight` and the bias of a linear layer.

    `grad` (rows, d_out) is the gradient of the layer's output, `x` is (rows, d_in), `weight` is
    (d_out, d_in).
    """
    return grad @ weight, grad.t() @ x, grad.sum(0)


class _LinearFunction(torch.autograd.Function):
    """Linear layer whose backward pass allows oneDNN's product in the forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat_grad = grads[0].flatten(0, -2)
        flat_x = x.flatten(0, -2)
        grad_x, grad_weight, grad_bias = backward_products(flat_grad, flat_x, weight)
        has_bias = ctx.needs_input_grad[2]
        return grad_x.view(x.shape), grad_weight, grad_bias if has_bias else None
