"""Search for drifts: planted ones are found, and sound text has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parallel_text import MULTI30K, REAL, TOY, survey_file, survey_pair, toy_lines

from mt.preflight.drift import SLACK, find_drifts, largest_drift
from mt.preflight.file_checks import check_alignment
from mt.preflight.survey import ParallelSurvey

Edit = Callable[[list[str], list[str]], tuple[list[str], list[str]]]

TATOEBA_DEV = (REAL / "tatoeba-deu-eng" / "dev.de", REAL / "tatoeba-deu-eng" / "dev.en")
SOUND_FILES = [
    (TOY / "train.en", TOY / "train.de"),
    (TOY / "test.en", TOY / "test.de"),
    (MULTI30K / "train.en", MULTI30K / "train.de"),
    (MULTI30K / "val.de", MULTI30K / "val.en"),
    TATOEBA_DEV,
    (REAL / "europarl-de-en-20k" / "validation.de", REAL / "europarl-de-en-20k" / "validation.en"),
    (REAL / "small_parallel_enja" / "dev.en", REAL / "small_parallel_enja" / "dev.ja"),
]
LARGE_SOUND_FILES = [
    (REAL / "tatoeba-deu-eng" / "train.de", REAL / "tatoeba-deu-eng" / "train.en"),
    (REAL / "europarl-de-en-20k" / "train.de", REAL / "europarl-de-en-20k" / "train.en"),
    (REAL / "small_parallel_enja" / "train.en", REAL / "small_parallel_enja" / "train.ja"),
]


def skip_if_missing(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"needs the corpus {path.parent.name}")


def corpus_name(path: Path) -> str:
    return f"{path.parent.name}-{path.name}"


def read_raw_lines(path: Path) -> list[str]:
    """Return the lines as training counts them: separated by "\\n" alone."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def without(lines: list[str], *indices: int) -> list[str]:
    """Return the lines except those at some indices, negative ones counted from the end."""
    removed = {index % len(lines) for index in indices}
    return [line for index, line in enumerate(lines) if index not in removed]


def toy_pairs_by_length(num_pairs: int) -> list[tuple[str, str]]:
    pairs = zip(toy_lines("train.en", num_pairs), toy_lines("train.de", num_pairs), strict=True)
    return sorted(pairs, key=lambda pair: len(pair[0]))


# Planted drifts


def drop_target(index: int) -> Edit:
    return lambda src, tgt: (src, without(tgt, index))


def drop_source(index: int) -> Edit:
    return lambda src, tgt: (without(src, index), tgt)


def drop_both(*, target: int, source: int) -> Edit:
    return lambda src, tgt: (without(src, source), without(tgt, target))


def drop_five_targets(src: list[str], tgt: list[str]) -> tuple[list[str], list[str]]:
    return src[:-5], without(tgt, *range(800, 805))


def split_target(src: list[str], tgt: list[str]) -> tuple[list[str], list[str]]:
    return src, [*tgt[:600], tgt[600][:20], tgt[600][20:], *tgt[601:]]


PLANTED_DRIFTS = {
    "target": (drop_target(1000), 1000, "target"),
    "source": (drop_source(700), 700, "source"),
    "target and the last source": (drop_both(target=1000, source=-1), 1000, "target"),
    "target and a later source": (drop_both(target=900, source=1200), 900, "target"),
    "source and a later target": (drop_both(target=1200, source=900), 900, "source"),
    "first source": (drop_source(0), 0, "source"),
    "target near the end": (drop_target(1980), 1980, "target"),
    "five targets and the last five sources": (drop_five_targets, 800, "target"),
    "a target split into two lines": (split_target, 600, "source"),
}


@pytest.mark.parametrize(
    ("edit", "start", "side"), PLANTED_DRIFTS.values(), ids=PLANTED_DRIFTS.keys()
)
def test_missing_line_is_found(tmp_path: Path, edit: Edit, start: int, side: str) -> None:
    src, tgt = edit(toy_lines("train.en", 2000), toy_lines("train.de", 2000))
    finding = check_alignment(survey_pair(tmp_path, src, tgt))
    assert finding.level == "error"
    assert f"the {side} side lacks " in finding.text
    assert abs(finding.numbers["line"] - 1 - start) <= 10
    assert finding.place == f"{tmp_path / 'train.tgt'}:{finding.numbers['line']}"


def test_missing_first_line_is_found_among_paraphrases(tmp_path: Path) -> None:
    """Tatoeba is sorted by length and begins with paraphrases of one or two words."""
    skip_if_missing(TATOEBA_DEV[0])
    src = read_raw_lines(TATOEBA_DEV[0])
    tgt = read_raw_lines(TATOEBA_DEV[1])
    finding = check_alignment(survey_pair(tmp_path, src[1:], tgt))
    assert finding.numbers["line"] < 20


def test_missing_line_is_found_in_text_sorted_by_length(tmp_path: Path) -> None:
    pairs = toy_pairs_by_length(3000)
    src = [src_line for src_line, _ in pairs]
    tgt = [tgt_line for _, tgt_line in pairs]
    finding = check_alignment(survey_pair(tmp_path, src, without(tgt, 1000)))
    assert abs(finding.numbers["line"] - 1000) <= 20


