"""Parallel text on the disk: two files, a TSV file or a TMX file, with one interface to read it.

    for src, tgt in read_pairs(TsvFile(Path("swe.txt"))):
        ...

The interface of the three classes is `ParallelText`.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mt.config.schema import CorpusConfig, DataConfig, EvalSetConfig, file_keys
from mt.data.text import Errors, OnBytes, find_pair, read_lines, read_parallel
from mt.data.tmx import Unit, read_tmx
from mt.data.tsv import read_tsv
from mt.errors import DataError
from mt.storage.atomic import sha256

logger = logging.getLogger(__name__)

Side = Literal["src", "tgt"]
DigestOf = Callable[[Path], str]  # returns the SHA-256 of a file's content


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content. Raises DataError."""
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error


def has_same_content(first: Path, second: Path) -> bool:
    """Return whether two files have the same bytes. Raises DataError."""
    try:
        if first.stat().st_size != second.stat().st_size:
            return False
    except OSError as error:
        raise DataError(f"{error.filename}: cannot read: {error.strerror}") from error
    return file_digest(first) == file_digest(second)


class ParallelText(ABC):
    """Parallel text on the disk."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the text is called in messages."""

    @property
    @abstractmethod
    def paths(self) -> tuple[Path, ...]:
        """The files that hold the text."""

    @property
    @abstractmethod
    def has_line_numbers(self) -> bool:
        """Whether pair i is in line i of the files."""

    @abstractmethod
    def identity(self, digest_of: DigestOf = file_digest) -> list[str]:
        """Return what tells this text from others, wherever it is stored. Raises DataError."""

    @abstractmethod
    def read_units(
        self, *, errors: Errors = "strict", on_bytes: OnBytes | None = None
    ) -> Iterator[Unit]:
        """Yield each pair, or None for a row or unit that lacks a side. Raises DataError."""

    @abstractmethod
    def read_side(
        self, side: Side, *, errors: Errors = "strict", on_bytes: OnBytes | None = None
    ) -> Iterator[str]:
        """Yield the texts of one side. Raises DataError."""


@dataclass(frozen=True)
class TwoFiles(ParallelText):
    """Two text files that translate each other line by line."""

    src: Path
    tgt: Path

    @property
    def name(self) -> str:
        return f"{self.src} and {self.tgt}"

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.src, self.tgt

    @property
    def has_line_numbers(self) -> bool:
        return True

    def identity(self, digest_of: DigestOf = file_digest) -> list[str]:
        return [digest_of(self.src), digest_of(self.tgt)]

    def read_units(
        self, *, errors: Errors = "strict", on_bytes: OnBytes | None = None
    ) -> Iterator[Unit]:
        return read_parallel(self.src, self.tgt, errors=errors, on_bytes=on_bytes)

    def read_side(
        self, side: Side, *, errors: Errors = "strict", on_bytes: OnBytes | None = None
    ) -> Iterator[str]:
        path = self.src if side == "src" else self.tgt
        return read_lines(path, errors=errors, on_bytes=on_bytes)


@dataclass(frozen=True)
class TsvFile(ParallelText):
    """A table with a pair in each row (see `read_tsv`)."""

    path: Path
    columns: tuple[int, int] | tuple[str, str] = (1, 2)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def has_line_numbers(self) -> bool:
        # With numbers of columns, there is no line with their names.
        return isinstance(self.columns[0], int)

    def identity(self, digest_of: DigestOf = file_digest) -> list[str]:
        src_column, tgt_column = self.columns
        return ["tsv", digest_of(self.path), repr(src_column), repr(tgt_column)]

    def read_units(
        self, *, errors: Errors = "strict", on_bytes: OnBytes | None = None
    ) -> Iterator[Unit]:
        return read_tsv(self.path, self.columns, errors=errors, on_bytes=on_bytes)

    def read_side(
        self, side: Side, *, errors: Errors = "strict", on_bytes: OnBytes | None = None
    ) -> Iterator[str]:
        """Yield one column, and a blank line for a row that lacks a column."""
        for unit in self.read_units(errors=errors, on_bytes=on_bytes):
            src, tgt = unit or ("", "")
            yield src if side == "src" else tgt


