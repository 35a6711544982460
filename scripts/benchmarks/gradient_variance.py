"""Measure the variance of the gradient, the padding and the mates of batches for each batch plan.

    python -m scripts.benchmarks.gradient_variance RUN_DIR
        [--checkpoint last] [--batch-tokens 4096 25000] [--batches 60]

The model and the training text are those of a run. There is no dropout, so that the batches alone
differ. For each plan and batch size, the table shows:

- padding: the share of positions that hold no token;
- mates: of two pairs in one batch, how often they are together again in the next epoch;
- variance: the sum over all weights of the variance of an update's gradient (the mean loss of the
  tokens of one batch), over random batches of two epochs, relative to the first plan;
- cost: variance times the number of batches in an epoch, relative to the first plan. With equal
  computing time, the noise of the mean gradient is proportional to it;
- larger: the variance without batches of less than a tenth of the mean number of target tokens. An
  epoch of `sorted` ends with such a batch, and its gradient has a much larger variance.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from mt.config.load import load_run_config
from mt.config.schema import Batching
from mt.data.batch_plan import BatchPlan, plan_batches
from mt.data.batching import make_batch
from mt.experiment import Experiment
from mt.model.layers import Dropout
from mt.storage.checkpoint import find_checkpoint, load_weights
from mt.storage.run_dir import open_run_dir
from mt.training.objective import Objective

SEED = 1
SMALL_BATCH = 0.1  # of the mean number of target tokens


def share_of_mates(first: BatchPlan, second: BatchPlan, num_pairs: int) -> float:
    """Return how many of the pairs that share a batch in `first` do so in `second` too."""
    batch_of_pair = np.empty(num_pairs, np.int64)
    for index in range(second.num_batches):
        batch_of_pair[second.indices(index, index + 1)] = index
    num_together = 0
    num_mates = 0
    for index in range(first.num_batches):
        counts = np.bincount(batch_of_pair[first.indices(index, index + 1)])
        num_together += int((counts * (counts - 1)).sum())
        num_mates += int(counts.sum() * (counts.sum() - 1))
    return num_together / num_mates


class GradientMeter:
    """Computes gradients of batches with the weights of a run."""

    def __init__(self, run_dir: Path, checkpoint: str) -> None:
        run = open_run_dir(run_dir)
        config = load_run_config(run.config_path)
        experiment = Experiment(config, run)
        self.dataset = experiment.training_data
        model = experiment.model(torch.device("cpu"))
        load_weights(model, find_checkpoint(run.checkpoints_dir, checkpoint))
        for module in model.modules():
            if isinstance(module, Dropout):
                module.p = 0.0
        self.objective = Objective(model, label_smoothing=config.train.label_smoothing).train()

    def plan(self, batching: Batching, batch_tokens: int, epoch: int) -> BatchPlan:
        return plan_batches(
            self.dataset.corpus.src_lengths,
            self.dataset.corpus.tgt_lengths,
            batch_tokens=batch_tokens,
            seed=SEED,
            epoch=epoch,
            batching=batching,
        )

    def gradient(self, plan: BatchPlan, index: int) -> torch.Tensor:
        """Return the gradient of the mean loss of the tokens of one batch, as one vector."""
        pairs = self.dataset.corpus.pairs(plan.indices(index, index + 1))
        batch = make_batch(
            pairs,
            pad_id=self.dataset.src_tokenizer.pad_id,
            bos_id=self.dataset.tgt_tokenizer.bos_id,
        )
        self.objective.zero_grad()
        loss = self.objective(batch).loss / batch.num_tokens
        loss.backward()
        gradients = [p.grad.flatten() for p in self.objective.parameters() if p.grad is not None]
        return torch.cat(gradients).double()

    def variances(self, plans: list[BatchPlan], num_batches: int) -> tuple[float, float]:
        """Return the sum of the variances of all elements over batches of these plans.

        The first is over all batches, the second over those of at least a tenth of the mean number
        of target tokens.
        """
        generator = np.random.default_rng(SEED)
        tgt_lengths = self.dataset.corpus.tgt_lengths
        all_batches = GradientSums()
        larger_batches = GradientSums()
        for plan in plans:
            min_tokens = SMALL_BATCH * tgt_lengths.sum() / plan.num_batches
            size = min(num_batches // len(plans), plan.num_batches)
            for index in generator.choice(plan.num_batches, size, replace=False).tolist():
                gradient = self.gradient(plan, index)
                all_batches.add(gradient)
                indices = plan.indices(index, index + 1)
                if tgt_lengths[indices].sum() >= min_tokens:
                    larger_batches.add(gradient)
        return all_batches.variance(), larger_batches.variance()


class GradientSums:
    """Sums over gradients, for their variance."""

    def __init__(self) -> None:
        self.total = torch.zeros(1)
        self.sum_of_squares = 0.0
        self.count = 0

    def add(self, gradient: torch.Tensor) -> None:
        self.total = self.total + gradient
        self.sum_of_squares += float(gradient.square().sum())
        self.count += 1

    def variance(self) -> float:
        """Return the sum over all elements of the variance of the gradients."""
        square_of_sum = float(self.total.square().sum())
        return (self.sum_of_squares - square_of_sum / self.count) / (self.count - 1)


def padding_share(plan: BatchPlan, num_tokens: int) -> float:
    positions = np.diff(plan.starts) * (plan.src_lengths + plan.tgt_lengths)
    return 1 - num_tokens / int(positions.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the batches of each batch plan.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--checkpoint", default="last")
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[4096, 25000])
    parser.add_argument("--batches", type=int, default=60, help="gradients for each plan")
    options = parser.parse_args()

    meter = GradientMeter(options.run_dir, options.checkpoint)
    corpus = meter.dataset.corpus
    num_tokens = int(corpus.src_lengths.sum() + corpus.tgt_lengths.sum())
    kinds: tuple[Batching, ...] = get_args(Batching)
    print("batch_tokens  plan    batches  padding  mates  variance  cost   larger")
    for batch_tokens in options.batch_tokens:
        first: tuple[float, float, float] | None = None
        for batching in kinds:
            plans = [meter.plan(batching, batch_tokens, epoch) for epoch in (0, 1)]
            variance, larger_variance = meter.variances(plans, options.batches)
            measured = (variance, variance * plans[0].num_batches, larger_variance)
            if first is None:
                first = measured
            ratios = [value / reference for value, reference in zip(measured, first, strict=True)]
            print(
                f"{batch_tokens:12}  {batching:6}  {plans[0].num_batches:7}"
                f"  {padding_share(plans[0], num_tokens):7.1%}"
                f"  {share_of_mates(*plans, len(corpus.src)):5.1%}"
                f"  {ratios[0]:8.3f}  {ratios[1]:5.3f}  {ratios[2]:6.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
