"""What decoding remembers: a value that is replaced and never changed, and yet costs little to go on from.

The hypotheses of a sentence are branches of one tree. All that they have ever read lies side by side as keys of that
sentence: written once, into memory with room for more, and not moved when hypotheses change places. A mask tells which
keys are a hypothesis' own past, so to reorder hypotheses is to reorder the rows of that mask. When sentences are done,
the last ones move into the gaps that they leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """Which rows of a tensor to keep, in which order; few move where the last ones fill the gaps."""

    number: int
    sources: Tensor  # long (num_moved,)
    places: Tensor  # long (num_moved,): where each goes

    @classmethod
    def of(cls, rows: Sequence[int], device: torch.device) -> "Rows":
        moved = [(source, place) for place, source in enumerate(rows) if source != place]
        sources, places = torch.tensor(moved, dtype=torch.long).view(-1, 2).to(device, non_blocking=True).unbind(1)
        return cls(len(rows), sources, places)

    def keep(self, tensor: Tensor) -> Tensor:
        """The rows in their order, in the memory of `tensor`."""
        tensor.index_copy_(0, self.places, tensor.index_select(0, self.sources))
        return tensor[: self.number]


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

    def keep(self, rows: Rows) -> "KeysValues":
        """Only these rows; writes over the others."""
        return KeysValues(rows.keep(self.keys), rows.keep(self.values))


@dataclass(eq=False)
class Room:
    """Memory with room for more keys; who has all of the `used` ones may write the next, and only once."""

    kv: KeysValues
    used: int


@dataclass(frozen=True, eq=False)
class Past:
    """Keys and values of one layer that grow at their end, in place where nobody has done so before.

    A value: whoever goes on from it a second time gets a copy.
    """

    seen: KeysValues
    room: Room  # `seen` is the beginning of it

    @classmethod
    def of(cls, seen: KeysValues) -> "Past":
        """Without room to spare."""
        return cls(seen, Room(seen, seen.length))

    def append(self, new: KeysValues) -> "Past":
        """These keys, then the `new` ones; has no gradient, but where these are none."""
        start, end, room = self.seen.length, self.seen.length + new.length, self.room
        assert room.used >= start, "another cache keeps what it needs of this one"
        if start == 0:
            return Past.of(new)
        if room.used > start or room.kv.length < end:
            room = Room(KeysValues(*(_with_room(part, end + end // 2) for part in self.seen)), start)
        for whole, part in zip(room.kv, new, strict=True):
            whole[:, :, start:end] = part
        room.used = end
        return Past(room.kv.first(end), room)

    def keep(self, rows: Rows) -> "Past":
        """Only these rows; writes over the others, so that nobody can go on from here."""
        room = Room(self.room.kv.keep(rows), self.seen.length)
        self.room.used = -1
        return Past(room.kv.first(room.used), room)


class LayerCache(NamedTuple):
    """What one decoder layer remembers; rows = batch, shared by the beams of a sentence."""

    past: Past  # of the target so far
    memory: KeysValues  # of the source


class Sight(NamedTuple):
    """What the queries of one call may look at; masks are bool, True = may attend."""

    past: Tensor  # (batch or 1, 1, beam * length, num_keys)
    past_positions: Tensor  # (num_keys,) long: where in the target the keys stand, those of the queries last
    memory: Tensor  # (batch, 1, 1, src_length)
    memory_positions: Tensor  # (src_length,) long


@dataclass(frozen=True, eq=False)
class DecoderCache:
    """All that decoding one more position needs: a value, but for `keep`, which uses it up."""

    layers: tuple[LayerCache, ...]
    memory_mask: Tensor  # (batch, 1, 1, src_length) bool
    own: Tensor  # (batch, beam, num_keys) bool: which keys of its sentence are a beam's own past
    positions: Tensor  # (num_keys,) long: where in the target they stand
    length: int  # target positions decoded so far

    @classmethod
    def start(cls, layers: tuple[LayerCache, ...], memory_mask: Tensor) -> "DecoderCache":
        """Before the first position, with one beam."""
        device = memory_mask.device
        own = torch.ones(len(memory_mask), 1, 0, dtype=torch.bool, device=device)
        return cls(layers, memory_mask, own, torch.arange(0, device=device), 0)

    def reorder(self, beam_index: Tensor) -> "DecoderCache":
        """Beam j of sentence i goes on from beam `beam_index[i, j]` (long, (batch, new_beam)) of the same sentence."""
        sentences = torch.arange(len(beam_index), device=beam_index.device)
        return replace(self, own=self.own[sentences[:, None], beam_index])

    def keep(self, sentences: Sequence[int]) -> "DecoderCache":
        """Only the given sentences, in their order. Their memory is that of this cache, which can no longer be used."""
        rows = Rows.of(sentences, self.own.device)
        layers = tuple(LayerCache(past.keep(rows), memory.keep(rows)) for past, memory in self.layers)
        chosen = torch.tensor(sentences, dtype=torch.long).to(self.own.device, non_blocking=True)
        return replace(self, layers=layers, memory_mask=self.memory_mask[chosen], own=self.own[chosen])

    def sight(self, length: int) -> Sight:
        """Of `length` more positions of each beam: its own past, and of the new ones those up to each."""
        device, (batch, beam, num_keys) = self.own.device, self.own.shape
        new = torch.arange(self.length, self.length + length, device=device).repeat(beam)  # (beam * length,)
        same_beam = torch.eye(beam, dtype=torch.bool, device=device).repeat_interleave(length, 0)
        mask = same_beam.repeat_interleave(length, 1) & (new <= new[:, None])  # (beam * length, beam * length)
        if num_keys:
            past = self.own.repeat_interleave(length, dim=1)  # (batch, beam * length, num_keys)
            mask = torch.cat((past, mask.expand(batch, -1, -1)), dim=2)
        positions = torch.cat((self.positions, new))
        memory_positions = torch.arange(self.memory_mask.size(3), device=device)
        return Sight(mask.view(-1, 1, *mask.shape[-2:]), positions, self.memory_mask, memory_positions)

    def after(self, sight: Sight, layers: tuple[LayerCache, ...]) -> "DecoderCache":
        """When what had that sight has been decoded."""
        batch, beam, _ = self.own.shape
        rows = sight.past.expand(batch, -1, -1, -1)
        own = rows.view(batch, beam, -1, rows.size(3))[:, :, -1]  # a beam's own past is what its last position sees
        return replace(
            self, layers=layers, own=own, positions=sight.past_positions, length=self.length + rows.size(2) // beam
        )


def _with_room(tensor: Tensor, length: int) -> Tensor:
    """A copy whose third dimension is `length`, undefined at its end."""
    room = tensor.new_empty(*tensor.shape[:2], length, tensor.size(3))
    room[:, :, : tensor.size(2)] = tensor
    return room
