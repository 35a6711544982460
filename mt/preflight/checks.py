"""Findings about text files, before hours of training are spent on them: surveys in, findings out; knows no config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mt.preflight.drift import Drift, find_drifts
from mt.preflight.languages import CLEAR_ODDS
from mt.preflight.survey import NOT_UTF8, FileSurvey, ParallelSurvey

NUM_SHOWN = 3  # places named of each kind of fault
MOST = 0.5  # share of a file's lines that makes it the wrong file: an error
MANY = 0.01  # share of a file's lines from which a fault that is common in small numbers is worth a warning
MANY_DUPLICATES = 0.2  # likewise, of pairs that are there already
UNCLEAR, ENOUGH_LINES = (
    0.1,
    200,
)  # less clearness than this is that of unrelated files; fewer lines do not tell

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and how it is: `what` is a topic, `where` FILE:LINE or "", `text` a clause."""

    level: Level
    what: str
    where: str
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)  # the same for programs


def find_faults(side: FileSurvey) -> list[Finding]:
    """Lines that are not UTF-8, which end a training, and invisible characters at which other programs end a line."""
    findings = []
    for kind, numbers in side.faults.items():
        is_invalid, listed = kind == NOT_UTF8, f"{kind}: {lines_listed(numbers)}"
        text = f"invisible {listed}; other programs split the line there, and shift all that follow"
        text = f"{listed} (iconv converts files)" if is_invalid else text
        findings.append(
            Finding("error" if is_invalid else "warning", "encoding", place(side, numbers), text)
        )
    return findings


def find_steps(pair: ParallelSurvey) -> list[Finding]:
    """Numbers of lines that differ, and where the sides drift apart even if they do not."""
    num_src, num_tgt = len(pair.src), len(pair.tgt)
    drifts, clearness = find_drifts(pair.src, pair.tgt)
    told = "; ".join(_describe_drift(drift, pair.num_pairs) for drift in drifts)
    line = drifts[0].start + 1 if drifts else pair.num_pairs
    numbers: dict[str, float] = {
        "src_lines": num_src,
        "tgt_lines": num_tgt,
        "clearness": round(clearness, 3),
    }
    numbers |= {"line": line} if drifts else {}
    level: Level = "error"
    where = f"{pair.tgt.path}:{line}"
    if num_src != num_tgt:
        told = told or "as far as both go they seem in step, so look near the end"
        text = f"{num_src:,} source lines, but {num_tgt:,} target lines: {told}"
    elif drifts:
        text = f"as many lines on both sides, but {told}"
    elif clearness < UNCLEAR and num_src >= ENOUGH_LINES:
        level, where = "warning", str(pair.tgt.path)
        text = (
            "line i of both sides has no more in common than lines nearby: are they translations?"
        )
    else:
        level, where, text = "ok", "", f"{num_src:,} pairs, in step"
    return [Finding(level, "alignment", where, f"{pair.name}: {text}", numbers)]


def find_blanks(pair: ParallelSurvey, *, is_train: bool) -> list[Finding]:
    """Blank sides: training leaves such pairs out, a test with one says less than it seems."""
    num_pairs, findings = pair.num_pairs, []
    for side, other in ((pair.src, pair.tgt), (pair.tgt, pair.src)):
        blank = side.is_blank[:num_pairs]
        if numbers := line_numbers(blank):
            alone = int((blank & ~other.is_blank[:num_pairs]).sum())
            many: Level = "warning" if not is_train or len(numbers) > MANY * num_pairs else "note"
            level: Level = "error" if len(numbers) == num_pairs else many
            text = f"{pair.name}: blank: {lines_listed(numbers)}, {alone:,} of them with text on the other side"
            text += "; training leaves them out" * is_train
            findings.append(Finding(level, "blank lines", place(side, numbers), text))
    return findings


def find_duplicates(pair: ParallelSurvey) -> list[Finding]:
    """Pairs that are there more than once, and sources with several translations."""
    digests, findings = pair.digests, []
    unique, first = np.unique(digests, return_index=True)
    first = first[unique != 0]
    repeated = int((digests != 0).sum()) - len(first)
    ambiguous = int((np.unique(pair.src.digests[first], return_counts=True)[1] > 1).sum())
    if repeated:
        text = f"{pair.name}: {share(repeated, len(digests), 'pairs')} repeat an earlier one word for word"
        many = repeated > MANY_DUPLICATES * len(digests)
        findings.append(
            Finding("warning" if many else "note", "duplicates", "", text, {"repeated": repeated})
        )
    if ambiguous:
        text = f"{pair.name}: {ambiguous:,} sources have several translations"
        findings.append(Finding("note", "duplicates", "", text, {"ambiguous": ambiguous}))
    return findings