def test_swapping_the_sides_negates_the_offset(tmp_path: Path) -> None:
    src = toy_lines("train.en", 1500)
    tgt = without(toy_lines("train.de", 1500), 500)
    pair = survey_pair(tmp_path, src, tgt)
    (drift,) = find_drifts(pair.src, pair.tgt).drifts
    (swapped_drift,) = find_drifts(pair.tgt, pair.src).drifts
    assert drift.offset == -1
    assert swapped_drift.offset == 1
    assert abs(drift.start - swapped_drift.start) <= 3


def test_only_the_best_of_overlapping_offsets_is_reported(tmp_path: Path) -> None:
    """Short and long lines alternate, so that 3 also fits better than 0 where the offset is 1."""
    pairs = toy_pairs_by_length(2000)
    alternating = []
    for index in range(1000):
        alternating.append(pairs[index])
        alternating.append(pairs[1999 - index])
    src = [src_line for src_line, _ in alternating]
    tgt = [tgt_line for _, tgt_line in alternating]
    pair = survey_pair(tmp_path, src[1:], tgt)
    assert [drift.offset for drift in find_drifts(pair.src, pair.tgt).drifts] == [1]


# Text without a drift


def test_missing_last_line_is_not_a_drift(tmp_path: Path) -> None:
    src = toy_lines("train.en", 1000)
    tgt = toy_lines("train.de", 1000)
    finding = check_alignment(survey_pair(tmp_path, src, tgt[:-1]))
    assert finding.level == "error"
    assert "1,000 source lines, but 999 target lines" in finding.text
    assert "near the end" in finding.text
    assert "line" not in finding.numbers


@pytest.mark.parametrize(("src", "tgt"), SOUND_FILES, ids=corpus_name)
def test_sound_text_has_no_drift(src: Path, tgt: Path) -> None:
    skip_if_missing(src)
    src_survey = survey_file(src)
    tgt_survey = survey_file(tgt)
    assert check_alignment(ParallelSurvey("text", src_survey, tgt_survey)).level == "ok"
    assert check_alignment(ParallelSurvey("text", tgt_survey, src_survey)).level == "ok"


@pytest.mark.parametrize(("src", "tgt"), LARGE_SOUND_FILES, ids=corpus_name)
def test_large_sound_text_has_no_drift(tmp_path: Path, src: Path, tgt: Path) -> None:
    skip_if_missing(src)
    pair = survey_pair(tmp_path, read_raw_lines(src)[:20_000], read_raw_lines(tgt)[:20_000])
    assert check_alignment(pair).level == "ok"


def test_sound_text_sorted_by_length_has_no_drift(tmp_path: Path) -> None:
    pairs = toy_pairs_by_length(3000)
    src = [src_line for src_line, _ in pairs]
    tgt = [tgt_line for _, tgt_line in pairs]
    assert check_alignment(survey_pair(tmp_path, src, tgt)).level == "ok"


def test_sorted_lengths_alone_are_not_a_drift(tmp_path: Path) -> None:
    """The sides only share that both are sorted: a line fits its neighbors as well as its pair."""
    noise = np.random.default_rng(1).integers(0, 4, (2, 3000))
    src = ["a" * (20 + index // 10 + noise[0, index]) for index in range(3000)]
    tgt = ["b" * (20 + index // 10 + noise[1, index]) for index in range(3000)]
    assert check_alignment(survey_pair(tmp_path, src, tgt)).level == "warning"


def test_unrelated_sides_are_a_warning(tmp_path: Path) -> None:
    src = toy_lines("train.en", 1000)
    tgt = toy_lines("train.de", 1000)
    shuffled_tgt = [tgt[index] for index in np.random.default_rng(1).permutation(1000)]
    finding = check_alignment(survey_pair(tmp_path, src, shuffled_tgt))
    assert finding.level == "warning"
    assert "are they translations?" in finding.text


@pytest.mark.parametrize(("num_src", "num_tgt"), [(1, 1), (1, 3), (3, 1), (2, 60), (60, 2)])
def test_tiny_files_are_compared(tmp_path: Path, num_src: int, num_tgt: int) -> None:
    finding = check_alignment(survey_pair(tmp_path, ["a b"] * num_src, ["c"] * num_tgt))
    assert finding.level == ("ok" if num_src == num_tgt else "error")


# The statistic


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=40))
def test_statistic_is_the_largest_sum_of_any_run(gains: list[float]) -> None:
    values = np.array(gains, np.float32)
    runs = [(start, stop) for start in range(len(gains)) for stop in range(start, len(gains) + 1)]
    sums = [(values[start:stop] - SLACK).sum() for start, stop in runs]
    drift = largest_drift(values, 1)
    assert drift.statistic == pytest.approx(max(sums), abs=1e-4)
    assert 0 <= drift.start <= drift.stop <= len(gains)


def test_chance_gains_rarely_exceed_the_threshold() -> None:
    """Of 1,000 files of chance gains, at most the expected 1 % exceed the threshold for 1 %."""
    false_alarm_probability = 1e-2
    num_lines = 1000
    threshold = np.log(num_lines / false_alarm_probability) / (2 * SLACK)  # for one offset
    noise = np.random.default_rng(1).standard_normal((1000, num_lines)).astype(np.float32)
    num_alarms = sum(largest_drift(gains, 1).statistic > threshold for gains in noise)
    assert num_alarms <= 10
