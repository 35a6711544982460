"""Checks of parallel text files: surveys in, findings out. They know no config."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mt.config.choices import Normalization
from mt.data.normalization import describe_characters
from mt.preflight.drift import Drift, find_drifts
from mt.preflight.languages import MIN_LOG_ODDS
from mt.preflight.survey import (
    DECOMPOSED,
    NOT_UTF8,
    ZERO_WIDTH,
    Digests,
    FileSurvey,
    ParallelSurvey,
)
from mt.wording import count_of

# The three fractions are rules of thumb, not measurements.

# A file with a fault in more than this fraction of its lines is the wrong file: an error.
ERROR_FRACTION = 0.5

# A fault that is common in small numbers is a warning above this fraction of the lines, else a
# note.
WARN_FRACTION = 0.01

# Likewise for repeated pairs, of which a sound corpus may have many: short sentences, subtitles.
DUPLICATES_WARN_FRACTION = 0.2

# The files are probably not translations if line i matches line i better than its neighbors by
# less than this (see DriftReport.contrast). Measured on five corpora: at least 0.42 for
# translations, and at most 0.10 for 200 lines in random order.
MIN_CONTRAST = 0.1

# With fewer lines than this, the contrast is too uncertain to be compared with MIN_CONTRAST.
MIN_LINES_FOR_CONTRAST = 200

# A drift that starts or ends within so many lines of the start or end of the file is reported to
# start or end with the file: the place is not known more exactly.
DRIFT_PLACE_TOLERANCE = 10

# The score of a set with fewer pairs says little.
MIN_SCORED_PAIRS = 100

# Line numbers shown of each kind of fault.
NUM_LINES_SHOWN = 3

Mask = NDArray[np.bool_]  # one element for each line or pair
Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    level: Level
    topic: str
    place: str  # FILE:LINE, FILE, or "" if the finding has no place
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)  # the same result, for programs


def check_encoding(file: FileSurvey) -> list[Finding]:
    """Report bytes that are not UTF-8, and invisible characters at which other programs end a line.

    The former are errors, because training refuses them.
    """
    findings = []
    for kind, numbers in file.bad_lines.items():
        lines = format_lines(numbers, file.unit)
        level: Level
        if kind == NOT_UTF8:
            level = "error"
            text = f"{kind}: {lines} (iconv converts files)"
        else:
            level = "warning"
            text = (
                f"invisible {kind}: {lines}; other programs split the line there, "
                "which shifts all lines after it"
            )
        findings.append(Finding(level, "encoding", first_place(file, numbers), text))
    return findings


def check_alignment(survey: ParallelSurvey) -> Finding:
    """Compare the numbers of lines, and whether line i matches line i throughout."""
    num_src = len(survey.src)
    num_tgt = len(survey.tgt)
    drifts, contrast = find_drifts(survey.src, survey.tgt)
    drift_text = "; ".join(_describe_drift(drift, survey.num_pairs) for drift in drifts)
    line = drifts[0].start + 1 if drifts else survey.num_pairs
    place = survey.tgt.place(line)

    level: Level
    if num_src != num_tgt:
        level = "error"
        text = f"{count_of(num_src, 'source line')}, but {count_of(num_tgt, 'target line')}: "
        text += (
            drift_text or "as far as both files go the lines seem to match, so look near the end"
        )
    elif drifts:
        level = "error"
        text = f"as many lines on both sides, but {drift_text}"
    elif contrast < MIN_CONTRAST and num_src >= MIN_LINES_FOR_CONTRAST:
        level = "warning"
        place = str(survey.tgt.path)
        text = (
            "line i of one side matches line i of the other no better than nearby lines: "
            "are they translations?"
        )
    else:
        level = "ok"
        place = ""
        text = f"{count_of(num_src, 'pair')}, aligned line by line"

    numbers: dict[str, float] = {
        "src_lines": num_src,
        "tgt_lines": num_tgt,
        "clearness": round(contrast, 3),
    }
    if drifts:
        numbers["line"] = line
    return Finding(level, "alignment", place, f"{survey.name}: {text}", numbers)


def check_set_size(survey: ParallelSurvey) -> list[Finding]:
    """Report a validation or test set that is too small for a score."""
    if survey.num_pairs >= MIN_SCORED_PAIRS:
        return []
    text = (
        f"{survey.name}: has {count_of(survey.num_pairs, 'pair')}; scores of so few depend much on "
        "chance: use some hundreds"
    )
    return [Finding("note", "set size", "", text, {"pairs": survey.num_pairs})]


def check_blank_lines(survey: ParallelSurvey, *, is_train: bool) -> list[Finding]:
    """Report pairs with a blank side.

    Training leaves them out, but a validation or test set keeps them, which distorts its scores.
    """
    findings = []
    num_pairs = survey.num_pairs
    for file, other in ((survey.src, survey.tgt), (survey.tgt, survey.src)):
        is_blank = file.is_blank[:num_pairs]
        numbers = line_numbers(is_blank)
        if not numbers:
            continue
        level: Level = "warning"
        if len(numbers) == num_pairs:
            level = "error"
        elif is_train and len(numbers) <= WARN_FRACTION * num_pairs:
            level = "note"
        num_one_sided = int((is_blank & ~other.is_blank[:num_pairs]).sum())
        text = (
            f"{survey.name}: blank: {format_lines(numbers, file.unit)}, "
            f"{num_one_sided:,} of them with text on the other side"
        )
        if is_train:
            text += "; training leaves them out"
        findings.append(Finding(level, "blank lines", first_place(file, numbers), text))
    return findings


def check_duplicates(survey: ParallelSurvey) -> list[Finding]:
    """Report pairs that occur more than once, and source sentences with several translations."""
    findings = []
    digests = survey.digests
    unique_digests, first_indices = np.unique(digests, return_index=True)
    first_indices = first_indices[unique_digests != 0]

    num_repeated = int((digests != 0).sum()) - len(first_indices)
    if num_repeated:
        fraction = format_fraction(num_repeated, len(digests), "pair")
        is_common = num_repeated > DUPLICATES_WARN_FRACTION * len(digests)
        level: Level = "warning" if is_common else "note"
        text = f"{survey.name}: {fraction} repeat an earlier one word for word"
        numbers = {"repeated": num_repeated}
        findings.append(Finding(level, "duplicates", "", text, numbers))

    _, num_translations = np.unique(survey.src.digests[first_indices], return_counts=True)
    num_ambiguous = int((num_translations > 1).sum())
    if num_ambiguous:
        text = f"{survey.name}: sources with several translations: {num_ambiguous:,}"
        findings.append(Finding("note", "duplicates", "", text, {"ambiguous": num_ambiguous}))
    return findings


def check_overlap(survey: ParallelSurvey, train: Sequence[ParallelSurvey]) -> list[Finding]:
    """Report sentences of a validation or test set that are in the training text.

    The model may have learned them by heart, which makes the score too high.
    """
    sources = survey.src.digests[: survey.num_pairs]
    numbers = line_numbers(_occurs_in(sources, [corpus.src.digests for corpus in train]))
    if not numbers:
        return []
    num_pairs = int(_occurs_in(survey.digests, [corpus.digests for corpus in train]).sum())

    train_line = _locate(sources[numbers[0] - 1], train)
    if len(numbers) == 1:
        lines = f"{survey.src.unit} {numbers[0]} is {train_line}"
    else:
        lines = f"{format_lines(numbers, survey.src.unit)}; the first is {train_line}"
    fraction = format_fraction(len(numbers), len(sources), "source sentence")
    text = (
        f"{survey.name}: in train too: {fraction}, "
        f"{num_pairs:,} with the same translation: {lines}; "
        "`mt clean --held-out SET` takes them out of the training text (SET: a prefix, a table or "
        "a TMX file)"
    )
    is_common = len(numbers) > WARN_FRACTION * len(sources)
    level: Level = "warning" if num_pairs or is_common else "note"
    counts = {"sources": len(numbers), "pairs": num_pairs}
    return [Finding(level, "overlap", first_place(survey.src, numbers), text, counts)]


def _occurs_in(digests: Digests, corpora: Sequence[Digests]) -> Mask:
    """Return a mask of the digests that occur in any of the corpora; blank lines do not count."""
    mask = np.zeros(len(digests), np.bool_)
    for corpus in corpora:
        mask |= np.isin(digests, corpus)
    return np.asarray(mask & (digests != 0))


def _locate(source_digest: np.uint64, train: Sequence[ParallelSurvey]) -> str:
    """Return the first line of the training corpora with a source sentence: "train line 5"."""
    corpus = next(corpus for corpus in train if source_digest in corpus.src.digests)
    index = int(np.argmax(corpus.src.digests == source_digest))
    return f"{corpus.name} {corpus.src.unit} {index + 1}"


def check_forms(
    survey: ParallelSurvey, train: Sequence[ParallelSurvey], *, normalization: Normalization
) -> list[Finding]:
    """Report invisible differences between lines or between sets.

    That is a file with composed and with decomposed letters, and an evaluation set with unusual
    spaces or characters of width zero that no training corpus has. `train` is empty if `survey` is
    of a training corpus itself. Normalization removes all of these differences, except in
    references, which are scored as they are.
    """
    known_kinds: set[str] = set()
    for corpus in train:
        known_kinds |= corpus.src.unusual_lines.keys() | corpus.tgt.unusual_lines.keys()
    findings = []
    for file in (survey.src, survey.tgt):
        for kind, numbers in file.unusual_lines.items():
            if kind == DECOMPOSED and file.num_composed > 0:
                difference = "; other lines have composed ones"
            elif train and kind not in known_kinds:
                difference = ", and none in train"
            else:
                continue
            is_reference = bool(train) and file is survey.tgt
            level: Level = "warning"
            if is_reference and kind in (DECOMPOSED, ZERO_WIDTH):  # no score depends on spaces
                remedy = "; references are scored as they are: convert the file"
            elif normalization == "none":
                remedy = "; data.normalization: nfc removes the difference"
            else:
                level = "note"
                remedy = f" (data.normalization: {normalization} removes the difference)"
            lines = format_lines(numbers, file.unit)
            text = f"{survey.name}: {kind}: {lines}{difference}{remedy}"
            findings.append(Finding(level, "forms", first_place(file, numbers), text))
    return findings


def check_mixed_forms(
    files: Sequence[FileSurvey], others: Sequence[FileSurvey], *, normalization: Normalization
) -> list[Finding]:
    """Report a training file with decomposed letters only, where another file has composed ones.

    `files` is one side of all training corpora; `others` is the same side of the other sets.
    """
    composed = [
        file
        for file in (*files, *others)
        if file.num_composed > 0 and DECOMPOSED not in file.unusual_lines
    ]
    if not composed:
        return []
    level: Level = "warning" if normalization == "none" else "note"
    form = "nfc" if normalization == "none" else normalization
    findings = []
    for file in files:
        numbers = file.unusual_lines.get(DECOMPOSED, [])
        if not numbers or file.num_composed > 0:  # `check_forms` reports a mixture in one file
            continue
        text = (
            f"{file.path.name}: {DECOMPOSED}: {format_lines(numbers)}; {composed[0].path.name} has "
            f"composed ones; data.normalization: {form} removes the difference"
        )
        findings.append(Finding(level, "forms", first_place(file, numbers), text))
    return findings


def check_html_entities(file: FileSurvey) -> list[Finding]:
    """Report lines with HTML entities, which a model learns to write."""
    if not file.html_lines:
        return []
    text = (
        f"HTML entities such as &quot;: {format_lines(file.html_lines, file.unit)}; the model "
        "learns to write them (html.unescape of Python converts text)"
    )
    return [Finding("note", "HTML", first_place(file, file.html_lines), text)]


def check_characters(survey: ParallelSurvey, train: Sequence[ParallelSurvey]) -> list[Finding]:
    """Report the characters of a validation or test set that neither side of train has."""
    known: set[str] = set()
    for corpus in train:
        known |= corpus.src.characters.keys() | corpus.tgt.characters.keys()
    findings = []
    for file in (survey.src, survey.tgt):
        unknown = Counter({c: count for c, count in file.characters.items() if c not in known})
        if not unknown:
            continue
        is_common = max(unknown.values()) > WARN_FRACTION * len(file)
        level: Level = "warning" if is_common else "note"
        text = (
            f"{survey.name}: {count_of(len(unknown), 'character')} not in train: "
            f"{describe_characters(unknown)}"
        )
        counts = {"characters": len(unknown)}
        findings.append(Finding(level, "characters", str(file.path), text, counts))
    return findings


def check_languages(survey: ParallelSurvey, reference: ParallelSurvey) -> list[Finding]:
    """Report sides that are swapped, copied, or partly in the other side's language.

    `reference` is the set from which the two languages were learned. The two sides are only
    compared with each other if they were read without language log-odds.
    """
    num_pairs = survey.num_pairs
    has_equal_sides = survey.src.digests[:num_pairs] == survey.tgt.digests[:num_pairs]
    is_copy = has_equal_sides & ~survey.src.is_blank[:num_pairs]
    if is_copy.mean() > ERROR_FRACTION:
        fraction = format_fraction(int(is_copy.sum()), num_pairs, "line")
        text = (
            f"{survey.name}: both sides are the same text in {fraction}: name the file that has "
            "the translations"
        )
        return [Finding("error", "languages", str(survey.tgt.path), text)]

    findings = _report_lines(survey, survey.tgt, is_copy, "the target is a copy of the source")
    has_log_odds = len(survey.src.log_odds) > 0 and len(survey.tgt.log_odds) > 0
    if not has_log_odds:
        return findings

    src_in_tgt_lang = survey.src.log_odds < -MIN_LOG_ODDS
    tgt_in_src_lang = survey.tgt.log_odds > MIN_LOG_ODDS
    src_is_wrong = src_in_tgt_lang.sum() > (survey.src.log_odds > MIN_LOG_ODDS).sum()
    tgt_is_wrong = tgt_in_src_lang.sum() > (survey.tgt.log_odds < -MIN_LOG_ODDS).sum()
    if src_is_wrong and tgt_is_wrong:
        text = f"its sides are the other way round than {reference.name}'s"
        return [_swapped(survey, survey.src, text)]
    if src_is_wrong:
        text = f"the source side is in the language of {reference.name}'s target side"
        return [_swapped(survey, survey.src, text)]
    if tgt_is_wrong:
        text = f"the target side is in the language of {reference.name}'s source side"
        return [_swapped(survey, survey.tgt, text)]

    src_in_tgt_lang[:num_pairs] &= ~is_copy
    tgt_in_src_lang[:num_pairs] &= ~is_copy
    text = "the source side seems to be in the target's language"
    findings += _report_lines(survey, survey.src, src_in_tgt_lang, text)
    text = "the target side seems to be in the source's language"
    findings += _report_lines(survey, survey.tgt, tgt_in_src_lang, text)
    return findings


def _swapped(survey: ParallelSurvey, file: FileSurvey, text: str) -> Finding:
    """Return the finding that a side, or both, is in the other language."""
    return Finding("error", "languages", str(file.path), f"{survey.name}: {text}", {"swapped": 1})


def is_swapped(finding: Finding) -> bool:
    """Return whether a finding of `check_languages` says that a side is in the other language."""
    return "swapped" in finding.numbers


def _report_lines(survey: ParallelSurvey, file: FileSurvey, mask: Mask, text: str) -> list[Finding]:
    """Return a finding about the lines of a file where `mask` is true, if there are any."""
    numbers = line_numbers(mask)
    if not numbers:
        return []
    level: Level = "warning" if len(numbers) > WARN_FRACTION * len(mask) else "note"
    text = f"{survey.name}: {text} in {format_lines(numbers, file.unit)}"
    return [Finding(level, "languages", first_place(file, numbers), text)]


def describe_lengths(survey: ParallelSurvey) -> Finding:
    """Return a finding about how long the sentences are."""
    src = survey.src
    tgt = survey.tgt
    words = f"{np.median(src.num_words):,.0f} / {np.median(tgt.num_words):,.0f}"
    characters = f"{np.median(src.num_chars):,.0f} / {np.median(tgt.num_chars):,.0f}"
    longest = f"{np.max(src.num_chars):,.0f} / {np.max(tgt.num_chars):,.0f}"
    text = (
        f"{survey.name}: median line {words} words, {characters} characters, longest {longest} "
        "(source / target)"
    )
    return Finding("ok", "lengths", "", text)


def first_place(file: FileSurvey, numbers: Sequence[int]) -> str:
    """Return FILE:LINE of the first of some lines."""
    return file.place(numbers[0])


def format_lines(numbers: Sequence[int], unit: str = "line") -> str:
    """Return "line 5" for [5], and "4 lines (5, 7, 9, ...)" for [5, 7, 9, 11].

    Line numbers have no thousands separators, so that they can be pasted into an editor.
    """
    if len(numbers) == 1:
        return f"{unit} {numbers[0]}"
    shown = [str(number) for number in numbers[:NUM_LINES_SHOWN]]
    if len(numbers) > NUM_LINES_SHOWN:
        shown.append("...")
    return f"{count_of(len(numbers), unit)} ({', '.join(shown)})"


def format_fraction(part: int, whole: int, noun: str) -> str:
    """Return "12 of 1,000 pairs (1.2 %)" for (12, 1000, "pair")."""
    percent = 100 * part / whole
    if 0 < percent < 0.01:
        shown = "under 0.01"
    elif percent < 9.95:
        shown = f"{percent:.2g}"
    else:
        shown = f"{percent:.0f}"
    return f"{part:,} of {count_of(whole, noun)} ({shown} %)"


def line_numbers(mask: Mask) -> list[int]:
    """Return the line numbers, from 1, where the mask is true."""
    return [int(index) + 1 for index in np.flatnonzero(mask)]


def _describe_drift(drift: Drift, num_pairs: int) -> str:
    lines = "from the beginning on"
    if drift.start > DRIFT_PLACE_TOLERANCE:
        lines = f"from near line {drift.start + 1:,} on"
    if drift.stop < num_pairs - DRIFT_PLACE_TOLERANCE:
        lines += f" and until line {drift.stop:,}"

    side = "target" if drift.offset < 0 else "source"
    return (
        f"{lines}, the {side} side lacks {count_of(abs(drift.offset), 'line')} "
        f"(source line i matches target line i{drift.offset:+d})"
    )
