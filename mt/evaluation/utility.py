"""chrF and BLEU between all pairs of some sentences, for minimum Bayes risk decoding.

The values are those of sacreBLEU for single sentences. A sentence is split into n-grams once, and
not once for each of its pairs, so 32 sentences take some milliseconds.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.helpers import extract_char_ngrams, extract_word_ngrams

from mt.config.choices import MbrUtility
from mt.config.schema import Config
from mt.decoding.minimum_bayes_risk import Utility
from mt.evaluation.evaluate import scoring_of_run
from mt.evaluation.metrics import Scoring

CHRF_ORDER = 6  # the longest character n-grams
CHRF_BETA = 2  # recall counts this many times as much as precision
BLEU_ORDER = 4  # the longest word n-grams


@dataclass(frozen=True)
class ChrfUtility:
    """Sentence chrF (Popović 2015), from 0 to 100: a `Utility` of minimum_bayes_risk.py."""

    lowercase: bool = False

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the chrF of each text (row) against each text (column)."""
        if self.lowercase:
            texts = [text.lower() for text in texts]
        shape = (len(texts), len(texts))
        precision_sums = np.zeros(shape)
        recall_sums = np.zeros(shape)
        num_orders = np.zeros(shape)  # for which both texts are long enough
        for order in range(1, CHRF_ORDER + 1):
            ngrams = [extract_char_ngrams(text, order) for text in texts]
            matches = count_matches(ngrams)
            totals = np.array([counts.total() for counts in ngrams])
            at_least_one = np.maximum(totals, 1)
            precision_sums += matches / at_least_one[:, None]
            recall_sums += matches / at_least_one
            num_orders += (totals[:, None] > 0) & (totals > 0)
        num_orders = np.maximum(num_orders, 1)
        precisions = precision_sums / num_orders
        recalls = recall_sums / num_orders
        numerators = (1 + CHRF_BETA**2) * precisions * recalls
        denominators = CHRF_BETA**2 * precisions + recalls
        scores = np.zeros(shape)
        return 100 * np.divide(numerators, denominators, out=scores, where=denominators > 0)


@dataclass(frozen=True)
class BleuUtility:
    """Sentence BLEU, from 0 to 100: a `Utility` of mt/decoding/minimum_bayes_risk.py.

    It is sacreBLEU's `sentence_bleu`, with its smoothing and effective order.
    """

    scoring: Scoring

    @cached_property
    def _metric(self) -> BLEU:
        metric = self.scoring.metric("bleu")
        assert isinstance(metric, BLEU), metric
        return metric

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the BLEU of each text (row) against each text (column)."""
        if self.scoring.lowercase:
            texts = [text.lower() for text in texts]
        sentences = [self._metric.tokenizer(text.rstrip()).split() for text in texts]
        lengths = [len(words) for words in sentences]
        matches = []
        for order in range(1, BLEU_ORDER + 1):
            ngrams = [extract_word_ngrams(words, order) for words in sentences]
            matches.append(count_matches(ngrams))
        scores = np.zeros((len(texts), len(texts)))
        for row, length in enumerate(lengths):
            totals = [max(length - order, 0) for order in range(BLEU_ORDER)]
            for column, ref_length in enumerate(lengths):
                scores[row, column] = BLEU.compute_bleu(
                    correct=[int(of_order[row, column]) for of_order in matches],
                    total=totals,
                    sys_len=length,
                    ref_len=ref_length,
                    smooth_method="exp",
                    effective_order=True,
                ).score
        return scores


def utility_of_run(name: MbrUtility, config: Config) -> Utility:
    """Return a utility that counts words and case as the scores of a run do.

    Raises PackageError when BLEU's tokenizer lacks a package, and TokenizerError when it lacks a
    file.
    """
    if name == "chrf":
        return ChrfUtility(config.evaluation.lowercase)
    return BleuUtility(scoring_of_run(config))


def count_matches(ngrams: Sequence[Counter[str]]) -> NDArray[np.int64]:
    """Return how many n-grams each pair of texts shares: (num_texts, num_texts).

    An n-gram counts as often as it is in both. `ngrams` has the counts of each text.
    """
    columns: dict[str, int] = {}
    for counts in ngrams:
        for ngram in counts:
            columns.setdefault(ngram, len(columns))
    table = np.zeros((len(ngrams), len(columns)), np.int32)
    for row, counts in enumerate(ngrams):
        table[row, [columns[ngram] for ngram in counts]] = list(counts.values())
    return np.array([np.minimum(table, row).sum(axis=1) for row in table], dtype=np.int64)
