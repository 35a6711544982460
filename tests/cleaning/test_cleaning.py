"""Tests of `mt clean`: which pairs each rule leaves out, and what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mt.cleaning.cleaning
from mt.cleaning.cleaning import (
    Cleaning,
    HeldOut,
    is_in_scripts,
    judge_pairs,
    judge_text,
    learn_held_out,
    write_kept,
)
from mt.cleaning.rules import KEPT, CleaningRules, Rule
from mt.config.schema import CorpusConfig, DataConfig, EvalSetConfig
from mt.data.parallel_text import TsvFile, TwoFiles
from mt.errors import DataError
from mt.preflight.run_checks import check_files

RULES = CleaningRules(max_length=20, max_length_ratio=3.0)
PAIRS = [(f"the dog sees {number}", f"der Hund sieht {number}") for number in range(4)]


def write_pairs(directory: Path, pairs: list[tuple[str, str]], name: str = "text") -> TwoFiles:
    files = TwoFiles(directory / f"{name}.en", directory / f"{name}.de")
    for path, lines in zip(files.paths, zip(*pairs, strict=True), strict=True):
        content = "".join(f"{line}\n" for line in lines)
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    return files


def read_pairs(files: TwoFiles) -> list[tuple[str, str]]:
    src, tgt = (path.read_text(encoding="utf-8").split("\n")[:-1] for path in files.paths)
    return list(zip(src, tgt, strict=True))


def clean(directory: Path, files: TwoFiles, held_out: HeldOut | None = None) -> TwoFiles:
    """Write the clean text to a new folder of the directory."""
    output = directory / "clean"
    output.mkdir()
    paths = (output / "text.en", output / "text.de")
    write_kept(files, judge_text(files, RULES, held_out=held_out), paths=paths)
    return TwoFiles(*paths)


@pytest.mark.parametrize(
    ("pair", "rule"),
    [
        (("the dog", "der Hund"), KEPT),
        (("Yes", "Ja"), KEPT),
        (("the d\udce4g", "der Hund"), Rule.ENCODING),
        (("the dog", "der\u2028Hund"), Rule.CONTROL),
        (("the dog", "der\x00Hund"), Rule.CONTROL),
        (("the dog", " \u200b"), Rule.BLANK),
        (("", ""), Rule.BLANK),
        (("dog " * 21, "Hund " * 20), Rule.LENGTH),
        (("dog " * 20, "Hund " * 20), KEPT),
        (("狗" * 21, "Hund " * 20), Rule.LENGTH),
        (("dog " * 13, "Hund " * 4), Rule.LENGTH_RATIO),
        (("dog " * 12, "Hund " * 4), KEPT),
        (("dog " * 10, "Hund"), KEPT),
        (("the  dog", "the dog "), Rule.COPY),
    ],
)
def test_each_rule_has_its_pairs(pair: tuple[str, str], rule: int) -> None:
    assert judge_pairs([pair], RULES).verdicts.tolist() == [rule]
    if rule != KEPT:
        without = CleaningRules(20, 3.0, without=frozenset(Rule))
        assert judge_pairs([pair], without).verdicts.tolist() == [KEPT]


def test_first_of_equal_pairs_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mt.cleaning.cleaning, "CHUNK_SIZE", 2)
    first, second, third, _ = PAIRS
    other_target = (first[0], "der andere Hund")
    same_words = (f" {second[0]}", second[1].replace(" ", "  "))
    pairs = [first, second, first, other_target, same_words, third, first]
    files = write_pairs(tmp_path, pairs)
    assert read_pairs(clean(tmp_path, files)) == [first, second, other_target, third]
    assert judge_text(files, RULES).count(Rule.DUPLICATE) == 3


def test_pair_that_another_rule_leaves_out_makes_no_duplicates(tmp_path: Path) -> None:
    long_pair = ("dog " * 30, "Hund " * 30)
    cleaning = judge_text(write_pairs(tmp_path, [long_pair, long_pair, *PAIRS]), RULES)
    assert cleaning.verdicts.tolist() == [Rule.LENGTH, Rule.LENGTH, KEPT, KEPT, KEPT, KEPT]


def test_source_of_the_held_out_text_is_left_out(tmp_path: Path) -> None:
    held_out = learn_held_out(
        [
            write_pairs(tmp_path, [("some other", "irgendein")], "valid"),
            write_pairs(tmp_path, [(f" {PAIRS[2][0]}", "etwas anderes")], "test"),
        ]
    )
    verdicts = judge_pairs(PAIRS, RULES, held_out=held_out).verdicts
    assert verdicts.tolist() == [KEPT, KEPT, Rule.HELD_OUT, KEPT]


def test_text_in_another_script_is_left_out() -> None:
    latin = frozenset({"Latin"})
    assert is_in_scripts("Straße 5 — Ω", latin)
    assert is_in_scripts("12:30 🙂", latin)
    assert not is_in_scripts("улица", latin)
    assert not is_in_scripts("street", frozenset({"Cyrillic"}))
    assert is_in_scripts("улица", frozenset())


def test_text_in_the_other_language_is_left_out(tmp_path: Path) -> None:
    sentences = [line.strip() for line in ENGLISH.splitlines() if line.strip()]
    translations = [line.strip() for line in GERMAN.splitlines() if line.strip()]
    pairs = list(zip(sentences, translations, strict=True))
    held_out = learn_held_out([write_pairs(tmp_path, pairs, "valid")])
    assert held_out.log_odds is not None
    right = ("The children were playing in the street", "Die Kinder haben auf der Straße gespielt")
    verdicts = judge_pairs([right, right[::-1]], RULES, held_out=held_out).verdicts
    assert verdicts.tolist() == [KEPT, Rule.LANGUAGE]


ENGLISH = """
    We were walking through the old town when the rain started
    The children of our neighbour have learned to swim this summer
    She wanted to know whether there would be another train in the evening
    All of the windows on the first floor were open during the night
