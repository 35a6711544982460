"""Sampling from language pairs by a temperature, for training text of unequal size.

Arivazhagan et al. 2019, "Massively Multilingual Neural Machine Translation in the Wild".
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mt.config.schema import DataConfig, LanguagePair
from mt.data.corpus import EncodedCorpus


def sample_by_temperature(corpus: EncodedCorpus, data: DataConfig) -> EncodedCorpus:
    """Return the corpus with the weights that `data.sampling_temperature` gives its pairs."""
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
    languages: Sequence[LanguagePair],
    *,
    temperature: float,
) -> list[float]:
    """Return how often each pair of each corpus is taken in an epoch.

    The arguments have an item for each corpus. A language pair with n sentence pairs, each counted
    with the weight of its corpus, gets a part of the epoch in proportion to n^(1 / temperature).
    The length of the epoch stays the same, and so do the proportions within a language pair.
    """
    sizes: dict[LanguagePair, float] = {}
    for corpus_pairs, weight, pair in zip(num_pairs, weights, languages, strict=True):
        sizes[pair] = sizes.get(pair, 0.0) + weight * corpus_pairs
    powers = {pair: size ** (1.0 / temperature) for pair, size in sizes.items()}
    epoch_length = sum(sizes.values())
    power_sum = sum(powers.values())
    factors = {
        pair: epoch_length * powers[pair] / (power_sum * size)
        for pair, size in sizes.items()
        if size > 0.0  # the filter may have left no pair of these languages
    }
    return [
        weight * factors.get(pair, 0.0) for weight, pair in zip(weights, languages, strict=True)
    ]
