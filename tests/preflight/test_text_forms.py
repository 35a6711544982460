"""`mt check` of text in tables and translation memories."""

from __future__ import annotations

from pathlib import Path

import pytest
from parallel_text import toy_lines, write_lines

from mt.config.schema import DataConfig
from mt.preflight.file_checks import Finding
from mt.preflight.run_checks import check_files

NUM_PAIRS = 300


@pytest.fixture(autouse=True)
def _valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for lang in ("en", "de"):
        write_lines(Path(f"valid.{lang}"), toy_lines(f"valid.{lang}", 100))


def rows() -> list[str]:
    sides = (toy_lines("train.en", NUM_PAIRS), toy_lines("train.de", NUM_PAIRS))
    return ["\t".join(pair) for pair in zip(*sides, strict=True)]


def problems(**train: object) -> list[Finding]:
    """Return the warnings and errors, except for those of the small number of pairs."""
    data = DataConfig(src_lang="en", tgt_lang="de", train=(train,), valid="valid")
    findings = [finding for finding in check_files(data) if finding.topic != "characters"]
    return [finding for finding in findings if finding.level in ("warning", "error")]


def test_sound_table_has_no_problems() -> None:
    write_lines(Path("a.tsv"), rows())
    assert problems(tsv="a.tsv") == []


def test_fault_of_either_column_has_its_line() -> None:
    lines = rows()
    lines[6] = lines[6].replace("\t", "\u2028\t")
    lines[8] += "\x85"
    write_lines(Path("a.tsv"), lines)
    first, second = problems(tsv="a.tsv")
    assert (first.topic, first.place) == ("encoding", f"{Path('a.tsv').resolve()}:7")
    assert (second.topic, second.place) == ("encoding", f"{Path('a.tsv').resolve()}:9")


def test_below_a_header_pairs_are_counted() -> None:
    lines = rows()
    lines[6] = lines[6].replace("\t", "\u2028\t")
    write_lines(Path("a.tsv"), ["English\tDeutsch", *lines])
    (finding,) = problems(tsv="a.tsv", columns=("English", "Deutsch"))
    assert finding.place == f"{Path('a.tsv').resolve()}: pair 7"
    assert "pair 7;" in finding.text


def test_swapped_columns_are_found() -> None:
    write_lines(Path("a.tsv"), rows())
    (finding,) = problems(tsv="a.tsv", columns=(2, 1))
    assert finding.topic == "languages"


def test_unreadable_memory_is_one_error() -> None:
    Path("a.tmx").write_text("<tmx><body>")
    (finding,) = problems(tmx="a.tmx")
    assert (finding.level, finding.topic) == ("error", "files")
    assert "a.tmx:1: not TMX" in finding.text


def test_html_entities_are_a_note() -> None:
    lines = rows()
    lines[4] = lines[4].replace("\t", " &quot;\t")
    write_lines(Path("a.tsv"), lines)
    data = DataConfig(src_lang="en", tgt_lang="de", train=({"tsv": "a.tsv"},), valid="valid")
    (finding,) = [finding for finding in check_files(data) if finding.topic == "HTML"]
    assert finding.level == "note"
    assert finding.place == f"{Path('a.tsv').resolve()}:5"
    assert "&quot;: line 5;" in finding.text
