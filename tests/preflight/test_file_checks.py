"""Checks of text files: faults are found with their place, sound text gives no finding."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parallel_text import survey_file, survey_lines, survey_pair, toy_lines, write_lines

from mt.data.text import LINE_ENDS
from mt.preflight.file_checks import (
    Finding,
    check_blank_lines,
    check_characters,
    check_duplicates,
    check_encoding,
    check_forms,
    check_languages,
    check_mixed_forms,
    check_overlap,
    format_fraction,
)
from mt.preflight.languages import learn_log_odds
from mt.preflight.survey import SEPARATORS, ParallelSurvey


def merge_numbers(findings: Sequence[Finding]) -> dict[str, float]:
    merged: dict[str, float] = {}
    for finding in findings:
        merged.update(finding.numbers)
    return merged


def line_of(finding: Finding) -> int:
    """Return the line number in a finding's FILE:LINE."""
    return int(finding.place.rsplit(":", 1)[1])


def normalize_space(line: str) -> str:
    return " ".join(line.split())


# Encoding


@pytest.mark.parametrize(
    ("character", "name"), SEPARATORS.items(), ids=[ascii(name) for name in SEPARATORS.values()]
)
def test_line_separators_are_found(tmp_path: Path, character: str, name: str) -> None:
    lines = ["sound", f"a{character}b", "sound", f"{character}c"]
    (finding,) = check_encoding(survey_lines(tmp_path, lines))
    assert finding.level == "warning"
    assert finding.place == f"{tmp_path / 'text'}:2"
    assert f"{name}: 2 lines (2, 4)" in finding.text


def test_each_line_end_of_other_programs_is_a_separator() -> None:
    assert set(SEPARATORS) == (set(LINE_ENDS) - {"\n"}) | {"\0"}


def test_invalid_utf8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"sound\n\xff\xfe\nsound\ncaf\xe9\n" + b"\x80\n" * 4)
    (finding,) = check_encoding(survey_file(path))
    assert finding.level == "error"
    assert finding.place == f"{path}:2"
    assert "6 lines (2, 4, 5, ...)" in finding.text


# Blank lines, duplicates, overlap

SRC_LINES = st.lists(
    st.sampled_from(["", " ", "a", "b", "ab", "a b", "a  b"]), min_size=1, max_size=12
)


