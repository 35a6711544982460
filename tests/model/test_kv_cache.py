"""What decoding remembers: a value for whoever holds it, and little to pay for going on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mt.model.kv_cache import DecoderCache, KeysValues, KVBuffer, LayerCache, Lease, Rows

ROWS, HEADS, WIDTH = 4, 2, 3


def keys_values(length: int, *, seed: int = 0) -> KeysValues:
    generator = torch.Generator().manual_seed(seed)
    return KeysValues(*torch.randn(2, ROWS, HEADS, length, WIDTH, generator=generator).unbind())


def grown(*lengths: int) -> KVBuffer:
    past = KVBuffer.of(keys_values(0))
    for seed, length in enumerate(lengths):
        past = past.append(keys_values(length, seed=seed))
    return past


def assert_equal(found: KeysValues, expected: KeysValues) -> None:
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def joined(*parts: KeysValues) -> KeysValues:
    return KeysValues(*(torch.cat(tensors, dim=2) for tensors in zip(*parts, strict=True)))


@pytest.mark.parametrize("lengths", [[5], [1, 4], [2, 0, 2, 1], [1] * 20])
def test_what_is_appended_is_what_is_seen(lengths: list[int]) -> None:
    expected = joined(*(keys_values(length, seed=seed) for seed, length in enumerate(lengths)))
    assert grown(*lengths).seen.length == sum(lengths)
    assert_equal(grown(*lengths).seen, expected)


def test_a_past_can_be_gone_on_from_twice() -> None:
    """The branches are told apart however they are interleaved."""
    trunk = grown(3, 1)  # with room for more
    branches = [trunk, trunk, trunk]
    for seed in (10, 20):
        branches = [
            each.append(keys_values(1, seed=seed + number)) for number, each in enumerate(branches)
        ]
    for number, branch in enumerate(branches):
        tail = [keys_values(1, seed=seed + number) for seed in (10, 20)]
        assert_equal(branch.seen, joined(keys_values(3), keys_values(1, seed=1), *tail))
    assert_equal(trunk.seen, joined(keys_values(3), keys_values(1, seed=1)))


def test_going_on_moves_what_is_remembered_now_and_then_only() -> None:
    past, num_moves = grown(4), 0
    for seed in range(100):
        longer = past.append(keys_values(1, seed=seed))
        num_moves += longer.seen.keys.data_ptr() != past.seen.keys.data_ptr()
        past = longer
    assert num_moves <= 9  # it has half as much room again each time: 1.5 ** 9 * 4 > 104


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 1], [0, 2], [2, 0, 1], [1], []])
def test_the_rows_that_are_kept_go_on(rows: list[int]) -> None:
    past = grown(3, 1).keep_in_place(Rows.of(rows, torch.device("cpu")))
    assert_equal(past.seen, KeysValues(*(part[rows] for part in grown(3, 1).seen)))
    new = KeysValues(*(part[: len(rows)] for part in keys_values(2, seed=7)))
    assert_equal(
        past.append(new).seen, joined(KeysValues(*(part[rows] for part in grown(3, 1).seen)), new)
    )


def test_only_rows_that_change_places_are_moved() -> None:
    rows = Rows.of([0, 3, 2], torch.device("cpu"))
    assert [column.tolist() for column in rows] == [[0, 3, 2], [3], [1]]
    tensor = torch.arange(4.0)
    kept = rows.keep_in(tensor)
    assert kept.tolist() == [0, 3, 2]
    assert kept.data_ptr() == tensor.data_ptr()


def cache_of(
    is_own: Tensor, positions: list[int], *, length: int, many_keys: int = 1000
) -> DecoderCache:
    past, source = KVBuffer.of(keys_values(is_own.size(2))), keys_values(2)
    mask = torch.ones(len(is_own), 1, 1, 2, dtype=torch.bool)
    layers = (LayerCache(past, source),)
    return DecoderCache(layers, mask, is_own, torch.tensor([positions]), length, many_keys, Lease())


def test_hypotheses_are_reordered_by_their_mask_alone() -> None:
    is_own = torch.rand(ROWS, 3, 5) > 0.5
    cache = cache_of(is_own, [0, 1, 1, 1, 2], length=3)
    beam_index = torch.tensor([[2, 0], [1, 1], [0, 2], [2, 2]])
    found = cache.reorder(beam_index)
    assert found.layers is cache.layers
    assert torch.equal(
        found.is_own,
        torch.stack([rows[index] for rows, index in zip(is_own, beam_index, strict=True)]),
    )


def test_keys_that_are_nobodys_are_dropped_when_there_are_many() -> None:
    """Sentence 0 needs keys 0 and 2, the others 1, 2 and 3: three is the least that serves all."""
    is_own = torch.tensor([[[1, 0, 1, 0, 0]], *[[[0, 1, 1, 1, 0]]] * 3]).bool()
    cache = cache_of(is_own, [0, 1, 1, 1, 2], length=3, many_keys=5)
    found = cache.reorder(torch.zeros(ROWS, 1, dtype=torch.long))
    assert found.is_own.int().tolist() == [[[1, 1, 0]], *[[[1, 1, 1]]] * 3]
    assert found.positions.tolist() == [[0, 1, 1], *[[1, 1, 1]] * 3]
    for seen, whole in zip(found.layers[0].past.seen, cache.layers[0].past.seen, strict=True):
        assert torch.equal(seen[0, :, :2], whole[0][:, [0, 2]])
        assert torch.equal(seen[1:], whole[1:, :, 1:4])


def test_a_beam_sees_its_own_past_and_of_the_new_positions_its_own_up_to_itself() -> None:
    """Two beams that began as one, after a first position; two positions more of each."""
    is_own = torch.tensor([[[True, True, False], [True, False, True]]])
    sight = cache_of(is_own, [0, 1, 1], length=2).sight(2)
    assert sight.target_positions.tolist() == [[0, 1, 1, 2, 3, 2, 3]]
    assert sight.target[0, 0].int().tolist() == [
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 0, 1, 0, 0, 1, 0],
        [1, 0, 1, 0, 0, 1, 1],
    ]


def test_the_past_of_a_beam_is_then_what_its_last_position_saw() -> None:
    is_own = torch.tensor([[[True, True, False], [True, False, True]]])
    cache = cache_of(is_own, [0, 1, 1], length=2)
    sight = cache.sight(2)
    after = cache.after(sight, cache.layers)
    assert after.length == 4
    assert torch.equal(after.is_own[0], sight.target[0, 0, [1, 3]])
    assert torch.equal(after.positions, sight.target_positions)


def test_one_beam_from_the_start_sees_as_a_triangle() -> None:
    cache = DecoderCache.start((), torch.ones(ROWS, 1, 1, 2, dtype=torch.bool))
    sight = cache.sight(3)
    assert torch.equal(sight.target, torch.ones(3, 3, dtype=torch.bool).tril()[None, None])
    assert cache.after(sight, ()).is_own.shape == (ROWS, 1, 3)


def test_a_sentence_may_leave_at_the_first_position() -> None:
    source_mask = torch.ones(ROWS, 1, 1, 2, dtype=torch.bool)
    cache = DecoderCache.start(
        (LayerCache(KVBuffer.of(keys_values(0)), keys_values(2)),), source_mask
    )
    layers = (LayerCache(cache.layers[0].past.append(keys_values(1)), cache.layers[0].source),)
    after = cache.after(cache.sight(1), layers).keep([3, 1])
    assert after.is_own.tolist() == [[[True]], [[True]]]
    assert_equal(after.layers[0].past.seen, KeysValues(*(part[[3, 1]] for part in keys_values(1))))
