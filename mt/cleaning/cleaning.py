"""Cleaning of a parallel text: it leaves out bad pairs.

These are pairs of which `mt check` warns, and pairs that are very long or of unequal length.

The text is read twice: to judge the pairs, and to write those that are kept, as they are. Each pair
is judged by itself, except for duplicates, and what a language looks like is learned from held-out
text. So cleaning a clean text changes nothing. About 50 bytes a pair are in memory, and no text.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mt.cleaning.rules import KEPT, CleaningRules, Rule
from mt.data.normalization import is_blank
from mt.data.parallel_text import ParallelText
from mt.data.progress import bytes_bar
from mt.data.scripts import find_scripts, script_of_letter
from mt.data.text import OnBytes, chunked, encode_line
from mt.data.words import split_words
from mt.errors import DataError
from mt.preflight.languages import (
    MIN_LOG_ODDS,
    NUM_TRIGRAM_HASHES,
    TrigramLogOdds,
    hash_trigrams,
    learn_log_odds,
    score_lines,
)
from mt.preflight.survey import NOT_UTF8, Digests, combine_digests, find_faults, hash_words
from mt.storage.atomic import atomic_file

CHUNK_SIZE = 4096  # pairs that are judged together
CHUNK_CHARS = 8_000_000  # characters of these; long lines make a chunk of fewer pairs

SHORT_PAIR_WORDS = 10  # if neither side is longer, a high length ratio means nothing

# A side is in the wrong script if less than this fraction of its letters is in the scripts of its
# language.
MIN_FRACTION_IN_SCRIPTS = 0.5

Pair = tuple[str, str]


@dataclass(frozen=True)
class HeldOut:
    """What is known from held-out text: its sources, and what the two languages look like."""

    src_digests: Digests
    log_odds: TrigramLogOdds | None  # None: the two languages cannot be told apart
    src_scripts: frozenset[str]
    tgt_scripts: frozenset[str]


@dataclass(frozen=True)
class Cleaning:
    """The verdict on each pair of a text."""

    verdicts: NDArray[np.uint8]  # (num_pairs,): KEPT or a value of Rule

    def count(self, verdict: int) -> int:
        """Return the number of pairs with a verdict."""
        return int(np.count_nonzero(self.verdicts == verdict))


# Held-out text


def learn_held_out(texts: Sequence[ParallelText]) -> HeldOut:
    """Read held-out texts; the languages are learned from the first one. Raises DataError."""
    digests = bytearray()
    trigram_counts = [np.zeros(NUM_TRIGRAM_HASHES, np.int64) for _ in range(2)]
    characters: list[Counter[str]] = [Counter(), Counter()]
    for text in texts:
        for chunk in chunked(_pairs(text), size=CHUNK_SIZE, num_chars=CHUNK_CHARS):
            digests += b"".join(_digest(src) for src, _ in chunk)
            if text is not texts[0]:
                continue
            for side, lines in enumerate(zip(*chunk, strict=True)):
                hashes = hash_trigrams(_encode(lines))
                trigram_counts[side] += np.bincount(hashes, minlength=NUM_TRIGRAM_HASHES)
                for line in lines:
                    characters[side].update(line)
    src_scripts, tgt_scripts = (
        frozenset(script.name for script in find_scripts(counts)) for counts in characters
    )
    return HeldOut(
        src_digests=np.unique(np.frombuffer(bytes(digests), np.uint64)),
        log_odds=learn_log_odds(*trigram_counts),
        src_scripts=src_scripts,
        tgt_scripts=tgt_scripts,
    )


# Judging


def judge_text(
    text: ParallelText, rules: CleaningRules, *, held_out: HeldOut | None = None
) -> Cleaning:
    """Read a text and return the verdict on each of its pairs. Raises DataError."""
    verdicts: list[NDArray[np.uint8]] = []
    digests: list[Digests] = []
    with bytes_bar("judging", text.paths) as on_bytes:
        pairs = _pairs(text, on_bytes=on_bytes)
        for chunk in chunked(pairs, size=CHUNK_SIZE, num_chars=CHUNK_CHARS):
            judged = judge_pairs(chunk, rules, held_out=held_out)
            verdicts.append(judged.verdicts)
            digests.append(judged.digests)
    all_verdicts = np.concatenate(verdicts)
    if Rule.DUPLICATE not in rules.without:
        _mark_duplicates(all_verdicts, np.concatenate(digests))
    return Cleaning(all_verdicts)


class JudgedPairs(NamedTuple):
    """Some pairs: their verdicts, without the rule for duplicates, and their hashes."""

    verdicts: NDArray[np.uint8]  # (num_pairs,)
    digests: Digests  # (num_pairs,): of both sides


def judge_pairs(
    pairs: Sequence[Pair], rules: CleaningRules, *, held_out: HeldOut | None = None
) -> JudgedPairs:
    """Return the verdict on each pair, as if there were no others."""
    src_texts, tgt_texts = zip(*pairs, strict=True)
    src_digests = np.frombuffer(b"".join(map(_digest, src_texts)), np.uint64)
    tgt_digests = np.frombuffer(b"".join(map(_digest, tgt_texts)), np.uint64)
    masks = {Rule.COPY: (src_digests == tgt_digests) & (src_digests != 0)}
    if held_out is not None:
        is_held_out = np.isin(src_digests, held_out.src_digests)
        masks[Rule.HELD_OUT] = is_held_out & (src_digests != 0)  # 0: a blank line
        if held_out.log_odds is not None:
            src_in_tgt_lang = score_lines(_encode(src_texts), held_out.log_odds) < -MIN_LOG_ODDS
            tgt_in_src_lang = score_lines(_encode(tgt_texts), held_out.log_odds) > MIN_LOG_ODDS
            masks[Rule.LANGUAGE] = src_in_tgt_lang | tgt_in_src_lang
    verdicts = np.full(len(pairs), KEPT, np.uint8)
    for index, (src, tgt) in enumerate(pairs):
        for rule in _broken_rules(src, tgt, rules=rules, held_out=held_out):
            if rule not in rules.without:
                verdicts[index] = rule
                break
    # In the order of the rules, these come after those of `_broken_rules`.
    for rule in sorted(masks.keys() - rules.without):
        verdicts[masks[rule] & (verdicts == KEPT)] = rule
    return JudgedPairs(verdicts, combine_digests(src_digests, tgt_digests))


def _broken_rules(
    src: str, tgt: str, *, rules: CleaningRules, held_out: HeldOut | None
) -> Iterator[Rule]:
    """Yield the rules about single texts that apply to a pair, in their order."""
    faults = [*find_faults(src), *find_faults(tgt)]
    if NOT_UTF8 in faults:
        yield Rule.ENCODING
    if any(fault != NOT_UTF8 for fault in faults):
        yield Rule.CONTROL
    if is_blank(src) or is_blank(tgt):
        yield Rule.BLANK
    num_src_words = len(split_words(src))
    num_tgt_words = len(split_words(tgt))
    longer = max(num_src_words, num_tgt_words)
    shorter = min(num_src_words, num_tgt_words)
    if longer > rules.max_length:
        yield Rule.LENGTH
    if longer > SHORT_PAIR_WORDS and longer > rules.max_length_ratio * shorter:
        yield Rule.LENGTH_RATIO
    if held_out is not None and not (
        is_in_scripts(src, held_out.src_scripts) and is_in_scripts(tgt, held_out.tgt_scripts)
    ):
        yield Rule.SCRIPT


def is_in_scripts(text: str, scripts: frozenset[str]) -> bool:
    """Return whether enough letters of a text are in one of the scripts; True without letters."""
    if not scripts or (text.isascii() and "Latin" in scripts):
        return True
    letters = [character for character in text if character.isalpha()]
    num_right = sum(1 for letter in letters if script_of_letter(letter) in scripts)
    return num_right >= MIN_FRACTION_IN_SCRIPTS * len(letters)


def _mark_duplicates(verdicts: NDArray[np.uint8], digests: Digests) -> None:
    """Give the verdict DUPLICATE to each kept pair that is the same as an earlier kept one.

    Pairs with a blank side, which have the digest 0, are not compared.
    """
    compared = np.flatnonzero((verdicts == KEPT) & (digests != 0))
    digests = digests[compared]
    order = np.argsort(digests, kind="stable")  # equal pairs stay in the order of the text
    repeats_previous = digests[order[1:]] == digests[order[:-1]]
    repeated = order[1:][repeats_previous]
    verdicts[compared[repeated]] = Rule.DUPLICATE


# Writing


def write_kept(text: ParallelText, cleaning: Cleaning, *, paths: tuple[Path, Path]) -> None:
    """Write the pairs that are kept, as they are, to two files: sources and targets.

    Raises DataError when the text is not the one that was judged, and DiskError.
    """
    num_pairs = 0
    with (
        bytes_bar("writing", text.paths) as on_bytes,
        ExitStack() as stack,
    ):
        src_file, tgt_file = [stack.enter_context(atomic_file(path)) for path in paths]
        for number, (src, tgt) in enumerate(_pairs(text, on_bytes=on_bytes), start=1):
            num_pairs = number
            if number > len(cleaning.verdicts):
                break
            if cleaning.verdicts[number - 1] == KEPT:
                src_file.write(encode_line(src))
                tgt_file.write(encode_line(tgt))
        if num_pairs != len(cleaning.verdicts):
            raise DataError(f"{text.name}: the text changed while it was read; start again")


def _pairs(text: ParallelText, *, on_bytes: OnBytes | None = None) -> Iterator[Pair]:
    """Yield all pairs of a text, whatever is in them; a row without one of the sides is blank."""
    units = text.read_units(errors="surrogateescape", on_bytes=on_bytes)
    return (unit or ("", "") for unit in units)


def _digest(line: str) -> bytes:
    return hash_words([] if is_blank(line) else line.split())


def _encode(lines: Iterable[str]) -> list[bytes]:
    return [line.encode("utf-8", "surrogateescape") for line in lines]
