"""Tests of the sampling of segmentations by BPE-dropout."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mt.data.bpe_dropout
from mt.data.bpe_dropout import Pieces, SubwordSampler, sample_segments

MERGE_SCORES = {"ab": 0.0, "bc": -1.0, "abc": -2.0, "aa": -3.0, "aaaa": -4.0}
PIECES = Pieces(
    ids={piece: 256 + number for number, piece in enumerate(MERGE_SCORES)},
    scores=MERGE_SCORES,
    byte_ids=tuple(range(256)),
)


@settings(max_examples=300)
@given(
    dropout=st.sampled_from([0.1, 0.5, 1.0]),
    word=st.text("abcxü", min_size=1),
    seed=st.integers(0),
)
def test_segments_join_to_the_word(dropout: float, word: str, seed: int) -> None:
    segments = sample_segments(word, PIECES, dropout=dropout, draw=Random(seed).random)
    assert "".join(segments) == word
    assert all(segment in PIECES.ids or len(segment) == 1 for segment in segments)


def test_dropout_of_0_gives_the_plain_segmentation() -> None:
    segments = sample_segments("abcaaaac", PIECES, dropout=0.0, draw=Random(1).random)
    assert segments == ["abc", "aaaa", "c"]


def test_dropout_of_1_gives_characters() -> None:
    segments = sample_segments("abcaaaac", PIECES, dropout=1.0, draw=Random(1).random)
    assert segments == list("abcaaaac")


def test_each_merge_is_skipped_with_probability_dropout() -> None:
    """Compare the frequencies of all segmentations of "abc" with their probabilities.

    In the first round, "ab" is merged if it is not skipped, otherwise "bc" if that is not skipped,
    otherwise nothing. In the second round, "abc" is merged if it is not skipped.
    """
    dropout = 0.3
    num_samples = 20_000
    draw = Random(1).random
    counts = Counter(
        tuple(sample_segments("abc", PIECES, dropout=dropout, draw=draw))
        for _ in range(num_samples)
    )
    probabilities = {
        ("abc",): (1 - dropout**2) * (1 - dropout),
        ("ab", "c"): (1 - dropout) * dropout,
        ("a", "bc"): dropout * (1 - dropout) * dropout,
        ("a", "b", "c"): dropout**2,
    }
    assert sum(probabilities.values()) == pytest.approx(1)
    for segments, probability in probabilities.items():
        assert counts[segments] / num_samples == pytest.approx(probability, abs=0.015)


def test_characters_without_a_piece_become_bytes() -> None:
    assert PIECES.segment_ids(["ab", "ü", "aa"]) == [256, *"ü".encode(), 259]


@settings(max_examples=300)
@given(
    dropout=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    words=st.lists(st.text("abcxü", min_size=1), max_size=20),
    seed=st.integers(0),
)
def test_sampler_equals_sample_segments(dropout: float, words: list[str], seed: int) -> None:
    """It draws the same random numbers too, so that all later words are equal."""
    sampler = SubwordSampler(PIECES, dropout=dropout)
    draw = Random(seed).random
    expected_draw = Random(seed).random
    for word in words:
        segments = sample_segments(word, PIECES, dropout=dropout, draw=expected_draw)
        assert sampler.sample(word, draw) == PIECES.segment_ids(segments)


@pytest.mark.parametrize(("constant", "value"), [("MAX_WORDS", 1), ("MAX_WORD_LENGTH", 2)])
def test_samples_do_not_depend_on_what_is_remembered(
    constant: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["abc", "ab", "aaaaa", "abcabc"] * 50

    def sample_all() -> list[list[int]]:
        sampler = SubwordSampler(PIECES, dropout=0.3)
        draw = Random(1).random
        return [sampler.sample(word, draw) for word in words]

    expected = sample_all()
    monkeypatch.setattr(mt.data.bpe_dropout, constant, value)
    assert sample_all() == expected
