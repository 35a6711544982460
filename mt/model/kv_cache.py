"""What decoding remembers, at little cost to go on from.

The hypotheses of a sentence are branches of one tree. All that they have read lies side by side as keys of that
sentence: written once, into memory with room for more, and not moved when hypotheses change places. A mask tells which
keys are a hypothesis' own past, so to reorder hypotheses is to reorder the rows of that mask. Now and then the keys of
branches that have died are dropped. When sentences are done, the last ones move into the gaps that they leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

# Keys of a sentence, from which on it is worth while to look for those that are nobody's: 16 to 128 take the same time.
MANY_KEYS = 64
SPOILT = "`keep` has used up the memory of this cache"


class Rows(NamedTuple):
    """Which rows of a tensor to keep, in which order; few move where the last ones fill the gaps."""

    chosen: Tensor  # long (num_rows,)
    sources: Tensor  # long (num_moved,): those that change places
    places: Tensor  # long (num_moved,): where each goes

    @classmethod
    def of(cls, rows: Sequence[int], device: torch.device) -> "Rows":
        places = [place for place, row in enumerate(rows) if row != place]
        columns = (rows, [rows[place] for place in places], places)
        return cls(
            *(
                torch.tensor(column, dtype=torch.long).to(device, non_blocking=True)
                for column in columns
            )
        )

    def keep_in(self, tensor: Tensor) -> Tensor:
        """The rows in their order, in the memory of `tensor`."""
        tensor.index_copy_(0, self.places, tensor.index_select(0, self.sources))
        return tensor[: len(self.chosen)]


class KeysValues(NamedTuple):
    """What may be attended to, projected once: all that an attention needs to remember of it."""

    keys: Tensor  # (rows, num_heads, key_length, head_dim), or of width 0 where weights come from positions alone
    values: Tensor  # (rows, num_heads, key_length, head_dim)

    @property
    def length(self) -> int:
        return self.values.size(2)

    def first(self, length: int) -> "KeysValues":
        """Without the keys from `length` on: the same memory, not a copy."""
        return KeysValues(self.keys[:, :, :length], self.values[:, :, :length])

    def keep_in_place(self, rows: Rows) -> "KeysValues":
        """Only these rows; writes over the others."""
        return KeysValues(rows.keep_in(self.keys), rows.keep_in(self.values))


@dataclass(eq=False)
class Room:
    """Memory with room for more keys; who has all of the `used` ones may write the next, and only once."""

    kv: KeysValues
    used: int


@dataclass(frozen=True, eq=False)
class KVBuffer:
    """Keys and values of one layer that grow at their end, in place where nobody has done so before.

    A value: whoever goes on from it a second time gets a copy.
    """

    seen: KeysValues
    room: Room  # `seen` is the beginning of it

    @classmethod
    def of(cls, seen: KeysValues) -> "KVBuffer":
        """Without room to spare."""
        return cls(seen, Room(seen, seen.length))

    def append(self, new: KeysValues) -> "KVBuffer":
        """These keys, then the `new` ones. Only the first can be differentiated through: later ones write in place."""
        start, end, room = self.seen.length, self.seen.length + new.length, self.room
        if start == 0:
            return KVBuffer.of(new)
        if room.used > start or room.kv.length < end:
            room = Room(
                KeysValues(*(_with_room(part, end + end // 2) for part in self.seen)), start
            )
        for whole, part in zip(room.kv, new, strict=True):
            whole[:, :, start:end] = part
        room.used = end
        return KVBuffer(room.kv.first(end), room)

    def take(self, keys: Tensor) -> "KVBuffer":
        """The given keys of each row (long, (rows, keys_out)), in their order: a copy."""
        index = keys[:, None, :, None]
        parts = (
            part.gather(2, index.expand(-1, part.size(1), -1, part.size(3))) for part in self.seen
        )
        return KVBuffer.of(KeysValues(*parts))

    def keep_in_place(self, rows: Rows) -> "KVBuffer":
        """Only these rows; writes over the others."""
        room = Room(self.room.kv.keep_in_place(rows), self.seen.length)
        return KVBuffer(room.kv.first(room.used), room)


class LayerCache(NamedTuple):
    """What one decoder layer remembers; rows = batch, shared by the beams of a sentence."""

    past: KVBuffer  # of the target so far
    source: KeysValues


class AttentionMasks(NamedTuple):
    """What the queries of one call may look at; masks are bool, True = may attend."""

    target: Tensor  # (batch or 1, 1, beam * length, num_keys): the past, and last the queries themselves
    target_positions: Tensor  # (batch or 1, num_keys) long: where those keys stand
    source: Tensor  # (batch, 1, 1, src_length)
    source_positions: Tensor  # (1, src_length) long


@dataclass(eq=False)
class Lease:
    """The right to use some memory, of all caches that have come of one another since the last `keep`."""

    is_over: bool = False


@dataclass(frozen=True, eq=False)
class DecoderCache:
    """All that decoding one more position needs: a value, until `keep` uses it up and what it shares memory with."""

    layers: tuple[LayerCache, ...]
    source_mask: Tensor  # (batch, 1, 1, src_length) bool
    is_own: Tensor  # (batch, beam, num_keys) bool: which keys of its sentence are a beam's own past
    positions: Tensor  # (batch or 1, num_keys) long: where in the target they stand
    length: int  # target positions decoded so far
    many_keys: int  # from so many on it is worth while to look for those that are nobody's
    lease: Lease

    @classmethod
    def start(cls, layers: tuple[LayerCache, ...], source_mask: Tensor) -> "DecoderCache":
        """Before the first position, with one beam."""
        device = source_mask.device
        is_own = torch.ones(len(source_mask), 1, 0, dtype=torch.bool, device=device)
        return cls(
            layers, source_mask, is_own, torch.arange(0, device=device)[None], 0, MANY_KEYS, Lease()
        )

    def reorder(self, beam_index: Tensor) -> "DecoderCache":
        """Beam j of sentence i goes on from beam `beam_index[i, j]` (long, (batch, new_beam)) of the same sentence."""
        assert not self.lease.is_over, SPOILT
        cache = replace(self, is_own=self.is_own.take_along_dim(beam_index[:, :, None], dim=1))
        return cache.pruned() if self.is_own.size(2) >= self.many_keys else cache

    def pruned(self) -> "DecoderCache":
        """Without keys that are nobody's, as far as sentences with fewer of the others than the fullest one allow."""
        is_needed = self.is_own.any(1)  # (batch, num_keys)
        num_needed = int(is_needed.sum(1).max())
        keys = is_needed.byte().argsort(dim=1, descending=True, stable=True)[:, :num_needed]
        return replace(
            self,
            layers=tuple(LayerCache(past.take(keys), source) for past, source in self.layers),
            is_own=self.is_own.gather(2, keys[:, None].expand(-1, self.is_own.size(1), -1)),
            positions=self.positions.expand(len(keys), -1).gather(1, keys),
            many_keys=max(MANY_KEYS, 2 * num_needed),
        )

    def keep(self, sentences: Sequence[int]) -> "DecoderCache":
        """Only the given sentences, in their order; their memory is that of this cache, which is used up."""
        assert not self.lease.is_over, SPOILT
        self.lease.is_over = True
        rows = Rows.of(sentences, self.is_own.device)
        return replace(
            self,
            layers=tuple(
                LayerCache(past.keep_in_place(rows), src.keep_in_place(rows))
                for past, src in self.layers
            ),
            source_mask=self.source_mask[rows.chosen],
            is_own=self.is_own[rows.chosen],
            positions=self.positions if len(self.positions) == 1 else self.positions[rows.chosen],
            lease=Lease(),
        )

    def sight(self, length: int) -> AttentionMasks:
        """Of `length` more positions of each beam: its own past, and of the new ones those up to each."""
        assert not self.lease.is_over, SPOILT
        device, (batch, beam, num_keys) = self.is_own.device, self.is_own.shape
        new = torch.arange(self.length, self.length + length, device=device).repeat(
            beam
        )  # (beam * length,)
        same_beam = torch.eye(beam, dtype=torch.bool, device=device).repeat_interleave(length, 0)
        mask = same_beam.repeat_interleave(length, 1) & (
            new <= new[:, None]
        )  # (beam * length, beam * length)
        if num_keys:
            past = self.is_own.repeat_interleave(length, dim=1)  # (batch, beam * length, num_keys)
            mask = torch.cat((past, mask.expand(batch, -1, -1)), dim=2)
        positions = torch.cat((self.positions, new.expand(len(self.positions), -1)), dim=1)
        source = self.source_mask, torch.arange(self.source_mask.size(3), device=device)[None]
        return AttentionMasks(mask.view(-1, 1, *mask.shape[-2:]), positions, *source)

    def after(self, sight: AttentionMasks, layers: tuple[LayerCache, ...]) -> "DecoderCache":
        """When what had that sight has been decoded."""
        batch, beam, _ = self.is_own.shape
        rows = sight.target.expand(batch, -1, -1, -1)
        is_own = rows.view(batch, beam, -1, rows.size(3))[
            :, :, -1
        ]  # a beam's own past is what its last position sees
        length = self.length + rows.size(2) // beam
        return replace(
            self, layers=layers, is_own=is_own, positions=sight.target_positions, length=length
        )


def _with_room(tensor: Tensor, length: int) -> Tensor:
    """A copy whose third dimension is `length`, undefined at its end."""
    room = tensor.new_empty(*tensor.shape[:2], length, tensor.size(3))
    room[:, :, : tensor.size(2)] = tensor
    return room
