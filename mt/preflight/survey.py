"""One reading of a text file, of which some 60 bytes a line are kept and no text, but all that `checks.py` asks.

Whatever is in a file, it is read to its end: faults are counted.
"""

import re
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mt.data.text import read_lines
from mt.preflight.languages import NUM_TRIGRAMS, LanguageOdds, hash_trigrams, judge_lines

CHUNK_SIZE = 4096  # lines in memory at a time
NUM_MARKS = 2**16  # hashed
NOT_UTF8 = "not UTF-8"
# Where other programs end a line, though "\n" alone does: Python's str.splitlines, editors, JavaScript.
SEPARATORS = {
    "\x00": "NUL", "\x0b": "VT (U+000B)", "\x0c": "FF (U+000C)", "\r": "lone CR (U+000D)", "\x1c": "FS (U+001C)",
    "\x1d": "GS (U+001D)", "\x1e": "RS (U+001E)", "\x85": "NEL (U+0085)", "\u2028": "U+2028", "\u2029": "U+2029",
}  # fmt: skip
_FAULT = re.compile(
    f"[{''.join(SEPARATORS)}\udc80-\udcff]"
)  # the latter stand for bytes that are not UTF-8
_WORD = re.compile(r"\d+|[^\W\d_]+")
_FULL_WIDTH = str.maketrans("。！？", ".!?")

Digests = NDArray[np.uint64]


@dataclass(frozen=True)
class FileSurvey:
    """What one reading of a file leaves: for each line a few numbers, and no text."""

    path: Path
    digests: (
        Digests  # (num_lines,): of the words, so that spacing does not matter; 0 for a blank line
    )
    num_chars: NDArray[np.int32]  # (num_lines,)
    num_words: NDArray[np.int32]  # (num_lines,)
    marks: NDArray[
        np.uint16
    ]  # hashes of the words' beginnings and of the last character, lines end to end
    starts: NDArray[
        np.int64
    ]  # (num_lines + 1,): those of line i are `marks[starts[i] : starts[i + 1]]`
    odds: NDArray[
        np.float32
    ]  # (num_lines,) or empty: log-odds of the source's language against the target's
    trigrams: NDArray[np.int64]  # how often each hashed three bytes occur
    faults: Mapping[str, list[int]]  # line numbers, from 1, by the kind of fault

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def is_blank(self) -> NDArray[np.bool_]:
        return np.asarray(self.digests == 0)


class ParallelSurvey(NamedTuple):
    """Two files that should answer each other line by line; `name` is what people call them."""

    name: str
    src: FileSurvey
    tgt: FileSurvey

    @property
    def num_pairs(self) -> int:
        """As far as both go."""
        return min(len(self.src), len(self.tgt))

    @property
    def digests(self) -> Digests:
        """(num_pairs,): of both sides together; 0 where one is blank."""
        src, tgt = self.src.digests[: self.num_pairs], self.tgt.digests[: self.num_pairs]
        return np.where(
            (src == 0) | (tgt == 0), np.uint64(0), src * np.uint64(0x9E3779B97F4A7C15) + tgt
        )


def survey_file(path: Path, language_odds: LanguageOdds | None = None) -> FileSurvey:
    """Read a file once, to its end whatever is in it; DataError when it is missing, empty or a damaged gzip file."""
    faults: dict[str, list[int]] = defaultdict(list)
    digests, marks, odds = bytearray(), bytearray(), []
    rows: list[tuple[int, int, int]] = []
    trigrams = np.zeros(NUM_TRIGRAMS, np.int64)
    lines = read_lines(path, errors="surrogateescape")
    while chunk := list(islice(lines, CHUNK_SIZE)):
        raw = [line.encode("utf-8", "surrogateescape") for line in chunk]
        trigrams += np.bincount(hash_trigrams(raw), minlength=NUM_TRIGRAMS)
        if language_odds is not None:
            odds.append(judge_lines(raw, language_odds))
        for line in chunk:
            for kind in faults_of(line):
                faults[kind].append(len(rows) + 1)
            words, found = line.split(), marks_of(line)
            text = " ".join(words).encode("utf-8", "surrogateescape")
            digests += blake2b(text, digest_size=8).digest() if words else bytes(8)
            marks += np.fromiter(found, np.uint16, len(found)).tobytes()
            rows.append((len(line), len(words), len(found)))
    num_chars, num_words, num_marks = np.array(rows, np.int32).T
    return FileSurvey(
        path=path,
        digests=np.frombuffer(bytes(digests), np.uint64),
        num_chars=num_chars,
        num_words=num_words,
        marks=np.frombuffer(bytes(marks), np.uint16),
        starts=np.concatenate(([0], np.cumsum(num_marks, dtype=np.int64))),
        odds=np.concatenate(odds) if odds else np.zeros(0, np.float32),
        trigrams=trigrams,
        faults=dict(faults),
    )


def faults_of(line: str) -> list[str]:
    """What is wrong with a line that was read with `surrogateescape`: NOT_UTF8, or the names in SEPARATORS."""
    return sorted({SEPARATORS.get(character, NOT_UTF8) for character in _FAULT.findall(line)})


def marks_of(line: str) -> set[int]:
    """What a translation often shares with its source, hashed: how words and numbers begin, and how the line ends.

    Words of two languages with the same first four characters are often cognates (Simard, Foster & Isabelle, 1992).
    """
    marks = {word[:4] for word in _WORD.findall(line.casefold())}
    if line := line.rstrip():
        marks.add(f"${line[-1].translate(_FULL_WIDTH)}")
    return {zlib.crc32(mark.encode("utf-8", "surrogateescape")) % NUM_MARKS for mark in marks}
