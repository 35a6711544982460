"""Scores of additive attention.

Why there is a fast version: for the formula, autograd stores head_dim numbers for each pair of a
query and a key until the backward pass, a gigabyte for a batch of long sentences. The fast version
computes these numbers for a few queries at a time, and again in the backward pass. It computes tanh
from sigmoid, which is ten times as fast in PyTorch on a CPU.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mt.kernels.dispatch import use_fast_kernel

# Size limit of the tensor (rows, heads, queries, keys, head_dim) of one chunk, in elements. It
# should fit into the cache of the CPU.
CHUNK_ELEMENTS = 2**19


def additive_scores(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    """Return sum_c weight[c] * tanh(query[c] + key[c]) for each pair of a query and a key.

    `queries` and `keys` are (rows, num_heads, length, head_dim), `weight` is (num_heads, head_dim).
    The scores are (rows, num_heads, query_length, key_length), in float32 (in float64 for float64
    inputs).
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    queries = queries.to(dtype)
    keys = keys.to(dtype)
    weight = weight.to(dtype)
    if use_fast_kernel(queries):
        return fast(queries, keys, weight)
    return reference(queries, keys, weight)


def reference(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    """Compute the scores of all pairs at once with plain PyTorch."""
    tanhs = (queries.unsqueeze(3) + keys.unsqueeze(2)).tanh()
    return (tanhs * weight[:, None, None]).sum(-1)


def fast(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    """Compute the scores for a few queries at a time."""
    # tanh(x) = 2 * sigmoid(2 * x) - 1
    sums: Tensor = _SigmoidSums.apply(  # type: ignore[no-untyped-call]
        2 * queries, 2 * keys, weight
    )
    return 2 * sums - weight.sum(dim=1)[:, None, None]


class _SigmoidSums(torch.autograd.Function):
    """sum_c weight[c] * sigmoid(query[c] + key[c]) for each pair of a query and a key."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(queries, keys, weight)
        sums_shape = (*queries.shape[:3], keys.size(2))
        sums = queries.new_empty(sums_shape)  # (rows, num_heads, query_length, key_length)
        for chunk in _query_chunks(queries, keys):
            sigmoids = _pair_sigmoids(queries[:, :, chunk], keys)
            sigmoids.mul_(weight[:, None, None])
            torch.sum(sigmoids, dim=-1, out=sums[:, :, chunk])
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of queries, keys and weight.

        With s the sigmoid of a pair and g the gradient of its sum, they are sums of

            g * weight * s * (1 - s)    for the query and for the key
            g * s                       for the weight
        """
        queries, keys, weight = ctx.saved_tensors
        grad_queries = torch.empty_like(queries)
        grad_keys = torch.zeros_like(keys)
        grad_weight = torch.zeros_like(weight)
        for chunk in _query_chunks(queries, keys):
            sigmoids = _pair_sigmoids(queries[:, :, chunk], keys)
            product = sigmoids * grads[0][:, :, chunk].unsqueeze(-1)  # g * s
            grad_weight += product.sum(dim=3).sum(dim=(0, 2))
            product.addcmul_(product, sigmoids, value=-1)  # g * s * (1 - s)
            torch.sum(product, dim=3, out=grad_queries[:, :, chunk])
            grad_keys += product.sum(dim=2)
        head_weight = weight[:, None]  # (num_heads, 1, head_dim)
        return grad_queries.mul_(head_weight), grad_keys.mul_(head_weight), grad_weight


def _query_chunks(queries: Tensor, keys: Tensor) -> Iterator[slice]:
    """Yield slices of the query positions, of up to CHUNK_ELEMENTS numbers with all keys."""
    elements_per_query = max(1, keys.numel())  # of one query position, in all rows and heads
    chunk_size = max(1, CHUNK_ELEMENTS // elements_per_query)
    for start in range(0, queries.size(2), chunk_size):
        yield slice(start, start + chunk_size)


def _pair_sigmoids(queries: Tensor, keys: Tensor) -> Tensor:
    """Return sigmoid(query + key): (rows, num_heads, query_length, key_length, head_dim)."""
    return (queries.unsqueeze(3) + keys.unsqueeze(2)).sigmoid_()
