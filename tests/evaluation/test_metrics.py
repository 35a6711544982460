from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import sacrebleu

from mt.evaluation import metrics
from mt.evaluation.metrics import bleu_tokenizer, score_corpus

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


def sacrebleu_command(
    folder: Path, references: Sequence[Sequence[str]], *options: str
) -> list[tuple[str, str]]:
    """Run sacreBLEU's own command; return (value to 10 places, signature) of BLEU, chrF and TER."""
    paths = []
    for number, lines in enumerate([HYPOTHESES, *references]):
        paths.append(folder / f"{number}.txt")
        paths[-1].write_bytes("".join(line + "\n" for line in lines).encode())
    hypotheses, *files = map(str, paths)
    arguments = [
        *files,
        "-i",
        hypotheses,
        "-m",
        "bleu",
        "chrf",
        "ter",
        "-w",
        "10",
        "-f",
        "json",
        *options,
    ]
    command = [sys.executable, "-m", "sacrebleu", *arguments]
    output = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", check=True
    ).stdout
    return [(f"{score['score']:.10f}", score["signature"]) for score in json.loads(output)]


@pytest.mark.parametrize(
    ("references", "tokenize"),
    [([REFERENCES], "13a"), ([REFERENCES, OTHER_REFERENCES], "zh")],
    ids=["one", "two"],
)
def test_scores_and_signatures_are_those_of_sacrebleus_own_command(
    tmp_path: Path, references: list[list[str]], tokenize: str
) -> None:
    scores = score_corpus(HYPOTHESES, references, tokenize=tokenize)
    expected = sacrebleu_command(tmp_path, references, "-tok", tokenize)
    assert [(f"{score.value:.10f}", score.signature) for score in scores] == expected


def test_a_score_carries_its_name_and_the_whole_signature() -> None:
    bleu, chrf, ter = score_corpus(HYPOTHESES, [REFERENCES])
    assert [score.name for score in (bleu, chrf, ter)] == ["BLEU", "chrF", "TER"]
    assert (
        bleu.signature
        == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    )


def test_only_the_metrics_asked_for_are_computed_in_that_order() -> None:
    scores = score_corpus(HYPOTHESES, [REFERENCES], metrics=["chrf", "bleu"])
    assert [score.name for score in scores] == ["chrF", "BLEU"]


def test_a_perfect_translation_scores_a_hundred_and_needs_no_edit() -> None:
    bleu, chrf, ter = score_corpus(REFERENCES, [REFERENCES])
    assert (bleu.value, chrf.value, ter.value) == (pytest.approx(100), pytest.approx(100), 0)


def test_silence_scores_nothing_and_does_not_crash() -> None:
    bleu, chrf, ter = score_corpus([""] * len(REFERENCES), [REFERENCES])
    assert (bleu.value, chrf.value, ter.value) == (0, 0, 100)


@pytest.mark.parametrize(
    ("hypotheses", "references"), [([], [[]]), (["a"], []), (["a", "b"], [["a", "b"], ["a"]])]
)
def test_what_has_no_score_gets_none(hypotheses: list[str], references: list[list[str]]) -> None:
    with pytest.raises(AssertionError):
        score_corpus(hypotheses, references)


@pytest.mark.parametrize(
    ("tgt_lang", "tokenizer"),
    [("de", "13a"), ("zh", "zh"), ("zh-CN", "zh"), ("zh_Hant", "zh"), ("ZH", "zh")],
)
def test_the_language_decides_the_tokenizer(tgt_lang: str, tokenizer: str) -> None:
    assert bleu_tokenizer(tgt_lang) == tokenizer


@pytest.mark.parametrize(("tgt_lang", "tokenizer"), [("ja", "ja-mecab"), ("ko-KR", "ko-mecab")])
@pytest.mark.parametrize(
    ("find", "is_installed"), [(lambda _: "found", True), (lambda _: None, False)]
)
def test_a_tokenizer_that_is_not_installed_gives_way_to_characters(
    monkeypatch: pytest.MonkeyPatch,
    find: Callable[[str], object],
    is_installed: bool,
    tgt_lang: str,
    tokenizer: str,
) -> None:
    monkeypatch.setattr(metrics, "find_spec", find)
    assert bleu_tokenizer(tgt_lang) == (tokenizer if is_installed else "char")
