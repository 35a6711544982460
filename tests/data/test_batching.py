"""A plan holds every pair as often as it should, within the budget, and is repeatable; a batch is what was planned."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mt.data.batching import BatchPlan, group_by_length, make_batch, plan_batches
from mt.data.corpus import EncodedCorpus, FilterCounts, TokenArray, encode_pairs
from mt.data.text import read_lines
from mt.data.tokenizer import Tokenizer, train_tokenizer

MULTI30K = Path(__file__).parents[3] / "shared/data/multi30k/raw"
PAD_ID, BOS_ID, EOS_ID = 0, 2, 3
lengths_of_pairs = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=200
)


def random_lengths(num_pairs: int, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    src = generator.integers(1, 40, num_pairs)
    return src, np.maximum(1, src + generator.integers(-3, 4, num_pairs))


def random_corpus(num_pairs: int) -> EncodedCorpus:
    def side(lengths: np.ndarray) -> TokenArray:
        offsets = np.cumsum([0, *lengths])
        ids = np.random.default_rng(2).integers(4, 1000, offsets[-1]).astype(np.uint16)
        ids[offsets[1:] - 1] = EOS_ID
        return TokenArray(ids, offsets)

    src, tgt = map(side, random_lengths(num_pairs))
    return EncodedCorpus(src, tgt, np.ones(num_pairs, np.float32), FilterCounts(kept=num_pairs))


def batches_of(plan: BatchPlan) -> list[list[int]]:
    return [plan.indices(index).tolist() for index in range(plan.num_batches)]


@given(lengths_of_pairs, st.integers(1, 500), st.integers(0, 3))
def test_every_pair_is_in_one_batch_and_every_batch_within_the_budget(
    pairs: list[tuple[int, int]], batch_tokens: int, epoch: int
) -> None:
    src, tgt = np.array(pairs).T
    plan = plan_batches(src, tgt, batch_tokens=batch_tokens, seed=1, epoch=epoch)
    assert sorted(plan.order.tolist()) == list(range(len(pairs)))
    assert (plan.starts[0], plan.starts[-1]) == (0, len(pairs))
    for batch, num_tokens in zip(batches_of(plan), plan.num_tokens, strict=True):
        assert num_tokens == tgt[batch].sum()
        assert (
            len(batch) == 1 or len(batch) * max(src[batch].max(), tgt[batch].max()) <= batch_tokens
        )


def test_a_plan_is_a_function_of_seed_and_epoch() -> None:
    src, tgt = random_lengths(500)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return batches_of(plan_batches(src, tgt, batch_tokens=300, seed=seed, epoch=epoch))

    assert plan(1, 1) == plan(1, 1)
    assert plan(1, 1) != plan(1, 2)
    assert plan(1, 2) != plan(2, 1)
    assert sorted(map(sorted, plan(1, 1))) != sorted(map(sorted, plan(1, 2))), (
        "the same batches, in another order"
    )


def test_neither_the_lengths_of_batches_nor_the_pairs_within_come_in_order() -> None:
    src, tgt = random_lengths(2000)
    batches = batches_of(plan_batches(src, tgt, batch_tokens=400, seed=1, epoch=1))
    longest = [src[batch].max() for batch in batches]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3
    equal = np.full(2000, 5)
    order = plan_batches(equal, equal, batch_tokens=400, seed=1, epoch=1).order
    assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 0.1


def test_batches_are_full() -> None:
    src, tgt = random_lengths(5000)
    plan = plan_batches(src, tgt, batch_tokens=1000, seed=1, epoch=1)
    longer_sides = np.maximum(src, tgt).sum()
    assert plan.num_batches <= 1.1 * longer_sides / 1000


@pytest.mark.parametrize("weight", [1.0, 2.0, 3.0])
def test_a_whole_weight_is_how_often_a_pair_is_taken(weight: float) -> None:
    src, tgt = random_lengths(300)
    weights = np.where(np.arange(300) < 100, weight, 1.0).astype(np.float32)
    plan = plan_batches(src, tgt, batch_tokens=300, seed=1, epoch=1, weights=weights)
    assert np.bincount(plan.order, minlength=300).tolist() == weights.tolist()


def test_a_fractional_weight_is_a_frequency_over_epochs() -> None:
    src, tgt = random_lengths(200)
    weights = np.repeat(np.array([0.3, 1.5], np.float32), 100)
    counts = np.zeros(200)
    for epoch in range(200):
        plan = plan_batches(src, tgt, batch_tokens=300, seed=1, epoch=epoch, weights=weights)
        assert abs(len(plan.order) - weights.sum()) <= 1
        taken = np.bincount(plan.order, minlength=200)
        assert np.all((np.floor(weights) <= taken) & (taken <= np.ceil(weights)))
        counts += taken
    assert np.allclose(counts / 200, weights, atol=0.15)


def test_even_the_smallest_weights_make_an_epoch() -> None:
    src, tgt = random_lengths(5)
    for epoch in range(20):
        plan = plan_batches(
            src, tgt, batch_tokens=100, seed=1, epoch=epoch, weights=np.full(5, 0.01, np.float32)
        )
        assert plan.num_batches == len(plan.order) == 1


def test_a_batch_is_what_a_loop_over_its_pairs_would_build() -> None:
    corpus = random_corpus(100)
    for indices in (np.array([5]), np.array([3, 99, 0, 42, 3]), np.arange(100)):
        batch = make_batch(corpus, indices, pad_id=PAD_ID, bos_id=BOS_ID)
        src, tgt_in, tgt_out = (
            torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD_ID
            )
            for rows in (
                [corpus.src[i].tolist() for i in indices],
                [[BOS_ID, *corpus.tgt[i].tolist()[:-1]] for i in indices],
                [corpus.tgt[i].tolist() for i in indices],
            )
        )
        assert batch.num_tokens == sum(len(corpus.tgt[i]) for i in indices)
        for built, expected in ((batch.src, src), (batch.tgt_in, tgt_in), (batch.tgt_out, tgt_out)):
            assert built.dtype == torch.long
            assert torch.equal(built, expected)


def test_planned_batches_have_the_planned_number_of_tokens() -> None:
    corpus = random_corpus(300)
    plan = plan_batches(corpus.src.lengths, corpus.tgt.lengths, batch_tokens=200, seed=1, epoch=1)
    made = [
        make_batch(corpus, plan.indices(i), pad_id=PAD_ID, bos_id=BOS_ID)
        for i in range(plan.num_batches)
    ]
    assert [batch.num_tokens for batch in made] == plan.num_tokens.tolist()


@given(st.lists(st.integers(0, 60), max_size=100), st.integers(1, 300))
def test_search_groups_hold_every_input_once_longest_first_within_the_budget(
    lengths: list[int], batch_tokens: int
) -> None:
    groups = group_by_length(np.array(lengths, np.int64), batch_tokens=batch_tokens)
    flat = [index for group in groups for index in group]
    assert sorted(flat) == list(range(len(lengths)))
    longest = [max(lengths[index] for index in group) for group in groups]
    assert longest == sorted(longest, reverse=True)
    assert [sorted(lengths[i] for i in group) for group in reversed(groups)] == [
        sorted(lengths)[end - len(group) : end]
        for group, end in zip(reversed(groups), accumulate(map(len, reversed(groups))), strict=True)
    ]
    for group, length in zip(groups, longest, strict=True):
        assert len(group) == 1 or len(group) * length <= batch_tokens


@pytest.mark.skipif(not MULTI30K.exists(), reason="needs Multi30k")
def test_little_of_a_batch_of_real_text_is_padding(tmp_path: Path) -> None:
    src_texts, tgt_texts = (list(read_lines(MULTI30K / f"train.{lang}")) for lang in ("en", "de"))
    train_tokenizer([*src_texts, *tgt_texts], tmp_path / "m", kind="bpe", vocab_size=8000)
    tokenizer = Tokenizer.load(tmp_path / "m")
    corpus = encode_pairs(src_texts, tgt_texts, src_tokenizer=tokenizer, tgt_tokenizer=tokenizer)
    plan = plan_batches(corpus.src.lengths, corpus.tgt.lengths, batch_tokens=4096, seed=1, epoch=1)
    made = [
        make_batch(corpus, plan.indices(i), pad_id=PAD_ID, bos_id=BOS_ID)
        for i in range(plan.num_batches)
    ]
    num_positions = sum(batch.src.numel() + batch.tgt_out.numel() for batch in made)
    num_tokens = len(corpus.src.ids) + len(corpus.tgt.ids)
    assert 1 - num_tokens / num_positions < 0.04
