"""Tests of the KV cache: what it holds, which beams see which keys, and when memory is copied."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mt.model.kv_cache import (
    CacheValidity,
    DecoderCache,
    KeysValues,
    KVBuffer,
    LayerCache,
    RowSelection,
)

ROWS = 4
NUM_HEADS = 2
HEAD_DIM = 3
CPU = torch.device("cpu")


def random_kv(length: int, *, seed: int = 0) -> KeysValues:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, ROWS, NUM_HEADS, length, HEAD_DIM, generator=generator)
    return KeysValues(keys, values)


def make_buffer(*lengths: int) -> KVBuffer:
    """Append random keys and values of these lengths, one after the other, with seeds 0, 1, ..."""
    buffer = KVBuffer.from_kv(random_kv(0))
    for seed, length in enumerate(lengths):
        buffer = buffer.append(random_kv(length, seed=seed))
    return buffer


def assert_equal(actual: KeysValues, expected: KeysValues) -> None:
    assert torch.equal(actual.keys, expected.keys)
    assert torch.equal(actual.values, expected.values)


def concatenate(*parts: KeysValues) -> KeysValues:
    keys = torch.cat([part.keys for part in parts], dim=2)
    values = torch.cat([part.values for part in parts], dim=2)
    return KeysValues(keys, values)


def select_rows(kv: KeysValues, rows: list[int]) -> KeysValues:
    return KeysValues(kv.keys[rows], kv.values[rows])


# KVBuffer and RowSelection


@pytest.mark.parametrize("lengths", [[5], [1, 4], [2, 0, 2, 1], [1] * 20])
def test_buffer_holds_what_was_appended(lengths: list[int]) -> None:
    parts = [random_kv(length, seed=seed) for seed, length in enumerate(lengths)]
    buffer = make_buffer(*lengths)
    assert buffer.kv.length == sum(lengths)
    assert_equal(buffer.kv, concatenate(*parts))


def test_buffer_can_be_appended_to_twice() -> None:
    """Three branches of one buffer stay separate, although their appends are interleaved."""
    trunk = make_buffer(3, 1)  # has free space
    branches = [trunk, trunk, trunk]
    for seed in (10, 20):
        for number, branch in enumerate(branches):
            branches[number] = branch.append(random_kv(1, seed=seed + number))
    trunk_kv = concatenate(random_kv(3), random_kv(1, seed=1))
    for number, branch in enumerate(branches):
        first = random_kv(1, seed=10 + number)
        second = random_kv(1, seed=20 + number)
        assert_equal(branch.kv, concatenate(trunk_kv, first, second))
    assert_equal(trunk.kv, trunk_kv)


def test_appending_rarely_copies_the_buffer() -> None:
    buffer = make_buffer(4)
    num_copies = 0
    for seed in range(100):
        longer = buffer.append(random_kv(1, seed=seed))
        if longer.kv.keys.data_ptr() != buffer.kv.keys.data_ptr():
            num_copies += 1
        buffer = longer
    # Each copy makes the capacity half as large again: 4 * 1.5 ** 9 > 104.
    assert num_copies <= 9


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 1], [0, 2], [2, 0, 1], [1], []])
def test_compacted_buffer_can_be_appended_to(rows: list[int]) -> None:
    expected = select_rows(make_buffer(3, 1).kv, rows)
    buffer = make_buffer(3, 1).compact(RowSelection.from_list(rows, CPU))
    assert_equal(buffer.kv, expected)
    kv = random_kv(2, seed=7)
    new = KeysValues(kv.keys[: len(rows)], kv.values[: len(rows)])
    assert_equal(buffer.append(new).kv, concatenate(expected, new))


def test_compacting_moves_only_rows_that_change_places() -> None:
    selection = RowSelection.from_list([0, 3, 2], CPU)
    assert selection.rows.tolist() == [0, 3, 2]
    assert selection.move_from.tolist() == [3]
    assert selection.move_to.tolist() == [1]
    tensor = torch.arange(4.0)
    compacted = selection.compact(tensor)
    assert compacted.tolist() == [0, 3, 2]
    assert compacted.data_ptr() == tensor.data_ptr()


# DecoderCache


def make_cache(
    beam_mask: Tensor, positions: list[int], *, length: int, drop_threshold: int = 1000
) -> DecoderCache:
    """Return a cache with one layer, random keys and a source of two tokens."""
    target = KVBuffer.from_kv(random_kv(beam_mask.size(2)))
    return DecoderCache(
        layers=(LayerCache(target, random_kv(2)),),
        source_mask=torch.ones(len(beam_mask), 1, 1, 2, dtype=torch.bool),
        beam_mask=beam_mask,
        positions=torch.tensor([positions]),
        length=length,
        drop_threshold=drop_threshold,
        validity=CacheValidity(),
    )


def make_two_beam_cache() -> DecoderCache:
    """Return a cache of one sentence whose two beams share the first position only."""
    beam_mask = torch.tensor([[[True, True, False], [True, False, True]]])
    return make_cache(beam_mask, [0, 1, 1], length=2)


def test_reorder_changes_only_the_beam_mask() -> None:
    beam_mask = torch.rand(ROWS, 3, 5) > 0.5
    cache = make_cache(beam_mask, [0, 1, 1, 1, 2], length=3)
    beam_index = torch.tensor([[2, 0], [1, 1], [0, 2], [2, 2]])
    reordered = cache.reorder(beam_index)
    assert reordered.layers is cache.layers
    for row in range(ROWS):
        assert torch.equal(reordered.beam_mask[row], beam_mask[row, beam_index[row]])


def test_dead_keys_are_dropped() -> None:
    """Sentence 0 uses keys 0 and 2, the others use 1, 2 and 3: all keep three keys."""
    uses_two_keys = [[1, 0, 1, 0, 0]]
    uses_three_keys = [[0, 1, 1, 1, 0]]
    beam_mask = torch.tensor(
        [uses_two_keys, uses_three_keys, uses_three_keys, uses_three_keys]
    ).bool()
    cache = make_cache(beam_mask, [0, 1, 1, 1, 2], length=3, drop_threshold=5)
    reordered = cache.reorder(torch.zeros(ROWS, 1, dtype=torch.long))

    assert reordered.beam_mask.int().tolist() == [
        [[1, 1, 0]],
        [[1, 1, 1]],
        [[1, 1, 1]],
        [[1, 1, 1]],
    ]
    assert reordered.positions.tolist() == [[0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    kept = reordered.layers[0].target.kv
    original = cache.layers[0].target.kv
    for kept_part, original_part in zip(kept, original, strict=True):
        assert torch.equal(kept_part[0, :, :2], original_part[0][:, [0, 2]])
        assert torch.equal(kept_part[1:], original_part[1:, :, 1:4])


def test_few_dead_keys_are_kept() -> None:
    beam_mask = torch.zeros(ROWS, 1, 5, dtype=torch.bool)
    cache = make_cache(beam_mask, [0, 1, 1, 1, 2], length=3, drop_threshold=6)
    reordered = cache.reorder(torch.zeros(ROWS, 1, dtype=torch.long))
    assert reordered.layers is cache.layers


def test_new_positions_attend_to_their_own_beam_only() -> None:
    """Two new positions of each beam attend to the beam's keys and to new ones up to themselves."""
    masks = make_two_beam_cache().attention_masks(2)
    assert masks.target_positions.tolist() == [[0, 1, 1, 2, 3, 2, 3]]
    assert masks.self_mask[0, 0].int().tolist() == [
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 0, 1, 0, 0, 1, 0],
        [1, 0, 1, 0, 0, 1, 1],
    ]


