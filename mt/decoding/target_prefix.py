"""Translations that begin with given tokens.

A search is bound to a prefix by a step that gives a log-probability of -inf to all other tokens.
The tokens of the prefix keep the log-probability that the model gives them, so the score
of a translation does not depend on whether its beginning was given.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from mt.config.choices import Normalization
from mt.data.normalization import normalize
from mt.data.tokenizer import Tokenizer
from mt.decoding.search import DecodeStep, State
from mt.errors import DataError


class PrefixState(Generic[State]):
    """The state of a step, with the prefix of each sentence and the number of tokens so far."""

    def __init__(self, state: State, target_prefixes: Sequence[Sequence[int]]) -> None:
        self.state = state
        self.target_prefixes = list(target_prefixes)
        self.max_length = max((len(prefix) for prefix in target_prefixes), default=0)
        self.position = 0

    def reorder(self, beam_index: Tensor) -> None:
        """Reorder the beams of a sentence; they share its prefix."""
        self.state.reorder(beam_index)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep the state and the prefixes of these sentences."""
        self.state.keep_rows(rows)
        self.target_prefixes = [self.target_prefixes[row] for row in rows]


@dataclass(frozen=True)
class PrefixStep(Generic[State]):
    """A decoding step (see `DecodeStep`) that allows only the prefix, as long as it lasts."""

    step: DecodeStep[State]

    def __call__(self, tokens: Tensor, state: PrefixState[State]) -> Tensor:
        """Return the log-probabilities of the next token, -inf for all that are not allowed."""
        log_probs = self.step(tokens, state.state)
        position = state.position
        state.position += 1
        if position >= state.max_length:
            return log_probs
        for row, prefix in enumerate(state.target_prefixes):
            if position < len(prefix):
                token = prefix[position]
                forced = torch.full_like(log_probs[row], -math.inf)
                forced[:, token] = log_probs[row, :, token]
                log_probs[row] = forced
        return log_probs


def encode_target_prefix(
    text: str,
    tokenizer: Tokenizer,
    *,
    normalization: Normalization,
    max_positions: int | None,
) -> tuple[int, ...]:
    """Return the tokens of a target prefix, without eos.

    `max_positions` is how many tokens the model has positions for; None: any number. Raises
    DataError for a prefix that has a line break or is too long for the model.
    """
    if "\n" in text:
        raise DataError(f"target prefix {text!r}: it has a line break")
    (ids_with_eos,) = tokenizer.encode([normalize(text, normalization).rstrip()])
    ids = ids_with_eos[:-1]
    if max_positions is not None and len(ids) >= max_positions:
        raise DataError(
            f"target prefix {text!r}: {len(ids)} tokens, wanted less than {max_positions} "
            "(model.max_length)"
        )
    return tuple(ids)
