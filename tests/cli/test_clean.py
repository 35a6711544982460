"""`mt clean`: its files, its counts, and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import Ended, mt

from mt.cleaning.rules import CleaningRules, Rule
from mt.cli.clean import describe_rule

ROWS = [f"the house {number}\tdas Haus {number}" for number in range(200)]
FAULTS = [ROWS[4], "\tHaus", "house\thouse", f"{'house ' * 12}\tHaus", "house", "h\x85\tHaus"]


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{row}\n" for row in [*ROWS, *FAULTS]), encoding="utf-8")
    return path


def clean(*arguments: str | Path) -> Ended:
    return mt("clean", *arguments, "--src-lang", "en", "--tgt-lang", "de")


def read_rows(prefix: Path) -> list[str]:
    src, tgt = (
        Path(f"{prefix}.{language}").read_text(encoding="utf-8").splitlines()
        for language in ("en", "de")
    )
    return [f"{s}\t{t}" for s, t in zip(src, tgt, strict=True)]


def counts_of(ended: Ended) -> dict[str, int]:
    """Return the count of each rule, and of `pairs` and `kept,`."""
    fields = [line.split() for line in ended.out.splitlines() if line.startswith(" ")]
    return {name.removesuffix(":"): int(count) for count, name, *_ in fields}


def test_clean_pairs_are_written_and_the_others_counted(tsv: Path, tmp_path: Path) -> None:
    ended = clean(tsv, "-o", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert read_rows(tmp_path / "out") == ROWS
    counts = counts_of(ended)
    assert counts.pop("pairs") == len(ROWS) + len(FAULTS)
    assert counts.pop("kept,") == len(ROWS)
    assert counts == {
        "encoding": 0,
        "control": 1,
        "blank": 2,
        "length": 0,
        "length-ratio": 1,
        "copy": 1,
        "duplicate": 1,
    }


def test_rules_can_be_changed(tsv: Path, tmp_path: Path) -> None:
    options = ["--without", "copy", "--without", "duplicate", "--max-length-ratio", "12"]
    ended = clean(tsv, "-o", tmp_path / "out", *options)
    assert ended.code == 0, ended.err
    assert read_rows(tmp_path / "out") == [*ROWS, *(FAULTS[index] for index in (0, 2, 3))]
    assert not {"copy", "duplicate"} & counts_of(ended).keys()
    ended = clean(tsv, "-o", tmp_path / "short", "--max-length", "2", "--without", "copy")
    assert counts_of(ended)["length"] == len(ROWS) + 2


def test_bytes_that_are_not_utf8_are_kept_if_wanted(tmp_path: Path) -> None:
    (tmp_path / "text.en").write_bytes(b"caf\xe9\n")
    (tmp_path / "text.de").write_bytes(b"Kaffee\n")
    ended = clean(tmp_path / "text", "-o", tmp_path / "out", "--without", "encoding")
    assert ended.code == 0, ended.err
    assert (tmp_path / "out.en").read_bytes() == b"caf\xe9\n"


def test_held_out_sources_are_left_out(tsv: Path, tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text(f"{ROWS[3]}\n", encoding="utf-8")
    ended = clean(tsv, "-o", tmp_path / "out", "--held-out", tmp_path / "test.tsv")
    assert ended.code == 0, ended.err
    assert read_rows(tmp_path / "out") == ROWS[:3] + ROWS[4:]
    assert counts_of(ended)["held-out"] == 1


def test_no_file_is_replaced(tsv: Path, tmp_path: Path) -> None:
    (tmp_path / "out.de").write_text("mine")
    ended = clean(tsv, "-o", tmp_path / "out")
    assert ended.code == 1
    assert "out.de: exists" in ended.err
    assert not (tmp_path / "out.en").exists()
    assert (tmp_path / "out.de").read_text() == "mine"


def test_unknown_rule_is_named(tsv: Path, tmp_path: Path) -> None:
    ended = clean(tsv, "-o", tmp_path / "out", "--without", "dup")
    assert ended.code == 2
    assert "--without" in ended.err
    assert "duplicate" in ended.err


def test_text_without_a_clean_pair_gives_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.tsv").write_text("a\ta\n", encoding="utf-8")
    ended = clean(tmp_path / "bad.tsv", "-o", tmp_path / "out")
    assert ended.code == 1
    assert "no pair is left of 1" in ended.err
    assert not list(tmp_path.glob("out*"))


def test_each_rule_has_its_own_description() -> None:
    rules = CleaningRules(max_length=7, max_length_ratio=2.5)
    descriptions = {rule: describe_rule(rule, rules) for rule in Rule}
    assert len(set(descriptions.values())) == len(Rule)
    assert "7 words" in descriptions[Rule.LENGTH]
    assert "2.5 times" in descriptions[Rule.LENGTH_RATIO]
