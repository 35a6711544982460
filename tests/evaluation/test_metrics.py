"""Tests of corpus scores and their confidence intervals."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU

from mt.config.choices import BleuTokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.errors import PackageError, TokenizerError
from mt.evaluation import metrics
from mt.evaluation.metrics import Score, Scoring, check_tokenizer, score_corpus

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


ASIAN_TER = ("--ter-normalized", "--ter-asian-support")
LOWERCASE = ("--lowercase", "--chrf-lowercase")


@pytest.mark.parametrize(
    ("scoring", "options"),
    [
        (Scoring.for_language("de"), ("-tok", "13a")),
        (Scoring.for_language("zho_Hant"), ("-tok", "zh", *ASIAN_TER)),
        (Scoring.for_language("ja", tokenize="char"), ("-tok", "char", *ASIAN_TER)),
        (Scoring.for_language("de", tokenize="intl", lowercase=True), ("-tok", "intl", *LOWERCASE)),
        (Scoring.for_language("", tokenize="none"), ("-tok", "none", "--force")),
    ],
    ids=["de", "Chinese", "Japanese", "lowercase", "none"],
)
@pytest.mark.parametrize("references", [[REFERENCES], [REFERENCES, OTHER_REFERENCES]])
def test_scores_and_signatures_equal_those_of_sacrebleu(
    tmp_path: Path, references: list[list[str]], scoring: Scoring, options: Sequence[str]
) -> None:
    scores = score_corpus(HYPOTHESES, references, scoring=scoring)
    expected = scores_of_sacrebleu_command(tmp_path, references, *options)
    assert [(f"{score.value:.10f}", score.signature) for score in scores] == expected


def test_language_without_words_has_no_ter() -> None:
    scores = score_corpus(HYPOTHESES, [REFERENCES], scoring=Scoring.for_language("tha_Thai"))
    assert [score.name for score in scores] == ["BLEU", "chrF"]
    assert "tok:char" in scores[0].signature


@pytest.mark.parametrize("scoring", [Scoring(), Scoring(lowercase=True)])
def test_chrf_with_words_equals_that_of_sacrebleu(tmp_path: Path, scoring: Scoring) -> None:
    options = ["--chrf-word-order", "2", *(LOWERCASE if scoring.lowercase else ())]
    (score,) = score_corpus(HYPOTHESES, [REFERENCES], metrics=["chrf++"], scoring=scoring)
    _, expected, _ = scores_of_sacrebleu_command(tmp_path, [REFERENCES], *options)
    assert (f"{score.value:.10f}", score.signature) == expected
    assert score.name == "chrF++"
    assert "|nw:2|" in score.signature


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
    hyps, refs = noisy_translations(metrics.MIN_SENTENCES_FOR_INTERVAL - 1, seed=1)
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


def test_all_tokenizers_of_sacrebleu_can_be_named() -> None:
    assert {*get_args(BleuTokenizer)} == {"auto", *BLEU.TOKENIZERS}


@pytest.mark.parametrize("tokenize", ["none", "13a", "intl", "zh", "char"])
def test_tokenizers_that_need_nothing_can_be_used(tokenize: str) -> None:
    check_tokenizer(tokenize)
    scoring = Scoring.for_language("zh", tokenize=tokenize)
    bleu, *_ = score_corpus(HYPOTHESES, [REFERENCES], scoring=scoring)
    assert f"|tok:{tokenize}|" in bleu.signature


@pytest.mark.parametrize(
    ("tokenize", "extra"), [("ja-mecab", "sacrebleu[ja]"), ("ko-mecab", "sacrebleu[ko]")]
)
def test_missing_package_is_named_with_its_installation(
    monkeypatch: pytest.MonkeyPatch, tokenize: str, extra: str
) -> None:
    monkeypatch.setattr("mt.evaluation.languages.find_spec", lambda package: None)
    with pytest.raises(PackageError) as raised:
        Scoring.for_language("de", tokenize=tokenize)
    assert tokenize in str(raised.value)
    assert f"pip install '{extra}'" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("tokenize", ["spm", "flores101", "flores200"])
def test_subword_tokenizer_needs_its_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenize: str
) -> None:
    """sacreBLEU is not allowed to look for it on the network."""
    monkeypatch.setattr(metrics, "SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", str(tmp_path))
    with pytest.raises(TokenizerError) as raised:
        check_tokenizer(tokenize)
    assert f"tokenizer {tokenize} needs the file {tmp_path}" in str(raised.value)
    assert "\n" not in str(raised.value)

    path = Path(str(raised.value).split(" needs the file ")[1].split(",")[0])
    path.parent.mkdir()
    path.write_bytes(b"not a model")
    with pytest.raises(TokenizerError) as raised:
        check_tokenizer(tokenize)
    assert f"tokenizer {tokenize} cannot be used" in str(raised.value)
    assert "\n" not in str(raised.value)

    path.unlink()
    train_tokenizer([*HYPOTHESES, *REFERENCES] * 9, path, kind="unigram", vocab_size=340)
    scoring = Scoring.for_language("zh", tokenize=tokenize)
    bleu, *_ = score_corpus(HYPOTHESES, [REFERENCES], scoring=scoring)
    signature = "flores101" if tokenize == "spm" else tokenize
    assert f"|tok:{signature}|" in bleu.signature


def test_tokenized_text_gives_no_warning_if_bleu_does_not_tokenize_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = ["Ein Satz ."] * 200
    as_tokenized = score_corpus(lines, [lines], metrics=["bleu"], scoring=Scoring("none"))
    assert caplog.messages == []
    assert as_tokenized[0].signature == str(
        BLEU(tokenize="none", references=[lines]).get_signature()
    )
    score_corpus(lines, [lines], metrics=["bleu"], scoring=Scoring("13a"))
    assert caplog.messages != [], "else this test checks nothing"
