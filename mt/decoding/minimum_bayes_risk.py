"""Minimum Bayes risk decoding: the sample that is most like all samples.

Kumar and Byrne (2004), "Minimum Bayes-Risk Decoding for Statistical Machine Translation", choose
the translation with the highest expected utility, such as chrF, if the model's translations are
the references. The expectation is estimated from samples of the model, and the samples are the
candidates too (Eikema and Aziz 2020, "Is MAP Decoding All You Need?"). Freitag et al. (2023),
"Epsilon Sampling Rocks", found epsilon sampling to be the best way to draw them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Returns the utilities of some texts (num_texts, num_texts): element (i, j) is the utility of the
# translation i if text j is the reference.
Utility = Callable[[Sequence[str]], NDArray[np.float64]]


@dataclass(frozen=True)
class MinimumBayesRisk:
    """The number of samples for a text, and the utility that compares them."""

    num_samples: int
    utility: Utility

    def __post_init__(self) -> None:
        if self.num_samples < 2:
            raise ValueError(f"wanted at least 2 samples, found {self.num_samples}")

    def rank(self, samples: Sequence[str]) -> list[tuple[str, float]]:
        """Return the different samples with their mean utilities, the highest first.

        The mean is over all samples, so a text that was drawn twice counts twice. Among equal
        utilities, the text that comes first in `samples` is first.
        """
        counts = Counter(samples)
        # In a fixed order, so that the last bits of a sum do not depend on that of the samples.
        texts = sorted(counts)
        weights = np.array([counts[text] for text in texts]) / len(samples)
        utilities = dict(zip(texts, (self.utility(texts) @ weights).tolist(), strict=True))
        ranked = sorted(counts, key=lambda text: -utilities[text])
        return [(text, utilities[text]) for text in ranked]
