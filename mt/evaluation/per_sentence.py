"""BLEU and chrF of single sentences, for a look at what a system does well and badly."""

from collections.abc import Sequence
from typing import NamedTuple

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from mt.evaluation.metrics import Scoring


class SentenceScores(NamedTuple):
    """The scores of one translation; with several references, chrF is that of the best."""

    bleu: float
    chrf: float


class SentenceScorer:
    """Scores single sentences.

    BLEU counts only the lengths of n-grams that the translation has (sacreBLEU's effective order),
    because most sentences would have a score of 0 otherwise. The mean of these scores is not the
    score of the set.
    """

    def __init__(self, scoring: Scoring) -> None:
        self._bleu = BLEU(
            tokenize=scoring.present_tokenizer, lowercase=scoring.lowercase, effective_order=True
        )
        self._chrf = CHRF(lowercase=scoring.lowercase)

    def score(self, hyp: str, refs: Sequence[str]) -> SentenceScores:
        """Return the scores of a translation."""
        hyp = hyp.rstrip()
        refs = [ref.rstrip() for ref in refs]
        bleu = self._bleu.sentence_score(hyp, refs)
        chrf = self._chrf.sentence_score(hyp, refs)
        return SentenceScores(float(bleu.score), float(chrf.score))

    @property
    def signatures(self) -> dict[str, str]:
        """The signature of each score; there is none before a sentence was scored."""
        return {
            "BLEU": str(self._bleu.get_signature()),
            "chrF": str(self._chrf.get_signature()),
        }
