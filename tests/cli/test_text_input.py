"""What commands read: stdin as it arrives, files whose lines are counted, and arguments."""

from __future__ import annotations

import errno
import gzip
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.cli.text_input import StdinLines, arguments_as_input, count_lines, open_input
from mt.data.text import chunked, raw_lines
from mt.errors import DataError


@pytest.fixture
def writing_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end to write to of a pipe that is stdin."""
    reading_end, writing_end = os.pipe()
    with open(reading_end, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield writing_end


def test_line_is_waiting_when_all_of_it_has_arrived(writing_end: int) -> None:
    os.write(writing_end, b"one\ntwo\nthr")
    text = open_input(None)
    assert text.is_line_waiting is not None
    assert text.is_line_waiting()
    assert next(text.lines) == "one"
    assert text.is_line_waiting()
    assert next(text.lines) == "two"
    assert not text.is_line_waiting()
    os.write(writing_end, b"ee\nfour")
    assert next(text.lines) == "three"
    assert not text.is_line_waiting()
    os.close(writing_end)
    assert text.is_line_waiting()
    assert next(text.lines) == "four"
    assert not text.is_line_waiting()
    assert list(text.lines) == []


def test_chunk_has_the_lines_that_are_there(writing_end: int) -> None:
    text = open_input(None)
    chunks = chunked(text.lines, size=100, num_chars=1000, is_item_waiting=text.is_line_waiting)
    os.write(writing_end, b"one\n")
    assert next(chunks) == ["one"]
    os.write(writing_end, b"two\nthree\nfour")
    assert next(chunks) == ["two", "three"]
    os.close(writing_end)
    assert list(chunks) == [["four"]]


def test_non_blocking_stdin_is_read_to_its_end(writing_end: int) -> None:
    os.set_blocking(sys.stdin.fileno(), False)

    def write_slowly() -> None:
        with open(writing_end, "wb", buffering=0) as file:
            for part in (b"one\ntw", b"o\n", b"three"):
                time.sleep(0.05)
                file.write(part)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    assert list(open_input(None).lines) == ["one", "two", "three"]
    writer.join()


class Blocks(io.RawIOBase):
    """A file that is read in the given blocks."""

    def __init__(self, blocks: list[bytes]) -> None:
        self.blocks = list(blocks)

    def read(self, size: int = -1) -> bytes:
        return self.blocks.pop(0) if self.blocks else b""


class Unreadable(io.RawIOBase):
    """A terminal that was closed."""

    def read(self, size: int = -1) -> bytes:
        raise OSError(errno.EIO, "Input/output error")


def test_unreadable_stdin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Unreadable()))
    with pytest.raises(DataError, match="stdin: cannot read: Input/output error"):
        next(open_input(None).lines)


@given(st.lists(st.binary(min_size=1, max_size=5) | st.just(b"\n")))
def test_blocks_of_stdin_do_not_change_its_lines(blocks: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", SimpleNamespace(buffer=Blocks(blocks)))
        lines = list(StdinLines())
    assert lines == list(raw_lines(io.BytesIO(b"".join(blocks))))


def test_line_over_the_size_limit_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mt.cli.text_input.MAX_LINE_SIZE", 9)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"x" * 25 + b"\ny")))
    assert list(StdinLines()) == [b"x" * 10, b"x" * 10, b"x" * 5 + b"\n", b"y"]


@pytest.mark.parametrize(
    ("content", "num_lines"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2)]
)
def test_lines_of_a_file_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, num_lines: int
) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    assert count_lines(path) == num_lines
    packed = tmp_path / "text.gz"
    packed.write_bytes(gzip.compress(content))
    assert count_lines(packed) == num_lines
    # A program before this one may have read the first lines of the same stdin.
    path.write_bytes(b"read before\n" + content)
    with path.open("rb", buffering=0) as stdin:
        stdin.seek(len(b"read before\n"))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert count_lines(None) == num_lines
        assert stdin.read() == content, "counting moves nothing"


def test_lines_that_cannot_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writing_end: int
) -> None:
    assert count_lines(None) is None
    os.close(writing_end)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "damaged.gz").write_bytes(b"no gzip data")
    for name in ("pipe", "damaged.gz", "none"):
        assert count_lines(tmp_path / name) is None
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"in memory\n")))
    assert count_lines(None) is None


def test_arguments_are_lines() -> None:
    texts = ["one", "", "two\nthree", "four\n"]
    assert list(arguments_as_input(texts).lines) == ["one", "", "two", "three", "four", ""]


def test_argument_that_is_not_utf_8() -> None:
    with pytest.raises(DataError, match="argument:2: not UTF-8: byte 0xE9 at column 2"):
        list(arguments_as_input(["one", "d\udce9ru"]).lines)
    assert list(arguments_as_input(["d\udce9ru"], errors="replace").lines) == ["d\ufffdru"]
