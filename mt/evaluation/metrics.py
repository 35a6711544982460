"""BLEU, chrF and TER of detokenized text by sacreBLEU, each with its signature.

The scores are the same as those of sacreBLEU's own command.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from sacrebleu.utils import SACREBLEU_DIR

from mt.errors import PackageError, TokenizerError
from mt.evaluation.languages import (
    EXTRAS,
    TerWords,
    bleu_tokenizer,
    is_installed,
    ter_words,
)

MIN_SENTENCES_FOR_INTERVAL = 10  # a confidence interval of fewer sentences means nothing
NUM_RESAMPLES = 1000  # the usual number of bootstrap resamples
MIN_RESAMPLES = 100
# sacreBLEU holds the statistics of all sentences of all resamples in memory at once, so a large set
# gets fewer resamples.
MAX_RESAMPLED_SENTENCES = 5_000_000

# Of the metrics, as scores show them.
NAMES = {"bleu": "BLEU", "chrf": "chrF", "chrf++": "chrF++", "ter": "TER"}
DEFAULT_METRICS = ("bleu", "chrf", "ter")

# BLEU's tokenizers that need spaces between words.
WORD_TOKENIZERS = ("none", "13a", "intl")


@dataclass(frozen=True)
class Scoring:
    """How translations are scored, as options of sacreBLEU."""

    tokenize: str = "13a"  # BLEU's tokenizer
    lowercase: bool = False  # for BLEU, chrF and chrF++; TER always ignores case
    ter_words: TerWords = "spaces"

    @classmethod
    def for_language(
        cls, language: str, *, tokenize: str = "auto", lowercase: bool = False
    ) -> Self:
        """Return how translations into a language are scored. `auto` is what fits the language.

        Raises PackageError for a tokenizer that needs a package that is not installed, and
        TokenizerError for one that needs a file that is not there.
        """
        if tokenize == "auto":
            tokenize = bleu_tokenizer(language)
        check_tokenizer(tokenize)
        return cls(tokenize, lowercase, ter_words(language))

    @property
    def present_tokenizer(self) -> str:
        """The present name of BLEU's tokenizer: sacreBLEU warns of the older name "spm"."""
        return "flores101" if self.tokenize == "spm" else self.tokenize

    def metric(self, metric: str) -> Metric:
        """Return sacreBLEU's metric "bleu", "chrf", "chrf++" or "ter"."""
        if metric == "bleu":
            # With "none" the text is known to be tokenized: `force` silences the warning of it.
            force = self.tokenize == "none"
            return BLEU(tokenize=self.present_tokenizer, lowercase=self.lowercase, force=force)
        if metric == "chrf":
            return CHRF(lowercase=self.lowercase)
        if metric == "chrf++":
            # Popović 2017, "chrF++: words helping character n-grams": words and pairs of words too.
            return CHRF(lowercase=self.lowercase, word_order=2)
        assert metric == "ter", metric
        is_asian = self.ter_words == "asian"
        # sacreBLEU splits Chinese and Japanese text only if it also normalizes it.
        return TER(normalized=is_asian, asian_support=is_asian)


DEFAULT_SCORING = Scoring()


class Score(NamedTuple):
    """A corpus score, with the signature that says how it was computed.

    BLEU, chrF and chrF++ are between 0 and 100; TER can be above 100.

    If it was asked for and there are enough sentences, the score has a 95 % confidence interval,
    mean ± half_width, from bootstrap resamples of the sentences (Koehn 2004, "Statistical
    Significance Tests for Machine Translation Evaluation"). The signature then names the number of
    resamples (bs) and the seed. Without an interval, both numbers are nan.
    """

    name: str
    value: float
    signature: str
    mean: float = math.nan
    half_width: float = math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the interval, cut to the metric's range; nan when there is none."""
        highest = math.inf if self.name == "TER" else 100.0
        # `max` and `min` return their first argument if that is nan.
        low = max(self.mean - self.half_width, 0.0)
        high = min(self.mean + self.half_width, highest)
        return low, high


