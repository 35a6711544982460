"""Tests of corpus scores and their confidence intervals."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import sacrebleu

from mt.evaluation import metrics
from mt.evaluation.metrics import Score, bleu_tokenizer, score_corpus

HYPOTHESES = [
    "Die alte Frau sieht einen kleinen Hund.",
    "Er kauft 3,5 kg Äpfel – und „Birnen“!  ",
    "",
    "\u2003Ein Satz , der mit einem Leerzeichen beginnt .\t",
    "我喜歡吃魚。",
]
REFERENCES = [
    "Die alte Frau sieht einen kleinen Hund an.",
    "Er kauft 3,5 kg Birnen – und „Äpfel“!",
    "Nichts.",
    "Ein Satz, der mit einem Leerzeichen beginnt.",
    "我喜歡吃蘋果。\u3000",
]
OTHER_REFERENCES = ["Eine Frau sieht einen Hund.", "Er kauft Äpfel.  ", "", "Ein Satz.", "我吃魚。"]


WORDS = ["der", "die", "alte", "rote", "Hund", "Katze", "Haus", "sieht", "kauft", "und", ",", "."]


def scores_of_sacrebleu_command(
    folder: Path, references: Sequence[Sequence[str]], *options: str
) -> list[tuple[str, str]]:
    """Run sacreBLEU's own command; return (value to 10 places, signature) of BLEU, chrF and TER."""
    paths = []
    for number, lines in enumerate([HYPOTHESES, *references]):
        path = folder / f"{number}.txt"
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())
        paths.append(str(path))
    hypothesis_path, *reference_paths = paths
    command = [sys.executable, "-m", "sacrebleu", *reference_paths, "-i", hypothesis_path]
    command += ["-m", "bleu", "chrf", "ter", "-w", "10", "-f", "json", *options]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    return [(f"{score['score']:.10f}", score["signature"]) for score in json.loads(result.stdout)]


def noisy_translations(num_pairs: int, *, seed: int) -> tuple[list[str], list[str]]:
    """Return translations with one in five words replaced at random, and their references."""
    draw = random.Random(seed)
    hyps = []
    refs = []
    for _ in range(num_pairs):
        ref = draw.choices(WORDS, k=draw.randint(1, 25))
        hyp = [draw.choice(WORDS) if draw.random() < 0.2 else word for word in ref]
        hyps.append(" ".join(hyp))
        refs.append(" ".join(ref))
    return hyps, refs


# Scores


@pytest.mark.parametrize(
    ("references", "tokenize"),
    [([REFERENCES], "13a"), ([REFERENCES, OTHER_REFERENCES], "zh")],
    ids=["one reference", "two references"],
)
def test_scores_and_signatures_equal_those_of_sacrebleu(
    tmp_path: Path, references: list[list[str]], tokenize: str
) -> None:
    scores = score_corpus(HYPOTHESES, references, tokenize=tokenize)
    expected = scores_of_sacrebleu_command(tmp_path, references, "-tok", tokenize)
    assert [(f"{score.value:.10f}", score.signature) for score in scores] == expected


def test_score_has_its_name_and_signature() -> None:
    bleu, chrf, ter = score_corpus(HYPOTHESES, [REFERENCES])
    assert [score.name for score in (bleu, chrf, ter)] == ["BLEU", "chrF", "TER"]
    version = sacrebleu.__version__
    assert bleu.signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"


def test_metrics_are_computed_in_the_order_asked_for() -> None:
    scores = score_corpus(HYPOTHESES, [REFERENCES], metrics=["chrf", "bleu"])
    assert [score.name for score in scores] == ["chrF", "BLEU"]


def test_perfect_translation_has_perfect_scores() -> None:
    bleu, chrf, ter = score_corpus(REFERENCES, [REFERENCES])
    assert bleu.value == pytest.approx(100)
    assert chrf.value == pytest.approx(100)
    assert ter.value == 0


def test_empty_translation_has_the_worst_scores() -> None:
    bleu, chrf, ter = score_corpus([""] * len(REFERENCES), [REFERENCES])
    assert bleu.value == 0
    assert chrf.value == 0
    assert ter.value == 100


@pytest.mark.parametrize(
    ("hypotheses", "references"),
    [
        ([], [[]]),
        (["a"], []),
        (["a"], [[]]),
        (["a"], [["a"], []]),
        (["a", "b"], [["a", "b"], ["a"]]),
    ],
)
def test_missing_lines_are_not_scored(hypotheses: list[str], references: list[list[str]]) -> None:
    with pytest.raises(AssertionError):
        score_corpus(hypotheses, references)


