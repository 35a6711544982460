"""Faults are planted in sound text, and must be found; in sound text, none must be."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.data.text import read_lines
from mt.errors import DataError
from mt.preflight.checks import (
    Finding,
    find_blanks,
    find_duplicates,
    find_faults,
    find_mix_ups,
    find_overlap,
    find_steps,
)
from mt.preflight.drift import find_drifts, largest_drift
from mt.preflight.languages import learn_odds
from mt.preflight.survey import NOT_UTF8, SEPARATORS, FileSurvey, ParallelSurvey, survey_file

ROOT = Path(__file__).resolve().parents[2]
TOY, REAL = ROOT / "data" / "toy", ROOT.parent / "shared" / "data"
MULTI30K = REAL / "multi30k" / "raw"
SOUND = [
    (TOY / "train.en", TOY / "train.de"),
    (TOY / "test.en", TOY / "test.de"),
    (MULTI30K / "train.en", MULTI30K / "train.de"),
    (MULTI30K / "val.de", MULTI30K / "val.en"),
    (REAL / "tatoeba-deu-eng" / "dev.de", REAL / "tatoeba-deu-eng" / "dev.en"),
    (REAL / "europarl-de-en-20k" / "validation.de", REAL / "europarl-de-en-20k" / "validation.en"),
    (REAL / "small_parallel_enja" / "dev.en", REAL / "small_parallel_enja" / "dev.ja"),
]
LARGE = [
    (REAL / "tatoeba-deu-eng" / "train.de", REAL / "tatoeba-deu-eng" / "train.en"),
    (REAL / "europarl-de-en-20k" / "train.de", REAL / "europarl-de-en-20k" / "train.en"),
    (REAL / "small_parallel_enja" / "train.en", REAL / "small_parallel_enja" / "train.ja"),
]
Edit = Callable[[list[str], list[str]], tuple[list[str], list[str]]]


def toy(name: str, size: int | None = None) -> list[str]:
    return (TOY / name).read_text(encoding="utf-8").splitlines()[:size]


def side(directory: Path, lines: Sequence[str], name: str = "text") -> FileSurvey:
    path = directory / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    return survey_file(path)


def pair(
    directory: Path, src: Sequence[str], tgt: Sequence[str], name: str = "train"
) -> ParallelSurvey:
    return ParallelSurvey(
        name, side(directory, src, f"{name}.src"), side(directory, tgt, f"{name}.tgt")
    )


# One reading


@pytest.mark.parametrize("kind", SEPARATORS.values())
def test_a_character_that_ends_lines_elsewhere_is_named_with_its_line(
    tmp_path: Path, kind: str
) -> None:
    (character,) = (key for key, value in SEPARATORS.items() if value == kind)
    found = find_faults(side(tmp_path, ["sound", f"a{character}b", "sound", f"{character}c"]))
    assert [(f.level, f.where) for f in found] == [("warning", f"{tmp_path / 'text'}:2")]
    assert f"{kind}: 2 lines (2, 4)" in found[0].text


def test_what_is_no_utf8_is_counted_and_the_rest_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"sound\n\xff\xfe\nsound\ncaf\xe9\n" + b"\x80\n" * 4 + "\ufffd\n".encode())
    found = survey_file(path)
    assert len(found) == 9
    assert found.faults == {NOT_UTF8: [2, 4, 5, 6, 7, 8]}, (
        "U+FFFD itself is a character like others"
    )
    (finding,) = find_faults(found)
    assert (finding.level, finding.where) == ("error", f"{path}:2")
    assert "6 lines (2, 4, 5, ...)" in finding.text


@given(
    st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), min_size=1)
)
def test_lines_are_counted_as_training_counts_them(lines: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "text"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
        try:
            expected = list(read_lines(path))
        except DataError:
            with pytest.raises(DataError):
                survey_file(path)
            return
        found = survey_file(path)
    assert found.num_chars.tolist() == [len(line) for line in expected]
    assert found.num_words.tolist() == [len(line.split()) for line in expected]
    assert found.is_blank.tolist() == [not line.strip() for line in expected]
    words = [line.split() for line in expected]
    same = [[a == b for b in words] for a in words]
    assert (found.digests[:, None] == found.digests).tolist() == same, (
        "equal digests are equal words, spacing aside"
    )


def test_a_compressed_file_is_the_same_and_a_byte_order_mark_is_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "text.gz").write_bytes(gzip.compress("\ufeffone\r\ntwo\n".encode()))
    plain, packed = side(tmp_path, ["one", "two"]), survey_file(tmp_path / "text.gz")
    assert (plain.digests == packed.digests).all()
    assert not packed.faults
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"one\n" * 99)[:-9])
    with pytest.raises(DataError, match="damaged"):
        survey_file(tmp_path / "cut.gz")


# In step


def without(lines: list[str], *numbers: int) -> list[str]:
    """The lines but those at some places, counted from 0; negative ones from the end."""
    gone = {number % len(lines) for number in numbers}
    return [line for index, line in enumerate(lines) if index not in gone]


def drop_in_tgt(at: int) -> Edit:
    return lambda src, tgt: (src, without(tgt, at))


def drop_in_src(at: int) -> Edit:
    return lambda src, tgt: (without(src, at), tgt)


def drop_in_both(in_tgt: int, in_src: int) -> Edit:
    return lambda src, tgt: (without(src, in_src), without(tgt, in_tgt))


PLANTED = {
    "target, in the middle": (drop_in_tgt(1000), 1000, "target"),
    "source, in the middle": (drop_in_src(700), 700, "source"),
    "target, and the last source": (drop_in_both(1000, -1), 1000, "target"),
    "target, and a source 300 lines on": (drop_in_both(900, 1200), 900, "target"),
    "source, and a target 300 lines on": (drop_in_both(1200, 900), 900, "source"),
    "source, the first one": (drop_in_src(0), 0, "source"),
    "target, near the end": (drop_in_tgt(1980), 1980, "target"),
    "five targets at once, and as many last sources": (
        lambda src, tgt: (src[:-5], without(tgt, *range(800, 805))),
        800,
        "target",
    ),
    "a target too many, of one cut in two": (
        lambda src, tgt: (src, [*tgt[:600], tgt[600][:20], tgt[600][20:], *tgt[601:]]),
        600,
        "source",
    ),
}


@pytest.mark.parametrize(("edit", "start", "lacking"), PLANTED.values(), ids=PLANTED)
def test_a_lost_line_is_found_and_where(
    tmp_path: Path, edit: Edit, start: int, lacking: str
) -> None:
    (finding,) = find_steps(pair(tmp_path, *edit(toy("train.en", 2000), toy("train.de", 2000))))
    assert finding.level == "error"
    assert f"missing on the {lacking} side" in finding.text
    assert abs(finding.numbers["line"] - 1 - start) <= 10
    assert finding.where == f"{tmp_path / 'train.tgt'}:{finding.numbers['line']}"


def test_where_one_side_ends_early_no_drift_is_made_up(tmp_path: Path) -> None:
    src, tgt = toy("train.en", 1000), toy("train.de", 1000)
    (finding,) = find_steps(pair(tmp_path, src, tgt[:-1]))
    assert finding.level == "error"
    assert "1,000 source lines, but 999 target lines" in finding.text
    assert "near the end" in finding.text
    assert "line" not in finding.numbers


@pytest.mark.parametrize(("src", "tgt"), SOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_sound_text_is_in_step(src: Path, tgt: Path) -> None:
    if not src.exists():
        pytest.skip("this text is not here")
    one, other = survey_file(src), survey_file(tgt)
    assert find_steps(ParallelSurvey("text", one, other))[0].level == "ok"
    assert find_steps(ParallelSurvey("text", other, one))[0].level == "ok"


@pytest.mark.parametrize(("src", "tgt"), LARGE, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_large_sound_text_is_in_step(tmp_path: Path, src: Path, tgt: Path) -> None:
    if not src.exists():
        pytest.skip("this text is not here")
    sides = [path.read_text(encoding="utf-8").split("\n")[:20_000] for path in (src, tgt)]
    assert find_steps(pair(tmp_path, *sides))[0].level == "ok"


def test_in_text_sorted_by_length_neighbours_are_not_taken_for_drift(tmp_path: Path) -> None:
    rows = sorted(
        zip(toy("train.en", 3000), toy("train.de", 3000), strict=True), key=lambda row: len(row[0])
    )
    src, tgt = map(list, zip(*rows, strict=True))
    assert find_steps(pair(tmp_path, src, tgt))[0].level == "ok"
    (finding,) = find_steps(pair(tmp_path, src, without(tgt, 1000)))
    assert abs(finding.numbers["line"] - 1000) <= 20


def test_lengths_that_only_follow_their_surroundings_are_no_drift(tmp_path: Path) -> None:
    """Sides that share nothing but that both are sorted: every line fits its neighbours as well as its partner."""
    noise = np.random.default_rng(1).integers(0, 4, (2, 3000))
    src, tgt = (
        ["ab"[side] * (20 + n // 10 + noise[side, n]) for n in range(3000)] for side in (0, 1)
    )
    (finding,) = find_steps(pair(tmp_path, src, tgt))
    assert finding.level == "warning"


def test_an_offset_that_only_fits_better_than_none_is_not_told(tmp_path: Path) -> None:
    """Where short lines take turns with long ones, a side that is off by one fits best by 1, but by 3 better than 0."""
    rows = sorted(
        zip(toy("train.en", 2000), toy("train.de", 2000), strict=True), key=lambda row: len(row[0])
    )
    src, tgt = map(list, zip(*(rows[i] for n in range(1000) for i in (n, 1999 - n)), strict=True))
    found = pair(tmp_path, src[1:], tgt)
    assert [drift.offset for drift in find_drifts(found.src, found.tgt).drifts] == [1]


def test_a_drift_begins_where_the_line_is_lost_though_little_tells_it_there(tmp_path: Path) -> None:
    """Tatoeba is sorted by length, and begins with paraphrases of one or two words."""
    src, tgt = SOUND[4]
    if not src.exists():
        pytest.skip("this text is not here")
    lines = [path.read_text(encoding="utf-8").split("\n")[:-1] for path in (src, tgt)]
    (finding,) = find_steps(pair(tmp_path, lines[0][1:], lines[1]))
    assert finding.numbers["line"] < 20


def test_of_unrelated_sides_it_is_said_that_nothing_can_be_told(tmp_path: Path) -> None:
    tgt = toy("train.de", 1000)
    shuffled = [tgt[index] for index in np.random.default_rng(1).permutation(1000)]
    (finding,) = find_steps(pair(tmp_path, toy("train.en", 1000), shuffled))
    assert finding.level == "warning"
    assert "are they translations?" in finding.text


def test_the_other_way_round_the_offset_is_the_opposite(tmp_path: Path) -> None:
    found = pair(tmp_path, toy("train.en", 1500), without(toy("train.de", 1500), 500))
    (one,), (other,) = (
        find_drifts(found.src, found.tgt).drifts,
        find_drifts(found.tgt, found.src).drifts,
    )
    assert (one.offset, other.offset) == (-1, 1)
    assert abs(one.start - other.start) <= 3


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=40))
def test_the_statistic_is_the_largest_sum_of_any_stretch(gains: list[float]) -> None:
    values = np.array(gains, np.float32)
    sums = [(values[i:j] - 0.25).sum() for i in range(len(gains)) for j in range(i, len(gains) + 1)]
    drift = largest_drift(values, 1)
    assert drift.statistic == pytest.approx(max(sums), abs=1e-4)
    assert 0 <= drift.start <= drift.stop <= len(gains)


def test_sums_of_chance_stay_below_the_threshold() -> None:
    """1,000 sequences of 1,000 gains; the threshold for one offset of so many lines with these odds is 13.8."""
    noise = np.random.default_rng(1).standard_normal((1000, 1000)).astype(np.float32)
    threshold = np.log(1000 / 1e-2) / (2 * 0.25)
    assert sum(largest_drift(row, 1).statistic > threshold for row in noise) <= 10


@pytest.mark.parametrize(("num_src", "num_tgt"), [(1, 1), (1, 3), (3, 1), (2, 60), (60, 2)])
def test_the_smallest_files_are_no_trouble(tmp_path: Path, num_src: int, num_tgt: int) -> None:
    (finding,) = find_steps(pair(tmp_path, ["a b"] * num_src, ["c"] * num_tgt))
    assert finding.level == ("ok" if num_src == num_tgt else "error")


# Blank, repeated, overlapping

LINES = st.lists(st.sampled_from(["", " ", "a", "b", "ab", "a b", "a  b"]), min_size=1, max_size=12)


@given(LINES, st.data())
def test_duplicates_overlap_and_blanks_are_those_that_sets_of_text_give(
    src: list[str], data: st.DataObject
) -> None:
    import tempfile

    def draw(lines: list[str]) -> list[str]:
        return data.draw(
            st.lists(st.sampled_from(["", "x", "y"]), min_size=len(lines), max_size=len(lines))
        )

    tgt, other_src = draw(src), data.draw(LINES)
    other_tgt = draw(other_src)
    with tempfile.TemporaryDirectory() as directory:
        train, valid = (
            pair(Path(directory), src, tgt),
            pair(Path(directory), other_src, other_tgt, "valid"),
        )
    rows = [(" ".join(a.split()), b) for a, b in zip(src, tgt, strict=True) if a.strip() and b]
    found = {
        key: value for finding in find_duplicates(train) for key, value in finding.numbers.items()
    }
    sources = [a for a, _ in set(rows)]
    assert found.get("repeated", 0) == len(rows) - len(set(rows))
    assert found.get("ambiguous", 0) == sum(sources.count(a) > 1 for a in set(sources))

    found = {
        key: value
        for finding in find_overlap(valid, [train])
        for key, value in finding.numbers.items()
    }
    others = [(" ".join(a.split()), b) for a, b in zip(other_src, other_tgt, strict=True)]
    in_train = {" ".join(a.split()) for a in src} - {""}
    assert found.get("sources", 0) == sum(a in in_train for a, _ in others)
    assert found.get("pairs", 0) == sum(row in rows for row in others)

    named = [finding.where.rsplit(":", 1)[1] for finding in find_blanks(valid, is_train=False)]
    blank = [
        [i for i, line in enumerate(lines, 1) if not line.strip()]
        for lines in (other_src, other_tgt)
    ]
    assert named == [str(numbers[0]) for numbers in blank if numbers]


def test_a_test_sentence_in_train_is_named_on_both_sides(tmp_path: Path) -> None:
    src, tgt, test_src, test_tgt = (
        toy("train.en", 900),
        toy("train.de", 900),
        toy("test.en", 50),
        toy("test.de", 50),
    )
    assert (
        find_overlap(pair(tmp_path, test_src, test_tgt, "test"), [pair(tmp_path, src, tgt)]) == []
    )
    src[700], tgt[700] = test_src[30], test_tgt[30]
    (finding,) = find_overlap(
        pair(tmp_path, test_src, test_tgt, "test"), [pair(tmp_path, src, tgt)]
    )
    assert finding.level == "warning"
    assert "line 31 is train line 701" in finding.text
    assert finding.where == f"{tmp_path / 'test.src'}:31"


@pytest.mark.parametrize(
    ("num_blank", "is_train", "level"),
    [(1, True, "note"), (9, True, "warning"), (1, False, "warning")],
)
def test_a_blank_line_weighs_more_in_a_test_than_in_training(
    tmp_path: Path, num_blank: int, is_train: bool, level: str
) -> None:
    lines = [f"line {number}" for number in range(200)]
    (finding,) = find_blanks(
        pair(tmp_path, lines, [*[" "] * num_blank, *lines[num_blank:]]), is_train=is_train
    )
    assert finding.level == level
    assert f"{num_blank} of them with text on the other side" in finding.text


def test_a_file_of_blank_lines_is_an_error(tmp_path: Path) -> None:
    (finding,) = find_blanks(pair(tmp_path, ["a"] * 3, [""] * 3), is_train=True)
    assert finding.level == "error"


# Languages


def judged(directory: Path, src: Sequence[str], tgt: Sequence[str]) -> list[Finding]:
    """What is found in a set when it is held against the toy corpus' validation set."""
    valid = pair(directory, toy("valid.en"), toy("valid.de"), "valid")
    odds = learn_odds(valid.src.trigrams, valid.tgt.trigrams)
    assert odds is not None
    other = pair(directory, src, tgt)
    return find_mix_ups(
        ParallelSurvey(
            "train", survey_file(other.src.path, odds), survey_file(other.tgt.path, odds)
        ),
        valid,
    )


