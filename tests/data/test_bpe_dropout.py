"""Sampled segmentations have the distributions of their paper."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.data.bpe_dropout import Pieces, sample_segments

MERGES = {"ab": 0.0, "bc": -1.0, "abc": -2.0, "aa": -3.0, "aaaa": -4.0}


def make_pieces(scores: dict[str, float]) -> Pieces:
    return Pieces(
        ids={piece: 256 + i for i, piece in enumerate(scores)},
        scores=scores,
        byte_ids=tuple(range(256)),
    )


@pytest.mark.parametrize("dropout", [0.1, 0.5, 1.0])
def test_the_segments_of_a_word_are_the_word(dropout: float) -> None:
    pieces = make_pieces(MERGES)

    @given(st.text("abcxü", min_size=1), st.integers(0))
    def check(word: str, seed: int) -> None:
        segments = sample_segments(word, pieces, dropout=dropout, draw=Random(seed).random)
        assert "".join(segments) == word
        assert all(segment in pieces.ids or len(segment) == 1 for segment in segments)

    check()


@pytest.mark.parametrize(
    ("dropout", "segments"), [(0.0, ["abc", "aaaa", "c"]), (1.0, list("abcaaaac"))]
)
def test_bpe_dropout_of_none_is_the_plain_encoding_and_of_all_the_characters(
    dropout: float, segments: list[str]
) -> None:
    assert (
        sample_segments("abcaaaac", make_pieces(MERGES), dropout=dropout, draw=Random(1).random)
        == segments
    )


def test_bpe_dropout_overlooks_each_merge_with_its_probability() -> None:
    """Of "abc", first "ab" is merged if seen; else "bc" if seen; else nothing; then "abc" if seen."""
    draw, dropout, num_draws = Random(1).random, 0.3, 20_000
    seen = Counter(
        tuple(sample_segments("abc", make_pieces(MERGES), dropout=dropout, draw=draw))
        for _ in range(num_draws)
    )
    expected = {
        ("abc",): (1 - dropout**2) * (1 - dropout),
        ("ab", "c"): (1 - dropout) * dropout,
        ("a", "bc"): dropout * (1 - dropout) * dropout,
        ("a", "b", "c"): dropout**2,
    }
    assert sum(expected.values()) == pytest.approx(1)
    for segments, probability in expected.items():
        assert seen[segments] / num_draws == pytest.approx(probability, abs=0.015)


def test_what_is_no_piece_becomes_its_bytes() -> None:
    assert make_pieces(MERGES).segment_ids(["ab", "ü", "aa"]) == [256, *"ü".encode(), 259]
