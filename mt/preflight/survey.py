"""Survey of one side of a text: all that the checks need to know, gathered in one reading.

A survey keeps about 60 bytes a line and no text. The text is read to its end whatever is in it: bad
lines are listed, not refused.
"""

import html
import re
import unicodedata
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mt.config.choices import Normalization
from mt.config.schema import LanguagePair
from mt.data.normalization import is_blank, normalize, remove_zero_width
from mt.data.parallel_text import ParallelText, Side
from mt.data.text import OnBytes
from mt.preflight.languages import (
    NUM_TRIGRAM_HASHES,
    TrigramCounts,
    TrigramLogOdds,
    hash_trigrams,
    score_lines,
)

# Lines in memory at a time.
CHUNK_SIZE = 4096

# Cues are kept as 16-bit hashes, two bytes each.
NUM_CUE_HASHES = 2**16

# Letters of a word that make a cue. Words of two languages that begin with the same four characters
# are often cognates (Simard, Foster & Isabelle, 1992).
CUE_LENGTH = 4

NOT_UTF8 = "not UTF-8"

# Kinds of lines that differ from others only in what a reader does not see.
DECOMPOSED = "decomposed letters (not NFC)"
SEVERAL_SPACES = "spaces in a row or at an end"
ZERO_WIDTH = "characters of width zero"

# Characters at which other programs end a line, though only "\n" does here: Python's
# str.splitlines, editors, and JavaScript.
SEPARATORS = {
    "\x00": "NUL",
    "\x0b": "VT (U+000B)",
    "\x0c": "FF (U+000C)",
    "\r": "lone CR (U+000D)",
    "\x1c": "FS (U+001C)",
    "\x1d": "GS (U+001D)",
    "\x1e": "RS (U+001E)",
    "\x85": "NEL (U+0085)",
    "\u2028": "U+2028",
    "\u2029": "U+2029",
}

# The surrogates U+DC80 to U+DCFF stand for bytes that are not UTF-8, in text decoded with
# `surrogateescape`.
_BAD_CHARACTER = re.compile(f"[{''.join(SEPARATORS)}\udc80-\udcff]")

_UNUSUAL_SPACE = re.compile(r"[^\S \r]")
_SEVERAL_SPACES = re.compile(r"^\s|\s\s|\s$")

# Such as "&quot;", "&#39;" and "&#x27;".
_HTML_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]+|#[0-9]+|#[xX][0-9A-Fa-f]+);")

_NUMBER_OR_WORD = re.compile(r"\d+|[^\W\d_]+")

# A Japanese or Chinese sentence ends in full-width punctuation where its translation has the ASCII
# character.
_FULL_WIDTH_TO_ASCII = str.maketrans("。！？", ".!?")

Digests = NDArray[np.uint64]


@dataclass(frozen=True)
class FileSurvey:
    """What is kept of a text file: a few numbers for each line, and no text."""

    path: Path

    # (num_lines,): a hash of the words of each line, the same whatever space is between them; 0 for
    # a blank line.
    digests: Digests

    num_chars: NDArray[np.int32]  # (num_lines,)
    num_words: NDArray[np.int32]  # (num_lines,)

    # The hashed cues of all lines, one line after the other (see `find_cues`). Those of line i are
    # `cues[cue_starts[i] : cue_starts[i + 1]]`.
    cues: NDArray[np.uint16]
    cue_starts: NDArray[np.int64]  # (num_lines + 1,)

    # (num_lines,): log-odds that a line is in the source's language rather than the target's. Empty
    # if the file was read before the languages were known.
    log_odds: NDArray[np.float32]

    trigram_counts: TrigramCounts

    # Line numbers, from 1, by the kind of fault: NOT_UTF8 or one of the names in SEPARATORS.
    bad_lines: Mapping[str, list[int]]

    # Line numbers, from 1, by the kind of form: DECOMPOSED and the like, or the name of a space.
    unusual_lines: Mapping[str, list[int]]

    html_lines: Sequence[int]  # numbers, from 1, of the lines with HTML entities such as &quot;
    num_composed: int  # lines with letters that are not decomposed, such as an "\u00e9"
    characters: Mapping[str, int]  # number of normalized lines that have each character

    # Whether line i of this survey is line i of the file. Otherwise it is the file's pair i.
    has_line_numbers: bool = True

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def unit(self) -> str:
        """What is counted: lines of the file, or pairs."""
        return "line" if self.has_line_numbers else "pair"

    def place(self, number: int) -> str:
        """Return the place of a line, as a finding begins."""
        separator = ":" if self.has_line_numbers else ": pair "
        return f"{self.path}{separator}{number}"

    @property
    def is_blank(self) -> NDArray[np.bool_]:
        """Mask of the blank lines, (num_lines,)."""
        return np.asarray(self.digests == 0)


class ParallelSurvey(NamedTuple):
    """Surveys of two files that should be translations of each other, line by line."""

    name: str  # as shown to the user, such as "train" or "test ref 2"
    src: FileSurvey
    tgt: FileSurvey
    languages: LanguagePair | None = None  # None: not known

    @property
    def is_copy_wanted(self) -> bool:
        """Whether both sides are in the same language, as in copied monolingual text."""
        return self.languages is not None and self.languages.src == self.languages.tgt

    @property
    def num_pairs(self) -> int:
        """Number of lines of the shorter file."""
        return min(len(self.src), len(self.tgt))

    @property
    def digests(self) -> Digests:
        """Hash of both sides of each pair, (num_pairs,); 0 where one side is blank."""
        src = self.src.digests[: self.num_pairs]
        tgt = self.tgt.digests[: self.num_pairs]
        return combine_digests(src, tgt)


