"""Validation: the loss and the translation scores of a model on the validation set."""

import numpy as np
import torch

from mt.config.choices import Normalization
from mt.data.corpus import EncodedCorpus, encode_pairs
from mt.data.dataset import Dataset
from mt.data.eval_set import EvalSet
from mt.decoding.translator import Translator
from mt.distributed import Runtime
from mt.errors import DataError
from mt.evaluation.evaluate import score_set, scoring_of_run
from mt.experiment import Experiment, Tokenizers
from mt.training.metrics_log import Sample, Validation
from mt.training.objective import Objective, mean_nll

METRICS = ("bleu", "chrf")
LONGEST_FACTOR = 10  # a validation line of so many times data.max_length is taken for a mistake


class Validator:
    """Scores a model on the validation set, with the scores that `mt evaluate` gives."""

    def __init__(self, experiment: Experiment, runtime: Runtime) -> None:
        self.config = experiment.config
        self.runtime = runtime
        self.eval_set = experiment.validation_set
        self.tokenizers = experiment.tokenizers
        self.source_stats = experiment.source_stats
        self.pairs = encode_eval_set(self.eval_set, self.tokenizers, self.config.data.normalization)
        self._check_lengths()
        self.scoring = scoring_of_run(self.config)

    def __call__(self, objective: Objective) -> Validation:
        """Validate `objective`, which must be in evaluation mode."""
        # In float32, as `mt translate` does, so that both give the same translations.
        with objective.transformer.computing_in(torch.float32):
            hypotheses = self._translator(objective).translate(self.eval_set.src)
        scores = score_set(self.eval_set, hypotheses, scoring=self.scoring, metrics=METRICS).scores
        return Validation(
            loss=self._loss(objective),
            scores={score.name: score.value for score in scores},
            signatures={score.name: score.signature for score in scores},
            samples=self._samples(hypotheses),
        )

    def _translator(self, objective: Objective) -> Translator:
        src, tgt = self.tokenizers
        config = self.config
        return Translator(
            objective.transformer,
            src,
            tgt,
            config.search,
            config.data.max_length,
            config.data.normalization,
            source_stats=self.source_stats,
        )

    def _loss(self, objective: Objective) -> float:
        """Return the negative log-likelihood in nats per target token."""
        src, tgt = self.tokenizers
        config = self.config
        dataset = Dataset(
            self.pairs,
            src,
            tgt,
            max_length=config.data.max_length,
            seed=config.train.seed,
            batching=config.train.batching,
        )
        epoch = dataset.epoch(0, batch_tokens=config.train.batch_tokens)
        batches = map(epoch.batch, range(epoch.plan.num_batches))
        return mean_nll(objective, batches, self.runtime.device)

    def _samples(self, hypotheses: list[str]) -> list[Sample]:
        """Return `train.num_samples` translations from all over the set."""
        num_samples = self.config.train.num_samples
        num_lines = len(self.eval_set.src)
        stride = max(1, num_lines // max(1, num_samples))
        refs = self.eval_set.refs[0]
        indices = range(0, num_lines, stride)[:num_samples]
        return [Sample(self.eval_set.src[i], refs[i], hypotheses[i]) for i in indices]

    def _check_lengths(self) -> None:
        """Raise DataError for a pair that is too long for the model or for memory.

        Memory grows with the square of the length.
        """
        limit_name = f"{LONGEST_FACTOR} times data.max_length"
        limit = LONGEST_FACTOR * self.config.data.max_length
        if self.config.model.max_length is not None:
            limit_name = "model.max_length"
            limit = self.config.model.max_length
        lengths = np.maximum(self.pairs.src_lengths, self.pairs.tgt_lengths)
        if lengths.max() > limit:
            index = int(np.argmax(lengths > limit))
            raise DataError(
                f"{self.eval_set.name}: line {index + 1} has {lengths[index]} tokens; "
                f"{limit_name} is {limit}"
            )


def encode_eval_set(
    eval_set: EvalSet, tokenizers: Tokenizers, normalization: Normalization
) -> EncodedCorpus:
    """Encode the sources of a set and their first references, in memory and unfiltered."""
    return encode_pairs(
        eval_set.src,
        eval_set.refs[0],
        src_tokenizer=tokenizers.src,
        tgt_tokenizer=tokenizers.tgt,
        normalization=normalization,
    )
