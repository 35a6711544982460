"""Significance tests: is one system better than another, or is the difference due to chance?

Two tests by sacreBLEU, both of one set. p is the probability of a difference at least this large
between two systems that are equally good:

- paired bootstrap resampling: Koehn 2004, "Statistical Significance Tests for Machine Translation
  Evaluation"
- paired approximate randomization: Riezler and Maxwell 2005, "On Some Pitfalls in Automatic
  Evaluation and Significance Testing for MT"

The p-values equal those of `sacrebleu --paired-bs` and `sacrebleu --paired-ar` with the same seed
(the environment variable SACREBLEU_SEED, or 12345), with one exception: for two systems with the
same score sacreBLEU gives the smallest possible p, which would mean a significant difference. Here
it is 1, because every difference is at least as large as none.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from sacrebleu.significance import PairedTest, Result

from mt.evaluation.metrics import (
    MIN_SENTENCES_FOR_INTERVAL,
    NAMES,
    NUM_RESAMPLES,
    Score,
    Scoring,
    affordable_resamples,
    usable_metrics,
)

NUM_TRIALS = 10_000  # of approximate randomization; sacreBLEU's default
MIN_TRIALS = 1000
# sacreBLEU holds the choices for all sentences of all trials in memory at once, so a large set gets
# fewer trials.
MAX_SHUFFLED_SENTENCES = 50_000_000

Test = Literal["bs", "ar"]  # paired bootstrap and approximate randomization, as sacreBLEU's options


class PairedScore(NamedTuple):
    """A score of one of several systems on one set, and how it differs from that of the baseline.

    Both p-values are None for the baseline itself, and for a set with too few sentences.
    """

    score: Score
    bootstrap_p: float | None
    randomization_p: float | None


class PairedScores(NamedTuple):
    """The scores of several systems on one set by one metric, with the tests' signatures."""

    metric: str  # "BLEU", for example
    systems: list[PairedScore]  # the first is the baseline
    bootstrap_signature: str
    randomization_signature: str


def compare_with_baseline(
    hypotheses: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[str],
    scoring: Scoring,
) -> list[PairedScores]:
    """Score several systems on one set, and test each against the first, the baseline.

    `hypotheses` holds one list of lines for each system, `references` one for each reference set.
    """
    assert len(hypotheses) > 1, "a comparison needs two systems"
    # sacreBLEU's command removes white space at line ends before any metric sees the text.
    hypotheses = [[line.rstrip() for line in lines] for lines in hypotheses]
    references = [[line.rstrip() for line in lines] for lines in references]
    num_lines = len(hypotheses[0])
    num_resamples = affordable_resamples(NUM_RESAMPLES, num_lines)
    num_trials = min(NUM_TRIALS, max(MIN_TRIALS, MAX_SHUFFLED_SENTENCES // num_lines))
    compared = []
    for metric in usable_metrics(metrics, scoring):
        bootstrap, bootstrap_signature = _run_test(
            "bs", hypotheses, references, metric=metric, scoring=scoring, num_samples=num_resamples
        )
        randomization, randomization_signature = _run_test(
            "ar", hypotheses, references, metric=metric, scoring=scoring, num_samples=num_trials
        )
        systems: list[PairedScore] = []
        for by_bs, by_ar in zip(bootstrap, randomization, strict=True):
            score = _score(metric, by_bs, bootstrap_signature)
            system = PairedScore(score, by_bs.p_value, by_ar.p_value)
            if systems and score.value == systems[0].score.value:
                system = PairedScore(score, 1.0, 1.0)
            systems.append(system)
        if num_lines < MIN_SENTENCES_FOR_INTERVAL:
            systems = [_without_tests(system) for system in systems]
        compared.append(
            PairedScores(NAMES[metric], systems, bootstrap_signature, randomization_signature)
        )
    return compared


def _run_test(
    test: Test,
    hypotheses: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    metric: str,
    scoring: Scoring,
    num_samples: int,
) -> tuple[list[Result], str]:
    """Return the result of each system, and the signature of the test."""
    named_systems = [(str(number), lines) for number, lines in enumerate(hypotheses)]
    paired_test = PairedTest(
        named_systems,
        {metric: scoring.metric(metric)},
        references,
        test_type=test,
        n_samples=num_samples,
    )
    signatures, results = paired_test()
    # sacreBLEU's own name of the metric, such as chrF2, is the only key.
    ((name, signature),) = signatures.items()
    return [result for result in results[name] if isinstance(result, Result)], str(signature)


def _score(metric: str, result: Result, signature: str) -> Score:
    """Return the score of a bootstrap test, with its interval."""
    assert result.mean is not None, "a bootstrap test has intervals"
    assert result.ci is not None
    return Score(NAMES[metric], result.score, signature, float(result.mean), float(result.ci))


def _without_tests(system: PairedScore) -> PairedScore:
    """Return a score without interval and p-values: those of few sentences mean nothing."""
    score = system.score._replace(mean=float("nan"), half_width=float("nan"))
    return PairedScore(score, None, None)
