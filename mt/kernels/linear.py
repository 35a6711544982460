"""A linear layer that a CPU computes as fast as it can."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Looked up once, since torch.compile cannot trace these calls. `_linear_pointwise` is a private operator
# of PyTorch, so a version without it must still work.
HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
HAS_ONEDNN = HAS_ONEDNN and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """nn.Linear, computed by `linear`, in bfloat16 in training too."""

    gain = 1.0  # how much larger its first weights are than Glorot and Bengio (2010) have them

    def forward(self, x: Tensor) -> Tensor:
        if not (use_cpu_kernel(x) and torch.is_autocast_enabled("cpu")):  # it pays in bfloat16
            return linear(x, self.weight, self.bias)
        bias = None if self.bias is None else cast_for_autocast(self.bias)
        return _Linear.apply(cast_for_autocast(x), cast_for_autocast(self.weight), bias)  # type: ignore[no-any-return,no-untyped-call]


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str = "none"
) -> Tensor:
    """`F.linear`: x @ weight.T + bias, and then perhaps a "relu".

    On a CPU in float32 PyTorch leaves it to MKL, which on AMD's processors makes no use of AVX-512. oneDNN does, and
    takes half the time; in bfloat16 it adds the bias on the way. PyTorch has it for this product without a gradient,
    which is enough to translate, and where the gradient is written out.
    """
    known = x.dtype is torch.bfloat16 or (
        x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")
    )
    if (
        not (HAS_ONEDNN and x.is_cpu and known and x.dtype == weight.dtype)
        or torch.is_grad_enabled()
    ):
        product = F.linear(x, weight, bias)
        return product.relu_() if activation == "relu" else product
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")  # type: ignore[no-any-return]


def linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `x` (rows, d_in), `weight` (d_out, d_in) and a bias, from that of the result (rows, d_out)."""
    return grad @ weight, grad.t() @ x, grad.sum(0)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = linear_backward(
            grads[0].flatten(0, -2), x.flatten(0, -2), weight
        )
        return grad_x.view(x.shape), grad_weight, grad_bias if ctx.needs_input_grad[2] else None


def cast_for_autocast(x: Tensor) -> Tensor:
    """`x` in the precision in which autocast on a CPU, where it is on, would have it multiplied."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def use_cpu_kernel(x: Tensor) -> bool:
    """Is a gradient wanted where it pays to have it written out by hand? A compiler is left the plain form."""
    return x.is_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling()