def test_advance_adds_the_decoded_positions_to_each_beam() -> None:
    cache = make_two_beam_cache()
    masks = cache.attention_masks(2)
    advanced = cache.advance(masks, cache.layers)
    assert advanced.length == 4
    assert torch.equal(advanced.positions, masks.target_positions)
    # The keys of a beam are those that its last position attends to.
    last_positions = masks.self_mask[0, 0, [1, 3]]
    assert torch.equal(advanced.beam_mask[0], last_positions)


def test_mask_of_the_first_positions_is_causal() -> None:
    cache = DecoderCache.start((), torch.ones(ROWS, 1, 1, 2, dtype=torch.bool))
    masks = cache.attention_masks(3)
    assert torch.equal(masks.self_mask, torch.ones(3, 3, dtype=torch.bool).tril()[None, None])
    assert cache.advance(masks, ()).beam_mask.shape == (ROWS, 1, 3)


def test_sentences_may_leave_after_the_first_position() -> None:
    source_mask = torch.ones(ROWS, 1, 1, 2, dtype=torch.bool)
    empty_layer = LayerCache(KVBuffer.from_kv(random_kv(0)), random_kv(2))
    cache = DecoderCache.start((empty_layer,), source_mask)
    layer = LayerCache(empty_layer.target.append(random_kv(1)), empty_layer.source)
    kept = cache.advance(cache.attention_masks(1), (layer,)).keep([3, 1])
    assert kept.beam_mask.tolist() == [[[True]], [[True]]]
    assert_equal(kept.layers[0].target.kv, select_rows(random_kv(1), [3, 1]))


def test_cache_is_refused_after_keep() -> None:
    cache = make_two_beam_cache()
    reordered = cache.reorder(torch.tensor([[1, 0]]))
    kept = cache.keep([0])
    for used in (cache, reordered):
        with pytest.raises(AssertionError, match="cache used after keep"):
            used.attention_masks(1)
        with pytest.raises(AssertionError, match="cache used after keep"):
            used.reorder(torch.tensor([[0, 1]]))
        with pytest.raises(AssertionError, match="cache used after keep"):
            used.keep([0])
    kept.attention_masks(1)
