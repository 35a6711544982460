"""Training objectives: sums over target tokens, which the caller divides by their number.

`Objective` is the label-smoothed cross-entropy. `RDropObjective` and `DistillationObjective` add a
second term in training. In evaluation mode all of them compute the plain cross-entropy, so losses
of validations can be compared.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt.data.batching import Batch
from mt.distributed import Runtime
from mt.experiment import Experiment
from mt.kernels.chunked_loss import chunked_sums, cross_entropy_sums
from mt.kernels.cross_entropy import smoothed_cross_entropy
from mt.model.transformer import Transformer
from mt.storage.checkpoint import weights_digest
from mt.training.teacher import load_teachers


class LossSums(NamedTuple):
    """Named sums over the target tokens of a batch, as float32 device scalars.

    Training minimizes "loss". "nll" is the unsmoothed negative log-likelihood in nats, for the
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
    teacher_digests: tuple[str, ...] = ()  # of the weights of each teacher, for checkpoints

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
        """Return the decoder states and the targets (see the function `states_and_targets`)."""
        return states_and_targets(self.transformer, batch)


class RDropObjective(Objective):
    """R-Drop: cross-entropy of two passes with different dropout, whose predictions should agree.

    With p and q for the predictions of the two passes, the loss of a token is

        (CE(p) + CE(q)) / 2 + alpha / 2 * kl,    kl = (KL(p || q) + KL(q || p)) / 2

    which is half of the loss of Liang et al. (2021, equation 3), so alpha means what it means
    there. The sum "kl" is for the log, and "nll" is the mean of both passes. `num_tokens` counts
    each target token once.
    """

    sum_names = ("loss", "nll", "kl")

    def __init__(self, transformer: Transformer, *, label_smoothing: float, alpha: float) -> None:
        super().__init__(transformer, label_smoothing=label_smoothing)
        self.alpha = alpha

    def forward(self, batch: Batch) -> LossSums:
        if not self.training:
            return super().forward(batch)
        # One forward of twice as many rows: the first half is one pass, the second half the other.
        states, targets = self.states_and_targets(batch.repeat(2))
        targets = targets[: batch.num_tokens]

        def sums_of_chunk(logits: Tensor, chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
            log_probs = logits.log_softmax(dim=-1)  # (2, chunk_size, vocab_size)
            cross_entropy, nll = cross_entropy_sums(
                log_probs, targets[chunk], smoothing=self.label_smoothing
            )
            log_p, log_q = log_probs
            # KL(p || q) + KL(q || p) = sum of (p - q) * (log p - log q)
            kl = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum() / 2
            return cross_entropy + self.alpha / 2 * kl, nll, kl

        loss, nll, kl = chunked_sums(
            states.view(2, batch.num_tokens, -1),
            self.transformer.output_weight,
            sums_of_chunk,
            dtype=self.transformer.compute_dtype,
        )
        return LossSums({"loss": loss, "nll": nll, "kl": kl}, batch.num_tokens)


class DistillationObjective(Objective):
    """Word-level distillation (Hinton et al. 2015; Kim and Rush 2016) from one or more teachers.

    With p for the prediction of the model and t for the mean of the teachers' probabilities, the
    loss of a token is

        (1 - weight) * CE(p) + weight * kl,    kl = KL(t || p)

    The sum "kl" is for the log. The teachers must have the vocabulary of the model, be in
    evaluation mode and need no gradients.
    """

    sum_names = ("loss", "nll", "kl")

    def __init__(
        self,
        transformer: Transformer,
        teachers: Sequence[Transformer],
        *,
        label_smoothing: float,
        weight: float,
    ) -> None:
        super().__init__(transformer, label_smoothing=label_smoothing)
        # In a tuple, the teachers are no submodules: they have no place in the optimizer, in DDP or
        # in a checkpoint, and `train()` does not switch on their dropout.
        self.teachers = tuple(teachers)
        self.weight = weight
        self.teacher_digests = tuple(weights_digest(teacher) for teacher in teachers)

    def forward(self, batch: Batch) -> LossSums:
        if not self.training:
            return super().forward(batch)
        states, targets = self.states_and_targets(batch)
        with torch.no_grad():
            teacher_states = [states_and_targets(teacher, batch)[0] for teacher in self.teachers]

        def sums_of_chunk(logits: Tensor, chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
            log_probs = logits.log_softmax(dim=-1)  # (1, chunk_size, vocab_size)
            cross_entropy, nll = cross_entropy_sums(
                log_probs, targets[chunk], smoothing=self.label_smoothing
            )
            chunk_states = [of_teacher[chunk] for of_teacher in teacher_states]
            teacher_probs = self._teacher_probs(chunk_states)  # (chunk_size, vocab_size)
            kl = F.kl_div(log_probs, teacher_probs[None], reduction="sum")  # KL(t || p)
            return (1.0 - self.weight) * cross_entropy + self.weight * kl, nll, kl

        loss, nll, kl = chunked_sums(
            states[None],
            self.transformer.output_weight,
            sums_of_chunk,
            dtype=self.transformer.compute_dtype,
        )
        return LossSums({"loss": loss, "nll": nll, "kl": kl}, batch.num_tokens)

    @torch.no_grad()
    def _teacher_probs(self, states: Sequence[Tensor]) -> Tensor:
        """Return the mean of the teachers' probabilities (num_tokens, vocab_size), in float32.

        `states` has the states of each teacher (num_tokens, d_model).
        """
        probs = [
            teacher.logits(own_states).softmax(dim=-1, dtype=torch.float32)
            for teacher, own_states in zip(self.teachers, states, strict=True)
        ]
        return torch.stack(probs).mean(dim=0)


def make_objective(transformer: Transformer, experiment: Experiment, runtime: Runtime) -> Objective:
    """Return the objective that the config asks for. Raises MtError when a teacher does not fit."""
    config = experiment.config.train
    if config.r_drop > 0.0:
        return RDropObjective(
            transformer, label_smoothing=config.label_smoothing, alpha=config.r_drop
        )
    if config.teacher:
        return DistillationObjective(
            transformer,
            load_teachers(experiment, runtime),
            label_smoothing=config.label_smoothing,
            weight=config.teacher_weight,
        )
    return Objective(transformer, label_smoothing=config.label_smoothing)


def states_and_targets(transformer: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the decoder states (num_tokens, d_model) and the targets (num_tokens,).

    Only the real target tokens are selected, so padding costs nothing in the loss. They are in the
    order of the rows of `batch`.
    """
    states = transformer(batch.src, batch.tgt_in)  # (batch, tgt_length, d_model)
    targets = batch.tgt_out.flatten()  # (batch * tgt_length,)
    is_token = targets != transformer.pad_id
    # The size is known, so the host need not wait for a GPU to count the tokens.
    token_index = torch.nonzero_static(is_token, size=batch.num_tokens).squeeze(1)
    token_states = states.flatten(0, 1).index_select(0, token_index)
    return token_states, targets.index_select(0, token_index)


class TokenLoss(NamedTuple):
    """The negative log-likelihood of a batch in nats, summed over its target tokens."""

    nll: float
    num_tokens: int


@torch.inference_mode()
def token_losses(
    model: Objective, batches: Iterable[Batch], device: torch.device
) -> list[TokenLoss]:
    """Return the unsmoothed loss of each batch. `model` must be in evaluation mode."""
    assert not model.training, "dropout would change the loss"
    losses = []
    for batch in batches:
        sums: LossSums = model(batch.to(device))
        losses.append(TokenLoss(float(sums.nll), sums.num_tokens))
    return losses


def mean_token_loss(losses: Sequence[TokenLoss]) -> float:
    """Return the negative log-likelihood in nats per target token of some batches."""
    total_nll = 0.0
    for loss in losses:  # `sum` rounds differently in some versions of Python
        total_nll += loss.nll
    return total_nll / sum(loss.num_tokens for loss in losses)
