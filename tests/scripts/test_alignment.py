"""The scripts that score word alignments: the error rate, its baselines, and the tokenization."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch

from mt.config.schema import ModelConfig, SearchConfig
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.decoding.alignment import align
from mt.decoding.translation import Segment
from mt.decoding.translator import Translator
from mt.model.transformer import Transformer
from scripts.alignment import error_rate
from scripts.alignment.error_rate import (
    SYMMETRIES,
    Gold,
    alignment_error,
    diagonal,
    grow_diagonally,
    layers_and_steps,
    parse_range,
    read_gold,
)
from scripts.alignment.ibm1 import ibm1
from scripts.alignment.tokenize import split_words

WORDS = ["balo", "deru", "fimi", "gona", "hupe", "jasi", "kelo", "mavu", "nira", "potu"]


# Error rate and baselines


def test_error_rate_equals_och_and_ney() -> None:
    gold = [read_gold("0-0 1-1 2p1"), read_gold("0-1"), read_gold("")]
    assert gold[0] == Gold({(0, 0), (1, 1)}, {(0, 0), (1, 1), (2, 1)})
    links = [{(0, 0), (2, 1), (2, 2)}, {(0, 1)}, {(5, 5)}]
    # |A| = 5, |S| = 3, |A & S| = 2, |A & P| = 3
    assert alignment_error(links, gold) == pytest.approx((1 - 5 / 8, 3 / 5, 2 / 3, 5))
    assert alignment_error([sentence.sure for sentence in gold], gold).aer == 0.0
    assert alignment_error([sentence.possible for sentence in gold], gold).aer == 0.0
    assert alignment_error([set(), set(), set()], gold).aer == 1.0


def test_diagonal_links_every_target_word() -> None:
    assert diagonal("a b c", "x y z") == {(0, 0), (1, 1), (2, 2)}
    assert diagonal("a b", "w x y z") == {(0, 0), (0, 1), (1, 2), (1, 3)}
    assert diagonal("", "x") == set()
    assert diagonal("a", "") == set()


def test_symmetries_combine_both_directions() -> None:
    forward = {(0, 0), (1, 1), (3, 3)}
    backward = {(0, 0), (1, 2), (5, 5)}
    assert SYMMETRIES["intersection"](forward, backward) == {(0, 0)}
    assert SYMMETRIES["union"](forward, backward) == forward | backward
    # 1-1 is next to 0-0, and 1-2 next to 1-1; 3-3 and 5-5 are next to no link.
    assert grow_diagonally(forward, backward) == {(0, 0), (1, 1), (1, 2)}


def test_ibm1_learns_from_several_sentences() -> None:
    src = ["das Haus", "das Buch", "ein Buch", ""]
    tgt = ["the house", "the book", "a book", "x"]
    assert ibm1(src, tgt) == [{(0, 0), (1, 1)}] * 3 + [set()]


def test_ibm1_makes_the_first_em_step_of_brown_et_al() -> None:
    """With uniform t, the counts of a are 1/2 + 1/3 for x and 1/3 for y; of b, 1/3 for each.

    So x is linked to a, and y to b.
    """
    assert ibm1(["a", "a b"], ["x", "x y"], iterations=1)[1] == {(0, 0), (1, 1)}


@pytest.mark.parametrize(
    ("text", "expected"), [(":", [0, 1, 2, 3]), ("1:", [1, 2, 3]), (":1", [0]), ("1:3", [1, 2])]
)
def test_range_of_lines(text: str, expected: list[int]) -> None:
    assert [0, 1, 2, 3][parse_range(text)] == expected


# The command


def make_texts(num_texts: int, *, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 5))) for _ in range(num_texts)]


@pytest.fixture
def translator(tmp_path: Path) -> Translator:
    """A translator with three decoder layers and large random weights."""
    path = tmp_path / "tokenizer.model"
    train_tokenizer(make_texts(100, seed=1), path, kind="bpe", vocab_size=310)
    tokenizer = Tokenizer.load(path)
    sizes = {"d_model": 32, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 1}
    torch.manual_seed(3)
    model = Transformer(
        ModelConfig.model_validate({**sizes, "num_decoder_layers": 3}),
        src_vocab_size=tokenizer.vocab_size,
        tgt_vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Translator(model.eval(), tokenizer, tokenizer, search=SearchConfig(), max_length=16)


def test_every_layer_and_step_is_scored(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Translator, "load", lambda run_dir: translator)
    src_texts = make_texts(4, seed=5)
    tgt_texts = make_texts(4, seed=6)
    alignments = dict(layers_and_steps(Path("run"), src_texts, tgt_texts))
    assert list(alignments) == [
        "layer 1 output",
        "layer 1 input",
        "layer 2 output*",
        "layer 2 input",
        "layer 3 output",
        "layer 3 input",
    ]
    src_rows = translator.src_tokenizer.encode(src_texts)
    tgt_rows = translator.tgt_tokenizer.encode(tgt_texts)
    pairs = [Segment(src, tgt) for src, tgt in zip(src_rows, tgt_rows, strict=True)]
    assert alignments["layer 2 output*"] == [set(links) for links in align(translator, pairs)]


def test_command_scores_files_and_baselines_on_chosen_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {
        "gold": "0-0 1-1\n0-0 1-1\n0p0 1-0\n",
        "src": "das Haus\ndas Buch\nein Buch\n",
        "tgt": "the house\nthe book\nbook\n",
        "found.align": "5-5\n0-0 1-1\n0-0\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    arguments = ["gold", "found.align", "--src", "src", "--tgt", "tgt", "--lines", "1:"]
    monkeypatch.setattr(sys, "argv", ["error_rate.py", *arguments])
    error_rate.main()
    heading, _, *rows = capsys.readouterr().out.splitlines()
    assert heading == "2 sentences"
    scores = {row[:28].strip(): row[28:].split() for row in rows}
    assert scores["found.align"] == ["0.167", "1.000", "0.667", "3"]  # 1 - (2 + 3) / (3 + 3)
    assert scores["diagonal"] == ["0.000", "1.000", "1.000", "3"]
    assert list(scores)[2:] == [
        "IBM 1",
        "IBM 1 reverse",
        "IBM 1 intersection",
        "IBM 1 grow-diag",
        "IBM 1 union",
    ]


# Tokenization


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Ist das, was Sie (heute) wollen?", "Ist das , was Sie ( heute ) wollen ?"),
        (
            "am 17. Dezember bzw. d.h. 4.4 Mio. Euro. Ja.",
            "am 17. Dezember bzw. d.h. 4.4 Mio. Euro . Ja .",
        ),
        ("Yesterday's 'news' on EU-wide 30% cuts", "Yesterday 's ' news ' on EU-wide 30 % cuts"),
        ("", ""),
    ],
)
def test_split_words_separates_punctuation_once(line: str, expected: str) -> None:
    assert split_words(line) == expected
    assert split_words(expected) == expected