def find_overlap(pair: ParallelSurvey, train: Sequence[ParallelSurvey]) -> list[Finding]:
    """Sentences of a validation or test set that are in the training text: what it scores may be learned by heart."""
    sources, pairs = pair.src.digests[: pair.num_pairs], pair.digests
    seen = np.any([np.isin(sources, corpus.src.digests) for corpus in train], axis=0) & (
        sources != 0
    )
    seen_pair = np.any([np.isin(pairs, corpus.digests) for corpus in train], axis=0) & (pairs != 0)
    if not (numbers := line_numbers(seen)):
        return []
    first = sources[numbers[0] - 1]
    corpus = next(corpus for corpus in train if first in corpus.src.digests)
    twin = f"{corpus.name} line {int(np.argmax(corpus.src.digests == first)) + 1}"
    listed = (
        f"line {numbers[0]} is {twin}"
        if len(numbers) == 1
        else f"{lines_listed(numbers)}; the first is {twin}"
    )
    counts = {"sources": len(numbers), "pairs": int(seen_pair.sum())}
    text = f"{pair.name}: in train too: {share(len(numbers), len(sources), 'source sentences')}, "
    text += f"{counts['pairs']:,} with the same translation: {listed}"
    level: Level = "warning" if counts["pairs"] or len(numbers) > MANY * len(sources) else "note"
    return [Finding(level, "overlap", place(pair.src, numbers), text, counts)]


def find_mix_ups(pair: ParallelSurvey, reference: ParallelSurvey) -> list[Finding]:
    """Sides that are swapped, copied, or in part in the other language, judged by `reference`, another set.

    Sides that were read without odds of languages are only compared with each other.
    """
    num_pairs = pair.num_pairs
    copied = (pair.src.digests[:num_pairs] == pair.tgt.digests[:num_pairs]) & ~pair.src.is_blank[
        :num_pairs
    ]
    if copied.mean() > MOST:
        text = f"{pair.name}: both sides are the same text in {share(int(copied.sum()), num_pairs, 'lines')}"
        return [Finding("error", "languages", f"{pair.tgt.path}", text)]
    findings = _about_lines(pair, pair.tgt, copied, "the target is a copy of the source")
    if not (len(pair.src.odds) and len(pair.tgt.odds)):
        return findings
    strange = []
    for side, sign, ours, other in (
        (pair.src, 1, "source", "target"),
        (pair.tgt, -1, "target", "source"),
    ):
        wrong, right = sign * side.odds < -CLEAR_ODDS, sign * side.odds > CLEAR_ODDS
        if wrong.sum() > right.sum():
            strange.append(
                (
                    str(side.path),
                    f"the {ours} side is in the language of {reference.name}'s {other} side",
                )
            )
        wrong[:num_pairs] &= ~copied
        findings += _about_lines(
            pair, side, wrong, f"the {ours} side seems to be in the {other}'s language"
        )
    if not strange:
        return findings
    where, told = strange[0]
    told = (
        f"its sides are the other way round than {reference.name}'s" if len(strange) == 2 else told
    )
    return [Finding("error", "languages", where, f"{pair.name}: {told}", {"swapped": 1})]


def describe_lengths(pair: ParallelSurvey) -> Finding:
    """How long the sentences are."""
    sides, asked = (
        (pair.src, pair.tgt),
        ((np.median, "num_words"), (np.median, "num_chars"), (np.max, "num_chars")),
    )
    words, chars, longest = (
        " / ".join(f"{f(getattr(side, name)):,.0f}" for side in sides) for f, name in asked
    )
    text = f"{pair.name}: median line {words} words, {chars} characters, longest {longest} (source / target)"
    return Finding("ok", "lengths", "", text)


def place(side: FileSurvey, numbers: Sequence[int]) -> str:
    """FILE:LINE of the first of some lines."""
    return f"{side.path}:{numbers[0]}"


def lines_listed(numbers: Sequence[int]) -> str:
    """[5, 7, 9, 11] -> "4 lines (5, 7, 9, ...)", [5] -> "line 5"; without separators, as an editor wants them."""
    if len(numbers) == 1:
        return f"line {numbers[0]}"
    shown = ", ".join(str(number) for number in numbers[:NUM_SHOWN]) + ", ..." * (
        len(numbers) > NUM_SHOWN
    )
    return f"{len(numbers):,} lines ({shown})"


def share(part: int, whole: int, things: str) -> str:
    """(12, 1000, "pairs") -> "12 of 1,000 pairs (1.2 %)" """
    return f"{part:,} of {whole:,} {things} ({100 * part / whole:.2g} %)"


def line_numbers(mask: NDArray[np.bool_]) -> list[int]:
    """The line numbers, from 1, where the mask is true."""
    return [int(index) + 1 for index in np.flatnonzero(mask)]


def _describe_drift(drift: Drift, num_pairs: int) -> str:
    side, size = ("target", -drift.offset) if drift.offset < 0 else ("source", drift.offset)
    lost = "a line is" if size == 1 else f"{size} lines are"
    until = f" and until line {drift.stop:,}" if drift.stop < num_pairs - 10 else ""
    start = (
        f"from near line {drift.start + 1:,} on" if drift.start > 10 else "from the beginning on"
    )
    return f"{start}{until}, {lost} missing on the {side} side (source line i answers target line i{drift.offset:+d})"


def _about_lines(
    pair: ParallelSurvey, side: FileSurvey, mask: NDArray[np.bool_], what: str
) -> list[Finding]:
    """A finding about some lines of a pair's side, if there are any."""
    if not (numbers := line_numbers(mask)):
        return []
    text = f"{pair.name}: {what} in {lines_listed(numbers)}"
    return [
        Finding(
            "warning" if len(numbers) > MANY * len(mask) else "note",
            "languages",
            place(side, numbers),
            text,
        )
    ]
