"""Feed-forward layer: two linear layers with an activation and dropout between them.

Why there is a fast version (for ReLU only): ReLU and dropout run in place on the output of the
first linear layer, and no masks are kept for the backward pass. An element that ReLU or dropout set
to zero gets no gradient, and any other element is positive, so the mask of the gradient is
`hidden > 0`. The scale of dropout is applied to the second weight matrix, which has fewer
elements than the hidden states. Without this version, an update takes 1 to 5 % more time
(docs/log.md, "Kernels, one at a time").
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mt.kernels.dispatch import use_fast_kernel
from mt.kernels.dropout import DropoutMask, apply_dropout, as_mask
from mt.kernels.linear import linear, linear_without_gradient


def feed_forward(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    activation: Callable[[Tensor], Tensor] = F.relu,
    dropout: float | DropoutMask = 0.0,
) -> Tensor:
    """Return dropout(activation(x @ w1.T + b1)) @ w2.T + b2, computed in the dtype of `x`.

    `x` and the result are (rows, length, d_model), `w1` is (d_ff, d_model), `w2` is (d_model,
    d_ff).
    """
    if activation is F.relu and use_fast_kernel(x):
        return fast(x, w1, b1, w2, b2, dropout=dropout)
    return reference(x, w1, b1, w2, b2, activation=activation, dropout=dropout)


def reference(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    activation: Callable[[Tensor], Tensor] = F.relu,
    dropout: float | DropoutMask = 0.0,
) -> Tensor:
    """Compute the layer step by step."""
    hidden = activation(linear(x, w1, b1))  # (rows, length, d_ff)
    return linear(apply_dropout(hidden, dropout), w2, b2)


def fast(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    dropout: float | DropoutMask = 0.0,
) -> Tensor:
    """Compute the layer with ReLU on a CPU."""
    mask = as_mask(dropout, torch.Size((*x.shape[:-1], w1.size(0))))
    output: Tensor = _FeedForwardFunction.apply(  # type: ignore[no-untyped-call]
        x, w1.to(x.dtype), b1.to(x.dtype), w2.to(x.dtype), b2.to(x.dtype), mask
    )
    return output


class _FeedForwardFunction(torch.autograd.Function):
    """Two linear layers with ReLU and dropout between them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        mask: DropoutMask | None,
    ) -> Tensor:
        hidden = linear_without_gradient(x, w1, b1, activation="relu")  # (rows, length, d_ff)
        ctx.scale = 1.0
        if mask is not None:
            hidden.mul_(mask.keep.to(hidden.dtype))
            ctx.scale = mask.scale
            w2 = w2 * mask.scale
        ctx.save_for_backward(x, w1, hidden, w2)
        return linear_without_gradient(hidden, w2, b2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, hidden, scaled_w2 = ctx.saved_tensors
        grad_output = grads[0].flatten(0, -2)  # (rows * length, d_model)
        flat_x = x.flatten(0, -2)  # (rows * length, d_model)
        hidden = hidden.flatten(0, -2)  # (rows * length, d_ff)

        grad_hidden, grad_scaled_w2, grad_b2 = _linear_backward(grad_output, hidden, scaled_w2)
        # In place: zero the gradient wherever the hidden state is zero.
        torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
        grad_x, grad_w1, grad_b1 = _linear_backward(grad_hidden, flat_x, w1)
        grad_w2 = grad_scaled_w2 * ctx.scale
        return grad_x.view(x.shape), grad_w1, grad_b1, grad_w2, grad_b2, None


def _linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `x`, `weight` and the bias of a linear layer.

    `grad` (rows, d_out) is the gradient of the layer's output, `x` is (rows, d_in), `weight` is
    (d_out, d_in).
    """
    return grad @ weight, grad.t() @ x, grad.sum(0)
