"""Checks of what a training plans: its length, the size of its model and of its vocabulary."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mt.advice.advice import (
    Advice,
    TrainingFacts,
    advise_on_training,
    advise_on_vocabulary,
)
from mt.config.schema import Config, TrainConfig
from mt.data.corpus import EncodedCorpus
from mt.data.tokenizer import SPACE_SYMBOL, Tokenizer
from mt.experiment import Tokenizers
from mt.preflight.file_checks import Finding
from mt.training.run_plan import planned_warmup


class DryRunFacts(NamedTuple):
    """What the dry run found out about the whole training."""

    num_parameters: int
    num_updates: int
    updates_per_epoch: int
    tokens_per_update: float  # target tokens


def check_plan(
    config: Config, corpus: EncodedCorpus, tokenizers: Tokenizers, measured: DryRunFacts
) -> Iterator[Finding]:
    """Yield a warning with a remedy for each setting that does not fit the text, worst first.

    A training that starts from another run has that run's knowledge, tokenizer and size, so nothing
    is said about it.
    """
    if config.train.init_from is not None:
        return
    training = describe_training(config, corpus, measured)
    for advice in (*advise_on_training(training), *check_vocabularies(config, corpus, tokenizers)):
        yield as_finding(advice)


def as_finding(advice: Advice) -> Finding:
    """Return the advice as a warning."""
    return Finding("warning", advice.topic, "", f"{advice.observation}; {advice.remedy}")


def describe_training(
    config: Config, corpus: EncodedCorpus, measured: DryRunFacts
) -> TrainingFacts:
    """Gather what the rules need to know."""
    train = config.train
    limit_key, limit = find_limit(
        train, num_updates=measured.num_updates, updates_per_epoch=measured.updates_per_epoch
    )
    return TrainingFacts(
        num_parameters=measured.num_parameters,
        num_tgt_tokens=len(corpus.tgt.ids),
        num_updates=measured.num_updates,
        tokens_per_update=measured.tokens_per_update,
        warmup_updates=planned_warmup(measured.num_updates, train),
        dropout=config.model.dropout,
        limit_key=limit_key,
        limit=limit,
    )


def find_limit(
    train: TrainConfig, *, num_updates: int, updates_per_epoch: int
) -> tuple[str, float]:
    """Return the key and the value of the limit that ends a run after `num_updates`."""
    if train.max_steps == num_updates:
        return "train.max_steps", train.max_steps
    if train.max_epochs is not None and train.max_epochs * updates_per_epoch == num_updates:
        return "train.max_epochs", train.max_epochs
    assert train.max_minutes is not None, "another limit would have ended the run"
    return "train.max_minutes", train.max_minutes


def check_vocabularies(
    config: Config, corpus: EncodedCorpus, tokenizers: Tokenizers
) -> Iterator[Advice]:
    """Yield advice for each new tokenizer that is too large for the training text."""
    section = config.tokenizer
    if section.model is not None or section.src_model is not None:
        return
    src_counts = np.bincount(corpus.src.ids, minlength=tokenizers.src.vocab_size)
    tgt_counts = np.bincount(corpus.tgt.ids, minlength=tokenizers.tgt.vocab_size)
    if section.joint:
        texts = [("both sides", tokenizers.src, src_counts + tgt_counts)]
    else:
        texts = [
            ("source", tokenizers.src, src_counts),
            ("target", tokenizers.tgt, tgt_counts),
        ]
    for side, tokenizer, counts in texts:
        advice = advise_on_vocabulary(
            counts[find_learned_tokens(tokenizer)], vocab_size=tokenizer.vocab_size, side=side
        )
        if advice is not None:
            yield advice


def find_learned_tokens(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return the ids of the tokens that a smaller vocabulary would not have.

    Those are all but control tokens, bytes and single characters.
    """
    ids = tokenizer.ordinary_pieces.ids
    learned = [ids[text] for text in ids if len(text.removeprefix(SPACE_SYMBOL)) > 1]
    return np.array(learned, np.int64)
