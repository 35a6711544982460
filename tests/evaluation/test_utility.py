"""Tests of utilities: they are sacreBLEU's scores of single sentences."""

from __future__ import annotations

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from mt.evaluation.metrics import Scoring
from mt.evaluation.utility import BleuUtility, ChrfUtility

SENTENCES = [
    "Ein Hund läuft über die Wiese.",
    "Ein Hund rennt über eine Wiese .",
    "ein hund  LÄUFT über die wiese",
    "Zwei Männer, die (vor 3.000 Jahren) schliefen: „Guten Tag!“",
    "der der der der der Hund der der",
    "Hund",
    "x",
    "!?",
    "",
    "   ",
    "我喜欢吃苹果和香蕉。",
]


@pytest.mark.parametrize("lowercase", [False, True])
def test_chrf_is_that_of_sacrebleu(lowercase: bool) -> None:
    metric = CHRF(lowercase=lowercase)
    scores = ChrfUtility(lowercase)(SENTENCES)
    for row, hyp in enumerate(SENTENCES):
        expected = [metric.sentence_score(hyp, [ref]).score for ref in SENTENCES]
        assert scores[row].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("tokenize", ["13a", "char", "none"])
def test_bleu_is_that_of_sacrebleu(tokenize: str, lowercase: bool) -> None:
    metric = BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    scores = BleuUtility(Scoring(tokenize, lowercase))(SENTENCES)
    for row, hyp in enumerate(SENTENCES):
        expected = [metric.sentence_score(hyp, [ref]).score for ref in SENTENCES]
        assert scores[row].tolist() == pytest.approx(expected, abs=1e-9)


def test_one_text_has_all_in_common_with_itself() -> None:
    assert ChrfUtility()(["Ein Hund"]).tolist() == [[pytest.approx(100.0)]]
    assert BleuUtility(Scoring())(["Ein Hund"]).tolist() == [[pytest.approx(100.0)]]
