"""Advice before a training: what in its settings is likely to fail, and what to change.

Each rule is a function of plain numbers. The thresholds come from the runs in RECORDS.md, and from
the papers that are named beside them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mt.wording import count_of

# A run that sees fewer target tokens than this for each parameter of its model ends too early. In
# the runs of RECORDS.md with a cosine schedule, BLEU after 0.5 tokens a parameter was 63 to 67 % of
# its final value, after 1 token 88 %, and after 1.5 tokens 98 to 99 % (docs/log.md).
MIN_TOKENS_PER_PARAMETER = 1.0

# A few large updates are not enough either: after 500 updates BLEU was 7 to 30 where the same runs
# ended with 27 to 41.
MIN_UPDATES = 500

# After so many epochs more updates only help to memorize the text: the validation loss of the
# Tatoeba run of RECORDS.md no longer fell after 18.
ENOUGH_EPOCHS = 20

# Fraction of the updates that a warm-up may take.
MAX_WARMUP_FRACTION = 0.1

# A model memorizes its training text if it is large for it and sees it often: many parameters for
# each target token of the text, and many epochs. A run on 500 pairs without dropout had its lowest
# validation loss after 11 epochs. 10 parameters a token with a dropout of 0.1 went well for 18
# epochs (Tatoeba in RECORDS.md), and 17 parameters with 0.2 and BPE-dropout for 24 (Multi30k, 7M
# parameters). fairseq's recipe for IWSLT14 has 0.3 for about 10 parameters a token and 50 epochs or
# more. In short runs more dropout only slows a model down, so `mt init` uses it from 20 to 60
# epochs on, depending on the amount of text (settings.py), and this rule agrees with it.
WANTED_DROPOUTS = (  # (from this many epochs, and parameters a target token, this dropout)
    (10, 10, 0.1),
    (60, 10, 0.2),
    (60, 50, 0.3),
)

# The median token should have as many examples as this. Gowda and May (2020) want at least 100
# examples of 95 % of the tokens, which little text cannot give: with a vocabulary of 4,000
# the median is 19 (Tatoeba) and 72 (Multi30k). docs/log.md has more of these numbers.
MIN_EXAMPLES = 10


@dataclass(frozen=True)
class Advice:
    """A problem of a training, with its remedy.

    `mt check` joins the two texts in one line, so they begin in lower case and have no full stop.
    In `mt report` they are whole sentences.
    """

    topic: str  # one or two words
    observation: str
    remedy: str
    # Keys of the config that the remedy changes: 1 raises the value, -1 lowers it or says that
    # raising it does not help. Advice that wants a key in both directions contradicts itself.
    changes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingFacts:
    """What is known of a training before its first update."""

    num_parameters: int
    num_tgt_tokens: int  # of the training text
    num_updates: int  # until the first limit
    tokens_per_update: float  # target tokens
    warmup_updates: int
    dropout: float
    limit_key: str  # of the limit that ends the run, such as "train.max_steps"
    limit: float  # its value

    @property
    def tokens_per_parameter(self) -> float:
        """Target tokens that the run sees for each parameter."""
        return self.num_updates * self.tokens_per_update / self.num_parameters

    @property
    def num_epochs(self) -> float:
        """How often the run sees the training text."""
        return self.num_updates * self.tokens_per_update / self.num_tgt_tokens


def advise_on_training(training: TrainingFacts) -> list[Advice]:
    """Return the advice about the length of a run and the size of its model, most useful first."""
    rules = (advise_on_length, advise_on_warmup, advise_on_model_size)
    return drop_none(rule(training) for rule in rules)


def drop_none(advice: Iterable[Advice | None]) -> list[Advice]:
    """Return the advice of the rules that had any."""
    return [item for item in advice if item is not None]


def advise_on_length(training: TrainingFacts) -> Advice | None:
    """Return advice if a run ends before its model is trained, else None."""
    tokens_needed = MIN_TOKENS_PER_PARAMETER * training.num_parameters
    updates_needed = max(MIN_UPDATES, math.ceil(tokens_needed / training.tokens_per_update))
    if training.num_updates >= updates_needed or training.num_epochs >= ENOUGH_EPOCHS:
        return None
    limit_needed = round_up(training.limit * updates_needed / training.num_updates)
    remedy = f"raise {training.limit_key} to {limit_needed:,} or more"
    changes = {training.limit_key: 1}
    if training.tokens_per_parameter >= MIN_TOKENS_PER_PARAMETER:
        remedy += ", or lower train.batch_tokens"
        changes["train.batch_tokens"] = -1
    else:
        remedy += ", or take a smaller model (model.d_model, model.num_encoder_layers)"
        changes["model.d_model"] = -1
    observation = (
        f"the run ends before its model is trained: {count_of(training.num_updates, 'update')}, "
        f"{training.tokens_per_parameter:.2g} target tokens for each parameter"
    )
    return Advice("too short", observation, remedy, changes)


def advise_on_warmup(training: TrainingFacts) -> Advice | None:
    """Return advice if the warm-up takes too large a part of the run, else None."""
    longest = int(MAX_WARMUP_FRACTION * training.num_updates)
    if training.warmup_updates <= longest:
        return None
    observation = (
        f"a warm-up of {count_of(training.warmup_updates, 'update')} is long for a run of "
        f"{training.num_updates:,}"
    )
    remedy = f"lower train.warmup_steps to {longest:,} or less, a tenth of the run"
    return Advice("warm-up", observation, remedy, {"train.warmup_steps": -1})


def advise_on_model_size(training: TrainingFacts) -> Advice | None:
    """Return advice if a model is large for its text, else None.

    Without more dropout, such a model memorizes its text.
    """
    parameters_per_token = training.num_parameters / training.num_tgt_tokens
    wanted = 0.0
    for min_epochs, min_parameters, dropout in WANTED_DROPOUTS:
        if training.num_epochs >= min_epochs and parameters_per_token >= min_parameters:
            wanted = dropout
    if training.dropout >= wanted:
        return None
    observation = (
        f"the model is large for the text: {parameters_per_token:,.0f} parameters for each target "
        f"token, which is seen {training.num_epochs:,.0f} times"
    )
    remedy = f"raise model.dropout to {wanted}, or take a smaller model (model.d_model)"
    return Advice("model size", observation, remedy, {"model.dropout": 1, "model.d_model": -1})


def advise_on_vocabulary(
    token_counts: NDArray[np.int64], *, vocab_size: int, side: str
) -> Advice | None:
    """Return advice if a vocabulary is too large for the training text, else None.

    `token_counts` says how often each token occurs in it that a smaller vocabulary would not have:
    all but control tokens, bytes and single characters. `side` names the tokenizer's text.
    """
    if len(token_counts) == 0:
        return None
    median = int(np.median(token_counts))
    if median >= MIN_EXAMPLES:
        return None
    num_frequent = int((token_counts >= MIN_EXAMPLES).sum())
    num_others = vocab_size - len(token_counts)
    smaller = round_down(num_others + num_frequent)
    observation = (
        f"the vocabulary of {vocab_size:,} is too large for the text ({side}): "
        f"half of its learned tokens occur {median:,} times or less"
    )
    remedy = f"lower tokenizer.vocab_size to about {smaller:,}"
    return Advice("vocabulary", observation, remedy, {"tokenizer.vocab_size": -1})


def round_up(value: float) -> int:
    """Return the next number with at most two digits before its zeros: 1,234 becomes 1,300."""
    unit: int = 10 ** max(0, len(str(math.ceil(value))) - 2)
    return math.ceil(value / unit) * unit


def round_down(value: int) -> int:
    """Return the last number with at most two digits before its zeros: 1,299 becomes 1,200."""
    unit: int = 10 ** max(0, len(str(value)) - 2)
    return value // unit * unit
