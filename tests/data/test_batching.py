"""Tests of batch plans and of the batches made from them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from mt.data.batching import (
    BatchPlan,
    group_by_length,
    make_batch,
    plan_batches,
    split_evenly,
)
from mt.data.corpus import EncodedCorpus, FilterCounts, TokenArray, encode_pairs
from mt.data.text import read_lines
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer

MULTI30K = Path(__file__).parents[3] / "shared/data/multi30k/raw"
PAD_ID = 0
BOS_ID = 2
EOS_ID = 3

lists_of_length_pairs = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=200
)


def random_lengths(num_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    src = generator.integers(1, 40, num_pairs)
    tgt = np.maximum(1, src + generator.integers(-3, 4, num_pairs))
    return src, tgt


def random_token_array(lengths: np.ndarray) -> TokenArray:
    """Return sequences of random ids that end in eos."""
    offsets = np.cumsum([0, *lengths])
    ids = np.random.default_rng(2).integers(4, 1000, offsets[-1]).astype(np.int32)
    ids[offsets[1:] - 1] = EOS_ID
    return TokenArray(ids, offsets)


def random_corpus(num_pairs: int) -> EncodedCorpus:
    src_lengths, tgt_lengths = random_lengths(num_pairs)
    return EncodedCorpus(
        src=random_token_array(src_lengths),
        tgt=random_token_array(tgt_lengths),
        weights=np.ones(num_pairs, np.float32),
        counts=FilterCounts(kept=num_pairs),
    )


def batches_of(plan: BatchPlan) -> list[list[int]]:
    return [plan.indices(index, index + 1).tolist() for index in range(plan.num_batches)]


@given(lists_of_length_pairs, st.integers(1, 500), st.integers(0, 3))
def test_plan_has_every_pair_once_within_the_budget(
    length_pairs: list[tuple[int, int]], batch_tokens: int, epoch: int
) -> None:
    src, tgt = np.array(length_pairs).T
    plan = plan_batches(src, tgt, batch_tokens=batch_tokens, seed=1, epoch=epoch)
    assert sorted(plan.order.tolist()) == list(range(len(length_pairs)))
    assert plan.starts[0] == 0
    assert plan.starts[-1] == len(length_pairs)
    for index, batch in enumerate(batches_of(plan)):
        assert plan.src_lengths[index] == src[batch].max()
        assert plan.tgt_lengths[index] == tgt[batch].max()
        longest = max(src[batch].max(), tgt[batch].max())
        assert len(batch) == 1 or len(batch) * longest <= batch_tokens


def test_plan_is_a_function_of_seed_and_epoch() -> None:
    src, tgt = random_lengths(500)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return batches_of(plan_batches(src, tgt, batch_tokens=300, seed=seed, epoch=epoch))

    assert plan(seed=1, epoch=1) == plan(seed=1, epoch=1)
    assert plan(seed=1, epoch=1) != plan(seed=1, epoch=2)
    assert plan(seed=1, epoch=2) != plan(seed=2, epoch=1)


def test_epochs_have_different_batches_not_only_another_order() -> None:
    src, tgt = random_lengths(500)
    first = batches_of(plan_batches(src, tgt, batch_tokens=300, seed=1, epoch=1))
    second = batches_of(plan_batches(src, tgt, batch_tokens=300, seed=1, epoch=2))
    assert sorted(sorted(batch) for batch in first) != sorted(sorted(batch) for batch in second)


def test_batches_are_not_in_order_of_length() -> None:
    src, tgt = random_lengths(2000)
    batches = batches_of(plan_batches(src, tgt, batch_tokens=400, seed=1, epoch=1))
    longest = [src[batch].max() for batch in batches]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3


def test_pairs_of_equal_length_are_shuffled() -> None:
    lengths = np.full(2000, 5)
    order = plan_batches(lengths, lengths, batch_tokens=400, seed=1, epoch=1).order
    assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 0.1


def test_batches_are_full() -> None:
    src, tgt = random_lengths(5000)
    plan = plan_batches(src, tgt, batch_tokens=1000, seed=1, epoch=1)
    num_positions = np.maximum(src, tgt).sum()
    assert plan.num_batches <= 1.1 * num_positions / 1000


@pytest.mark.parametrize("weight", [1.0, 2.0, 3.0])
def test_integer_weight_is_how_often_a_pair_is_taken(weight: float) -> None:
    src, tgt = random_lengths(300)
    weights = np.ones(300, np.float32)
    weights[:100] = weight
    plan = plan_batches(src, tgt, batch_tokens=300, seed=1, epoch=1, weights=weights)
    assert np.bincount(plan.order, minlength=300).tolist() == weights.tolist()


def test_fractional_weight_is_a_frequency_over_epochs() -> None:
    src, tgt = random_lengths(200)
    weights = np.repeat(np.array([0.3, 1.5], np.float32), 100)
    total = np.zeros(200)
    for epoch in range(200):
        plan = plan_batches(src, tgt, batch_tokens=300, seed=1, epoch=epoch, weights=weights)
        assert abs(len(plan.order) - weights.sum()) <= 1
        counts = np.bincount(plan.order, minlength=200)
        assert np.all(np.floor(weights) <= counts)
        assert np.all(counts <= np.ceil(weights))
        total += counts
    assert np.allclose(total / 200, weights, atol=0.15)


def test_smallest_weights_still_give_one_batch() -> None:
    src, tgt = random_lengths(5)
    weights = np.full(5, 0.01, np.float32)
    for epoch in range(20):
        plan = plan_batches(src, tgt, batch_tokens=100, seed=1, epoch=epoch, weights=weights)
        assert plan.num_batches == 1
        assert len(plan.order) == 1


def padded(rows: list[list[int]]) -> torch.Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=PAD_ID)


@pytest.mark.parametrize("indices", [[5], [3, 99, 0, 42, 3], list(range(100))])
def test_batch_equals_its_rows_padded_one_by_one(indices: list[int]) -> None:
    corpus = random_corpus(100)
    batch = make_batch(corpus.pairs(np.array(indices)), pad_id=PAD_ID, bos_id=BOS_ID)
    src_rows = [corpus.src[i].tolist() for i in indices]
    tgt_rows = [corpus.tgt[i].tolist() for i in indices]
    assert torch.equal(batch.src, padded(src_rows))
    assert torch.equal(batch.tgt_in, padded([[BOS_ID, *row[:-1]] for row in tgt_rows]))
    assert torch.equal(batch.tgt_out, padded(tgt_rows))
    assert batch.num_tokens == sum(len(row) for row in tgt_rows)
    assert {batch.src.dtype, batch.tgt_in.dtype, batch.tgt_out.dtype} == {torch.long}


def test_batch_has_the_prefixes_in_front() -> None:
    corpus = random_corpus(6)
    tagged = replace(corpus, num_pairs=(2, 4), src_prefixes=((7, 8), ()))
    indices = np.array([3, 1, 0])
    batch = make_batch(tagged.pairs(indices), pad_id=PAD_ID, bos_id=BOS_ID)
    plain = make_batch(corpus.pairs(indices), pad_id=PAD_ID, bos_id=BOS_ID)
    rows = [corpus.src[3].tolist(), [7, 8, *corpus.src[1]], [7, 8, *corpus.src[0]]]
    assert torch.equal(batch.src, padded(rows))
    assert torch.equal(batch.tgt_in, plain.tgt_in)
    assert torch.equal(batch.tgt_out, plain.tgt_out)
    assert batch.num_tokens == plain.num_tokens


def test_repeated_batch_has_all_rows_again() -> None:
    batch = make_batch(random_corpus(5).pairs(np.arange(5)), pad_id=PAD_ID, bos_id=BOS_ID)
    repeated = batch.repeat(2)
    assert torch.equal(repeated.src, torch.cat([batch.src, batch.src]))
    assert torch.equal(repeated.tgt_in, torch.cat([batch.tgt_in, batch.tgt_in]))
    assert torch.equal(repeated.tgt_out, torch.cat([batch.tgt_out, batch.tgt_out]))
    assert repeated.num_tokens == 2 * batch.num_tokens


@given(lists_of_length_pairs, st.data())
def test_split_evenly_has_every_pair_in_that_many_batches(
    length_pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    src, tgt = np.array(length_pairs).T
    num_batches = data.draw(st.integers(1, len(length_pairs)))
    batches = split_evenly(src, tgt, num_batches, np.random.default_rng(1))
    assert len(batches) == num_batches
    assert all(len(batch) > 0 for batch in batches)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(length_pairs)))


def test_split_evenly_gives_batches_of_similar_size_in_random_order() -> None:
    src, tgt = random_lengths(2000)
    batches = split_evenly(src, tgt, 20, np.random.default_rng(1))
    longer_sides = np.maximum(src, tgt)
    longest = [longer_sides[batch].max() for batch in batches]
    sizes = [len(batch) * length for batch, length in zip(batches, longest, strict=True)]
    assert max(sizes) < 1.1 * longer_sides.sum() / 20
    assert longest != sorted(longest)
    again = split_evenly(src, tgt, 20, np.random.default_rng(1))
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
def test_batches_of_real_text_have_little_padding(tmp_path: Path) -> None:
    src_texts = list(read_lines(MULTI30K / "train.en"))
    tgt_texts = list(read_lines(MULTI30K / "train.de"))
    train_tokenizer([*src_texts, *tgt_texts], tmp_path / "model", kind="bpe", vocab_size=8000)
    tokenizer = Tokenizer.load(tmp_path / "model")
    corpus = encode_pairs(src_texts, tgt_texts, src_tokenizer=tokenizer, tgt_tokenizer=tokenizer)
    plan = plan_batches(corpus.src.lengths, corpus.tgt.lengths, batch_tokens=4096, seed=1, epoch=1)
    num_positions = 0
    for index in range(plan.num_batches):
        batch = make_batch(
            corpus.pairs(plan.indices(index, index + 1)), pad_id=PAD_ID, bos_id=BOS_ID
        )
        num_positions += batch.src.numel() + batch.tgt_out.numel()
    num_tokens = len(corpus.src.ids) + len(corpus.tgt.ids)
    assert 1 - num_tokens / num_positions < 0.04
