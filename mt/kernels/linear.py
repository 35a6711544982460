"""Linear layer on a CPU: oneDNN's matrix product, and a backward pass written by hand for bfloat16.

Reference formula, which the tests compare the kernel with:

    F.linear(x, weight, bias)

Why it exists: in float32, PyTorch computes this product with MKL, which does not use AVX-512 on AMD
processors. oneDNN does: 220 instead of 100 GFLOP/s on Zen 5. In bfloat16, oneDNN adds the bias
inside the product: 1.50 instead of 1.61 ms (256 to 256 channels), 2.80 instead of 3.07 ms (256 to
512), and with ReLU inside the product 5.8 instead of 6.2 ms (256 to 1,024), all on Zen 4. PyTorch
has this product only without a gradient, which is enough for translation, and for the backward pass
written here.

When it is used: `linear` uses oneDNN for tensors on a CPU while no gradient is recorded. `Linear`
uses the hand-written backward pass in training on a CPU under autocast (bfloat16). Everything else,
float32 training included, is `F.linear`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Looked up once, because torch.compile cannot trace these calls. `_linear_pointwise` is a private
# operator of PyTorch, so a version without it must still work.
HAS_ONEDNN: bool = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


class Linear(nn.Linear):
    """Linear layer like nn.Linear, with the fast product of this module."""

    # Factor on the range of the initial weights, relative to that of Glorot and Bengio (2010).
    gain = 1.0

    def forward(self, x: Tensor) -> Tensor:
        # The hand-written backward pass pays off in bfloat16 only.
        if not use_cpu_kernel(x) or not torch.is_autocast_enabled("cpu"):
            return linear(x, self.weight, self.bias)
        bias = None if self.bias is None else cast_for_autocast(self.bias)
        output: Tensor = _LinearFunction.apply(  # type: ignore[no-untyped-call]
            cast_for_autocast(x),
            cast_for_autocast(self.weight),
            bias,
        )
        return output


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str = "none"
) -> Tensor:
    """Return x @ weight.T + bias, followed by a ReLU if `activation` is "relu" (or "none").

    `x` is (..., d_in), `weight` is (d_out, d_in), `bias` is (d_out,); the result is (..., d_out).
    """
    if _can_use_onednn(x, weight):
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")
        return output
    product = F.linear(x, weight, bias)
    if activation == "relu":
        product.relu_()
    return product


def linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `x`, `weight` and the bias of a linear layer.

    `grad` (rows, d_out) is the gradient of the layer's output, `x` is (rows, d_in), `weight` is
    (d_out, d_in).
    """
    return grad @ weight, grad.t() @ x, grad.sum(0)


def cast_for_autocast(x: Tensor) -> Tensor:
    """Return `x` in the dtype that CPU autocast uses for products; without autocast, `x` itself."""
    if torch.is_autocast_enabled("cpu"):
        return x.to(torch.get_autocast_dtype("cpu"))
    return x


def use_cpu_kernel(x: Tensor) -> bool:
    """Return True if the hand-written backward passes apply to `x`: in training, on a CPU.

    Under torch.compile they do not: the compiler gets the plain PyTorch form.
    """
    return x.is_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _can_use_onednn(x: Tensor, weight: Tensor) -> bool:
    """Return True if oneDNN computes the same product as `F.linear` for these tensors."""
    if not HAS_ONEDNN or not x.is_cpu or torch.is_grad_enabled():
        return False
    if x.dtype != weight.dtype:
        return False
    if x.dtype is torch.float32:
        # Autocast would have `F.linear` compute in a lower precision.
        return not torch.is_autocast_enabled("cpu")
    return x.dtype is torch.bfloat16


class _LinearFunction(torch.autograd.Function):
    """Linear layer whose backward pass allows oneDNN's product in the forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat_grad = grads[0].flatten(0, -2)
        flat_x = x.flatten(0, -2)
        grad_x, grad_weight, grad_bias = linear_backward(flat_grad, flat_x, weight)
        has_bias = ctx.needs_input_grad[2]
        return grad_x.view(x.shape), grad_weight, grad_bias if has_bias else None
