"""Surveys of text files."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parallel_text import survey_file, survey_lines, write_lines

from mt.data.normalization import is_blank
from mt.data.text import read_lines
from mt.errors import DataError
from mt.preflight.survey import NOT_UTF8

LINE = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))


def test_lines_that_are_not_utf8_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"sound\n\xff\xfe\nsound\ncaf\xe9\n" + b"\x80\n" * 4 + "\ufffd\n".encode())
    survey = survey_file(path)
    assert len(survey) == 9
    # U+FFFD in the file, on line 9, is a character like any other.
    assert survey.bad_lines == {NOT_UTF8: [2, 4, 5, 6, 7, 8]}


@given(st.lists(LINE, min_size=1))
def test_survey_counts_lines_as_training_reads_them(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = write_lines(Path(directory) / "text", lines)
        try:
            expected = list(read_lines(path))
        except DataError:
            with pytest.raises(DataError):
                survey_file(path)
            return
        survey = survey_file(path)
    assert survey.num_chars.tolist() == [len(line) for line in expected]
    assert survey.num_words.tolist() == [len(line.split()) for line in expected]
    assert survey.is_blank.tolist() == [is_blank(line) for line in expected]


@given(st.lists(LINE, min_size=1))
def test_digests_are_equal_for_equal_words(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = write_lines(Path(directory) / "text", lines)
        try:
            words = [[] if is_blank(line) else line.split() for line in read_lines(path)]
        except DataError:
            return
        digests = survey_file(path).digests
    has_equal_digests = (digests[:, None] == digests).tolist()
    assert has_equal_digests == [[first == second for second in words] for first in words]


def test_gzip_byte_order_mark_and_cr_lf_are_not_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress("\ufeffone\r\ntwo\n".encode()))
    compressed = survey_file(path)
    plain = survey_lines(tmp_path, ["one", "two"])
    assert (compressed.digests == plain.digests).all()
    assert not compressed.bad_lines


def test_damaged_gzip_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(b"one\n" * 99)[:-9])
    with pytest.raises(DataError, match="damaged"):
        survey_file(path)


def test_lines_with_html_entities_are_listed(tmp_path: Path) -> None:
    lines = [
        "Tom &amp; Mary",
        "AT&T; Q&A",
        "it&#39;s",
        "it&#x27;s",
        "&nosuchname;",
        "&quot;",
        "& amp;",
    ]
    path = write_lines(tmp_path / "text", lines)
    assert survey_file(path).html_lines == [1, 3, 4, 6]