@st.composite
def parallel_lines(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Draw a few short lines and a translation for each; lines may be blank."""
    src = draw(SRC_LINES)
    tgt_lines = st.lists(st.sampled_from(["", "x", "y"]), min_size=len(src), max_size=len(src))
    return src, draw(tgt_lines)


def survey_temporary(lines: tuple[list[str], list[str]], name: str) -> ParallelSurvey:
    with tempfile.TemporaryDirectory() as directory:
        return survey_pair(Path(directory), *lines, name)


@given(parallel_lines())
def test_duplicates_equal_those_of_sets(lines: tuple[list[str], list[str]]) -> None:
    pairs = []
    for src, tgt in zip(*lines, strict=True):
        if src.strip() and tgt:
            pairs.append((normalize_space(src), tgt))
    sources = [src for src, _ in set(pairs)]
    ambiguous = {src for src in sources if sources.count(src) > 1}

    numbers = merge_numbers(check_duplicates(survey_temporary(lines, "train")))
    assert numbers.get("repeated", 0) == len(pairs) - len(set(pairs))
    assert numbers.get("ambiguous", 0) == len(ambiguous)


@given(parallel_lines(), parallel_lines())
def test_overlap_equals_that_of_sets(
    train_lines: tuple[list[str], list[str]], valid_lines: tuple[list[str], list[str]]
) -> None:
    train_sources = set()
    train_pairs = set()
    for src, tgt in zip(*train_lines, strict=True):
        if src.strip():
            train_sources.add(normalize_space(src))
        if src.strip() and tgt:
            train_pairs.add((normalize_space(src), tgt))
    valid_pairs = []
    for src, tgt in zip(*valid_lines, strict=True):
        valid_pairs.append((normalize_space(src), tgt))

    train = survey_temporary(train_lines, "train")
    valid = survey_temporary(valid_lines, "valid")
    numbers = merge_numbers(check_overlap(valid, [train]))
    assert numbers.get("sources", 0) == sum(src in train_sources for src, _ in valid_pairs)
    assert numbers.get("pairs", 0) == sum(pair in train_pairs for pair in valid_pairs)


@given(parallel_lines())
def test_first_blank_line_of_each_side_is_named(lines: tuple[list[str], list[str]]) -> None:
    expected = []
    for side in lines:
        blank = [number for number, line in enumerate(side, start=1) if not line.strip()]
        expected += blank[:1]
    findings = check_blank_lines(survey_temporary(lines, "valid"), is_train=False)
    assert [line_of(finding) for finding in findings] == expected


@pytest.mark.parametrize("invisible", ["\u200b", "\ufeff", "\u00ad \u200e", "\0"])
def test_line_without_a_visible_character_is_blank(tmp_path: Path, invisible: str) -> None:
    pair = survey_pair(tmp_path, ["a", invisible, "c"], ["x", "y", "z"], "valid")
    (finding,) = check_blank_lines(pair, is_train=False)
    assert line_of(finding) == 2


def test_test_sentence_in_train_is_located_in_both_files(tmp_path: Path) -> None:
    src = toy_lines("train.en", 900)
    tgt = toy_lines("train.de", 900)
    test_src = toy_lines("test.en", 50)
    test_tgt = toy_lines("test.de", 50)
    test_pair = survey_pair(tmp_path, test_src, test_tgt, "test")
    assert check_overlap(test_pair, [survey_pair(tmp_path, src, tgt)]) == []

    src[700] = test_src[30]
    tgt[700] = test_tgt[30]
    (finding,) = check_overlap(test_pair, [survey_pair(tmp_path, src, tgt)])
    assert finding.level == "warning"
    assert "line 31 is train line 701" in finding.text
    assert finding.place == f"{tmp_path / 'test.src'}:31"


@pytest.mark.parametrize(
    ("num_blank", "is_train", "level"),
    [(1, True, "note"), (9, True, "warning"), (1, False, "warning")],
)
def test_blank_line_matters_more_in_a_test_set(
    tmp_path: Path, num_blank: int, is_train: bool, level: str
) -> None:
    src = [f"line {number}" for number in range(200)]
    tgt = [" "] * num_blank + src[num_blank:]
    (finding,) = check_blank_lines(survey_pair(tmp_path, src, tgt), is_train=is_train)
    assert finding.level == level
    assert f"{num_blank} of them with text on the other side" in finding.text


def test_file_of_blank_lines_is_an_error(tmp_path: Path) -> None:
    pair = survey_pair(tmp_path, ["a"] * 3, [""] * 3)
    (finding,) = check_blank_lines(pair, is_train=True)
    assert finding.level == "error"


# Languages


def check_against_valid(directory: Path, src: Sequence[str], tgt: Sequence[str]) -> list[Finding]:
    """Check the languages of two sides, learned from the toy corpus' validation set."""
    valid = survey_pair(directory, toy_lines("valid.en"), toy_lines("valid.de"), "valid")
    log_odds = learn_log_odds(valid.src.trigram_counts, valid.tgt.trigram_counts)
    assert log_odds is not None
    unscored = survey_pair(directory, src, tgt)
    train = ParallelSurvey(
        "train",
        survey_file(unscored.src.path, log_odds),
        survey_file(unscored.tgt.path, log_odds),
    )
    return check_languages(train, valid)


def test_sides_in_their_languages_give_no_finding(tmp_path: Path) -> None:
    src = toy_lines("train.en", 5000)
    tgt = toy_lines("train.de", 5000)
    assert check_against_valid(tmp_path, src, tgt) == []


@pytest.mark.parametrize(
    ("src", "tgt", "words"),
    [
        ("train.de", "train.en", "its sides are the other way round than valid's"),
        ("train.de", "test.de", "the source side is in the language of valid's target side"),
        ("train.en", "test.en", "the target side is in the language of valid's source side"),
    ],
)
def test_side_in_the_other_language_is_an_error(
    tmp_path: Path, src: str, tgt: str, words: str
) -> None:
    (finding,) = check_against_valid(tmp_path, toy_lines(src, 500), toy_lines(tgt, 500))
    assert finding.level == "error"
    assert finding.text == f"train: {words}"


def test_lines_in_the_other_language_are_counted(tmp_path: Path) -> None:
    src = toy_lines("train.en", 1000)
    tgt = toy_lines("train.de", 1000)
    swapped = [index for index in range(100, 700, 20) if len(src[index]) > 30]
    for index in swapped:
        src[index], tgt[index] = tgt[index], src[index]
    findings = check_against_valid(tmp_path, src, tgt)
    assert [finding.level for finding in findings] == ["warning", "warning"]
    assert [line_of(finding) for finding in findings] == [swapped[0] + 1] * 2
    assert all(f"{len(swapped)} lines" in finding.text for finding in findings)


def test_same_file_for_both_sides_is_an_error(tmp_path: Path) -> None:
    src = toy_lines("train.en", 300)
    (finding,) = check_against_valid(tmp_path, src, src)
    assert finding.level == "error"
    assert "name the file that has the translations" in finding.text


def test_copied_line_is_a_note(tmp_path: Path) -> None:
    src = toy_lines("train.en", 300)
    tgt = toy_lines("train.de", 300)
    tgt[17] = src[17]
    (finding,) = check_against_valid(tmp_path, src, tgt)
    assert finding.level == "note"
    assert finding.place == f"{tmp_path / 'train.tgt'}:18"


@pytest.mark.parametrize(
    ("part", "whole", "percent"),
    [
        (0, 7, "0"),
        (1, 10_000_000, "under 0.01"),
        (12, 1000, "1.2"),
        (96, 1000, "9.6"),
        (995, 1000, "100"),
        (100, 100, "100"),
    ],
)
def test_fraction_is_shown_without_an_exponent(part: int, whole: int, percent: str) -> None:
    text = f"{part:,} of {whole:,} pairs ({percent} %)"
    assert format_fraction(part, whole, "pair") == text


# Forms and characters


def test_mixture_of_composed_and_decomposed_letters_is_found(tmp_path: Path) -> None:
    src = ["caf\u00e9", "cafe\u0301", "cafe", "re\u0301sume\u0301"]
    pair = survey_pair(tmp_path, src, ["x"] * 4)
    (finding,) = check_forms(pair, [], normalization="none")
    assert finding.level == "warning"
    assert line_of(finding) == 2
    assert "2 lines (2, 4)" in finding.text
    assert "data.normalization: nfc" in finding.text
    (finding,) = check_forms(pair, [], normalization="nfc")
    assert finding.level == "note"
    references = ParallelSurvey("test", pair.tgt, pair.src)
    (finding,) = check_forms(references, [pair], normalization="nfc")
    assert finding.level == "warning"
    assert "convert the file" in finding.text
    uniform = survey_pair(tmp_path, src[1:], ["x"] * 3)
    assert check_forms(uniform, [], normalization="none") == []


def test_mixture_of_forms_between_files_is_found(tmp_path: Path) -> None:
    """Each file is uniform, so only a comparison shows it."""
    composed = survey_pair(tmp_path, ["caf\u00e9", "cafe"], ["x"] * 2, "composed").src
    decomposed = survey_pair(tmp_path, ["cafe", "cafe\u0301"], ["x"] * 2, "decomposed").src
    plain = survey_pair(tmp_path, ["cafe"] * 2, ["x"] * 2, "plain").src
    both_orders = (([composed, decomposed], []), ([decomposed], [plain, composed]))
    for train, others in both_orders:
        (finding,) = check_mixed_forms(train, others, normalization="none")
        assert finding.level == "warning"
        assert finding.place == f"{decomposed.path}:2"
        assert "data.normalization: nfc" in finding.text
        (finding,) = check_mixed_forms(train, others, normalization="nfkc")
        assert finding.level == "note"
    assert check_mixed_forms([decomposed, plain], [decomposed], normalization="none") == []
    assert check_mixed_forms([composed, plain], [decomposed], normalization="none") == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a\u00a0b", "NO-BREAK SPACE"),
        ("a\u3000b", "U+3000"),
        ("a\tb", "U+0009"),
        ("a  b", "spaces in a row"),
        (" a b", "at an end"),
        ("a\u200bb", "width zero"),
        ("e\u0301", "NFC"),
    ],
)
def test_form_that_train_lacks_is_found(tmp_path: Path, text: str, kind: str) -> None:
    train = survey_pair(tmp_path, ["a b", "\u00e9"], ["x y", "z"])
    test = survey_pair(tmp_path, ["a b", text], ["x y", "z"], "test")
    (finding,) = check_forms(test, [train], normalization="none")
    assert finding.level == "warning"
    assert kind in finding.text
    assert line_of(finding) == 2
    same = survey_pair(tmp_path, ["b a", text], ["x y", "z"])
    assert check_forms(test, [train, same], normalization="none") == []


def test_characters_that_train_lacks_are_named(tmp_path: Path) -> None:
    train = survey_pair(tmp_path, ["a b c"], ["x y"])
    test = survey_pair(tmp_path, ["a \u201cb\u201d", "\u201cc", "a"], ["x", "y", "z"], "test")
    src_finding, tgt_finding = check_characters(test, [train])
    assert src_finding.level == "warning"
    assert src_finding.numbers == {"characters": 2}
    assert "U+201C) in 2 lines, " in src_finding.text
    assert "U+201D) in 1" in src_finding.text
    assert "z (U+007A) in 1" in tgt_finding.text
    assert check_characters(train, [train]) == []


def test_characters_are_those_of_the_normalized_text(tmp_path: Path) -> None:
    paths = [write_lines(tmp_path / name, lines) for name, lines in NORMALIZED_ALIKE.items()]
    train, test = (survey_file(path, normalization="nfc") for path in paths)
    pairs = [ParallelSurvey(name, file, file) for name, file in (("train", train), ("test", test))]
    assert check_characters(pairs[1], pairs[:1]) == []


NORMALIZED_ALIKE = {"train": ["caf\u00e9 a"], "test": ["cafe\u0301\u00a0a\ufeff"]}
