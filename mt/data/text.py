r"""Strict reading of parallel text.

The text is UTF-8, with one sentence per line; line i of one file translates line i of the other.

A line ends at "\n" and nowhere else. Other characters that some programs treat as line ends
(U+2028, a lone "\r", ...) stay inside the sentence, so they cannot move the lines of one file
against those of the other. A byte order mark at the start and "\r\n" at line ends are accepted
and removed. A file named *.gz or *.zst is decompressed.
"""

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeVar, cast

from mt.errors import DataError
from mt.wording import count_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Characters at which programs end a line: those of Python's str.splitlines(). Here, only "\n" does.
LINE_ENDS = "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"

LineOrPair = TypeVar("LineOrPair", str, tuple[str, str])

# Bytes. A longer line is not a sentence; and a few kilobytes of gzip data can expand to a line that
# fills the memory.
MAX_LINE_SIZE = 4_000_000

READ_SIZE = 2**16  # bytes that are read from the disk at once

UTF8_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

COMPRESSED_ENDINGS = (".gz", ".zst")

OnBytes = Callable[[int], object]  # is told the number of bytes that were read from the disk

# What to do with bytes that are not UTF-8, as in `bytes.decode`. "strict": raise an error.
# "replace": put U+FFFD in their place. "surrogateescape": put lone surrogates in their place, which
# can be encoded back to the same bytes.
Errors = Literal["strict", "replace", "surrogateescape"]


def find_pair(prefix: str, *, src_lang: str, tgt_lang: str) -> tuple[Path, Path]:
    """Return the paths of PREFIX.<src_lang> and PREFIX.<tgt_lang>.

    Each name may end in .gz or .zst. Raises DataError when one of the files does not exist.
    """
    src = _find_file(prefix, src_lang)
    tgt = _find_file(prefix, tgt_lang)
    return src, tgt


@contextmanager
def open_text(path: Path, on_bytes: OnBytes | None = None) -> Iterator[BinaryIO]:
    """Open a file for reading; decompress it if its name ends in .gz or .zst.

    Raises OSError when it cannot be opened. Damaged data raise EOFError, zlib.error,
    gzip.BadGzipFile or zstd.ZstdError when they are read.
    """
    with path.open("rb", buffering=0) as raw:
        file = cast(BinaryIO, io.BufferedReader(_CountingReader(raw, on_bytes), READ_SIZE))
        if path.suffix == ".gz":
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file))
        elif path.suffix == ".zst":
            yield cast(BinaryIO, zstd.ZstdFile(file))
        else:
            yield file


class _CountingReader(io.RawIOBase):
    """Reads a file, and tells how many bytes it has read each time."""

    def __init__(self, file: io.RawIOBase, on_bytes: OnBytes | None) -> None:
        self._file = file
        self._on_bytes = on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        num_bytes = self._file.readinto(buffer)
        if num_bytes and self._on_bytes is not None:
            self._on_bytes(num_bytes)
        return num_bytes


@contextmanager
def reading_errors(path: Path, place: Callable[[], int]) -> Iterator[None]:
    """Raise DataError for the errors of `open_text`. `place` returns the current line."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError) as error:
        kind = "zstd" if path.suffix == ".zst" else "gzip"
        message = f"{path}:{place()}: the {kind} data are damaged: {error}"
        raise DataError(message) from error
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error


def read_lines(
    path: Path,
    *,
    errors: Errors = "strict",
    may_be_empty: bool = False,
    on_bytes: OnBytes | None = None,
) -> Iterator[str]:
    """Yield the lines of a file without their line ends.

    Raises DataError for a file that cannot be read, is damaged, is empty (unless `may_be_empty`) or
    is not UTF-8.
    """
    num_lines = 0
    with reading_errors(path, lambda: num_lines + 1), open_text(path, on_bytes) as file:
        for line in decode_lines(raw_lines(file), name=str(path), errors=errors):
            num_lines += 1
            yield line
    if num_lines == 0 and not may_be_empty:
        raise DataError(f"{path}: the file is empty")


def raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a binary file with their line ends.

    At most MAX_LINE_SIZE + 1 bytes are read at once, so a longer line comes in several pieces, of
    which `decode_lines` refuses the first.
    """
    while line := file.readline(MAX_LINE_SIZE + 1):
        yield line


