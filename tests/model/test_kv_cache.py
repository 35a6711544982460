"""Tests of the KV cache: which keys each beam sees, what is dropped, moved and copied."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mt.model.kv_cache import KeysValues, KVCache

BATCH = 4
NUM_LAYERS = 2
NUM_HEADS = 2
HEAD_DIM = 3
SRC_LENGTH = 5


def random_kv(batch: int, length: int, *, seed: int) -> KeysValues:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, batch, NUM_HEADS, length, HEAD_DIM, generator=generator)
    return KeysValues(keys, values)


def make_cache(*, batch: int = BATCH) -> KVCache:
    """Return a cache at its start; sentence i has a source of i + 1 tokens."""
    source = [random_kv(batch, SRC_LENGTH, seed=1000 + layer) for layer in range(NUM_LAYERS)]
    is_token = torch.arange(SRC_LENGTH) <= torch.arange(batch)[:, None]
    return KVCache(source, is_token[:, None, None, :])


def decode(cache: KVCache, length: int, *, seed: int) -> list[KeysValues]:
    """Decode `length` positions of each beam with random keys and values.

    Return the keys and values of each layer.
    """
    batch, beam, _ = cache.beam_mask.shape
    cache.add_positions(length)
    return [
        cache.append(layer, random_kv(batch, beam * length, seed=seed + layer))
        for layer in range(NUM_LAYERS)
    ]


def make_tree() -> KVCache:
    """Return a cache of one sentence in which two beams share the first position only."""
    cache = make_cache(batch=1)
    decode(cache, 1, seed=0)
    cache.reorder(torch.tensor([[0, 0]]))
    decode(cache, 1, seed=10)
    return cache


def set_beam_mask(cache: KVCache, keys_of_beams: list[list[set[int]]]) -> None:
    """Let each beam of each sentence use these keys only."""
    for sentence, keys_of_sentence in enumerate(keys_of_beams):
        for beam, keys in enumerate(keys_of_sentence):
            uses = [key in keys for key in range(cache.num_keys)]
            cache.beam_mask[sentence, beam] = torch.tensor(uses)


def copy_kv(kv: KeysValues) -> KeysValues:
    return KeysValues(kv.keys.clone(), kv.values.clone())


def assert_equal(actual: KeysValues, expected: KeysValues) -> None:
    assert torch.equal(actual.keys, expected.keys)
    assert torch.equal(actual.values, expected.values)


def pointers(cache: KVCache) -> list[int]:
    """Return the addresses of all buffers of the target."""
    return [tensor.data_ptr() for kv in cache.target for tensor in kv]


# Comparison with a cache that copies everything


class PlainCache:
    """A cache that holds the keys and values of each beam in a list of its own, oldest first."""

    def __init__(self, batch: int) -> None:
        nothing: list[KeysValues] = []
        # For each layer, sentence and beam: (num_heads, head_dim) of each position.
        self.beams = [[[nothing] for _ in range(batch)] for _ in range(NUM_LAYERS)]

    def append(self, layer: int, new: KeysValues, *, length: int) -> None:
        for sentence, beams in enumerate(self.beams[layer]):
            for beam, positions in enumerate(beams):
                own = range(beam * length, (beam + 1) * length)
                beams[beam] = positions + [
                    KeysValues(new.keys[sentence, :, query], new.values[sentence, :, query])
                    for query in own
                ]

    def reorder(self, beam_index: Tensor) -> None:
        for layer in self.beams:
            for sentence, indices in enumerate(beam_index.tolist()):
                layer[sentence] = [layer[sentence][index] for index in indices]

    def keep_rows(self, rows: list[int]) -> None:
        self.beams = [[layer[sentence] for sentence in rows] for layer in self.beams]


def assert_step_equals_plain(cache: KVCache, plain: PlainCache, *, length: int, seed: int) -> None:
    """Decode with both; check what each query of each beam may attend to."""
    batch, beam, _ = cache.beam_mask.shape
    masks = cache.add_positions(length)
    for layer in range(NUM_LAYERS):
        new = random_kv(batch, beam * length, seed=seed + layer)
        plain.append(layer, new, length=length)
        kv = cache.append(layer, new)
        for sentence in range(batch):
            for query in range(beam * length):
                num_later = length - 1 - query % length  # new positions of the beam after this one
                positions = plain.beams[layer][sentence][query // length]
                positions = positions[: len(positions) - num_later]
                mask = masks.self_mask[sentence, 0, query]
                row = min(sentence, len(masks.target_positions) - 1)
                assert masks.target_positions[row, mask].tolist() == list(range(len(positions)))
                expected_keys = torch.stack([position.keys for position in positions], dim=1)
                expected_values = torch.stack([position.values for position in positions], dim=1)
                assert torch.equal(kv.keys[sentence][:, mask], expected_keys)
                assert torch.equal(kv.values[sentence][:, mask], expected_values)


@pytest.mark.parametrize("min_keys_to_drop", [1, 8, 1000])
@given(data_seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_each_beam_sees_its_own_keys_only(min_keys_to_drop: int, data_seed: int) -> None:
    """Make random calls of a search; compare with a cache that copies everything."""
    choose = random.Random(data_seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mt.model.kv_cache.MIN_KEYS_TO_DROP", min_keys_to_drop)
        cache = make_cache()
        plain = PlainCache(BATCH)
        sources = [copy_kv(kv) for kv in cache.source]
        source_mask = cache.source_mask
        sentences = list(range(BATCH))
        for step in range(8):
            assert_step_equals_plain(cache, plain, length=choose.choice([1, 1, 2]), seed=10 * step)
            num_kept = choose.randint(1, len(sentences))
            kept = choose.sample(range(len(sentences)), num_kept)
            if choose.random() < 0.5:
                cache.keep_rows(kept)
                plain.keep_rows(kept)
                sentences = [sentences[row] for row in kept]
            if choose.random() < 0.8:
                beam = cache.beam_mask.size(1)
                beam_index = torch.tensor(
                    [choose.choices(range(beam), k=step % 3 + 1) for _ in sentences]
                )
                cache.reorder(beam_index)
                plain.reorder(beam_index)
        assert torch.equal(cache.source_mask, source_mask[sentences])
        for actual, source in zip(cache.source, sources, strict=True):
            assert_equal(actual, KeysValues(source.keys[sentences], source.values[sentences]))


# Masks


def test_mask_of_the_first_positions_is_causal() -> None:
    masks = make_cache().add_positions(3)
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    assert torch.equal(masks.self_mask, causal.expand(BATCH, 1, 3, 3))
    assert masks.target_positions.tolist() == [[0, 1, 2]]
    assert masks.query_positions.tolist() == [[0, 1, 2]]


def test_new_positions_attend_to_their_own_beam_only() -> None:
    """Two new positions of each beam attend to the beam's keys and to new ones up to themselves."""
    cache = make_tree()
    masks = cache.add_positions(2)
    assert cache.length == 4
    assert masks.target_positions.tolist() == [[0, 1, 1, 2, 3, 2, 3]]
    assert masks.query_positions.tolist() == [[2, 3, 2, 3]]
    assert masks.self_mask[0, 0].int().tolist() == [
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 0, 1, 0, 0, 1, 0],
        [1, 0, 1, 0, 0, 1, 1],
    ]
    assert cache.beam_mask[0].int().tolist() == [
        [1, 1, 0, 1, 1, 0, 0],
        [1, 0, 1, 0, 0, 1, 1],
    ]


