"""KV cache for beam search: all beams of a sentence share one buffer of keys and values.

The hypotheses of a sentence are branches of one tree. The keys of all branches are stored side by
side in one buffer per sentence and layer. They are written once and do not move when hypotheses are
reordered: a mask says which keys belong to which beam, so reordering beams only reorders the rows
of that mask. When a sentence has many keys, those that no beam uses any more (dead keys) are
dropped. When sentences are finished, the last rows of the batch are moved into the freed rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Minimum number of keys per sentence before dead keys are dropped. The speed is the same for values
# from 16 to 128.
MIN_KEYS_TO_DROP = 64


class KeysValues(NamedTuple):
    """Projected keys and values: what an attention layer attends to."""

    # (rows, num_heads, key_length, head_dim); head_dim is 0 where weights come from positions only
    keys: Tensor
    values: Tensor  # (rows, num_heads, key_length, head_dim)

    @property
    def length(self) -> int:
        return self.values.size(2)


class AttentionMasks(NamedTuple):
    """Masks and positions for one call of the decoder; masks are bool, True = may attend.

    The keys of self-attention are those in the cache, if there is one, and then those of the
    queries themselves.
    """

    self_mask: Tensor  # (batch or 1, 1, num_queries, num_keys)
    target_positions: Tensor  # long (batch or 1, num_keys): positions of these keys in the target
    cross_mask: Tensor  # (batch, 1, 1, src_length)
    source_positions: Tensor  # long (1, src_length)

    @property
    def query_positions(self) -> Tensor:
        """The positions of the queries in the target: long (batch or 1, num_queries)."""
        num_queries = self.self_mask.size(2)
        return self.target_positions[:, -num_queries:]


class KVCache:
    """Keys and values of all decoder layers, of the source and of the target so far.

    A row is a sentence of the batch, and serves all beams of that sentence. In the decoder, the
    beams of a sentence are laid out along the query dimension and share its keys. All methods
    change the cache in place.
    """

    def __init__(self, source: Sequence[KeysValues], source_mask: Tensor) -> None:
        """Make a cache with one beam per sentence and no target position.

        `source` holds the keys and values of the encoded source for each layer. `source_mask` is
        bool (batch, 1, 1, src_length), True = a real token.
        """
        device = source_mask.device
        batch = len(source_mask)
        self.source = list(source)
        self.source_mask = source_mask
        self.source_positions = torch.arange(source_mask.size(3), device=device)[None]
        # A buffer for each layer. Its first `num_keys` keys and values are written, and the rest is
        # space for more.
        empty = torch.empty(batch, 0, 0, 0, device=device)
        self.target = [KeysValues(empty, empty) for _ in source]
        # Which keys of its sentence belong to a beam: bool (batch, beam, num_keys).
        self.beam_mask = torch.ones(batch, 1, 0, dtype=torch.bool, device=device)
        # The positions of these keys in the target: long (batch or 1, num_keys).
        self.positions = torch.arange(0, device=device)[None]
        self.length = 0  # target positions of each beam
        self.drop_threshold = MIN_KEYS_TO_DROP  # dead keys are dropped once there are this many

    @property
    def num_keys(self) -> int:
        """The number of keys of each sentence, dead ones included."""
        return self.beam_mask.size(2)

    def add_positions(self, length: int) -> AttentionMasks:
        """Add `length` new positions to each beam, and return the masks for decoding them.

        A new position attends to the keys of its beam, and to the new positions of its beam up to
        itself. Each layer then has to `append` the keys and values of the new positions.
        """
        device = self.beam_mask.device
        batch, beam, _ = self.beam_mask.shape
        num_queries = beam * length

        new_positions = torch.arange(self.length, self.length + length, device=device)
        new_positions = new_positions.repeat(beam)  # (num_queries,)
        same_beam = torch.eye(beam, dtype=torch.bool, device=device)
        same_beam = same_beam.repeat_interleave(length, 0).repeat_interleave(length, 1)
        not_later = new_positions <= new_positions[:, None]
        new_mask = (same_beam & not_later).expand(batch, num_queries, num_queries)
        cached_mask = self.beam_mask.repeat_interleave(length, dim=1)
        self_mask = torch.cat((cached_mask, new_mask), dim=2)  # (batch, num_queries, num_keys)

        # The keys of a beam are those that its last position attends to, itself included.
        self.beam_mask = self_mask[:, length - 1 :: length]
        new_positions = new_positions.expand(len(self.positions), num_queries)
        self.positions = torch.cat((self.positions, new_positions), dim=1)
        self.length += length
        return AttentionMasks(
            self_mask=self_mask[:, None],
            target_positions=self.positions,
            cross_mask=self.source_mask,
            source_positions=self.source_positions,
        )

    def append(self, layer: int, new: KeysValues) -> KeysValues:
        """Store the keys and values of the newest positions; return all of this layer's target.

        A full buffer is copied into one of 1.5 times the size.
        """
        end = self.num_keys
        start = end - new.length
        buffer = self.target[layer]
        if start == 0:  # only now are the number of heads and their width known
            buffer = KeysValues(new.keys[:, :, :0], new.values[:, :, :0])
        if buffer.length < end:
            capacity = end + end // 2
            buffer = KeysValues(_enlarge(buffer.keys, capacity), _enlarge(buffer.values, capacity))
            self.target[layer] = buffer
        buffer.keys[:, :, start:end] = new.keys
        buffer.values[:, :, start:end] = new.values
        return KeysValues(buffer.keys[:, :, :end], buffer.values[:, :, :end])

    def reorder(self, beam_index: Tensor) -> None:
        """Replace beam j of sentence i by the old beam `beam_index[i, j]` of the same sentence.

        `beam_index` is long (batch, new_beam).
        """
        self.beam_mask = self.beam_mask.take_along_dim(beam_index[:, :, None], dim=1)
        if self.num_keys >= self.drop_threshold:
            self._drop_dead_keys()

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep only these rows of the current batch, in this order.

        Only rows that change places are copied: few, if the last ones fill the gaps.
        """
        device = self.beam_mask.device
        row_index = _index_tensor(rows, device)
        moves = [(row, place) for place, row in enumerate(rows) if row != place]
        move_from = _index_tensor([row for row, _ in moves], device)
        move_to = _index_tensor([place for _, place in moves], device)

        def keep_in_place(tensor: Tensor) -> Tensor:
            tensor.index_copy_(0, move_to, tensor.index_select(0, move_from))
            return tensor[: len(rows)]

        self.source = [
            KeysValues(keep_in_place(kv.keys), keep_in_place(kv.values)) for kv in self.source
        ]
        self.target = [
            KeysValues(keep_in_place(kv.keys), keep_in_place(kv.values)) for kv in self.target
        ]
        self.source_mask = self.source_mask[row_index]
        self.beam_mask = self.beam_mask[row_index]
        if len(self.positions) > 1:
            self.positions = self.positions[row_index]

    def _drop_dead_keys(self) -> None:
        """Drop keys that no beam uses.

        All sentences keep the same number of keys: as many as the sentence with the most live keys
        needs.
        """
        is_live = self.beam_mask.any(1)  # (batch, num_keys)
        num_kept = int(is_live.sum(1).max())
        # The live keys of each sentence in their order, then dead ones to fill up to `num_kept`.
        live_first = is_live.byte().argsort(dim=1, descending=True, stable=True)
        kept = live_first[:, :num_kept]  # (batch, num_kept)

        def select_keys(tensor: Tensor) -> Tensor:
            _, num_heads, _, head_dim = tensor.shape
            index = kept[:, None, :, None].expand(-1, num_heads, -1, head_dim)
            return tensor.gather(2, index)

        self.target = [
            KeysValues(select_keys(kv.keys), select_keys(kv.values)) for kv in self.target
        ]
        self.beam_mask = self.beam_mask.take_along_dim(kept[:, None], dim=2)
        self.positions = self.positions.expand(len(kept), -1).gather(1, kept)
        self.drop_threshold = max(MIN_KEYS_TO_DROP, 2 * num_kept)


def _enlarge(tensor: Tensor, capacity: int) -> Tensor:
    """Return a copy with a third dimension of `capacity`; the new part of it is undefined."""
    copy = tensor.new_empty(*tensor.shape[:2], capacity, tensor.size(3))
    copy[:, :, : tensor.size(2)] = tensor
    return copy


def _index_tensor(values: Sequence[int], device: torch.device) -> Tensor:
    """Return `values` as a long tensor on `device`, without waiting for the device."""
    return torch.tensor(values, dtype=torch.long).to(device, non_blocking=True)