@dataclass(frozen=True)
class TmxFile(ParallelText):
    """A translation memory, of which the units in two languages are read (see `read_tmx`).

    The encoding is that of the XML file, so `errors` has no meaning.
    """

    path: Path
    src_lang: str
    tgt_lang: str

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def has_line_numbers(self) -> bool:
        return False

    def identity(self, digest_of: DigestOf = file_digest) -> list[str]:
        return ["tmx", digest_of(self.path), self.src_lang, self.tgt_lang]

    def read_units(
        self, *, errors: Errors = "strict", on_bytes: OnBytes | None = None
    ) -> Iterator[Unit]:
        return read_tmx(
            self.path, src_lang=self.src_lang, tgt_lang=self.tgt_lang, on_bytes=on_bytes
        )

    def read_side(
        self, side: Side, *, errors: Errors = "strict", on_bytes: OnBytes | None = None
    ) -> Iterator[str]:
        """Yield the segments of one language, of the units that have both."""
        for src, tgt in read_pairs(self, on_bytes=on_bytes):
            yield src if side == "src" else tgt


def read_pairs(text: ParallelText, *, on_bytes: OnBytes | None = None) -> Iterator[tuple[str, str]]:
    """Yield all pairs of a text. Raises DataError."""
    return (unit for unit in text.read_units(on_bytes=on_bytes) if unit is not None)


def complete_pairs(
    text: ParallelText, *, on_bytes: OnBytes | None = None
) -> Iterator[tuple[str, str]]:
    """Yield all pairs of a text; warn at the end of rows without one of the sides.

    Raises DataError.
    """
    num_units = 0
    num_incomplete = 0
    first_incomplete = None  # counted from 1
    for unit in text.read_units(on_bytes=on_bytes):
        num_units += 1
        if unit is None:
            num_incomplete += 1
            first_incomplete = first_incomplete or num_units
        else:
            yield unit
    if num_incomplete > 0:
        logger.warning(
            f"{text.name}: left out {num_incomplete:,} of {num_units:,}, without "
            f"one of the two sides (the first: number {first_incomplete})"
        )


def parallel_texts(section: CorpusConfig | EvalSetConfig, data: DataConfig) -> list[ParallelText]:
    """Return the text of a corpus or an evaluation set; for several references, one text for each.

    Raises DataError when a file that a prefix stands for does not exist.
    """
    src_lang, tgt_lang = data.languages(section)
    if section.prefix is not None:
        src, tgt = find_pair(section.prefix, src_lang=src_lang, tgt_lang=tgt_lang)
        return [TwoFiles(src, tgt)]
    if section.tsv is not None:
        return [_tsv_file(Path(section.tsv), section.columns)]
    if section.tmx is not None:
        return [TmxFile(Path(section.tmx), src_lang, tgt_lang)]
    # The schema has checked that all files are named.
    assert section.src is not None
    targets = section.refs if isinstance(section, EvalSetConfig) else (section.tgt,)
    return [TwoFiles(Path(section.src), Path(target)) for target in targets if target is not None]


def text_of_names(
    names: Sequence[str],
    *,
    src_lang: str,
    tgt_lang: str,
    columns: tuple[int | str, int | str] | None = None,
) -> ParallelText:
    """Return the text that a person names on a command line.

    That is a prefix, a TSV or a TMX file, or two files: source and target. A file of which the
    columns are given is a TSV file, whatever its name is. Raises DataError.
    """
    if len(names) == 2:
        if columns is not None:
            raise DataError(f"columns are those of a TSV file; found two files, {', '.join(names)}")
        return TwoFiles(Path(names[0]), Path(names[1]))
    if len(names) != 1:
        raise DataError(f"wanted one file or two, source and target; found {len(names)}")
    ((key, path),) = file_keys(names[0]).items()
    if key == "tsv" or columns is not None:
        return _tsv_file(Path(path), columns)
    if key == "tmx":
        return TmxFile(Path(path), src_lang, tgt_lang)
    return TwoFiles(*find_pair(path, src_lang=src_lang, tgt_lang=tgt_lang))


def _tsv_file(path: Path, columns: tuple[int | str, int | str] | None) -> TsvFile:
    if columns is None:
        return TsvFile(path)
    src_column, tgt_column = columns
    if isinstance(src_column, int) and isinstance(tgt_column, int):
        return TsvFile(path, (src_column, tgt_column))
    return TsvFile(path, (str(src_column), str(tgt_column)))