def test_source_mask_and_positions_are_those_of_the_source() -> None:
    cache = make_cache()
    masks = cache.add_positions(1)
    assert masks.cross_mask[:, 0, 0].sum(1).tolist() == [1, 2, 3, 4]
    assert masks.source_positions.tolist() == [[0, 1, 2, 3, 4]]


# Memory


def test_reorder_changes_only_the_beam_mask() -> None:
    cache = make_tree()
    before = pointers(cache)
    beam_mask = cache.beam_mask.clone()
    cache.reorder(torch.tensor([[1, 0, 1]]))
    assert torch.equal(cache.beam_mask, beam_mask[:, [1, 0, 1]])
    assert pointers(cache) == before


def test_appending_rarely_copies_the_buffer() -> None:
    cache = make_cache()
    decode(cache, 4, seed=0)
    num_copies = 0
    for seed in range(100):
        before = pointers(cache)
        decode(cache, 1, seed=seed)
        if pointers(cache) != before:
            num_copies += 1
    assert cache.num_keys == 104
    # Each copy makes the capacity half as large again: 4 * 1.5 ** 9 > 104.
    assert num_copies <= 9


def test_sentences_are_kept_in_place() -> None:
    cache = make_cache()
    decode(cache, 3, seed=0)
    first, *_ = decode(cache, 2, seed=10)  # has space for 7
    expected = KeysValues(first.keys[[0, 3, 2]], first.values[[0, 3, 2]])
    before = pointers(cache)
    cache.keep_rows([0, 3, 2])
    assert pointers(cache) == before
    longer, *_ = decode(cache, 1, seed=20)
    assert pointers(cache) == before
    assert_equal(KeysValues(longer.keys[:, :, :5], longer.values[:, :, :5]), expected)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 1], [0, 2], [2, 0, 1], [1], []])
