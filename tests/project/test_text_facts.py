"""Facts about a text: amounts, characters."""

from __future__ import annotations

from collections import Counter

from mt.project.text_facts import (
    REDUCED_COVERAGE,
    count_frequent,
    measure_text,
)

PAIRS = [("Go now.", "G\u00e5 nu."), ("Go!", "Ga\u030a!")]


def test_amounts_of_a_text() -> None:
    facts = measure_text(PAIRS)
    assert facts.num_pairs == 2
    assert (facts.src.num_words, facts.tgt.num_words) == (3, 3)
    # The decomposed letter is one character, as in training.
    assert (facts.src.num_characters, facts.tgt.num_characters) == (10, 9)
    assert facts.num_different_characters == len("Gonw.!") + len("\u00e5u")
    assert facts.num_word_types == 4  # Go, now, G\u00e5, nu


def test_tokens_follow_the_longer_side() -> None:
    facts = measure_text([("one", "ett tv\u00e5 tre fyra")])
    assert facts.tokens_per_epoch == 6
    assert facts.tokens_per_pair == 6


def test_text_without_spaces_has_a_word_for_each_character() -> None:
    assert measure_text([("\u3053\u308c\u306f\u672c", "a book")]).src.num_words == 4


def test_frequent_characters_cover_the_text() -> None:
    counts = Counter({"a": 5000, "b": 4990, "c": 9, "d": 1})
    assert count_frequent(counts) == 3
    assert 9999 / 10_000 >= REDUCED_COVERAGE > 9990 / 10_000
    assert count_frequent(Counter()) == 0


def test_no_pairs() -> None:
    facts = measure_text([])
    assert facts.num_pairs == 0
    assert facts.tokens_per_epoch == 1
