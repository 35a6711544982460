"""Reading parallel text strictly: UTF-8, one sentence a line, line i of one file belonging to line i of the other.

Lines end at "\\n" alone, so that no character inside a sentence can shift the files against each other. Of the habits
of other systems a byte order mark and CR LF are taken, and a file named *.gz is decompressed.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar, cast

from mt.errors import DataError

Text = TypeVar("Text", str, tuple[str, str])

MAX_LINE_SIZE = 4_000_000  # bytes; what is longer is no sentence, and may be a few kB of gzip that fill the memory

# Bytes that are not UTF-8 are refused, become U+FFFD, or lone surrogates that encode to them again.
Errors = Literal["strict", "replace", "surrogateescape"]


def find_pair(prefix: str, *, src_lang: str, tgt_lang: str) -> tuple[Path, Path]:
    """The two files PREFIX.<src_lang> and PREFIX.<tgt_lang>, each plain or with .gz added."""
    return _find(f"{prefix}.{src_lang}"), _find(f"{prefix}.{tgt_lang}")


def read_lines(
    path: Path, *, errors: Errors = "strict", may_be_empty: bool = False
) -> Iterator[str]:
    """The lines of a file without their ends; DataError when it is missing, damaged, empty or not UTF-8."""
    number = 0
    try:
        with _open(path) as file:
            for line in decode_lines(raw_lines(file), name=str(path), errors=errors):
                number += 1
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}:{number + 1}: the gzip data are damaged: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error
    if number == 0 and not may_be_empty:
        raise DataError(f"{path}: the file is empty")


def raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a binary file, the rest of a line of more than MAX_LINE_SIZE as another."""
    return iter(lambda: file.readline(MAX_LINE_SIZE + 1), b"")


def decode_lines(lines: Iterable[bytes], *, name: str, errors: Errors = "strict") -> Iterator[str]:
    """Decode lines as `raw_lines` gives them; `name` is for the error message."""
    for number, raw in enumerate(lines, 1):
        if len(raw) > MAX_LINE_SIZE:
            raise DataError(
                f"{name}:{number}: wanted lines of at most {MAX_LINE_SIZE:,} bytes, found a longer one"
            )
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
            if not raw:
                continue
        content = raw[:-2] if raw.endswith(b"\r\n") else raw.removesuffix(b"\n")
        try:
            yield content.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            found = f"byte 0x{content[error.start]:02X} at column {len(content[: error.start].decode()) + 1}"
            raise DataError(
                f"{name}:{number}: not UTF-8: {found} (convert the file, e.g. with iconv)"
            ) from error


def read_parallel(src: Path, tgt: Path) -> Iterator[tuple[str, str]]:
    """The sentence pairs of two files; DataError after the last pair when one of them has more lines."""
    num_src = num_tgt = 0
    for src_line, tgt_line in zip_longest(read_lines(src), read_lines(tgt)):
        num_src += src_line is not None
        num_tgt += tgt_line is not None
        if num_src == num_tgt:
            yield src_line, tgt_line
    if num_src != num_tgt:
        raise DataError(
            f"{src} has {num_src:,} lines, but {tgt} has {num_tgt:,}: they must match line by line"
        )


def chunked(items: Iterable[Text], *, size: int, num_chars: int) -> Iterator[list[Text]]:
    """Lines, or pairs of lines, `size` at a time, fewer once they have `num_chars` characters: what bounds memory."""
    chunk: list[Text] = []
    length = 0
    for item in items:
        chunk.append(item)
        length += len(item) if isinstance(item, str) else sum(map(len, item))
        if len(chunk) == size or length >= num_chars:
            yield chunk
            chunk, length = [], 0
    if chunk:
        yield chunk


def _find(name: str) -> Path:
    for path in (Path(name), Path(f"{name}.gz")):
        if path.exists():
            return path
    raise DataError(f"{name}: no such file (nor {name}.gz)")


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
