"""KV cache for beam search: all beams of a sentence share one buffer of keys and values.

The hypotheses of a sentence are branches of one tree. The keys of all branches are stored side by
side in one buffer per sentence. They are written once and do not move when hypotheses change
places: a mask says which keys belong to which beam, so reordering beams only reorders the rows of
that mask. From time to time, the keys of branches that no beam uses any more are dropped. When
sentences are finished, the last ones of the batch move into the gaps.

Caches are values: appending to one returns a new one and leaves the old one usable, although both
share memory. The exception is `DecoderCache.keep`, which overwrites the memory and so ends all
older caches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

# Number of keys of a sentence from which on dead keys are looked for. 16 to 128 take the same time.
MIN_KEYS_TO_DROP = 64

USED_AFTER_KEEP = "cache used after keep(), which has overwritten its memory"


class RowSelection(NamedTuple):
    """Rows of a tensor to keep, in a new order, with the moves that bring them to the front."""

    rows: Tensor  # long (num_rows,): the rows to keep, in their new order
    move_from: Tensor  # long (num_moved,): rows that change places
    move_to: Tensor  # long (num_moved,): their new places

    @classmethod
    def from_list(cls, rows: Sequence[int], device: torch.device) -> Self:
        """Make the selection of `rows`. Few rows move where the last ones fill the gaps."""
        moved_from = []
        moved_to = []
        for place, row in enumerate(rows):
            if row != place:
                moved_from.append(row)
                moved_to.append(place)
        return cls(
            _index_tensor(rows, device),
            _index_tensor(moved_from, device),
            _index_tensor(moved_to, device),
        )

    def compact(self, tensor: Tensor) -> Tensor:
        """Move the selected rows to the front of `tensor`, in place, and return that part of it."""
        tensor.index_copy_(0, self.move_to, tensor.index_select(0, self.move_from))
        return tensor[: len(self.rows)]


class KeysValues(NamedTuple):
    """Projected keys and values: all that an attention layer remembers of what it may attend to."""

    # (rows, num_heads, key_length, head_dim); head_dim is 0 where weights come from positions only
    keys: Tensor
    values: Tensor  # (rows, num_heads, key_length, head_dim)

    @property
    def length(self) -> int:
        return self.values.size(2)

    def prefix(self, length: int) -> "KeysValues":
        """Return the first `length` keys and values; they share this memory."""
        return KeysValues(self.keys[:, :, :length], self.values[:, :, :length])

    def compact(self, selection: RowSelection) -> "KeysValues":
        """Return the selected rows only, moved in place to the front of this memory."""
        return KeysValues(selection.compact(self.keys), selection.compact(self.values))


@dataclass(eq=False)
class KVStorage:
    """Allocated memory for keys and values, of which the first `num_used` are written.

    Only a buffer that holds all of the used ones may write the next one here.
    """

    kv: KeysValues
    num_used: int


@dataclass(frozen=True, eq=False)
class KVBuffer:
    """Keys and values of one layer, to which more can be appended.

    A value: appending in place happens only if it overwrites nothing that another buffer holds;
    otherwise the keys and values are copied first.
    """

    kv: KeysValues
    storage: KVStorage  # `kv` is the beginning of it

    @classmethod
    def from_kv(cls, kv: KeysValues) -> "KVBuffer":
        """Make a buffer of these keys and values, without free space after them."""
        return cls(kv, KVStorage(kv, kv.length))

    def append(self, new: KeysValues) -> "KVBuffer":
        """Return a buffer with the `new` keys and values after these.

        Only appending to an empty buffer is differentiable; otherwise `new` is written in place.
        """
        start = self.kv.length
        end = start + new.length
        if start == 0:
            return KVBuffer.from_kv(new)
        storage = self.storage
        is_full = storage.kv.length < end
        is_written_by_another = storage.num_used > start
        if is_full or is_written_by_another:
            capacity = end + end // 2
            keys = _copy_with_capacity(self.kv.keys, capacity)
            values = _copy_with_capacity(self.kv.values, capacity)
            storage = KVStorage(KeysValues(keys, values), start)
        storage.kv.keys[:, :, start:end] = new.keys
        storage.kv.values[:, :, start:end] = new.values
        storage.num_used = end
        return KVBuffer(storage.kv.prefix(end), storage)

    def select(self, index: Tensor) -> "KVBuffer":
        """Return a copy with the keys at `index` of each row, in that order.

        `index` is long (rows, num_keys).
        """
        keys = _select_positions(self.kv.keys, index)
        values = _select_positions(self.kv.values, index)
        return KVBuffer.from_kv(KeysValues(keys, values))

    def compact(self, selection: RowSelection) -> "KVBuffer":
        """Return the selected rows only, moved in place to the front of this memory."""
        storage = KVStorage(self.storage.kv.compact(selection), self.kv.length)
        return KVBuffer(storage.kv.prefix(storage.num_used), storage)


class LayerCache(NamedTuple):
    """Cache of one decoder layer; each row is a sentence of the batch and serves all its beams."""

    target: KVBuffer  # of the target so far, for self-attention
    source: KeysValues  # of the encoded source, for cross-attention


class AttentionMasks(NamedTuple):
    """Masks and positions for one call of the decoder; masks are bool, True = may attend."""

    # (batch or 1, 1, beam * length, num_keys): keys of the target so far, then those of the queries
    self_mask: Tensor
    target_positions: Tensor  # long (batch or 1, num_keys): positions of these keys in the target
    cross_mask: Tensor  # (batch, 1, 1, src_length)
    source_positions: Tensor  # long (1, src_length)


@dataclass(eq=False)
class CacheValidity:
    """Whether a cache may still be used; one object for all caches that share memory."""

    is_valid: bool = True


@dataclass(frozen=True, eq=False)
class DecoderCache:
    """Cache of all decoder layers, with what the decoder needs to know of the beams so far.

    A value, but `keep` ends the use of this cache and of all caches that share memory with it.
    """

    layers: tuple[LayerCache, ...]
    source_mask: Tensor  # bool (batch, 1, 1, src_length), True = a real token
    beam_mask: Tensor  # bool (batch, beam, num_keys): which keys of its sentence belong to a beam
    positions: Tensor  # long (batch or 1, num_keys): positions of these keys in the target
    length: int  # target positions decoded so far
    drop_threshold: int  # number of keys from which on dead ones are looked for
    validity: CacheValidity

    @classmethod
    def start(cls, layers: tuple[LayerCache, ...], source_mask: Tensor) -> "DecoderCache":
        """Return the cache before the first target position, with one beam."""
        device = source_mask.device
        batch = len(source_mask)
        return cls(
            layers=layers,
            source_mask=source_mask,
            beam_mask=torch.ones(batch, 1, 0, dtype=torch.bool, device=device),
            positions=torch.arange(0, device=device)[None],
            length=0,
            drop_threshold=MIN_KEYS_TO_DROP,
            validity=CacheValidity(),
        )

    def reorder(self, beam_index: Tensor) -> "DecoderCache":
        """Return the cache in which beam j of sentence i continues beam `beam_index[i, j]`.

        `beam_index` is long (batch, new_beam); both beams are of the same sentence.
        """
        assert self.validity.is_valid, USED_AFTER_KEEP
        beam_mask = self.beam_mask.take_along_dim(beam_index[:, :, None], dim=1)
        cache = replace(self, beam_mask=beam_mask)
        if self.beam_mask.size(2) >= self.drop_threshold:
            return cache.drop_dead_keys()
        return cache

    def drop_dead_keys(self) -> "DecoderCache":
        """Return a copy without keys that no beam uses.

        All sentences keep the same number of keys: as many as the sentence with the most live keys
        needs.
        """
        is_live = self.beam_mask.any(1)  # (batch, num_keys)
        num_kept = int(is_live.sum(1).max())
        # The live keys of each sentence in their order, then as many dead ones as are needed.
        live_first = is_live.byte().argsort(dim=1, descending=True, stable=True)
        kept = live_first[:, :num_kept]  # (batch, num_kept)
        layers = [LayerCache(layer.target.select(kept), layer.source) for layer in self.layers]
        beam = self.beam_mask.size(1)
        return replace(
            self,
            layers=tuple(layers),
            beam_mask=self.beam_mask.gather(2, kept[:, None].expand(-1, beam, -1)),
            positions=self.positions.expand(len(kept), -1).gather(1, kept),
            drop_threshold=max(MIN_KEYS_TO_DROP, 2 * num_kept),
        )

    def keep(self, sentences: Sequence[int]) -> "DecoderCache":
        """Return the cache of the given sentences only, in their order, in the memory of this one.

        After that, neither this cache nor any other that shares memory with it may be used.
        """
        assert self.validity.is_valid, USED_AFTER_KEEP
        self.validity.is_valid = False
        selection = RowSelection.from_list(sentences, self.beam_mask.device)
        layers = [
            LayerCache(layer.target.compact(selection), layer.source.compact(selection))
            for layer in self.layers
        ]
        positions = self.positions
        if len(positions) > 1:
            positions = positions[selection.rows]
        return replace(
            self,
            layers=tuple(layers),
            source_mask=self.source_mask[selection.rows],
            beam_mask=self.beam_mask[selection.rows],
            positions=positions,
            validity=CacheValidity(),
        )

    def attention_masks(self, length: int) -> AttentionMasks:
        """Return the masks for `length` new positions of each beam.

        A new position attends to the keys of its beam, and to the new positions of its beam up to
        itself.
        """
        assert self.validity.is_valid, USED_AFTER_KEEP
        device = self.beam_mask.device
        batch, beam, num_keys = self.beam_mask.shape

        new_positions = torch.arange(self.length, self.length + length, device=device)
        new_positions = new_positions.repeat(beam)  # (beam * length,)
        same_beam = torch.eye(beam, dtype=torch.bool, device=device)
        same_beam = same_beam.repeat_interleave(length, 0).repeat_interleave(length, 1)
        not_later = new_positions <= new_positions[:, None]
        mask = same_beam & not_later  # (beam * length, beam * length)
        if num_keys > 0:
            cached = self.beam_mask.repeat_interleave(length, dim=1)
            mask = torch.cat((cached, mask.expand(batch, -1, -1)), dim=2)

        new_positions = new_positions.expand(len(self.positions), -1)
        src_length = self.source_mask.size(3)
        return AttentionMasks(
            self_mask=mask.view(-1, 1, *mask.shape[-2:]),
            target_positions=torch.cat((self.positions, new_positions), dim=1),
            cross_mask=self.source_mask,
            source_positions=torch.arange(src_length, device=device)[None],
        )

    def advance(self, masks: AttentionMasks, layers: tuple[LayerCache, ...]) -> "DecoderCache":
        """Return the cache after decoding with `masks`, which returned the new `layers`."""
        batch, beam, _ = self.beam_mask.shape
        num_queries, num_keys = masks.self_mask.shape[2:]
        length = num_queries // beam
        query_mask = masks.self_mask.expand(batch, -1, -1, -1).view(batch, beam, length, num_keys)
        return replace(
            self,
            layers=layers,
            # The keys of a beam are those that its last position attends to, itself included.
            beam_mask=query_mask[:, :, -1],
            positions=masks.target_positions,
            length=self.length + length,
        )


def _index_tensor(values: Sequence[int], device: torch.device) -> Tensor:
    """Return `values` as a long tensor on `device`, without waiting for the device."""
    return torch.tensor(values, dtype=torch.long).to(device, non_blocking=True)


def _copy_with_capacity(tensor: Tensor, capacity: int) -> Tensor:
    """Return a copy whose third dimension is `capacity`; the new part of it is undefined."""
    copy = tensor.new_empty(*tensor.shape[:2], capacity, tensor.size(3))
    copy[:, :, : tensor.size(2)] = tensor
    return copy


def _select_positions(tensor: Tensor, index: Tensor) -> Tensor:
    """Return the entries `index` (rows, num_selected) of each row along the third dimension."""
    _, num_heads, _, head_dim = tensor.shape
    return tensor.gather(2, index[:, None, :, None].expand(-1, num_heads, -1, head_dim))