def score_corpus(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    scoring: Scoring = DEFAULT_SCORING,
    num_resamples: int = 1,
) -> list[Score]:
    """Score translations; `references` holds one list of lines for each reference set.

    The scores are those of `sacrebleu REF... -i HYP`, with the options that `scoring` stands for.
    TER is left out if `scoring.ter_words` is None. With more than one resample, the scores have
    confidence intervals; a large set gets fewer resamples than `num_resamples`, to bound the
    memory.
    """
    num_lines = len(hypotheses)
    assert num_lines > 0, "no translations to score"
    assert references, "no references to score against"
    reference_sizes = {len(lines) for lines in references}
    assert reference_sizes == {num_lines}, (num_lines, reference_sizes)
    # sacreBLEU's command removes white space at line ends before any metric sees the text.
    hypotheses = [line.rstrip() for line in hypotheses]
    references = [[line.rstrip() for line in lines] for lines in references]
    num_resamples = affordable_resamples(num_resamples, num_lines)

    scores = []
    for metric_name in usable_metrics(metrics, scoring):
        metric = scoring.metric(metric_name)
        value, mean, half_width = _compute_score(metric, hypotheses, references, num_resamples)
        if num_lines < MIN_SENTENCES_FOR_INTERVAL:
            mean = math.nan
            half_width = math.nan
        signature = str(metric.get_signature())
        scores.append(Score(NAMES[metric_name], value, signature, mean, half_width))
    return scores


def usable_metrics(metrics: Sequence[str], scoring: Scoring) -> list[str]:
    """Return the metrics without TER if the language has no words to count for it."""
    return [name for name in metrics if name != "ter" or scoring.ter_words is not None]


def affordable_resamples(num_resamples: int, num_lines: int) -> int:
    """Return how many bootstrap resamples of a set fit into the memory."""
    max_resamples = max(MIN_RESAMPLES, MAX_RESAMPLED_SENTENCES // num_lines)
    return min(num_resamples, max_resamples)


def check_tokenizer(tokenize: str) -> None:
    """Raise PackageError if a tokenizer of sacreBLEU lacks a package.

    Raises TokenizerError if it lacks a file, or cannot be used for another reason.
    """
    if not is_installed(tokenize):
        raise PackageError(
            f"BLEU's tokenizer {tokenize} needs a package that is not installed: "
            f"pip install '{EXTRAS[tokenize]}', or choose another one, such as char"
        )
    if tokenize in SPM_MODELS:
        path = os.path.join(SACREBLEU_DIR, "models", os.path.basename(SPM_MODELS[tokenize]["url"]))
        if not os.path.isfile(path):
            raise TokenizerError(
                f"BLEU's tokenizer {tokenize} needs the file {path}, which is not there: sacreBLEU "
                f"downloads it at the first `sacrebleu REF -i HYP --tokenize {tokenize}`"
            )
    try:
        Scoring(tokenize).metric("bleu")
    # AssertionError: MeCab has another dictionary. KeyError: sacreBLEU is too old for this one.
    except (AssertionError, ImportError, KeyError, OSError, RuntimeError) as error:
        cause = " ".join(str(error).split())
        raise TokenizerError(f"BLEU's tokenizer {tokenize} cannot be used: {cause}") from error


def _compute_score(
    metric: Metric,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    num_resamples: int,
) -> tuple[float, float, float]:
    """Return (score, mean, half width); the last two are nan with fewer than two resamples.

    This is the only function that uses private parts of sacreBLEU, for two reasons:

    - In sacreBLEU 2.6, a bootstrap can fail. It hands a resample's statistics to the metric as
      float32 numbers, so most scores of resamples are float32; but the score of a resample without
      a match is the float 0.0, and `statistics.mean` does not take such a mixture. Here the metric
      gets the statistics as Python floats, which have the same values.
    - A score has its confidence interval in `_mean` and `_ci`; in public it is only part of a text,
      rounded.
    """
    compute_from_stats = metric._compute_score_from_stats

    def compute_from_floats(stats: Sequence[Any]) -> Any:
        return compute_from_stats([float(number) for number in stats])

    metric._compute_score_from_stats = compute_from_floats  # type: ignore[method-assign]
    score = metric.corpus_score(hypotheses, references, n_bootstrap=num_resamples)
    if num_resamples < 2:
        return score.score, math.nan, math.nan
    return score.score, score._mean, score._ci
