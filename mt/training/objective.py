"""Label-smoothed cross-entropy as sums and counts; whoever calls divides."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mt.data.batching import Batch
from mt.distributed import Runtime
from mt.kernels.cross_entropy import smoothed_cross_entropy
from mt.model.transformer import Transformer


class LossSums(NamedTuple):
    """Sums over target tokens: the first two float32 scalars on the device."""

    loss: Tensor  # label-smoothed: what is minimised
    nll: Tensor  # unsmoothed negative log-likelihood in nats: what perplexity comes from
    num_tokens: int


class Objective(nn.Module):
    """The Transformer with its loss: one module to wrap or compile, from a batch to sums."""

    def __init__(
        self, transformer: Transformer, *, label_smoothing: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.label_smoothing = label_smoothing
        self.dtype = dtype

    def forward(self, batch: Batch) -> LossSums:
        states = self.transformer(batch.src, batch.tgt_in)  # (batch, tgt_length, d_model)
        targets = batch.tgt_out.flatten()
        # Where the tokens are, (num_tokens,): how many is known, so that nobody waits for a GPU to count them.
        places = torch.nonzero_static(
            targets != self.transformer.pad_id, size=batch.num_tokens
        ).squeeze(1)
        loss, nll = smoothed_cross_entropy(
            states.flatten(0, 1).index_select(
                0, places
            ),  # (num_tokens, d_model): padding costs nothing
            self.transformer.output_table,
            targets.index_select(0, places),
            smoothing=self.label_smoothing,
            dtype=self.dtype,
        )
        return LossSums(loss, nll, batch.num_tokens)


@torch.inference_mode()
def mean_nll(model: Objective, batches: Iterable[Batch], runtime: Runtime) -> float:
    """Unsmoothed negative log-likelihood in nats per target token; `model` must be in evaluation mode."""
    assert not model.training, "dropout would blur the loss"
    total, num_tokens = 0.0, 0
    for batch in batches:
        with runtime.autocast():
            sums: LossSums = model(batch.to(runtime.device))
        total += float(sums.nll)
        num_tokens += sums.num_tokens
    return total / num_tokens