def test_kept_rows_are_those_of_the_sentences(rows: list[int]) -> None:
    cache = make_cache()
    decode(cache, 2, seed=0)
    last = decode(cache, 1, seed=10)
    expected = [KeysValues(kv.keys[rows], kv.values[rows]) for kv in last]
    expected_sources = [KeysValues(kv.keys[rows], kv.values[rows]) for kv in cache.source]
    cache.keep_rows(rows)
    assert len(cache.beam_mask) == len(rows)
    assert cache.source_mask.sum((1, 2, 3)).tolist() == [row + 1 for row in rows]
    for layer in range(NUM_LAYERS):
        target = cache.target[layer]
        assert_equal(KeysValues(target.keys[:, :, :3], target.values[:, :, :3]), expected[layer])
        assert_equal(cache.source[layer], expected_sources[layer])


def test_sentences_may_leave_before_the_first_position() -> None:
    cache = make_cache()
    cache.keep_rows([3, 1])
    assert cache.source_mask.sum((1, 2, 3)).tolist() == [4, 2]
    assert decode(cache, 1, seed=0)[0].keys.shape == (2, NUM_HEADS, 1, HEAD_DIM)


# Dead keys


def test_dead_keys_are_dropped() -> None:
    """Sentence 0 uses keys 0 and 2, the others use 1, 2 and 3: all keep three keys."""
    cache = make_cache()
    before = decode(cache, 5, seed=0)
    set_beam_mask(cache, [[{0, 2}], [{1, 2, 3}], [{1, 2, 3}], [{1, 2, 3}]])
    cache.drop_threshold = 5
    cache.reorder(torch.zeros(BATCH, 1, dtype=torch.long))

    assert cache.beam_mask.int().tolist() == [[[1, 1, 0]], [[1, 1, 1]], [[1, 1, 1]], [[1, 1, 1]]]
    assert cache.positions.tolist() == [[0, 2, 1], [1, 2, 3], [1, 2, 3], [1, 2, 3]]
    assert cache.length == 5
    for target, original in zip(cache.target, before, strict=True):
        for kept, all_keys in zip(target, original, strict=True):
            assert torch.equal(kept[0, :, :2], all_keys[0][:, [0, 2]])
            assert torch.equal(kept[1:], all_keys[1:, :, 1:4])


def test_keys_are_looked_for_again_when_their_number_has_doubled() -> None:
    cache = make_cache()
    assert cache.drop_threshold == 64
    decode(cache, 70, seed=0)
    cache.reorder(torch.zeros(BATCH, 2, dtype=torch.long))
    assert cache.num_keys == 70  # all of them are used
    assert cache.drop_threshold == 140
    decode(cache, 1, seed=10)
    cache.reorder(torch.zeros(BATCH, 1, dtype=torch.long))
    assert cache.num_keys == 72  # one of them is dead


def test_few_dead_keys_are_kept() -> None:
    cache = make_cache()
    decode(cache, 1, seed=0)
    cache.reorder(torch.zeros(BATCH, 7, dtype=torch.long))
    for seed in range(8):
        decode(cache, 1, seed=seed)
        cache.reorder(torch.zeros(BATCH, 7, dtype=torch.long))
        assert cache.num_keys == 1 + 7 * (seed + 1)
    decode(cache, 1, seed=9)
    assert cache.num_keys == 64
    cache.reorder(torch.zeros(BATCH, 7, dtype=torch.long))
    assert cache.num_keys == 10  # all beams share one prefix of ten positions