# Confidence intervals


@pytest.mark.parametrize("num_pairs", [10, 40, 150])
@pytest.mark.parametrize("seed", range(3))
def test_interval_contains_the_score_and_leaves_it_as_it_is(num_pairs: int, seed: int) -> None:
    hyps, refs = noisy_translations(num_pairs, seed=seed)
    scores = score_corpus(hyps, [refs])
    scores_with_interval = score_corpus(hyps, [refs], num_resamples=200)
    for score, with_interval in zip(scores, scores_with_interval, strict=True):
        assert with_interval.name == score.name
        assert with_interval.value == score.value
        assert with_interval.signature.replace("bs:200|seed:12345|", "") == score.signature
        low, high = with_interval.interval
        assert 0.0 <= low < score.value < high


def test_white_space_at_line_ends_changes_no_interval() -> None:
    hyps, refs = noisy_translations(12, seed=1)
    padded_hyps = [f"{hyp} \t" for hyp in hyps]
    scores = score_corpus(hyps, [refs], num_resamples=100)
    assert score_corpus(padded_hyps, [refs], num_resamples=100) == scores


def test_resamples_without_a_match_are_no_problem() -> None:
    """sacreBLEU 2.6 fails here by itself, see `metrics._compute_score`."""
    hyps = ["q"] * 39 + ["Hund"]
    refs = ["Hund bellt"] * 40
    for score in score_corpus(hyps, [refs], num_resamples=100):
        low, high = score.interval
        assert low <= score.value <= high


def test_more_sentences_make_a_narrower_interval() -> None:
    def bleu_half_width(num_pairs: int) -> float:
        hyps, refs = noisy_translations(num_pairs, seed=7)
        (bleu,) = score_corpus(hyps, [refs], metrics=["bleu"], num_resamples=200)
        return bleu.half_width

    assert bleu_half_width(400) < bleu_half_width(20) / 2


@pytest.mark.parametrize(
    ("name", "mean", "interval"),
    [
        ("BLEU", 99.5, (97.5, 100.0)),
        ("chrF", 1.0, (0.0, 3.0)),
        ("TER", 99.5, (97.5, 101.5)),
        ("TER", 1.0, (0.0, 3.0)),
    ],
)
def test_interval_is_cut_to_the_range_of_the_metric(
    name: str, mean: float, interval: tuple[float, float]
) -> None:
    assert Score(name, mean, "", mean=mean, half_width=2.0).interval == interval


def test_too_few_sentences_have_no_interval() -> None:
    hyps, refs = noisy_translations(metrics.MIN_SENTENCES - 1, seed=1)
    for score in score_corpus(hyps, [refs], num_resamples=100):
        assert score.value > 0.0
        assert math.isnan(score.half_width)
        assert all(math.isnan(end) for end in score.interval)


def test_large_set_gets_fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    hyps, refs = noisy_translations(20, seed=1)
    monkeypatch.setattr(metrics, "MAX_RESAMPLED_SENTENCES", 20 * 150)
    bleu, *_ = score_corpus(hyps, [refs], num_resamples=1000)
    assert "|bs:150|" in bleu.signature


# BLEU's tokenizer


@pytest.mark.parametrize(
    ("tgt_lang", "tokenizer"),
    [("de", "13a"), ("zh", "zh"), ("zh-CN", "zh"), ("zh_Hant", "zh"), ("ZH", "zh")],
)
def test_target_language_decides_the_tokenizer(tgt_lang: str, tokenizer: str) -> None:
    assert bleu_tokenizer(tgt_lang) == tokenizer


@pytest.mark.parametrize(("tgt_lang", "tokenizer"), [("ja", "ja-mecab"), ("ko-KR", "ko-mecab")])
def test_japanese_and_korean_need_installed_packages(
    monkeypatch: pytest.MonkeyPatch, tgt_lang: str, tokenizer: str
) -> None:
    monkeypatch.setattr(metrics, "find_spec", lambda package: object())
    assert bleu_tokenizer(tgt_lang) == tokenizer
    monkeypatch.setattr(metrics, "find_spec", lambda package: None)
    assert bleu_tokenizer(tgt_lang) == "char"
