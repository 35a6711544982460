"""Sampled segmentations have the distributions of their papers."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.data.sampling import SAMPLERS, Pieces, sample_bpe, sample_unigram

SCORES = {"a": -2.0, "b": -2.5, "c": -3.0, "ab": -3.1, "bc": -2.9, "abc": -5.0, "aa": -4.0}
MERGES = {"ab": 0.0, "bc": -1.0, "abc": -2.0, "aa": -3.0, "aaaa": -4.0}


def make_pieces(scores: dict[str, float]) -> Pieces:
    return Pieces(ids={piece: 256 + i for i, piece in enumerate(scores)}, scores=scores, byte_ids=tuple(range(256)))


def segmentations(word: str) -> list[list[str]]:
    """All ways to cut a word."""
    found = []
    for cuts in product((False, True), repeat=len(word) - 1):
        segments = [word[0]]
        for character, cut in zip(word[1:], cuts, strict=True):
            if cut:
                segments.append(character)
            else:
                segments[-1] += character
        found.append(segments)
    return found


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_the_segments_of_a_word_are_the_word(kind: str, strength: float) -> None:
    pieces = make_pieces(SCORES if kind == "unigram" else MERGES)

    @given(st.text("abcxü", min_size=1), st.integers(0))
    def check(word: str, seed: int) -> None:
        segments = SAMPLERS[kind](word, pieces, strength=strength, draw=Random(seed).random)
        assert "".join(segments) == word
        assert all(segment in pieces.ids or len(segment) == 1 for segment in segments)

    check()


@pytest.mark.parametrize(("strength", "segments"), [(0.0, ["abc", "aaaa", "c"]), (1.0, list("abcaaaac"))])
def test_bpe_dropout_of_none_is_the_plain_encoding_and_of_all_the_characters(
    strength: float, segments: list[str]
) -> None:
    assert sample_bpe("abcaaaac", make_pieces(MERGES), strength=strength, draw=Random(1).random) == segments


def test_bpe_dropout_overlooks_each_merge_with_its_probability() -> None:
    """Of "abc", first "ab" is merged if seen; else "bc" if seen; else nothing; then "abc" if seen."""
    draw, dropout, num_draws = Random(1).random, 0.3, 20_000
    seen = Counter(tuple(sample_bpe("abc", make_pieces(MERGES), strength=dropout, draw=draw)) for _ in range(num_draws))
    expected = {
        ("abc",): (1 - dropout**2) * (1 - dropout),
        ("ab", "c"): (1 - dropout) * dropout,
        ("a", "bc"): dropout * (1 - dropout) * dropout,
        ("a", "b", "c"): dropout**2,
    }
    assert sum(expected.values()) == pytest.approx(1)
    for segments, probability in expected.items():
        assert seen[segments] / num_draws == pytest.approx(probability, abs=0.015)


@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_unigram_samples_are_drawn_in_proportion_to_their_probability(strength: float) -> None:
    pieces, draw, num_draws = make_pieces(SCORES), Random(1).random, 20_000
    possible = [found for found in segmentations("abcaa") if all(segment in SCORES for segment in found)]
    weights = [math.exp(strength * sum(SCORES[segment] for segment in found)) for found in possible]
    seen = Counter(tuple(sample_unigram("abcaa", pieces, strength=strength, draw=draw)) for _ in range(num_draws))
    assert set(seen) <= {tuple(found) for found in possible}
    for found, weight in zip(possible, weights, strict=True):
        assert seen[tuple(found)] / num_draws == pytest.approx(weight / sum(weights), abs=0.015)


def test_what_is_no_piece_becomes_its_bytes() -> None:
    assert make_pieces(MERGES).look_up(["ab", "ü", "aa"]) == [256, *"ü".encode(), 259]
