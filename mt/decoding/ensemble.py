"""Decoding with several models of one vocabulary: an ensemble.

The probability of a token is the arithmetic mean of its probabilities by all models. This is the
rule of fairseq (Ott et al. 2019) and Sockeye's "linear" mode. Marian and OpenNMT-py take the mean
of the log-probabilities instead, a geometric mean of probabilities. The arithmetic mean is chosen
because it is a distribution: its probabilities sum to one without a normalization. So translations
can be sampled from it, and their log-probabilities can be compared with those of a single model. A
single model is an ensemble of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mt.model.kv_cache import KVCache
from mt.model.transformer import Transformer


@dataclass(frozen=True)
class EnsembleState:
    """The KV cache of each model: what a decoding step remembers."""

    caches: Sequence[KVCache]

    def reorder(self, beam_index: Tensor) -> None:
        """Reorder the beams in all caches: see `SearchState`."""
        for cache in self.caches:
            cache.reorder(beam_index)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep these rows in all caches: see `SearchState`."""
        for cache in self.caches:
            cache.keep_rows(rows)


@dataclass(frozen=True)
class EnsembleStep:
    """The decoding step of some models (see `DecodeStep`)."""

    models: Sequence[Transformer]

    def __call__(self, tokens: Tensor, state: EnsembleState) -> Tensor:
        """Return the log-probabilities of the next token of each beam: (batch, beam, vocab)."""
        log_probs = []
        for model, cache in zip(self.models, state.caches, strict=True):
            states = model.decode(tokens.reshape(-1, 1), cache)  # (batch * beam, 1, d_model)
            log_probs.append(model.logits(states[:, 0]).float().log_softmax(dim=-1))
        return mean_log_probs(log_probs).view(*tokens.shape, -1)


def mean_log_probs(log_probs: Sequence[Tensor]) -> Tensor:
    """Return the logarithm of the arithmetic mean of probabilities, from their logarithms.

    The largest one is factored out. So nothing underflows, and the mean of equal values is exactly
    this value: a model together with itself translates as it does alone.
    """
    if len(log_probs) == 1:
        return log_probs[0]
    stacked = torch.stack(list(log_probs))  # (num_models, ...)
    lowest = torch.finfo(stacked.dtype).min  # the difference of two -inf would be nan
    largest = stacked.amax(dim=0).clamp(min=lowest)
    return largest + (stacked - largest).exp().mean(dim=0).log()
