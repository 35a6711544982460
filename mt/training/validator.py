"""Validation: the loss and the translation scores of a model on the validation set.

A validation must not take much of a run's time. So unless the config says otherwise, it translates
a fixed sample of the set by greedy search, and no translation can become much longer than those of
the training text. The scores of two validations of a run can be compared with each other.

A model of several directions has a validation set for each. The mean of their losses, and of their
scores, chooses the best checkpoint.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from mt.config.choices import Normalization
from mt.config.schema import Config, SearchConfig
from mt.data.corpus import EncodedCorpus, encode_pairs
from mt.data.dataset import Dataset
from mt.data.eval_set import EvalSet
from mt.data.tags import Prefix, language_ids
from mt.decoding.scoring import LENGTH_LIMIT_FACTOR
from mt.decoding.translation import OnProgress
from mt.decoding.translator import Translator
from mt.distributed import Runtime, merge_shares
from mt.errors import DataError
from mt.evaluation.evaluate import scoring_of_run
from mt.evaluation.metrics import score_corpus
from mt.experiment import Experiment, Tokenizers
from mt.training.all_ranks import Interrupting, compute_on_all_ranks, never_interrupting
from mt.training.console import translation_bar
from mt.training.metrics_log import Sample, ScoreScope, SetResult, Validation
from mt.training.objective import Objective, TokenLoss, mean_token_loss, token_losses
from mt.wording import count_of

T = TypeVar("T")

METRICS = ("bleu", "chrf")

# With `train.validation_length_limit: data`, the limit of a translation in tokens is LENGTH_FACTOR
# times the length of the source, times the length ratio of the training text, plus
# LENGTH_OFFSET. In the validation sets of Multi30k and Tatoeba, no reference is longer
# (docs/log.md).
LENGTH_FACTOR = 1.5
LENGTH_OFFSET = 10


@dataclass(frozen=True)
class ValidationShare:
    """The part of a validation that one rank computes: with n ranks, every n-th line and batch."""

    hypotheses_of_sets: list[list[str]]
    losses_of_sets: list[list[TokenLoss]]
    translation_seconds: float


class Validator:
    """Scores a model on the validation sets, or on samples of them, as the config says.

    With the whole sets and `search.beam_size`, the scores are those of `mt evaluate`.
    """

    def __init__(self, experiment: Experiment, runtime: Runtime) -> None:
        self.config = experiment.config
        self.runtime = runtime
        self.tokenizers = experiment.tokenizers
        self.ids_by_tag = experiment.ids_by_tag
        self.source_stats = experiment.source_stats
        self.search = validation_search(self.config, experiment.training_data.corpus)
        full_sets = experiment.validation_sets
        self.eval_sets = sample_sets(full_sets, self.config.train.validation_lines)
        self.scope = ScoreScope(
            count_set_lines(self.eval_sets),
            count_set_lines(full_sets),
            beam_size=self.search.beam_size,
        )
        for full_set in full_sets:
            self._check_lengths(full_set)
        self.pairs_of_sets = [self._encode(eval_set) for eval_set in self.eval_sets]

    @property
    def is_like_evaluate(self) -> bool:
        """Whether the scores are those of `mt evaluate`: of the whole sets, by the same search."""
        return not self.scope.is_sample and self.search == self.config.search

    def __call__(
        self, objective: Objective, *, interrupting: Interrupting = never_interrupting
    ) -> Validation:
        """Validate `objective`, which must be in evaluation mode; all ranks take part.

        A signal that arrives in the context that `interrupting` returns, on any rank, raises
        InterruptedBySignal on all of them.
        """
        shares = compute_on_all_ranks(
            lambda: self._compute_share(objective), self.runtime, interrupting=interrupting
        )
        # One rank scores, because the last bits of a score may depend on the machine.
        return self.runtime.compute_on_main(lambda: self._combine(shares))

    def _compute_share(self, objective: Objective) -> ValidationShare:
        """Translate the sources of this rank, and compute the losses of its batches."""
        start_time = time.monotonic()
        hypotheses_of_sets = self._translate(objective)
        translation_seconds = time.monotonic() - start_time
        losses_of_sets = [self._losses(objective, pairs) for pairs in self.pairs_of_sets]
        return ValidationShare(hypotheses_of_sets, losses_of_sets, translation_seconds)

    def _combine(self, shares: Sequence[ValidationShare]) -> Validation:
        """Return the validation from the shares of all ranks."""
        hypotheses_of_sets = merge_sets([share.hypotheses_of_sets for share in shares])
        losses_of_sets = merge_sets([share.losses_of_sets for share in shares])
        losses = [mean_token_loss(losses_of_set) for losses_of_set in losses_of_sets]
        scored = score_eval_sets(self.eval_sets, hypotheses_of_sets, self.config)
        set_results = []
        for loss, result in zip(losses, scored.sets, strict=True):
            set_results.append(replace(result, loss=loss))
        return Validation(
            loss=sum(losses) / len(losses),
            scores=scored.scores,
            signatures=scored.signatures,
            samples=self._samples(hypotheses_of_sets),
            scope=self.scope,
            translation_seconds=max(share.translation_seconds for share in shares),
            sets=set_results if len(set_results) > 1 else [],
        )

    def _translate(self, objective: Objective) -> list[list[str]]:
        """Return the translations of this rank's sources of each set."""
        translator = self._make_translator(objective)
        text = f"validating {count_of(self.scope.num_lines, 'line')}"
        # In float32, as `mt translate` does, so that both give the same translations.
        with (
            objective.transformer.computing_in(torch.float32),
            translation_bar(text, enabled=self.runtime.is_main) as on_progress,
        ):
            return translate_eval_sets(
                translator, self.eval_sets, self.runtime, on_progress=on_progress
            )

    def _make_translator(self, objective: Objective) -> Translator:
        src, tgt = self.tokenizers
        translator = Translator(
            objective.transformer,
            src_tokenizer=src,
            tgt_tokenizer=tgt,
            search=self.search,
            max_length=self.config.data.max_length,
        )
        return translator.with_run_settings(self.config, source_stats=self.source_stats)

    def _losses(self, objective: Objective, pairs: EncodedCorpus) -> list[TokenLoss]:
        """Return the losses of this rank's batches of a set."""
        src, tgt = self.tokenizers
        config = self.config
        dataset = Dataset(
            pairs,
            src,
            tgt,
            max_length=config.data.max_length,
            seed=config.train.seed,
            batching=config.train.batching,
        )
        epoch = dataset.epoch(0, batch_tokens=config.train.batch_tokens)
        own_indices = self.runtime.own_share(range(epoch.plan.num_batches))
        return token_losses(objective, map(epoch.batch, own_indices), self.runtime.device)

    def _samples(self, hypotheses_of_sets: Sequence[Sequence[str]]) -> list[Sample]:
        """Return `train.num_samples` translations, evenly spaced over the sets."""
        samples = []
        for eval_set, hypotheses in zip(self.eval_sets, hypotheses_of_sets, strict=True):
            rows = zip(eval_set.src, eval_set.refs[0], hypotheses, strict=True)
            samples += [Sample(*row) for row in rows]
        num_samples = self.config.train.num_samples
        stride = max(1, len(samples) // max(1, num_samples))
        return samples[::stride][:num_samples]

    def _encode(self, eval_set: EvalSet) -> EncodedCorpus:
        return encode_eval_set(
            eval_set,
            self.tokenizers,
            self.config.data.normalization,
            ids_by_language=language_ids(self.ids_by_tag),
        )

    def _check_lengths(self, eval_set: EvalSet) -> None:
        """Raise DataError for a pair that is too long for the model or for memory.

        Memory grows with the square of the length.
        """
        pairs = self._encode(eval_set)
        limit_name = f"{LENGTH_LIMIT_FACTOR} times data.max_length"
        limit = LENGTH_LIMIT_FACTOR * self.config.data.max_length
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


class ScoredSets(NamedTuple):
    """The scores of several sets, and the mean of each score over the sets."""

    sets: list[SetResult]
    scores: dict[str, float]  # by the metric's name, such as "BLEU"
    signatures: Mapping[str, str]  # of the first set


def translate_eval_sets(
    translator: Translator,
    eval_sets: Sequence[EvalSet],
    runtime: Runtime,
    *,
    on_progress: OnProgress,
) -> list[list[str]]:
    """Return the translations of this rank's sources of each set."""
    translator = replace(translator, on_progress=on_progress)
    hypotheses_of_sets = []
    for eval_set in eval_sets:
        own_sources = runtime.own_share(eval_set.src)
        hypotheses_of_sets.append(translator.translate(own_sources, to=eval_set.tgt_lang))
    return hypotheses_of_sets


def merge_sets(shares: Sequence[Sequence[Sequence[T]]]) -> list[list[T]]:
    """Return the items of each set, in order. A share has lists of one rank, one for each set."""
    return [merge_shares(shares_of_set) for shares_of_set in zip(*shares, strict=True)]


def score_eval_sets(
    eval_sets: Sequence[EvalSet], hypotheses_of_sets: Sequence[Sequence[str]], config: Config
) -> ScoredSets:
    """Return the scores of each set and their means, in which all sets count the same."""
    results = []
    for eval_set, hypotheses in zip(eval_sets, hypotheses_of_sets, strict=True):
        scoring = scoring_of_run(config, tgt_lang=eval_set.tgt_lang)
        scores = score_corpus(hypotheses, eval_set.refs, metrics=METRICS, scoring=scoring)
        results.append(
            SetResult(
                eval_set.name,
                num_lines=len(eval_set.src),
                scores={score.name: score.value for score in scores},
                signatures={score.name: score.signature for score in scores},
            )
        )
    means = {}
    for name in results[0].scores:
        means[name] = sum(result.scores[name] for result in results) / len(results)
    return ScoredSets(results, means, results[0].signatures)


def sample_sets(eval_sets: Sequence[EvalSet], num_lines: int | None) -> list[EvalSet]:
    """Return a fixed sample of each set, of `num_lines` lines in all; with None, the whole sets.

    The sets have equal parts of these lines; if a set has fewer lines than its part, the other sets
    get the rest.
    """
    if num_lines is None or num_lines >= count_set_lines(eval_sets):
        return list(eval_sets)
    num_lines_left = num_lines
    samples: dict[str, EvalSet] = {}
    smallest_first = sorted(eval_sets, key=lambda eval_set: len(eval_set.src))
    for position, eval_set in enumerate(smallest_first):
        part = max(1, num_lines_left // (len(eval_sets) - position))
        sample = eval_set.sample(part)
        samples[eval_set.name] = sample
        num_lines_left -= len(sample.src)
    return [samples[eval_set.name] for eval_set in eval_sets]


def count_set_lines(eval_sets: Sequence[EvalSet]) -> int:
    """Return the number of lines of all sets."""
    return sum(len(eval_set.src) for eval_set in eval_sets)


def encode_eval_set(
    eval_set: EvalSet,
    tokenizers: Tokenizers,
    normalization: Normalization,
    *,
    ids_by_language: Mapping[str, int] | None = None,
) -> EncodedCorpus:
    """Encode the sources of a set and their first references, in memory and unfiltered.

    The sources get the tag that their target language has in `ids_by_language`.
    """
    src_prefix: Prefix = ()
    if ids_by_language and eval_set.tgt_lang is not None:
        src_prefix = (ids_by_language[eval_set.tgt_lang],)
    return encode_pairs(
        eval_set.src,
        eval_set.refs[0],
        src_tokenizer=tokenizers.src,
        tgt_tokenizer=tokenizers.tgt,
        src_prefix=src_prefix,
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

    A model that has not learned yet where a sentence ends then takes less time. If the factor or
    the offset of the config is lower, the limit of the config is kept.
    """
    length_ratio = len(corpus.tgt.ids) / len(corpus.src.ids)
    factor = LENGTH_FACTOR * length_ratio
    if search.max_length_factor < factor or search.max_length_offset < LENGTH_OFFSET:
        return search
    limits = {"max_length_factor": factor, "max_length_offset": LENGTH_OFFSET}
    return search.model_copy(update=limits)
