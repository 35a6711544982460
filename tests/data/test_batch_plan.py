"""Tests of batch plans: which pairs are in each batch."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lengths import random_lengths

import mt.data.batch_plan
from mt.config.schema import Batching
from mt.data.batch_plan import (
    POOL_SIZE,
    BatchPlan,
    group_by_length,
    plan_batches,
    split_evenly,
)
from mt.data.batching import make_batch
from mt.data.corpus import encode_pairs
from mt.data.text import read_lines
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from scripts.benchmarks.gradient_variance import share_of_mates

MULTI30K = Path(__file__).parents[3] / "shared/data/multi30k/raw"
BOTH_KINDS: list[Batching] = ["pools", "sorted"]
both_kinds = pytest.mark.parametrize("batching", BOTH_KINDS)

lists_of_length_pairs = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=200
)


def batches_of(plan: BatchPlan) -> list[list[int]]:
    return [plan.indices(index, index + 1).tolist() for index in range(plan.num_batches)]


@both_kinds
@given(
    length_pairs=lists_of_length_pairs,
    batch_tokens=st.integers(1, 500),
    epoch=st.integers(0, 3),
)
def test_plan_has_every_pair_once_within_the_budget(
    batching: Batching, length_pairs: list[tuple[int, int]], batch_tokens: int, epoch: int
) -> None:
    src, tgt = np.array(length_pairs).T
    plan = plan_batches(src, tgt, batch_tokens=batch_tokens, seed=1, epoch=epoch, batching=batching)
    assert sorted(plan.order.tolist()) == list(range(len(length_pairs)))
    assert plan.starts[0] == 0
    assert plan.starts[-1] == len(length_pairs)
    for index, batch in enumerate(batches_of(plan)):
        assert plan.src_lengths[index] == src[batch].max()
        assert plan.tgt_lengths[index] == tgt[batch].max()
        longest = max(src[batch].max(), tgt[batch].max())
        assert len(batch) == 1 or len(batch) * longest <= batch_tokens


@both_kinds
def test_plan_is_a_function_of_seed_and_epoch(batching: Batching) -> None:
    src, tgt = random_lengths(500)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return batches_of(
            plan_batches(src, tgt, batch_tokens=300, seed=seed, epoch=epoch, batching=batching)
        )

    assert plan(seed=1, epoch=1) == plan(seed=1, epoch=1)
    assert plan(seed=1, epoch=1) != plan(seed=1, epoch=2)
    assert plan(seed=1, epoch=2) != plan(seed=2, epoch=1)


@both_kinds
def test_epochs_have_different_batches_not_only_another_order(batching: Batching) -> None:
    src, tgt = random_lengths(500)
    first = batches_of(plan_batches(src, tgt, batch_tokens=300, seed=1, epoch=1, batching=batching))
    second = batches_of(
        plan_batches(src, tgt, batch_tokens=300, seed=1, epoch=2, batching=batching)
    )
    assert sorted(sorted(batch) for batch in first) != sorted(sorted(batch) for batch in second)


@both_kinds
def test_batches_are_not_in_order_of_length(batching: Batching) -> None:
    src, tgt = random_lengths(2000)
    batches = batches_of(
        plan_batches(src, tgt, batch_tokens=400, seed=1, epoch=1, batching=batching)
    )
    longest = [src[batch].max() for batch in batches]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3


@both_kinds
def test_pairs_of_equal_length_are_shuffled(batching: Batching) -> None:
    lengths = np.full(2000, 5)
    order = plan_batches(
        lengths, lengths, batch_tokens=400, seed=1, epoch=1, batching=batching
    ).order
    assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 0.1


@both_kinds
def test_batches_are_full(batching: Batching) -> None:
    src, tgt = random_lengths(5000)
    plan = plan_batches(src, tgt, batch_tokens=1000, seed=1, epoch=1, batching=batching)
    num_positions = np.maximum(src, tgt).sum()
    assert plan.num_batches <= 1.1 * num_positions / 1000


@both_kinds
@pytest.mark.parametrize("weight", [1.0, 2.0, 3.0])
def test_integer_weight_is_how_often_a_pair_is_taken(batching: Batching, weight: float) -> None:
    src, tgt = random_lengths(300)
    weights = np.ones(300, np.float32)
    weights[:100] = weight
    plan = plan_batches(
        src, tgt, batch_tokens=300, seed=1, epoch=1, batching=batching, weights=weights
    )
    assert np.bincount(plan.order, minlength=300).tolist() == weights.tolist()


@both_kinds
def test_fractional_weight_is_a_frequency_over_epochs(batching: Batching) -> None:
    src, tgt = random_lengths(200)
    weights = np.repeat(np.array([0.3, 1.5], np.float32), 100)
    total = np.zeros(200)
    for epoch in range(200):
        plan = plan_batches(
            src, tgt, batch_tokens=300, seed=1, epoch=epoch, batching=batching, weights=weights
        )
        assert abs(len(plan.order) - weights.sum()) <= 1
        counts = np.bincount(plan.order, minlength=200)
        assert np.all(np.floor(weights) <= counts)
        assert np.all(counts <= np.ceil(weights))
        total += counts
    assert np.allclose(total / 200, weights, atol=0.15)


@both_kinds
def test_smallest_weights_still_give_one_batch(batching: Batching) -> None:
    src, tgt = random_lengths(5)
    weights = np.full(5, 0.01, np.float32)
    for epoch in range(20):
        plan = plan_batches(
            src, tgt, batch_tokens=100, seed=1, epoch=epoch, batching=batching, weights=weights
        )
        assert plan.num_batches == 1
        assert len(plan.order) == 1


@both_kinds
@given(length_pairs=lists_of_length_pairs, data=st.data())
def test_split_evenly_has_every_pair_in_that_many_batches(
    batching: Batching, length_pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    src, tgt = np.array(length_pairs).T
    num_batches = data.draw(st.integers(1, len(length_pairs)))
    batches = split_evenly(src, tgt, num_batches, np.random.default_rng(1), batching=batching)
    assert len(batches) == num_batches
    assert all(len(batch) > 0 for batch in batches)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(length_pairs)))


@both_kinds
def test_split_evenly_gives_batches_of_similar_size_in_random_order(batching: Batching) -> None:
    src, tgt = random_lengths(2000)
    batches = split_evenly(src, tgt, 20, np.random.default_rng(1), batching=batching)
    longer_sides = np.maximum(src, tgt)
    longest = [longer_sides[batch].max() for batch in batches]
    sizes = [len(batch) * length for batch, length in zip(batches, longest, strict=True)]
    assert max(sizes) < 1.1 * longer_sides.sum() / 20
    assert longest != sorted(longest)
    again = split_evenly(src, tgt, 20, np.random.default_rng(1), batching=batching)
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]


@given(st.lists(st.integers(0, 60), max_size=100), st.integers(1, 300))
def test_groups_have_every_input_once_longest_first(lengths: list[int], batch_tokens: int) -> None:
    groups = group_by_length(np.array(lengths, np.int64), batch_tokens=batch_tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for longer, shorter in pairwise(groups):
        assert min(lengths[i] for i in longer) >= max(lengths[i] for i in shorter)


@given(st.lists(st.integers(0, 60), max_size=100), st.integers(1, 300))
def test_groups_are_within_the_budget(lengths: list[int], batch_tokens: int) -> None:
    for group in group_by_length(np.array(lengths, np.int64), batch_tokens=batch_tokens):
        longest = max(lengths[index] for index in group)
        assert len(group) == 1 or len(group) * longest <= batch_tokens


@pytest.mark.skipif(not MULTI30K.exists(), reason="needs Multi30k")
@pytest.mark.parametrize(("batching", "most_padding"), [("pools", 0.09), ("sorted", 0.04)])
def test_batches_of_real_text_have_little_padding(
    tmp_path: Path, batching: Batching, most_padding: float
) -> None:
    src_texts = list(read_lines(MULTI30K / "train.en"))
    tgt_texts = list(read_lines(MULTI30K / "train.de"))
    train_tokenizer([*src_texts, *tgt_texts], tmp_path / "model", kind="bpe", vocab_size=8000)
    tokenizer = Tokenizer.load(tmp_path / "model")
    corpus = encode_pairs(src_texts, tgt_texts, src_tokenizer=tokenizer, tgt_tokenizer=tokenizer)
    plan = plan_batches(
        corpus.src.lengths,
        corpus.tgt.lengths,
        batch_tokens=4096,
        seed=1,
        epoch=1,
        batching=batching,
    )
    num_positions = 0
    for index in range(plan.num_batches):
        batch = make_batch(corpus.pairs(plan.indices(index, index + 1)), pad_id=0, bos_id=2)
        num_positions += batch.src.numel() + batch.tgt_out.numel()
    num_tokens = len(corpus.src.ids) + len(corpus.tgt.ids)
    assert 1 - num_tokens / num_positions < most_padding


@pytest.mark.parametrize(("batching", "low", "high"), [("pools", 0.0, 0.1), ("sorted", 0.3, 1.0)])
def test_few_pairs_of_a_pool_are_together_again(
    batching: Batching, low: float, high: float
) -> None:
    src, tgt = random_lengths(20_000)
    first, second = (
        plan_batches(src, tgt, batch_tokens=1000, seed=1, epoch=epoch, batching=batching)
        for epoch in (1, 2)
    )
    assert low < share_of_mates(first, second, 20_000) < high


def test_share_of_mates_of_plans_made_by_hand() -> None:
    """Of the four pairs that share a batch in the first plan, one does so in the second."""
    lengths = np.ones(2, np.int64)
    groups = np.array([0, 2])
    starts = np.array([0, 3, 5])
    first = BatchPlan(np.array([0, 1, 2, 3, 4]), starts, lengths, lengths, groups)
    second = BatchPlan(np.array([0, 1, 3, 2, 4]), starts, lengths, lengths, groups)
    assert share_of_mates(first, second, 5) == 1 / 4


def test_batches_of_pools_have_similar_sizes() -> None:
    """No batch is small because few pairs were left over for it."""
    src, tgt = random_lengths(20_000)
    plan = plan_batches(src, tgt, batch_tokens=1000, seed=1, epoch=1, batching="pools")
    num_positions = np.diff(plan.starts) * np.maximum(plan.src_lengths, plan.tgt_lengths)
    assert num_positions.min() > 0.75 * num_positions.mean()


def test_a_group_is_a_pool_with_pairs_of_all_lengths() -> None:
    src, tgt = random_lengths(20_000)
    plan = plan_batches(src, tgt, batch_tokens=1000, seed=1, epoch=1, batching="pools")
    groups = list(pairwise(plan.group_starts.tolist()))
    assert len(groups) == round(np.maximum(src, tgt).sum() / 1000 / POOL_SIZE)
    for start, end in groups:
        assert plan.find_group(start) == (start, end)
        assert plan.find_group(end - 1) == (start, end)
        assert abs(src[plan.indices(start, end)].mean() - src.mean()) < 1


def test_groups_of_the_sorted_plan_grow() -> None:
    lengths = np.full(5000, 10)
    plan = plan_batches(lengths, lengths, batch_tokens=100, seed=1, epoch=1, batching="sorted")
    assert plan.group_starts.tolist() == [0, 32, 160, 416, 500]
    assert plan.find_group(159) == (32, 160)
    assert plan.find_group(499) == (416, 500)


@pytest.mark.parametrize("weight", [1.0, 0.3, 1.7])
def test_size_of_blocks_does_not_change_the_plan(
    monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    src, tgt = random_lengths(1000)
    weights = np.full(1000, weight, np.float32)

    def plan() -> BatchPlan:
        return plan_batches(
            src, tgt, batch_tokens=90, seed=1, epoch=2, batching="pools", weights=weights
        )

    whole = plan()
    monkeypatch.setattr(mt.data.batch_plan, "BLOCK_SIZE", 7)
    assert batches_of(plan()) == batches_of(whole)


def test_memory_of_a_plan_is_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mt.data.batch_plan, "BLOCK_SIZE", 1000)
    num_pairs = 100_000
    lengths = np.random.default_rng(1).integers(1, 60, num_pairs, dtype=np.int32)
    weights = np.broadcast_to(np.float32(1.0), num_pairs)
    tracemalloc.start()
    try:
        plan = plan_batches(
            lengths,
            lengths,
            batch_tokens=4096,
            seed=1,
            epoch=1,
            batching="pools",
            weights=weights,
        )
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert plan.order.nbytes == 4 * num_pairs
    assert held < 5 * num_pairs
    assert peak < 14 * num_pairs
