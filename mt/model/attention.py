"""The kinds of attention, behind one Protocol, so that the Transformer need not know which it has."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt.model.dropout import Dropout


class KeysValues(NamedTuple):
    """What may be attended to, projected once: all that an attention needs to remember of it."""

    keys: Tensor  # (rows, num_heads, key_length, head_dim)
    values: Tensor  # (rows, num_heads, key_length, head_dim)

    def append(self, new: "KeysValues") -> "KeysValues":
        """These positions, then the `new` ones."""
        if self.keys.size(2) == 0:
            return new
        return KeysValues(torch.cat((self.keys, new.keys), dim=2), torch.cat((self.values, new.values), dim=2))

    def select(self, rows: Tensor) -> "KeysValues":
        """The given rows (long, (rows_out,)), in their order."""
        return KeysValues(self.keys.index_select(0, rows), self.values.index_select(0, rows))


class Attention(Protocol):
    """Each query position takes a weighted sum of values, its weights summing to one over what `mask` lets it see.

    `x` is (rows, query_length, d_model), `mask` is bool and broadcasts to (rows, 1, query_length, key_length),
    True = may attend; `start` is the absolute position of the first query or key given.
    """

    def keys_values(self, memory: Tensor, start: int) -> KeysValues:
        """Project `memory` (rows, key_length, d_model) once, for any number of queries."""

    def __call__(self, x: Tensor, kv: KeysValues, mask: Tensor, start: int) -> Tensor:
        """(rows, query_length, d_model)"""

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, start: int) -> Tensor:
        """(rows, num_heads, query_length, key_length), without dropout: to be looked at."""


class DotProductAttention(nn.Module):
    """Softmax of scaled query-key similarity, in several heads at once (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, d_model: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.output = nn.Linear(d_model, d_model)
        self.dropout = Dropout(dropout)

    def keys_values(self, memory: Tensor, start: int) -> KeysValues:
        keys, values = self.key_value(memory).chunk(2, dim=-1)
        return KeysValues(self._split(keys), self._split(values))

    def forward(self, x: Tensor, kv: KeysValues, mask: Tensor, start: int) -> Tensor:
        queries = self._split(self.query(x))  # (rows, num_heads, query_length, head_dim)
        if x.is_cuda:
            dropout = self.dropout.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(queries, *kv, attn_mask=mask, dropout_p=dropout)
        else:  # written out: on a CPU the fused kernel takes twice the time in fp32 and seven times in bf16
            mixed = self.dropout(_similarity_weights(queries, kv.keys, mask)) @ kv.values
        # (rows, num_heads, query_length, head_dim) -> (rows, query_length, d_model)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, start: int) -> Tensor:
        return _similarity_weights(self._split(self.query(x)), kv.keys, mask)

    def _split(self, x: Tensor) -> Tensor:
        """(rows, length, d_model) -> (rows, num_heads, length, head_dim)"""
        return x.view(*x.shape[:-1], self.num_heads, x.size(-1) // self.num_heads).transpose(1, 2)


def _similarity_weights(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(head_dim)) over the keys that `mask` allows: (rows, num_heads, query_length, key_length)"""
    scores = (queries / math.sqrt(queries.size(-1))) @ keys.transpose(-2, -1)
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1)


KINDS: dict[str, Callable[..., Attention]] = {"dot_product": DotProductAttention}
