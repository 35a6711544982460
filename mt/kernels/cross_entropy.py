"""Label-smoothed cross-entropy of logits that never exist all at once."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits in flight at a time: in matrix products, which are quicker in large pieces, and in the softmax, which on a CPU
# should find them in its cache. A GPU should be kept busy.
CHUNK_ELEMENTS = {"cpu": (2**23, 2**20), "cuda": (2**27, 2**27)}


def smoothed_cross_entropy(
    states: Tensor, table: Tensor, targets: Tensor, *, smoothing: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Sums of the smoothed loss and of the unsmoothed nll for logits = states @ table.T.

    `states` is (num_tokens, d_model), `table` (vocab_size, d_model), `targets` long (num_tokens,); matrix products run
    in `dtype`. The target distribution is (1 - smoothing) * one-hot + smoothing / vocab_size (Szegedy et al. 2016,
    section 7). Only `loss` has a gradient. The logits never exist all at once: a chunk of tokens is projected, and
    piece by piece scored and turned into its gradient.
    """
    return _ChunkedCrossEntropy.apply(states, table, targets, smoothing, dtype)  # type: ignore[no-any-return,no-untyped-call]


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradient of a sum needs nothing from above but a factor, so forward computes it on the spot."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        smoothing: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        need_grad = (
            any(ctx.needs_input_grad) and not torch.is_inference_mode_enabled()
        )  # a parameter always needs one
        vocab_size = table.size(0)
        weight = table.to(dtype)
        grad_states, grad_table = torch.empty_like(states), torch.zeros_like(table)
        loss, nll = states.new_zeros(()), states.new_zeros(())
        many, few = (max(1, size // vocab_size) for size in CHUNK_ELEMENTS[states.device.type])
        chunks = zip(
            *(torch.split(tensor, many) for tensor in (states, targets[:, None], grad_states)),
            strict=True,
        )
        for chunk, target, grad_chunk in chunks:
            hidden = chunk.to(dtype)  # (tokens, d_model)
            logits = F.linear(hidden, weight)  # (tokens, vocab_size)
            right, log_z, mean = logits.gather(1, target).squeeze(1), [], []
            less = torch.full(target.shape, smoothing - 1.0, device=target.device)
            for piece, words, minus in zip(
                *(torch.split(part, few) for part in (logits, target, less)), strict=True
            ):
                scores = (
                    piece.float() if piece.is_cpu else piece
                )  # from which a GPU makes float32 where it needs it
                probs = scores.softmax(1, dtype=torch.float32)
                log_z.append(
                    scores.amax(1) - probs.amax(1).log()
                )  # of the sum of exp(logit), for each token
                mean.append(scores.mean(1, dtype=torch.float32))
                if (
                    need_grad
                ):  # d loss / d logits = softmax - target distribution, in the memory of the logits
                    piece.copy_(probs.sub_(smoothing / vocab_size).scatter_add_(1, words, minus))
            normaliser = torch.cat(log_z)  # (tokens,)
            picked = (normaliser - right).sum()
            nll += picked
            loss += (1.0 - smoothing) * picked + smoothing * (normaliser - torch.cat(mean)).sum()
            if need_grad:
                grad_chunk.copy_(logits @ weight)
                grad_table += logits.t() @ hidden
        ctx.save_for_backward(grad_states, grad_table)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_states, grad_table = ctx.saved_tensors
        return grad_states * grads[0], grad_table * grads[0], None, None, None
