"""Training objective: label-smoothed cross-entropy as sums and counts, which the caller divides."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mt.data.batching import Batch
from mt.kernels.cross_entropy import smoothed_cross_entropy
from mt.model.transformer import Transformer


class LossSums(NamedTuple):
    """Named sums over the target tokens of a batch, as float32 device scalars.

    Training minimises "loss". "nll" is the unsmoothed negative log-likelihood in nats, for the
    perplexity. An objective may add more terms for the log.
    """

    sums: dict[str, Tensor]
    num_tokens: int

    @property
    def loss(self) -> Tensor:
        return self.sums["loss"]

    @property
    def nll(self) -> Tensor:
        return self.sums["nll"]


class Objective(nn.Module):
    """Training objective: owns the Transformer and turns a batch into named sums.

    It is one module, so that DistributedDataParallel can wrap model and loss together.
    """

    sum_names: tuple[str, ...] = ("loss", "nll")  # the names in the LossSums of this objective

    def __init__(self, transformer: Transformer, *, label_smoothing: float) -> None:
        super().__init__()
        self.transformer = transformer
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> LossSums:
        """Return the sums over the real target tokens of `batch`."""
        states, targets = self.states_and_targets(batch)
        loss, nll = smoothed_cross_entropy(
            states,
            self.transformer.output_weight,
            targets,
            smoothing=self.label_smoothing,
            dtype=self.transformer.compute_dtype,
        )
        return LossSums({"loss": loss, "nll": nll}, batch.num_tokens)

    def states_and_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the decoder states (num_tokens, d_model) and the targets (num_tokens,).

        Only the real target tokens are selected, so padding costs nothing in the loss. They are in
        the order of the rows of `batch`.
        """
        states = self.transformer(batch.src, batch.tgt_in)  # (batch, tgt_length, d_model)
        targets = batch.tgt_out.flatten()  # (batch * tgt_length,)
        is_token = targets != self.transformer.pad_id
        # The size is known, so the host need not wait for a GPU to count the tokens.
        token_index = torch.nonzero_static(is_token, size=batch.num_tokens).squeeze(1)
        token_states = states.flatten(0, 1).index_select(0, token_index)
        return token_states, targets.index_select(0, token_index)

    def logits_and_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return float32 logits (num_tokens, vocab_size) of the real tokens, and their targets.

        For objectives that need more than a cross-entropy. All logits are in memory at once, where
        `forward` computes them in chunks.
        """
        states, targets = self.states_and_targets(batch)
        return self.transformer.logits(states).float(), targets


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
