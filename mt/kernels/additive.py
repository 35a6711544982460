"""The scores of additive attention: a tanh for each pair of positions, in little time and memory."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Elements in flight at a time. On a CPU they should stay in its cache, on a GPU they should keep it busy.
CHUNK_ELEMENTS = {"cpu": 2**19, "cuda": 2**25}


def additive_scores(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    """`sum_c weight[c] tanh(query[c] + key[c])` for each query and key: (rows, num_heads, query_length, key_length).

    `queries` and `keys` are (rows, num_heads, length, head_dim), `weight` is (num_heads, head_dim). The scores are
    float32 (float64 of such), whatever autocast does. In one line, which the tests hold this to:

        ((queries.unsqueeze(3) + keys.unsqueeze(2)).tanh() * weight[:, None, None]).sum(-1)

    That line keeps head_dim numbers of each pair for the backward pass. Here they live for a few queries at a time, and
    are computed again when the gradient is.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    # tanh(x) = 2 sigmoid(2x) - 1, and PyTorch's sigmoid takes a tenth of its tanh's time on a CPU
    sums = _SigmoidSums.apply(2 * queries.to(dtype), 2 * keys.to(dtype), weight)  # type: ignore[no-untyped-call]
    scores: Tensor = 2 * sums - weight.sum(dim=1)[:, None, None]
    return scores


class _SigmoidSums(torch.autograd.Function):
    """sum_c weight[c] sigmoid(query[c] + key[c]) for each pair, a few queries at a time."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(queries, keys, weight)
        sums = queries.new_empty(
            *queries.shape[:3], keys.size(2)
        )  # (rows, num_heads, query_length, key_length)
        for sigmoid, chunk in _sigmoids(queries, keys, sums):
            torch.sum(sigmoid.mul_(weight[:, None, None]), dim=-1, out=chunk)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With s the sigmoid and g the gradient of a sum: g s for `weight`, g weight s (1 - s) for query and key."""
        queries, keys, weight = ctx.saved_tensors
        grad_queries, grad_keys = torch.empty_like(queries), torch.zeros_like(keys)
        grad_weight = torch.zeros_like(weight)
        for sigmoid, grad, grad_chunk in _sigmoids(queries, keys, grads[0], grad_queries):
            product = sigmoid * grad.unsqueeze(-1)  # g s
            grad_weight += product.sum(dim=3).sum(dim=(0, 2))
            product.addcmul_(product, sigmoid, value=-1)  # g s (1 - s)
            torch.sum(product, dim=3, out=grad_chunk)
            grad_keys += product.sum(dim=2)
        return grad_queries.mul_(weight[:, None]), grad_keys.mul_(weight[:, None]), grad_weight


def _sigmoids(queries: Tensor, keys: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """sigmoid(query + key) of a few queries with all keys, and the same queries' part of `others`.

    The sigmoids are (rows, num_heads, queries of the chunk, key_length, head_dim).
    """
    size = max(1, CHUNK_ELEMENTS[queries.device.type] // max(1, keys.numel()))  # queries
    for chunk, *parts in zip(
        *(torch.split(tensor, size, dim=2) for tensor in (queries, *others)), strict=True
    ):
        yield (chunk.unsqueeze(3) + keys.unsqueeze(2)).sigmoid_(), *parts
