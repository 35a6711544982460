"""The kinds of attention, behind one Protocol, so that the Transformer need not know which it has."""

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.kernels.additive import additive_scores
from mt.kernels.attention import attend
from mt.kernels.dropout import Dropout
from mt.kernels.linear import Linear, use_cpu_kernel
from mt.model.kv_cache import KeysValues
from mt.model.positions import sinusoids


class Attention(Protocol):
    """Each query position takes a weighted sum of values, its weights summing to one over what `mask` lets it see.

    `x` is (rows, query_length, d_model), `mask` is bool and broadcasts to (rows, 1, query_length, key_length),
    True = may attend. `positions` (rows or 1, key_length) is long and tells where each key stands; an attention that
    makes use of it takes the queries for the last of the keys.
    """

    def keys_values(self, memory: Tensor, positions: Tensor) -> KeysValues:
        """Project `memory` (rows, key_length, d_model) once, for any number of queries."""

    def __call__(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        """(rows, query_length, d_model)"""

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        """(rows, num_heads, query_length, key_length), without dropout: to be looked at."""


class QueryKeyAttention(nn.Module):
    """What those kinds have in common that compare queries with keys; each has `weights` of its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = Linear(config.d_model, config.d_model)
        self.key_value = Linear(config.d_model, 2 * config.d_model)
        self.output = Linear(config.d_model, config.d_model)
        self.dropout = Dropout(config.attention_dropout)

    def keys_values(self, memory: Tensor, positions: Tensor) -> KeysValues:
        keys, values = self.key_value(memory).chunk(2, dim=-1)
        return KeysValues(split_heads(keys, self.num_heads), split_heads(values, self.num_heads))

    def forward(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        mixed = self.dropout(self.weights(x, kv, mask, positions)) @ kv.values
        return self.output(join_heads(mixed))  # type: ignore[no-any-return]

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        raise NotImplementedError


class DotProductAttention(QueryKeyAttention):
    """Softmax of scaled query-key similarity, in several heads at once (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.query.gain, self.key_value.gain = (
            math.sqrt(1 / 2),
            math.sqrt(3 / 4),
        )  # as rows of one matrix of all three

    def forward(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        if x.is_cuda:
            queries = split_heads(
                self.query(x), self.num_heads
            )  # (rows, num_heads, query_length, head_dim)
            mixed = F.scaled_dot_product_attention(
                queries, *kv, attn_mask=mask, dropout_p=self.dropout.rate
            )
        elif use_cpu_kernel(
            x
        ):  # where the fused kernel takes twice the time in fp32 and seven times in bf16
            mixed = attend(
                split_heads(self.query(x), self.num_heads), *kv, mask, dropout=self.dropout.rate
            )
        else:
            return super().forward(x, kv, mask, positions)
        return self.output(join_heads(mixed))  # type: ignore[no-any-return]

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        queries = split_heads(
            self.query(x), self.num_heads
        )  # (rows, num_heads, query_length, head_dim)
        return masked_softmax(
            (queries / math.sqrt(queries.size(-1))) @ kv.keys.transpose(-2, -1), mask
        )


class AdditiveAttention(QueryKeyAttention):
    """A layer of tanh scores each query with each key (Bahdanau et al. 2015, appendix A.1.2), here in several heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        head_dim = config.d_model // config.num_heads
        self.score = nn.Parameter(
            torch.empty(config.num_heads, head_dim).normal_(std=head_dim**-0.5)
        )  # the paper's v

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        queries = split_heads(
            self.query(x), self.num_heads
        )  # (rows, num_heads, query_length, head_dim)
        return masked_softmax(additive_scores(queries, kv.keys, self.score), mask)


class DenseSynthesizerAttention(nn.Module):
    """Each word says from itself and its place how much it weighs every position; no query ever meets a key.

    With e a word and PE the sinusoids of its position: h = ReLU(W_e e + W_p PE), weights = softmax(W_o h) over the
    positions that may be seen, values = W_c (e + PE). It is the Dense Synthesizer of Tay et al. (2021), section 3, with
    positions read in every layer. W_o has rows for `max_length` positions, and there are no others.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.max_length is not None, config
        d_model, self.num_heads, self.max_length = (
            config.d_model,
            config.num_heads,
            config.max_length,
        )
        self.word = Linear(d_model, d_model)
        self.position = Linear(d_model, d_model, bias=False)
        self.score = Linear(d_model, self.num_heads * self.max_length)
        self.value = Linear(d_model, d_model)
        self.output = Linear(d_model, d_model)
        self.dropout = Dropout(config.attention_dropout)

    def keys_values(self, memory: Tensor, positions: Tensor) -> KeysValues:
        values = split_heads(self.value(memory + self._encoded(positions, memory)), self.num_heads)
        return KeysValues(values[..., :0], values)

    def forward(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        mixed = self.dropout(self.weights(x, kv, mask, positions)) @ kv.values
        return self.output(join_heads(mixed))  # type: ignore[no-any-return]

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        hidden = F.relu(self.word(x) + self.position(self._encoded(positions[:, -x.size(1) :], x)))
        # W_o has a row for each head and position; that of a key is not beyond the number of keys.
        num_heads, length = self.num_heads, min(kv.length, self.max_length)
        weight = self.score.weight.view(num_heads, self.max_length, -1)[:, :length].flatten(0, 1)
        bias = self.score.bias.view(num_heads, self.max_length)[:, :length].flatten()
        scores = split_heads(
            F.linear(hidden, weight, bias), num_heads
        )  # (rows, num_heads, query_length, length)
        index = positions[:, None, None].expand(*scores.shape[:3], -1)
        return masked_softmax(scores.gather(3, index), mask)

    def _encoded(self, positions: Tensor, x: Tensor) -> Tensor:
        """`positions` (rows or 1, length) as sinusoids (rows or 1, length, d_model), in the format of `x`."""
        # A GPU would have to be waited for, and says itself which index it lacks.
        unseen = positions.is_cuda or torch.compiler.is_compiling()
        assert unseen or bool((positions < self.max_length).all()), (positions, self.max_length)
        return sinusoids(positions, x.size(2)).to(x.dtype)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(rows, length, num_heads * width) -> (rows, num_heads, length, width)"""
    return x.view(*x.shape[:-1], num_heads, x.size(-1) // num_heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(rows, num_heads, length, head_dim) -> (rows, length, d_model)"""
    return x.transpose(1, 2).flatten(2)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Weights that sum to one over the last dimension, and are zero where `mask` is False."""
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1)


ATTENTION_KINDS: dict[str, Callable[[ModelConfig], Attention]] = {
    "dot_product": DotProductAttention,
    "additive": AdditiveAttention,
    "dense_synthesizer": DenseSynthesizerAttention,
}