def test_sides_of_two_languages_are_left_in_peace(tmp_path: Path) -> None:
    assert judged(tmp_path, toy("train.en", 5000), toy("train.de", 5000)) == []


@pytest.mark.parametrize(
    ("src", "tgt", "words"),
    [
        ("train.de", "train.en", "its sides are the other way round than valid's"),
        ("train.de", "test.de", "the source side is in the language of valid's target side"),
        ("train.en", "test.en", "the target side is in the language of valid's source side"),
    ],
)
def test_a_side_in_the_other_language_is_an_error(
    tmp_path: Path, src: str, tgt: str, words: str
) -> None:
    (finding,) = judged(tmp_path, toy(src, 500), toy(tgt, 500))
    assert (finding.level, finding.text) == ("error", f"train: {words}")


def test_lines_in_the_other_language_are_counted(tmp_path: Path) -> None:
    src, tgt = toy("train.en", 1000), toy("train.de", 1000)
    strange = [index for index in range(100, 700, 20) if len(src[index]) > 30]
    for index in strange:
        src[index], tgt[index] = tgt[index], src[index]
    found = judged(tmp_path, src, tgt)
    assert [finding.level for finding in found] == ["warning", "warning"]
    assert [finding.where.rsplit(":", 1)[1] for finding in found] == [str(strange[0] + 1)] * 2
    assert all(f"{len(strange)} lines" in finding.text for finding in found)


def test_a_file_given_for_both_sides_is_an_error_and_a_line_a_note(tmp_path: Path) -> None:
    src, tgt = toy("train.en", 300), toy("train.de", 300)
    (finding,) = judged(tmp_path, src, src)
    assert finding.level == "error"
    tgt[17] = src[17]
    (finding,) = judged(tmp_path, src, tgt)
    assert (finding.level, finding.where) == ("note", f"{tmp_path / 'train.tgt'}:18")


def test_two_sides_of_one_language_are_not_told_apart(tmp_path: Path) -> None:
    one, other = side(tmp_path, toy("train.en", 500)), side(tmp_path, toy("test.en"), "other")
    assert learn_odds(one.trigrams, other.trigrams) is None
