"""Sampling: translations drawn from the distribution of the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mt.decoding.search import Candidates, Selection


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn.

    `temperature` divides the log-probabilities. Then only the `top_k` most probable tokens are
    kept, and of these the fewest that together have at least the probability `top_p` ("nucleus
    sampling", Holtzman et al. 2020). Of these, tokens with a probability below `epsilon` are
    removed, except the most probable one ("epsilon sampling", Hewitt et al. 2022). A token that is
    not kept is never drawn.
    """

    seed: int
    temperature: float = 1.0
    top_k: int | None = None  # None: all tokens
    top_p: float = 1.0
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"wanted a seed of at least 0, found {self.seed}")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"wanted a temperature above 0, found {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"wanted a top_k of at least 1, found {self.top_k}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"wanted a top_p above 0 and at most 1, found {self.top_p}")
        if not 0.0 <= self.epsilon < 1.0:
            raise ValueError(f"wanted an epsilon of at least 0 and below 1, found {self.epsilon}")


class Sampling:
    """Strategy that draws `num_samples` independent hypotheses for each sentence.

    The random numbers of a sentence come from the seed and its source ids. So its samples do not
    depend on the other sentences of the batch, except for the last bits of a sum (see Translator).
    An object serves one call of `generate`.
    """

    def __init__(
        self, options: SamplingOptions, *, num_samples: int, sources: Sequence[Sequence[int]]
    ) -> None:
        self.options = options
        self.num_hypotheses = num_samples
        self.generators = [np.random.default_rng([options.seed, *ids]) for ids in sources]

    def select(self, totals: Tensor, sentences: Sequence[int], *, eos_id: int) -> Selection:
        """Draw one token for each beam; at the first position, all samples start from one beam.

        A sample that ends in eos is finished. Its row stays in the beams, with a log-probability of
        -inf.
        """
        num_active, num_beams, _ = totals.shape
        parents = torch.arange(self.num_hypotheses, device=totals.device)
        parents = (parents % num_beams).expand(num_active, -1)
        totals = totals.take_along_dim(parents[:, :, None], dim=1)  # (active, num_samples, vocab)

        # The sum of a beam's log-probabilities so far is the same for all of its tokens, so it does
        # not change the softmax.
        tokens = self._draw(self._probabilities(totals), sentences)
        drawn = Candidates(parents, tokens, totals.gather(2, tokens[:, :, None])[:, :, 0])
        is_eos = tokens == eos_id
        return Selection(
            finished=drawn._replace(log_probs=drawn.log_probs.masked_fill(~is_eos, -math.inf)),
            beams=drawn._replace(log_probs=drawn.log_probs.masked_fill(is_eos, -math.inf)),
        )

    def _probabilities(self, totals: Tensor) -> Tensor:
        """Return the probability of each token: float64, with the shape of `totals`.

        The tokens of an impossible beam get equal probabilities. Whichever is drawn, the beam stays
        impossible.
        """
        is_possible = totals.amax(2, keepdim=True) > -math.inf
        scaled = totals.masked_fill(~is_possible, 0.0).double() / self.options.temperature
        top_k = self.options.top_k
        if top_k is not None and top_k < totals.size(2):
            smallest_kept = scaled.topk(top_k).values[:, :, -1:]
            scaled = scaled.masked_fill(scaled < smallest_kept, -math.inf)
        probabilities = scaled.softmax(2)
        if self.options.top_p < 1.0:
            descending, order = probabilities.sort(dim=2, descending=True)
            sum_before = descending.cumsum(2) - descending
            descending = descending.masked_fill(sum_before >= self.options.top_p, 0.0)
            probabilities = torch.zeros_like(probabilities).scatter(2, order, descending)
        if self.options.epsilon > 0.0:
            largest = probabilities.amax(2, keepdim=True)
            threshold = largest.clamp(max=self.options.epsilon)
            probabilities = probabilities.masked_fill(probabilities < threshold, 0.0)
        return probabilities

    def _draw(self, probabilities: Tensor, sentences: Sequence[int]) -> Tensor:
        """Draw a token for each sample: long (active, num_samples).

        The drawn token is the first one where the cumulative sum passes a uniform random number.
        """
        uniform = [self.generators[index].random(self.num_hypotheses) for index in sentences]
        thresholds = torch.from_numpy(np.stack(uniform)).to(probabilities.device)
        cumulative = probabilities.cumsum(2)
        thresholds = thresholds[:, :, None] * cumulative[:, :, -1:]
        tokens = torch.searchsorted(cumulative, thresholds, right=True)[:, :, 0]
        return tokens.clamp(max=probabilities.size(2) - 1)
