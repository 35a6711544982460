"""Feed-forward layer with ReLU on a CPU, with a backward pass written by hand.

Reference formula, which the tests compare the kernel with:

    outer(dropout(relu(inner(x))))

Why it exists: ReLU and dropout run in the memory of the first product, and no masks are kept for
the backward pass. An element that ReLU or dropout set to zero gets no gradient, and any other
element is positive, so the hidden states themselves say where the gradient flows. The scale of
dropout is applied to the second weight matrix, which has fewer elements than the hidden states. On
an AMD EPYC (Zen 5), this and larger chunks of logits in the loss made an update take 890 instead of
956 ms.

When it is used: in training on a CPU, for layers with ReLU (`mt.model.transformer.FeedForward`).
"""

from typing import Any

import torch
from torch import Tensor

from mt.kernels.dropout import draw_keep_mask
from mt.kernels.linear import Linear, cast_for_autocast, linear, linear_backward


def feed_forward(x: Tensor, inner: Linear, outer: Linear, *, dropout: float) -> Tensor:
    """Return outer(dropout(relu(inner(x)))); `x` and the result are (rows, length, d_model)."""
    output: Tensor = _FeedForwardFunction.apply(  # type: ignore[no-untyped-call]
        cast_for_autocast(x),
        cast_for_autocast(inner.weight),
        cast_for_autocast(inner.bias),
        cast_for_autocast(outer.weight),
        cast_for_autocast(outer.bias),
        dropout,
    )
    return output


class _FeedForwardFunction(torch.autograd.Function):
    """Two linear layers with ReLU and dropout between them.

    w1 is (d_ff, d_model) and w2 is (d_model, d_ff).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, dropout: float
    ) -> Tensor:
        hidden = linear(x, w1, b1, activation="relu")  # (rows, length, d_ff)
        ctx.scale = 1.0
        if dropout > 0.0:
            keep_mask, ctx.scale = draw_keep_mask(hidden.shape, dropout)
            hidden.mul_(keep_mask.to(hidden.dtype))
            w2 = w2 * ctx.scale
        ctx.save_for_backward(x, w1, hidden, w2)
        return linear(hidden, w2, b2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, hidden, scaled_w2 = ctx.saved_tensors
        grad_output = grads[0].flatten(0, -2)  # (rows * length, d_model)
        flat_x = x.flatten(0, -2)  # (rows * length, d_model)
        hidden = hidden.flatten(0, -2)  # (rows * length, d_ff)

        grad_hidden, grad_scaled_w2, grad_b2 = linear_backward(grad_output, hidden, scaled_w2)
        # In place: zero the gradient wherever the hidden state is zero.
        torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
        grad_x, grad_w1, grad_b1 = linear_backward(grad_hidden, flat_x, w1)
        grad_w2 = grad_scaled_w2 * ctx.scale
        return grad_x.view(x.shape), grad_w1, grad_b1, grad_w2, grad_b2, None
