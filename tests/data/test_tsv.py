"""Tests of reading pairs from tables with columns separated by tabs."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mt.data.tsv import read_tsv
from mt.errors import DataError


def write(path: Path, *rows: str) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8", newline="")
    return path


def test_columns_are_chosen_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "dog\tHund\tx", "cat\tKatze\ty")
    assert list(read_tsv(path, (1, 2))) == [("dog", "Hund"), ("cat", "Katze")]
    assert list(read_tsv(path, (3, 1))) == [("x", "dog"), ("y", "cat")]


def test_columns_are_chosen_by_name_in_the_first_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "\ufeffid\tsvenska \tengelska", "1\thund\tdog")
    assert list(read_tsv(path, ("engelska", "svenska"))) == [("dog", "hund")]


def test_quotation_marks_and_carriage_returns_have_no_meaning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", '"Go!\t"Los!', "a \"b\"\t'c'", "d\re\tf\r")
    assert list(read_tsv(path, (1, 2))) == [('"Go!', '"Los!'), ('a "b"', "'c'"), ("d\re", "f")]


def test_compressed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"dog\tHund\n"))
    assert list(read_tsv(path, (1, 2))) == [("dog", "Hund")]


def test_a_few_incomplete_rows_are_left_out(tmp_path: Path) -> None:
    rows = [f"dog {number}\tHund {number}" for number in range(200)]
    path = write(tmp_path / "a.tsv", *rows[:100], "==", *rows[100:], "")
    pairs = list(read_tsv(path, (1, 2)))
    assert [number for number, pair in enumerate(pairs) if pair is None] == [100, 201]
    assert pairs[101] == ("dog 100", "Hund 100")


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (["dog", "cat\tKatze"], (1, 2), "a.tsv:1: wanted 2 columns separated by tabs, found 1"),
        (["a\tb"] * 9 + ["c"], (1, 2), "a.tsv:10: wanted 2 columns separated by tabs, found 1"),
        (["a\tb"], (1, 3), "a.tsv:1: wanted 3 columns separated by tabs, found 2"),
        (["en\tsv", "a"], ("en", "sv"), "a.tsv:2: wanted 2 columns separated by tabs, found 1"),
        (["en\tsv", "a\tb"], ("en", "de"), "a.tsv:1: wanted one column with the name 'de'"),
        (["en\ten", "a\tb"], ("en", "de"), "a.tsv:1: wanted one column with the name 'en'"),
        (["en\tsv"], ("en", "sv"), "a.tsv: there are no rows"),
        ([], (1, 2), "a.tsv: the file is empty"),
        ([], ("en", "sv"), "a.tsv: the file is empty"),
    ],
)
def test_unusable_table_is_refused_with_file_and_line(
    tmp_path: Path, rows: list[str], columns: tuple[int, int] | tuple[str, str], message: str
) -> None:
    path = write(tmp_path / "a.tsv", *rows)
    with pytest.raises(DataError) as caught:
        list(read_tsv(path, columns))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
