"""Held-out text: no leaks, reproducible sets, sizes, and lengths without a bias."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parallel_text import REAL

from mt.data.normalization import normalize
from mt.data.parallel_text import TsvFile, read_pairs
from mt.data.split import (
    MAX_COMPONENT_SIZE,
    MAX_HELD_OUT,
    Part,
    Split,
    digest_pairs,
    find_components,
    held_out_size,
    split_pairs,
)

TATOEBA = REAL / "tatoeba-swe-eng/swe.txt"

Pairs = list[tuple[str, str]]

# Few words, so that sources and targets are often equal, also in another case or with other spaces.
WORDS = st.sampled_from(["a", "A", "b", "b ", "c", "\u00e9", "e\u0301", "d", "e", "f", "", " "])
PAIRS = st.lists(st.tuples(WORDS, WORDS), max_size=40)


def split(pairs: Pairs, num_valid: int = 3, num_test: int = 3, seed: int = 1) -> Split:
    return split_pairs(digest_pairs(pairs), num_valid=num_valid, num_test=num_test, seed=seed)


def pairs_of(pairs: Pairs, parts: Split, part: Part) -> Pairs:
    return [pair for pair, value in zip(pairs, parts.parts, strict=True) if value == part]


def compared_form(text: str) -> str:
    return normalize(text, "nfc").casefold()


def paraphrases(num_sentences: int, seed: int = 0) -> Pairs:
    """Return pairs in which short sources have many targets, as in Tatoeba."""
    generator = random.Random(seed)
    pairs = []
    for number in range(num_sentences):
        num_words = generator.randint(1, 12)
        num_targets = generator.choice([1, 1, 1, 2, 3, 5, 8] if num_words < 4 else [1])
        source = f"s{number}" + " word" * (num_words - 1)
        pairs += [(source, f"t{number} {index}") for index in range(num_targets)]
    return pairs


@given(pairs=PAIRS, num_valid=st.integers(0, 20), num_test=st.integers(0, 20), seed=st.integers(0))
def test_no_source_or_target_is_on_two_sides(
    pairs: Pairs, num_valid: int, num_test: int, seed: int
) -> None:
    result = split(pairs, num_valid, num_test, seed)
    for side in (0, 1):
        parts = [
            {compared_form(pair[side]) for pair in pairs_of(pairs, result, part)}
            for part in (Part.TRAIN, Part.VALID, Part.TEST)
        ]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]


@given(pairs=PAIRS, valid=PAIRS, test=PAIRS, num_test=st.integers(0, 20))
def test_existing_held_out_text_has_no_source_or_target_in_train(
    pairs: Pairs, valid: Pairs, test: Pairs, num_test: int
) -> None:
    held_out_text = [digest_pairs(valid), digest_pairs(test)]
    result = split_pairs(
        digest_pairs(pairs), num_valid=0, num_test=num_test, seed=1, held_out_text=held_out_text
    )
    held_out = [{compared_form(pair[side]) for pair in valid + test} for side in (0, 1)]
    for part in (Part.TRAIN, Part.TEST):
        for pair in pairs_of(pairs, result, part):
            assert not any(compared_form(pair[side]) in held_out[side] for side in (0, 1))
    for pair in pairs_of(pairs, result, Part.LEAK):
        assert any(compared_form(pair[side]) in held_out[side] for side in (0, 1))
    plain = split(pairs, num_valid=0, num_test=num_test)
    for part in (Part.BLANK, Part.DUPLICATE):
        assert result.count(part) == plain.count(part)


@given(pairs=PAIRS, num_valid=st.integers(0, 20), num_test=st.integers(0, 20))
def test_every_pair_is_counted_once(pairs: Pairs, num_valid: int, num_test: int) -> None:
    result = split(pairs, num_valid, num_test)
    assert sum(result.count(part) for part in Part) == len(pairs)
    assert result.count(Part.VALID) <= num_valid
    assert result.count(Part.TEST) <= num_test
    num_blank = sum(not src.strip() or not tgt.strip() for src, tgt in pairs)
    assert result.count(Part.BLANK) == num_blank
    texts = {(normalize(src, "nfc"), normalize(tgt, "nfc")) for src, tgt in pairs}
    num_different = sum(bool(src) and bool(tgt) for src, tgt in texts)
    assert result.count(Part.DUPLICATE) == len(pairs) - num_blank - num_different


@given(pairs=PAIRS, order=st.randoms(use_true_random=False), seed=st.integers(0, 5))
def test_order_of_the_pairs_does_not_matter(pairs: Pairs, order: random.Random, seed: int) -> None:
    # Equal pairs that are written in two ways: which of them is left out depends on the order.
    pairs = [(normalize(src, "nfc"), normalize(tgt, "nfc")) for src, tgt in pairs]
    shuffled = list(pairs)
    order.shuffle(shuffled)
    first = split(pairs, seed=seed)
    second = split(shuffled, seed=seed)
    for part in Part:
        assert sorted(pairs_of(pairs, first, part)) == sorted(pairs_of(shuffled, second, part))


def test_seed_repeats_and_changes_the_split() -> None:
    pairs = paraphrases(300)
    first = split(pairs, 30, 30, seed=1)
    assert np.array_equal(first.parts, split(pairs, 30, 30, seed=1).parts)
    assert not np.array_equal(first.parts, split(pairs, 30, 30, seed=2).parts)


def test_split_is_the_same_in_every_process_and_version() -> None:
    pairs = [(f"source {number}", f"target {number}") for number in range(50)]
    result = split(pairs, 3, 3, seed=1)
    assert np.flatnonzero(result.parts == Part.VALID).tolist() == [0, 21, 26]
    assert np.flatnonzero(result.parts == Part.TEST).tolist() == [7, 32, 35]


def test_pairs_that_are_added_later_change_little() -> None:
    pairs = paraphrases(1000)
    more = [*pairs, *[(f"new {number}", f"new {number}") for number in range(20)]]
    before = set(pairs_of(pairs, split(pairs, 100, 100), Part.VALID))
    after = set(pairs_of(more, split(more, 100, 100), Part.VALID))
    assert len(before & after) > 80


def test_sets_have_the_sizes_that_are_wanted() -> None:
    pairs = paraphrases(1000)
    result = split(pairs, 150, 70)
    assert (result.count(Part.VALID), result.count(Part.TEST)) == (150, 70)
    assert split(pairs, 0, 0).count(Part.TRAIN) == len(pairs)


def test_chain_of_equal_sides_is_one_component() -> None:
    pairs = [("a", "x"), ("b", "x"), ("b", "y"), ("c", "y"), ("d", "z")]
    digests = digest_pairs(pairs)
    components = find_components(digests.src, digests.tgt)
    assert len(set(components[:4])) == 1
    assert components[4] != components[0]
    # The same text as a source and as a target connects nothing.
    digests = digest_pairs([("a", "b"), ("b", "c")])
    assert len(set(find_components(digests.src, digests.tgt))) == 2


def test_large_components_stay_in_training() -> None:
    chained = [(f"a{number // 2}", f"b{(number + 1) // 2}") for number in range(400)]
    single = [(f"c{number}", f"d{number}") for number in range(200)]
    pairs = chained + single
    result = split(pairs, 50, 50)
    assert (result.parts[:400] == Part.TRAIN).all()
    assert (result.count(Part.VALID), result.count(Part.TEST)) == (50, 50)
    variants = [("e", f"f{number}") for number in range(MAX_COMPONENT_SIZE + 1)]
    result = split(variants, 200, 200)
    assert result.count(Part.TRAIN) == len(variants)


def test_lengths_of_held_out_sentences_have_little_bias() -> None:
    pairs = paraphrases(4000)
    lengths = np.array([len(src.split()) for src, _ in pairs])
    means = []
    for seed in range(20):
        result = split(pairs, 500, 500, seed=seed)
        means.append(lengths[result.parts == Part.VALID].mean())
    # Short sentences have more variants here. With single pairs only, the mean would be 20 % off.
    assert np.mean(means) == pytest.approx(lengths.mean(), rel=0.02)


@pytest.mark.skipif(not TATOEBA.exists(), reason="needs the corpus")
def test_real_text_with_many_paraphrases() -> None:
    pairs = list(read_pairs(TsvFile(TATOEBA)))
    digests = digest_pairs(pairs)
    lengths = np.array([len(src.split()) for src, _ in pairs])
    means = []
    for seed in range(5):
        result = split_pairs(digests, num_valid=None, num_test=None, seed=seed)
        held_out = (result.parts == Part.VALID) | (result.parts == Part.TEST)
        means.append(lengths[held_out].mean())
        assert np.count_nonzero(held_out) == 2 * held_out_size(len(pairs))
        assert 0.25 < result.random_src_leak < 0.35
        sources = np.array([compared_form(src) for src, _ in pairs])
        assert not set(sources[held_out]) & set(sources[~held_out])
    assert np.mean(means) == pytest.approx(lengths.mean(), rel=0.03)


def test_leaks_of_a_random_split() -> None:
    # Each source twice: the other one is held out too with a probability of 10 %.
    pairs = [(f"s{number // 2}", f"t{number}") for number in range(1000)]
    result = split(pairs, 50, 50)
    assert result.random_src_leak == pytest.approx(0.9)
    assert result.random_tgt_leak == 0.0


def test_leaks_of_a_random_split_agree_with_a_shuffle() -> None:
    pairs = paraphrases(2000)
    shares = []
    for seed in range(20):
        shuffled = list(pairs)
        random.Random(seed).shuffle(shuffled)
        held_out = shuffled[:400]
        training_sources = {src for src, _ in shuffled[400:]}
        shares.append(np.mean([src in training_sources for src, _ in held_out]))
    assert split(pairs, 200, 200).random_src_leak == pytest.approx(np.mean(shares), abs=0.02)


@pytest.mark.parametrize(
    ("num_pairs", "size"),
    [(0, 0), (9, 0), (100, 10), (1999, 199), (2000, 200), (4000, 200), (5000, 250), (18_000, 900)],
)
def test_default_sizes(num_pairs: int, size: int) -> None:
    assert held_out_size(num_pairs) == size


def test_default_size_is_bounded() -> None:
    pairs = [(f"s{number}", f"t{number}") for number in range(100)]
    result = split_pairs(digest_pairs([*pairs, *pairs]), num_valid=None, num_test=0, seed=1)
    assert (result.count(Part.VALID), result.count(Part.TEST)) == (10, 0)
    assert held_out_size(10**8) == MAX_HELD_OUT


def test_no_pairs() -> None:
    assert split([]).count(Part.TRAIN) == 0
