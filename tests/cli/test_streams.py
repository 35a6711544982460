"""Stdout and output files: non-blocking pipes, and errors of the work that produces the lines."""

from __future__ import annotations

import gzip
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mt.cli.streams import write_lines
from mt.errors import DataError


@pytest.fixture
def pipe() -> tuple[int, int]:
    """The reading and the writing end of a pipe, both non-blocking."""
    reading_end, writing_end = os.pipe()
    os.set_blocking(reading_end, False)
    os.set_blocking(writing_end, False)
    return reading_end, writing_end


@pytest.mark.parametrize("error", [PermissionError, BrokenPipeError])
def test_error_of_the_work_is_not_reported_as_an_error_of_stdout(error: type[OSError]) -> None:
    def lines() -> Iterator[str]:
        yield "one"
        raise error(13, "no access", "/some/input")

    with pytest.raises(error, match="/some/input"):
        write_lines(lines())


def test_non_blocking_stdout_is_written_to_its_end(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading_end, writing_end = pipe
    os.set_blocking(reading_end, True)
    lines = [str(number) * 1000 for number in range(500)]  # more than a pipe holds
    received: list[bytes] = []

    def read_late() -> None:
        time.sleep(0.1)
        with open(reading_end, "rb") as file:
            received.append(file.read())

    reader = threading.Thread(target=read_late)
    with open(writing_end, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        reader.start()
        write_lines(lines)
        monkeypatch.undo()
    reader.join()
    assert received[0].decode().split() == lines


def test_file_name_that_is_not_utf_8_is_escaped(tmp_path: Path) -> None:
    write_lines(["x\udcff.de  BLEU  7.00", "schön"], tmp_path / "scores")
    assert (tmp_path / "scores").read_bytes().decode() == "x\\udcff.de  BLEU  7.00\nschön\n"


def test_file_named_gz_is_compressed(tmp_path: Path) -> None:
    path = tmp_path / "out.gz"
    write_lines(["one", "schön"], path)
    content = path.read_bytes()
    assert gzip.decompress(content).decode() == "one\nschön\n"
    write_lines(["one", "schön"], path)
    assert path.read_bytes() == content


def test_error_leaves_no_compressed_file(tmp_path: Path) -> None:
    def lines() -> Iterator[str]:
        yield "one"
        raise DataError("line 2")

    with pytest.raises(DataError, match="line 2"):
        write_lines(lines(), tmp_path / "out.gz")
    assert os.listdir(tmp_path) == []
