"""Tests of the first reading of the training text."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mt.data.corpus import TrainingCorpus
from mt.data.counting import TextCounts, count_pairs, count_training_text
from mt.data.parallel_text import TmxFile, TsvFile, TwoFiles
from mt.errors import DataError


def two_files(directory: Path, src: bytes, tgt: bytes) -> TwoFiles:
    files = TwoFiles(directory / "a.en", directory / "a.de")
    files.src.write_bytes(src)
    files.tgt.write_bytes(tgt)
    return files


def test_pairs_and_blank_pairs_are_counted(tmp_path: Path) -> None:
    text = two_files(tmp_path, b"dog\n\ncat\n \n", "Hund\nx\n\u200b\n\n".encode())
    assert count_pairs(text, normalization="nfc") == TextCounts(4, 3)
    assert count_pairs(text, normalization="none") == TextCounts(4, 2)


def test_incomplete_rows_and_units_are_counted_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tsv = TsvFile(tmp_path / "a.tsv")
    tsv.path.write_text("dog\tHund\n" * 100 + "==\n")
    tmx = TmxFile(tmp_path / "a.tmx", "en", "de")
    unit = '<tu><tuv xml:lang="en"><seg>a</seg></tuv>{}</tu>'
    german = '<tuv xml:lang="de"><seg>b</seg></tuv>'
    tmx.path.write_text(f"<tmx>{unit.format(german)}{unit.format('') * 2}</tmx>")
    caplog.set_level(logging.INFO, "mt")
    assert count_pairs(tsv, normalization="nfc") == TextCounts(100, 0)
    assert count_pairs(tmx, normalization="nfc") == TextCounts(1, 0)
    caplog.clear()
    count_training_text([TrainingCorpus(tsv), TrainingCorpus(tmx)], normalization="nfc")
    tsv_line, tmx_line, summary = caplog.messages
    assert "1 of 101" in tsv_line
    assert "number 101" in tsv_line
    assert "2 of 3" in tmx_line
    assert "number 2" in tmx_line
    assert summary == "train: 101 pairs"


@pytest.mark.parametrize(
    ("src", "tgt", "message"),
    [
        (b"a\nb\n", b"a\n", "has 2 lines, but"),
        (b"a\n", b"\xe4\n", "a.de:1: not UTF-8: byte 0xE4"),
        (b"a\n", b"", "a.de: the file is empty"),
        (b"a\n\n", b"\nb\n", "no training pair is left: 0 of 2 pairs kept"),
    ],
)
def test_unusable_text_is_refused(tmp_path: Path, src: bytes, tgt: bytes, message: str) -> None:
    corpus = TrainingCorpus(two_files(tmp_path, src, tgt))
    with pytest.raises(DataError, match=message):
        count_training_text([corpus], normalization="nfc")
    assert len(list(tmp_path.iterdir())) == 2
