"""Scores of a translated set by the length of the source."""

from collections.abc import Sequence
from typing import NamedTuple

from mt.data.eval_set import EvalSet
from mt.evaluation.analysis import Bucket, length_buckets
from mt.evaluation.metrics import Score, Scoring, score_corpus


class LengthScores(NamedTuple):
    """The scores of a set in buckets of similar source length."""

    unit: str  # "words" or "characters"
    buckets: list[tuple[Bucket, list[Score]]]


def score_by_length(
    eval_set: EvalSet,
    hyps: Sequence[str],
    *,
    scoring: Scoring,
    metrics: Sequence[str],
    num_resamples: int = 1,
) -> LengthScores:
    """Score the sentences of each bucket (see `length_buckets`).

    With more than one resample, there are intervals where a bucket has enough sentences.
    """
    unit, buckets = length_buckets(eval_set.src)
    scored = []
    for bucket in buckets:
        scores = score_corpus(
            [hyps[index] for index in bucket.indices],
            [[lines[index] for index in bucket.indices] for lines in eval_set.refs],
            metrics=metrics,
            scoring=scoring,
            num_resamples=num_resamples,
        )
        scored.append((bucket, scores))
    return LengthScores(unit, scored)
