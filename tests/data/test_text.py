"""Tests of reading parallel text files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.data.text import chunked, decode_lines, find_pair, read_lines, read_parallel
from mt.errors import DataError
from mt.wording import count_of

# Without a time in the header: pytest-xdist wants the same test ids in all its processes.
GZIPPED = gzip.compress(b"Hund\nKatze\n" * 1000, mtime=0)


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
def test_lines_end_at_newlines_only(
    tmp_path: Path, name: str, content: bytes, lines: list[str]
) -> None:
    path = tmp_path / name
    if path.suffix == ".gz":
        content = gzip.compress(content)
    path.write_bytes(content)
    assert list(read_lines(path)) == lines


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff")),
        min_size=1,
    )
)
def test_written_lines_are_read_back(lines: list[str]) -> None:
    encoded = [f"{line}\n".encode() for line in lines]
    assert list(decode_lines(encoded, name="test")) == lines


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
def test_broken_file_is_refused_with_file_and_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_lines(path))
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_invalid_utf8_can_be_replaced_without_moving_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.de"
    path.write_bytes(
        "schön\n".encode("latin-1") + b"\xed\xa0\x80\r\n\xff\n" + "\u2028\n\xff".encode("utf-16-le")
    )
    lines = ["sch\ufffdn", "\ufffd" * 3, "\ufffd", "( ", "\0\ufffd\0"]
    assert list(read_lines(path, errors="replace")) == lines
    with pytest.raises(DataError, match=r"a\.de:1: not UTF-8"):
        list(read_lines(path))


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line), min_size=1))
def test_any_bytes_have_as_many_lines_as_newlines(lines: list[bytes]) -> None:
    raw = [line + b"\n" for line in lines]
    assert len(list(decode_lines(raw, name="test", errors="replace"))) == len(lines)


def test_empty_file_can_be_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.de"
    path.write_bytes(b"")
    assert list(read_lines(path, may_be_empty=True)) == []


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read: Is a directory"):
        list(read_lines(tmp_path))


@pytest.mark.parametrize(("num_src", "num_tgt"), [(1200, 3), (3, 1200), (1, 2)])
def test_parallel_files_must_have_equal_lengths(tmp_path: Path, num_src: int, num_tgt: int) -> None:
    src = tmp_path / "a.en"
    tgt = tmp_path / "a.de"
    src.write_text("x\n" * num_src)
    tgt.write_text("y\n" * num_tgt)
    num_pairs = min(num_src, num_tgt)
    pairs = read_parallel(src, tgt)
    assert [next(pairs) for _ in range(num_pairs)] == [("x", "y")] * num_pairs
    with pytest.raises(DataError) as caught:
        next(pairs)
    assert str(caught.value).startswith(
        f"{src} has {count_of(num_src, 'line')}, but {tgt} has {num_tgt:,}: "
    )


def test_prefix_finds_plain_and_gzipped_files(tmp_path: Path) -> None:
    prefix = str(tmp_path / "train")
    (tmp_path / "train.en").write_text("dog\n")
    with pytest.raises(DataError, match=r"train\.de: no such file \(nor with \.gz or \.zst\)$"):
        find_pair(prefix, src_lang="en", tgt_lang="de")
    (tmp_path / "train.de.gz").write_bytes(gzip.compress(b"Hund\n"))
    src, tgt = find_pair(prefix, src_lang="en", tgt_lang="de")
    assert list(read_parallel(src, tgt)) == [("dog", "Hund")]


@given(st.lists(st.text(max_size=20)), st.integers(1, 5), st.integers(1, 30))
def test_chunks_are_bounded_in_items_and_characters(
    lines: list[str], size: int, num_chars: int
) -> None:
    chunks = list(chunked(lines, size=size, num_chars=num_chars))
    assert [line for chunk in chunks for line in chunk] == lines
    for chunk in chunks:
        assert 1 <= len(chunk) <= size
        # Only the last item of a chunk may reach the limit.
        assert sum(len(line) for line in chunk[:-1]) < num_chars
    for chunk in chunks[:-1]:
        assert len(chunk) == size or sum(len(line) for line in chunk) >= num_chars


def test_lines_before_an_undecodable_one_are_not_lost() -> None:
    lines = decode_lines([b"a\n", b"b\n", b"c\n", b"\xff\n", b"d\n"], name="test")
    chunks = chunked(lines, size=2, num_chars=100)
    assert next(chunks) == ["a", "b"]
    assert next(chunks) == ["c"]
    with pytest.raises(DataError, match="test:4: not UTF-8"):
        next(chunks)


def test_chunk_ends_when_the_next_line_is_not_there() -> None:
    is_waiting = iter([True, False, False, True, False])
    chunks = chunked("abcde", size=3, num_chars=100, is_item_waiting=lambda: next(is_waiting))
    assert list(chunks) == [["a", "b"], ["c"], ["d", "e"]]