def decode_lines(lines: Iterable[bytes], *, name: str, errors: Errors = "strict") -> Iterator[str]:
    """Decode lines as `raw_lines` yields them, and remove their line ends.

    Raises DataError for a line that is too long or is not UTF-8; its message begins with `name`.
    """
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_SIZE:
            raise DataError(
                f"{name}:{number}: wanted lines of at most {MAX_LINE_SIZE:,} bytes, "
                "found a longer one"
            )
        if number == 1:
            line = line.removeprefix(UTF8_BYTE_ORDER_MARK)
            if not line:
                continue  # the file holds a byte order mark and nothing else
        content = _remove_line_end(line)
        try:
            yield content.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            column = len(content[: error.start].decode("utf-8")) + 1
            raise DataError(
                f"{name}:{number}: not UTF-8: byte 0x{content[error.start]:02X} at column {column} "
                "(convert the file, e.g. with iconv)"
            ) from error


def read_parallel(
    src: Path, tgt: Path, *, errors: Errors = "strict", on_bytes: OnBytes | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the sentence pairs of two files.

    Raises DataError, after the last pair, when one file has more lines than the other. The longer
    file is then read to its end, so that the message can give both numbers of lines.
    """
    num_src = 0
    num_tgt = 0
    src_lines = read_lines(src, errors=errors, on_bytes=on_bytes)
    tgt_lines = read_lines(tgt, errors=errors, on_bytes=on_bytes)
    for src_line, tgt_line in zip_longest(src_lines, tgt_lines):
        if src_line is not None:
            num_src += 1
        if tgt_line is not None:
            num_tgt += 1
        if src_line is not None and tgt_line is not None:
            yield src_line, tgt_line
    if num_src != num_tgt:
        raise DataError(
            f"{src} has {count_of(num_src, 'line')}, but {tgt} has {num_tgt:,}: "
            "they must match line by line"
        )


def chunked(
    items: Iterable[LineOrPair],
    *,
    size: int,
    num_chars: int,
    is_item_waiting: Callable[[], bool] | None = None,
) -> Iterator[list[LineOrPair]]:
    """Yield lines, or pairs of lines, in lists of `size`.

    A list ends earlier when it has reached `num_chars` characters, so that the memory for a list is
    bounded even when the lines are long; and when `is_item_waiting` says that the next item would
    have to be waited for. When `items` raises a DataError, the lines before it are
    yielded first.
    """
    chunk: list[LineOrPair] = []
    chunk_chars = 0
    try:
        for item in items:
            chunk.append(item)
            if isinstance(item, str):
                chunk_chars += len(item)
            else:
                chunk_chars += sum(len(text) for text in item)
            is_full = len(chunk) == size or chunk_chars >= num_chars
            if is_full or (is_item_waiting is not None and not is_item_waiting()):
                yield chunk
                chunk = []
                chunk_chars = 0
    except DataError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def encode_line(sentence: str) -> bytes:
    """Return a sentence as a line of a UTF-8 file, with its line feed.

    The sentence may have surrogate escapes: bytes that were not UTF-8 when they were read.
    """
    assert "\n" not in sentence, "a sentence is one line"
    return sentence.encode("utf-8", "surrogateescape") + b"\n"


def _find_file(prefix: str, lang: str) -> Path:
    """Return PREFIX.LANG, or the same name with the ending of a compressed file."""
    name = f"{prefix}.{lang}"
    for ending in ("", *COMPRESSED_ENDINGS):
        path = Path(f"{name}{ending}")
        if path.exists():
            return path
    message = f"{name}: no such file (nor with {' or '.join(COMPRESSED_ENDINGS)})"
    if Path(prefix).is_file():
        message += (
            f"; {prefix} is a file: wanted a table (.tsv, .txt), a translation memory (.tmx), two "
            "files, or their common prefix"
        )
    raise DataError(message)


def _remove_line_end(line: bytes) -> bytes:
    if line.endswith(b"\r\n"):
        return line[:-2]
    return line.removesuffix(b"\n")