"""
GERMAN = """
    Wir gingen durch die alte Stadt, als der Regen anfing
    Die Kinder unseres Nachbarn haben in diesem Sommer schwimmen gelernt
    Sie wollte wissen, ob am Abend noch ein anderer Zug fahren würde
    Alle Fenster im ersten Stock waren während der Nacht geöffnet
"""

dirty_texts = st.text(st.sampled_from("ab 語\u00a0\u200b\u2028\x00\r\udce4é"), max_size=25)


@settings(deadline=None, max_examples=20)
@given(pairs=st.lists(st.tuples(dirty_texts, dirty_texts), max_size=12))
def test_clean_text_stays_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    directory = tmp_path_factory.mktemp("clean")
    # Whatever the other pairs are, these are kept, and their text does not change.
    files = write_pairs(directory, [*PAIRS, *pairs])
    cleaned = clean(directory, files)
    assert read_pairs(cleaned)[: len(PAIRS)] == PAIRS
    assert set(judge_text(cleaned, RULES).verdicts.tolist()) == {KEPT}
    raw_lines = [path.read_bytes() for path in cleaned.paths]
    (directory / "again").mkdir()
    again = clean(directory / "again", cleaned)
    assert [path.read_bytes() for path in again.paths] == raw_lines


def test_check_warns_of_nothing_in_a_clean_text(tmp_path: Path) -> None:
    valid_pairs = [
        (f"the old house number {number}", f"das alte Haus Nummer {number}")
        for number in range(300)
    ]
    train_pairs = [
        (f"a small garden with {number} trees", f"ein Garten mit {number} kleinen Bäumen")
        for number in range(300)
    ]
    faults = [
        ("", "Hund"),
        ("the dog", "the dog"),
        ("a\x0bb", "c"),
        ("d\udce4g", "Hund"),
        valid_pairs[5],
        *train_pairs[:150],
    ]
    files = write_pairs(tmp_path, [*train_pairs, *faults], "train")
    valid = write_pairs(tmp_path, valid_pairs, "valid")

    def topics(train: TwoFiles) -> set[str]:
        data = DataConfig(
            src_lang="en",
            tgt_lang="de",
            train=(CorpusConfig(src=str(train.src), tgt=str(train.tgt)),),
            valid=(EvalSetConfig(name="valid", src=str(valid.src), refs=(str(valid.tgt),)),),
        )
        return {
            finding.topic
            for finding in check_files(data)
            if finding.level != "ok" and finding.topic != "alignment"
        }

    expected = {"encoding", "blank lines", "duplicates", "overlap", "languages"}
    assert expected <= topics(files)
    assert not expected & topics(clean(tmp_path, files, learn_held_out([valid])))


def test_rows_of_a_table_are_judged_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "text.tsv"
    rows = [f"house {number}\tHaus {number}" for number in range(200)]
    path.write_text("".join(f"{row}\n" for row in ["house\tHaus", "cat", *rows]), encoding="utf-8")
    cleaning = judge_text(TsvFile(path), RULES)
    assert cleaning.verdicts.tolist() == [KEPT, Rule.BLANK, *[KEPT] * 200]


def test_files_of_different_lengths_are_refused(tmp_path: Path) -> None:
    files = write_pairs(tmp_path, PAIRS)
    files.tgt.write_text("Hund\n", encoding="utf-8")
    with pytest.raises(DataError, match="4 lines, but"):
        judge_text(files, RULES)


@pytest.mark.parametrize("num_judged", [3, 5])
def test_text_that_changes_meanwhile_gives_no_files(tmp_path: Path, num_judged: int) -> None:
    files = write_pairs(tmp_path, PAIRS)
    cleaning = Cleaning(np.zeros(num_judged, np.uint8))
    with pytest.raises(DataError, match="the text changed"):
        write_kept(files, cleaning, paths=(tmp_path / "out.en", tmp_path / "out.de"))
    assert not list(tmp_path.glob("*out*"))


def test_blank_lines_are_neither_equal_nor_held_out(tmp_path: Path) -> None:
    pairs = [("a", ""), ("b", ""), ("", "c"), ("a dog", "ein Hund"), ("a dog", "ein Hund")]
    held_out = learn_held_out([write_pairs(tmp_path, [("", "x"), ("y", "z")], "valid")])
    rules = CleaningRules(max_length=100, max_length_ratio=9, without=frozenset({Rule.BLANK}))
    for known in (None, held_out):
        verdicts = judge_text(write_pairs(tmp_path, pairs), rules, held_out=known).verdicts
        assert verdicts.tolist() == [KEPT, KEPT, KEPT, KEPT, Rule.DUPLICATE]
