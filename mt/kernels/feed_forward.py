"""A layer of ReLU between two products, with dropout, as a CPU trains it fast."""

from typing import Any

import torch
from torch import Tensor

from mt.kernels.dropout import draw_keep_mask
from mt.kernels.linear import Linear, cast_for_autocast, linear, linear_backward


def feed_forward(x: Tensor, inner: Linear, outer: Linear, *, dropout: float) -> Tensor:
    """(rows, length, d_model): in one line, which the tests hold this to, `outer(dropout(relu(inner(x))))`.

    What ReLU cuts off and what dropout leaves out is zero alike, and these zeros are where no gradient goes: no mask is
    kept. What dropout leaves is scaled up in the weights that it meets next, which are fewer.
    """
    factors = x, inner.weight, inner.bias, outer.weight, outer.bias
    y: Tensor = _FeedForward.apply(*map(cast_for_autocast, factors), dropout)  # type: ignore[no-untyped-call]
    return y


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, dropout: float
    ) -> Tensor:
        hidden = linear(x, w1, b1, activation="relu")  # (rows, length, d_ff)
        ctx.scale = 1.0
        if dropout > 0.0:
            kept, ctx.scale = draw_keep_mask(hidden.shape, dropout)
            hidden.mul_(kept.to(hidden.dtype))
            w2 = w2 * ctx.scale
        ctx.save_for_backward(x, w1, hidden, w2)
        return linear(hidden, w2, b2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, hidden, w2 = ctx.saved_tensors
        grad, flat_x, hidden = (tensor.flatten(0, -2) for tensor in (grads[0], x, hidden))
        grad_hidden, grad_w2, grad_b2 = linear_backward(grad, hidden, w2)
        torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
        grad_x, grad_w1, grad_b1 = linear_backward(grad_hidden, flat_x, w1)
        return grad_x.view(x.shape), grad_w1, grad_b1, grad_w2 * ctx.scale, grad_b2, None
