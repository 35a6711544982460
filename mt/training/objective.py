"""Training objective: label-smoothed cross-entropy as sums and counts, which the caller divides."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mt.data.batching import Batch
from mt.kernels.cross_entropy import smoothed_cross_entropy
from mt.model.transformer import Transformer


class LossSums(NamedTuple):
    """Sums over the target tokens of a batch; `loss` and `nll` are float32 device scalars."""

    loss: Tensor  # label-smoothed loss, which training minimises
    nll: Tensor  # unsmoothed negative log-likelihood in nats, for the perplexity
    num_tokens: int


class Objective(nn.Module):
    """Training objective: owns the Transformer and turns a batch into named sums.

    It is one module, so that DistributedDataParallel can wrap model and loss together.
    """

    def __init__(self, transformer: Transformer, *, label_smoothing: float) -> None:
        super().__init__()
        self.transformer = transformer
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> LossSums:
        """Return the sums over the real target tokens of `batch`."""
        states = self.transformer(batch.src, batch.tgt_in)  # (batch, tgt_length, d_model)
        targets = batch.tgt_out.flatten()  # (batch * tgt_length,)
        is_token = targets != self.transformer.pad_id
        # The size is known, so the host need not wait for a GPU to count the tokens.
        token_index = torch.nonzero_static(is_token, size=batch.num_tokens).squeeze(1)
        # Selecting the real tokens first means that padding costs nothing.
        loss, nll = smoothed_cross_entropy(
            states.flatten(0, 1).index_select(0, token_index),  # (num_tokens, d_model)
            self.transformer.output_weight,
            targets.index_select(0, token_index),
            smoothing=self.label_smoothing,
            dtype=self.transformer.compute_dtype,
        )
        return LossSums(loss, nll, batch.num_tokens)


@torch.inference_mode()
def mean_nll(model: Objective, batches: Iterable[Batch], device: torch.device) -> float:
    """Return the unsmoothed negative log-likelihood in nats per target token.

    `model` must be in evaluation mode.
    """
    assert not model.training, "dropout would change the loss"
    total_nll = 0.0
    num_tokens = 0
    for batch in batches:
        sums: LossSums = model(batch.to(device))
        total_nll += float(sums.nll)
        num_tokens += sums.num_tokens
    return total_nll / num_tokens