def survey_side(
    text: ParallelText,
    side: Side,
    language_log_odds: TrigramLogOdds | None = None,
    *,
    normalization: Normalization = "none",
    on_bytes: OnBytes | None = None,
) -> FileSurvey:
    """Read one side of a text to its end and return its survey.

    Lines are only scored if log-odds are given. Raises DataError when a file is missing, empty or
    damaged, or has a line of absurd length.
    """
    collected = _CollectedLines(normalization)
    log_odds: list[NDArray[np.float32]] = []
    trigram_counts = np.zeros(NUM_TRIGRAM_HASHES, np.int64)
    lines = text.read_side(side, errors="surrogateescape", on_bytes=on_bytes)
    while chunk := list(islice(lines, CHUNK_SIZE)):
        raw_lines = [line.encode("utf-8", "surrogateescape") for line in chunk]
        trigram_counts += np.bincount(hash_trigrams(raw_lines), minlength=NUM_TRIGRAM_HASHES)
        if language_log_odds is not None:
            log_odds.append(score_lines(raw_lines, language_log_odds))
        for line in chunk:
            collected.add(line)
    return FileSurvey(
        path=text.paths[0] if side == "src" else text.paths[-1],
        has_line_numbers=text.has_line_numbers,
        digests=np.frombuffer(bytes(collected.digests), np.uint64),
        num_chars=np.array(collected.num_chars, np.int32),
        num_words=np.array(collected.num_words, np.int32),
        cues=np.frombuffer(bytes(collected.cues), np.uint16),
        cue_starts=np.concatenate(([0], np.cumsum(collected.num_cues, dtype=np.int64))),
        log_odds=np.concatenate(log_odds) if log_odds else np.zeros(0, np.float32),
        trigram_counts=trigram_counts,
        bad_lines=dict(collected.bad_lines),
        unusual_lines=dict(collected.unusual_lines),
        html_lines=collected.html_lines,
        num_composed=collected.num_composed,
        characters=collected.characters,
    )


class _CollectedLines:
    """What a `FileSurvey` keeps of each line, in arrays that grow."""

    def __init__(self, normalization: Normalization) -> None:
        self.normalization = normalization
        self.digests = bytearray()
        self.cues = bytearray()
        self.num_chars = array("i")
        self.num_words = array("i")
        self.num_cues = array("i")
        self.bad_lines: dict[str, list[int]] = defaultdict(list)
        self.unusual_lines: dict[str, list[int]] = defaultdict(list)
        self.html_lines: list[int] = []
        self.num_composed = 0
        self.characters: Counter[str] = Counter()

    def add(self, line: str) -> None:
        """Collect what is kept of the next line."""
        words = line.split()
        cues = find_cues(line)
        self.digests += hash_words([] if is_blank(line) else words)
        self.cues += np.fromiter(cues, np.uint16, len(cues)).tobytes()
        self.num_chars.append(len(line))
        self.num_words.append(len(words))
        self.num_cues.append(len(cues))
        line_number = len(self.num_chars)
        for fault in find_faults(line):
            self.bad_lines[fault].append(line_number)
        for kind in find_unusual_forms(line):
            self.unusual_lines[kind].append(line_number)
        if has_html_entity(line):
            self.html_lines.append(line_number)
        if not unicodedata.is_normalized("NFD", line):
            self.num_composed += 1
        self.characters.update(set(normalize(line, self.normalization)))


def combine_digests(src: Digests, tgt: Digests) -> Digests:
    """Return a hash of both sides of each pair; 0 where one side is blank."""
    # The factor (2**64 divided by the golden ratio) makes the hash depend on which side is which.
    combined = src * np.uint64(0x9E3779B97F4A7C15) + tgt
    return np.where((src == 0) | (tgt == 0), np.uint64(0), combined)


def hash_words(words: list[str]) -> bytes:
    """Return eight bytes that identify a line by its words; zeros for a blank line."""
    if not words:
        return bytes(8)
    text = " ".join(words).encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=8).digest()


def find_faults(line: str) -> list[str]:
    """Return the faults of a line decoded with `surrogateescape`: NOT_UTF8, names in SEPARATORS."""
    bad_characters = _BAD_CHARACTER.findall(line)
    return sorted({SEPARATORS.get(character, NOT_UTF8) for character in bad_characters})


def find_unusual_forms(line: str) -> list[str]:
    """Return the kinds of form of a line that a reader does not see, as in `unusual_lines`."""
    spaces = set(_UNUSUAL_SPACE.findall(line)) - set(SEPARATORS)
    kinds = {
        f"{unicodedata.name(space, 'control character')} (U+{ord(space):04X})" for space in spaces
    }
    if _SEVERAL_SPACES.search(line):
        kinds.add(SEVERAL_SPACES)
    if not unicodedata.is_normalized("NFC", line):
        kinds.add(DECOMPOSED)
    if remove_zero_width(line) != line:
        kinds.add(ZERO_WIDTH)
    return sorted(kinds)


def has_html_entity(line: str) -> bool:
    """Return whether a line has an HTML entity such as "&quot;", which is one character in HTML."""
    return any(html.unescape(entity) != entity for entity in _HTML_ENTITY.findall(line))


def find_cues(line: str) -> set[int]:
    """Return hashes of what a translation often shares with its source, the cues.

    They are the first four characters of each word and number, and the last character of the line.
    """
    cues = {word[:CUE_LENGTH] for word in _NUMBER_OR_WORD.findall(line.casefold())}
    text = line.rstrip()
    if text:
        last_character = text[-1].translate(_FULL_WIDTH_TO_ASCII)
        cues.add(f"${last_character}")  # "$" tells it from a word of one letter
    return {zlib.crc32(cue.encode("utf-8", "surrogateescape")) % NUM_CUE_HASHES for cue in cues}
