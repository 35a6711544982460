"""Losses of any formula that never hold the logits of all tokens at once.

`chunked_sums` makes the logits of a chunk of tokens, gives them to a function in plain PyTorch, and
keeps only the sums and their gradients. The cross-entropy alone has a faster kernel of its own
(cross_entropy.py).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits in a chunk, over all passes. The function of a loss needs several tensors of this size.
CHUNK_LOGITS = {"cpu": 2**21, "cuda": 2**25}

# Takes the float32 logits (num_passes, chunk_size, vocab_size) of the tokens in a slice. Returns
# sums over these tokens: the loss, which is differentiated, and others for the log.
SumsOfChunk = Callable[[Tensor, slice], tuple[Tensor, ...]]


def chunked_sums(
    states: Tensor, weight: Tensor, sums_of_chunk: SumsOfChunk, *, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Return the sums of `sums_of_chunk` over all tokens. Only the first one has a gradient.

    `states` is (num_passes, num_tokens, d_model): each token has a state from each pass of the
    model over the batch. `weight` is (vocab_size, d_model). Logits are states @ weight.T; matrix
    products run in `dtype`.
    """
    sums: tuple[Tensor, ...] = _ChunkedSumsFunction.apply(  # type: ignore[no-untyped-call]
        states, weight, sums_of_chunk, dtype
    )
    return sums


def cross_entropy_sums(
    log_probs: Tensor, targets: Tensor, *, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the smoothed loss and the unsmoothed negative log-likelihood, summed over all tokens.

    `log_probs` is (num_passes, num_tokens, vocab_size), `targets` is (num_tokens,). Both sums are
    means over the passes. The target distribution is that of `smoothed_cross_entropy`.
    """
    target_log_probs = log_probs.gather(-1, targets.expand(len(log_probs), -1)[..., None])
    nll = -target_log_probs.sum() / len(log_probs)
    uniform_loss = -log_probs.mean(-1).sum() / len(log_probs)
    return (1.0 - smoothing) * nll + smoothing * uniform_loss, nll


class _ChunkedSumsFunction(torch.autograd.Function):
    """Sums that compute their gradient in the forward pass, while the logits are in memory.

    This is possible because the result is a sum: the backward pass only multiplies by a factor.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        sums_of_chunk: SumsOfChunk,
        dtype: torch.dtype,
    ) -> tuple[Tensor, ...]:
        # In inference mode `needs_input_grad` is still True for a parameter.
        needs_grad = any(ctx.needs_input_grad) and not torch.is_inference_mode_enabled()
        num_passes, num_tokens, _ = states.shape
        max_logits = CHUNK_LOGITS[states.device.type]
        chunk_size = max(1, max_logits // (num_passes * len(weight)))  # tokens
        cast_weight = weight.to(dtype)
        grad_states = torch.empty_like(states)
        grad_weight = torch.zeros_like(weight)
        sums_of_chunks = []

        for start in range(0, max(num_tokens, 1), chunk_size):  # without tokens, one empty chunk
            chunk = slice(start, start + chunk_size)
            hidden = states[:, chunk].to(dtype)  # (num_passes, chunk_size, d_model)
            logits = F.linear(hidden, cast_weight)  # (num_passes, chunk_size, vocab_size)
            with torch.set_grad_enabled(needs_grad):
                logits.requires_grad_(needs_grad)
                loss, *others = sums_of_chunk(logits.float(), chunk)
            if needs_grad:
                (grad_logits,) = torch.autograd.grad(loss, logits)
                grad_states[:, chunk] = grad_logits @ cast_weight
                grad_weight += grad_logits.flatten(0, 1).t() @ hidden.flatten(0, 1)
            sums_of_chunks.append(torch.stack([loss, *others]).detach())

        loss_sum, *other_sums = torch.stack(sums_of_chunks).sum(0).unbind()
        ctx.save_for_backward(grad_states, grad_weight)
        ctx.mark_non_differentiable(*other_sums)
        return loss_sum.clone(), *other_sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_states, grad_weight = ctx.saved_tensors
        grad_loss = grads[0]
        return grad_states * grad_loss, grad_weight * grad_loss, None, None
