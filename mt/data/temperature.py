"""Sampling from language pairs by a temperature, for training text of unequal size.

Arivazhagan et al. 2019, "Massively Multilingual Neural Machine Translation in the Wild".
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mt.config.schema import DataConfig, LanguagePair
from mt.data.corpus import EncodedCorpus


def sample_by_temperature(corpus: EncodedCorpus, data: DataConfig) -> EncodedCorpus:
    """Return the corpus with sentence pairs weighted as `data.sampling_temperature` says."""
    weights = temperature_weights(
        corpus.num_pairs,
        [section.weight for section in data.train],
        [data.languages(section) for section in data.train],
        temperature=data.sampling_temperature,
    )
    pair_weights = np.repeat(np.array(weights, np.float32), corpus.num_pairs)
    return replace(corpus, weights=pair_weights)


def temperature_weights(
    num_pairs: Sequence[int],
    weights: Sequence[float],
    directions: Sequence[LanguagePair],
    *,
    temperature: float,
) -> list[float]:
    """Return how often each sentence pair of each corpus is taken in an epoch.

    The arguments have an item for each corpus. A language pair with n sentence pairs, each counted
    with the weight of its corpus, gets a part of the epoch in proportion to n^(1 / temperature).
    The length of the epoch stays the same, and so do the proportions within a language pair.
    """
    sizes: dict[LanguagePair, float] = {}
    for num_sentence_pairs, weight, direction in zip(num_pairs, weights, directions, strict=True):
        sizes[direction] = sizes.get(direction, 0.0) + weight * num_sentence_pairs
    powers = {direction: size ** (1.0 / temperature) for direction, size in sizes.items()}
    epoch_length = sum(sizes.values())
    power_sum = sum(powers.values())
    factors = {
        direction: epoch_length * powers[direction] / (power_sum * size)
        for direction, size in sizes.items()
        if size > 0.0  # the filter may have left no sentence pair of these languages
    }
    return [
        weight * factors.get(direction, 0.0)
        for weight, direction in zip(weights, directions, strict=True)
    ]
