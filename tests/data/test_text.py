"""Text files are read as they are, or refused with file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.data.text import decode_lines, find_pair, read_lines, read_parallel
from mt.errors import DataError

GZIPPED = gzip.compress(
    b"Hund\nKatze\n" * 1000, mtime=0
)  # pytest-xdist wants the same names in every process


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"\n\n", ["", ""]),
        (b" a \r\nb\r\n", [" a ", "b"]),
        (b"a\rb\r\r\nc\r", ["a\rb\r", "c\r"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        ("a\u2028b\x85c\x0bd\x0ce\x1cf\x00g\n".encode(), ["a\u2028b\x85c\x0bd\x0ce\x1cf\x00g"]),
    ],
)
@pytest.mark.parametrize("name", ["text.de", "text.de.gz"])
def test_lines_end_at_newlines_alone(
    tmp_path: Path, name: str, content: bytes, lines: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    assert list(read_lines(path)) == lines


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff")),
        min_size=1,
    )
)
def test_lines_that_were_written_are_read(lines: list[str]) -> None:
    assert list(decode_lines((f"{line}\n".encode() for line in lines), name="test")) == lines


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.de", None, "a.de: cannot read: No such file or directory"),
        ("a.de", b"", "a.de: the file is empty"),
        ("a.de", b"\xef\xbb\xbf", "a.de: the file is empty"),
        ("a.de", "gut\nschön\n".encode("latin-1"), "a.de:2: not UTF-8: byte 0xF6 at column 4 "),
        ("a.de", "üü".encode() + b"\xc3\n", "a.de:1: not UTF-8: byte 0xC3 at column 3 "),
        ("a.de", "a\n".encode("utf-16"), "a.de:1: not UTF-8: byte 0xFF at column 1 "),
        ("a.de", b"a\xed\xa0\x80\n", "a.de:1: not UTF-8: byte 0xED at column 2 "),
        ("a.de.gz", b"plain text\n", "a.de.gz:1: the gzip data are damaged: "),
        ("a.de.gz", GZIPPED[:-10], "the gzip data are damaged: "),
        ("a.de.gz", GZIPPED[:-8] + b"\0" * 8, "the gzip data are damaged: "),
        ("a.de.gz", gzip.compress(b"", mtime=0), "a.de.gz: the file is empty"),
    ],
)
def test_a_broken_file_is_refused_with_file_and_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_lines(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_utf_8_may_be_replaced_and_moves_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.de"
    path.write_bytes(
        "schön\n".encode("latin-1") + b"\xed\xa0\x80\r\n\xff\n" + "\u2028\n\xff".encode("utf-16-le")
    )
    lines = ["sch\ufffdn", "\ufffd" * 3, "\ufffd", "( ", "\0\ufffd\0"]
    assert list(read_lines(path, errors="replace")) == lines
    with pytest.raises(DataError, match=r"a\.de:1: not UTF-8"):
        list(read_lines(path))


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line), min_size=1))
def test_any_bytes_are_as_many_lines_as_they_have_newlines(lines: list[bytes]) -> None:
    raw = [line + b"\n" for line in lines]
    assert len(list(decode_lines(raw, name="test", errors="replace"))) == len(lines)


def test_a_file_without_a_line_may_be_welcome(tmp_path: Path) -> None:
    (tmp_path / "a.de").write_bytes(b"")
    assert list(read_lines(tmp_path / "a.de", may_be_empty=True)) == []


def test_a_directory_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read: Is a directory"):
        list(read_lines(tmp_path))


@pytest.mark.parametrize(("num_src", "num_tgt"), [(1200, 3), (3, 1200), (1, 2)])
def test_files_of_different_length_are_no_pair(tmp_path: Path, num_src: int, num_tgt: int) -> None:
    src, tgt = tmp_path / "a.en", tmp_path / "a.de"
    src.write_text("x\n" * num_src)
    tgt.write_text("y\n" * num_tgt)
    pairs = read_parallel(src, tgt)
    assert [next(pairs) for _ in range(min(num_src, num_tgt))] == [("x", "y")] * min(
        num_src, num_tgt
    )
    with pytest.raises(DataError) as caught:
        next(pairs)
    assert str(caught.value).startswith(f"{src} has {num_src:,} lines, but {tgt} has {num_tgt:,}")


def test_a_prefix_names_two_files_either_of_which_may_be_compressed(tmp_path: Path) -> None:
    (tmp_path / "train.en").write_text("dog\n")
    prefix = str(tmp_path / "train")
    with pytest.raises(DataError, match=r"train\.de: no such file \(nor .*train\.de\.gz\)$"):
        find_pair(prefix, src_lang="en", tgt_lang="de")
    (tmp_path / "train.de.gz").write_bytes(gzip.compress(b"Hund\n"))
    src, tgt = find_pair(prefix, src_lang="en", tgt_lang="de")
    assert list(read_parallel(src, tgt)) == [("dog", "Hund")]
