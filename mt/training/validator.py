"""Validation: the loss and the translation scores of a model on the validation set.

A validation must not take much of a run's time. So unless the config says otherwise, it translates
a fixed sample of the set by greedy search, and no translation can become much longer than those of
the training text. The scores of two validations of a run can be compared with each other.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch

from mt.config.choices import Normalization
from mt.config.schema import Config, SearchConfig
from mt.data.corpus import EncodedCorpus, encode_pairs
from mt.data.dataset import Dataset
from mt.data.eval_set import EvalSet
from mt.decoding.translation import OnProgress
from mt.decoding.translator import Translator
from mt.distributed import Runtime
from mt.errors import DataError
from mt.evaluation.evaluate import score_set, scoring_of_run
from mt.experiment import Experiment, Tokenizers
from mt.training.metrics_log import Sample, ScoreScope, Validation
from mt.training.objective import Objective, mean_nll

METRICS = ("bleu", "chrf")
LONGEST_FACTOR = 10  # a validation line of so many times data.max_length is taken for a mistake

# With `train.validation_length_limit: data`, a translation may be so many times as long as the
# training pairs let expect, and so many tokens more. No reference in the validation sets of
# Multi30k and Tatoeba is longer (docs/log.md).
LENGTH_FACTOR = 1.5
LENGTH_OFFSET = 10

# Returns a context manager that shows a progress bar with this text. It yields the function that
# receives the progress.
TranslationBar = Callable[[str], AbstractContextManager[OnProgress | None]]


def no_translation_bar(text: str) -> AbstractContextManager[None]:
    """Return a context manager that shows nothing."""
    return nullcontext()


class Validator:
    """Scores a model on the validation set, or on a sample of it, as the config says.

    With the whole set and `search.beam_size`, the scores are those of `mt evaluate`.
    """

    def __init__(
        self,
        experiment: Experiment,
        runtime: Runtime,
        *,
        translation_bar: TranslationBar = no_translation_bar,
    ) -> None:
        self.config = experiment.config
        self.runtime = runtime
        self.tokenizers = experiment.tokenizers
        self.source_stats = experiment.source_stats
        self.translation_bar = translation_bar
        self.search = validation_search(self.config, experiment.training_data.corpus)
        full_set = experiment.validation_set
        self.eval_set = full_set.sample(self.config.train.validation_lines)
        self.scope = ScoreScope(
            len(self.eval_set.src), len(full_set.src), beam_size=self.search.beam_size
        )
        self._check_lengths(full_set)
        self.pairs = self._encode(self.eval_set)
        self.scoring = scoring_of_run(self.config)

    @property
    def is_like_evaluate(self) -> bool:
        """True if the scores are those of `mt evaluate`: of the whole set, by the same search."""
        is_whole_set = self.scope.num_lines == self.scope.num_lines_in_set
        return is_whole_set and self.search == self.config.search

    def __call__(self, objective: Objective) -> Validation:
        """Validate `objective`, which must be in evaluation mode."""
        start_time = time.monotonic()
        hypotheses = self._translate(objective)
        translation_seconds = time.monotonic() - start_time
        scores = score_set(self.eval_set, hypotheses, scoring=self.scoring, metrics=METRICS).scores
        return Validation(
            loss=self._loss(objective),
            scores={score.name: score.value for score in scores},
            signatures={score.name: score.signature for score in scores},
            samples=self._samples(hypotheses),
            scope=self.scope,
            translation_seconds=translation_seconds,
        )

    def _translate(self, objective: Objective) -> list[str]:
        """Return the translations of the sources."""
        translator = self._translator(objective)
        text = f"validating {self.scope.num_lines:,} lines"
        # In float32, as `mt translate` does, so that both give the same translations.
        with (
            objective.transformer.computing_in(torch.float32),
            self.translation_bar(text) as on_progress,
        ):
            return replace(translator, on_progress=on_progress).translate(self.eval_set.src)

    def _translator(self, objective: Objective) -> Translator:
        src, tgt = self.tokenizers
        config = self.config
        return Translator(
            objective.transformer,
            src,
            tgt,
            self.search,
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

    def _encode(self, eval_set: EvalSet) -> EncodedCorpus:
        return encode_eval_set(eval_set, self.tokenizers, self.config.data.normalization)

    def _check_lengths(self, eval_set: EvalSet) -> None:
        """Raise DataError for a pair that is too long for the model or for memory.

        Memory grows with the square of the length.
        """
        pairs = self._encode(eval_set)
        limit_name = f"{LONGEST_FACTOR} times data.max_length"
        limit = LONGEST_FACTOR * self.config.data.max_length
        if self.config.model.max_length is not None:
            limit_name = "model.max_length"
            limit = self.config.model.max_length
        lengths = np.maximum(pairs.src_lengths, pairs.tgt_lengths)
        if lengths.max() > limit:
            index = int(np.argmax(lengths > limit))
            raise DataError(
                f"{eval_set.name}: line {index + 1} has {lengths[index]} tokens; "
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


def validation_search(config: Config, corpus: EncodedCorpus) -> SearchConfig:
    """Return the search of a validation; `corpus` is the training text."""
    search = config.search
    beam_size = config.train.validation_beam_size
    if beam_size is not None:
        search = search.model_copy(update={"beam_size": beam_size})
    if config.train.validation_length_limit == "data":
        search = limit_length(search, corpus)
    return search


def limit_length(search: SearchConfig, corpus: EncodedCorpus) -> SearchConfig:
    """Return a search whose limit on the length of a translation fits the training pairs.

    A model that has not learned yet where a sentence ends then costs less time. A limit of the
    config that is lower in its factor or in its offset stays as it is.
    """
    length_ratio = len(corpus.tgt.ids) / len(corpus.src.ids)
    factor = LENGTH_FACTOR * length_ratio
    if search.max_length_factor < factor or search.max_length_offset < LENGTH_OFFSET:
        return search
    limits = {"max_length_factor": factor, "max_length_offset": LENGTH_OFFSET}
    return search.model_copy(update=limits)
