"""Kinds of attention with one interface, so that the Transformer does not depend on the kind.

Shapes: rows = sentences of a batch, head_dim = d_model / num_heads.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.kernels.additive import additive_scores
from mt.kernels.attention import attention_weights, dot_product_attention, masked_softmax
from mt.kernels.linear import linear
from mt.model.kv_cache import KeysValues
from mt.model.layers import Dropout, Linear
from mt.model.positions import sinusoids


class Attention(nn.Module, ABC):
    """Attention layer: each query position gets a weighted sum of values.

    The weights of a query sum to one over the keys that `mask` lets it attend to.

    `x` is (rows, query_length, d_model). `mask` is bool, True = may attend, and broadcasts to
    (rows, 1, query_length, key_length). `positions` is long (rows or 1, key_length) and holds the
    position of each key in its sentence. A kind of attention that uses positions assumes that the
    queries are the last key positions.
    """

    __call__: Callable[..., Tensor]  # what `forward` returns, which nn.Module does not say

    @abstractmethod
    def keys_values(self, memory: Tensor, positions: Tensor) -> KeysValues:
        """Project `memory` (rows, key_length, d_model) once, for any number of queries."""

    @abstractmethod
    def forward(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        """Return the output (rows, query_length, d_model)."""

    @abstractmethod
    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        """Return the weights (rows, num_heads, query_length, key_length), without dropout."""


class QueryKeyAttention(Attention):
    """Base class for attention that compares queries with keys; subclasses define `weights`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = Linear(config.d_model, config.d_model)
        self.key_value = Linear(config.d_model, 2 * config.d_model)
        self.output = Linear(config.d_model, config.d_model)
        self.dropout = Dropout(config.attention_dropout)

    def queries(self, x: Tensor) -> Tensor:
        """Return the queries (rows, num_heads, query_length, head_dim)."""
        return split_heads(self.query(x), self.num_heads)

    def keys_values(self, memory: Tensor, positions: Tensor) -> KeysValues:
        keys, values = self.key_value(memory).chunk(2, dim=-1)
        return KeysValues(split_heads(keys, self.num_heads), split_heads(values, self.num_heads))

    def forward(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        weights = self.dropout(self.weights(x, kv, mask, positions))
        output: Tensor = self.output(join_heads(weighted_sum(weights, kv.values)))
        return output


class DotProductAttention(QueryKeyAttention):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        # Start with the range that the rows of one matrix (3 * d_model, d_model) for queries, keys
        # and values would have, as in PyTorch's nn.MultiheadAttention.
        self.query.gain = math.sqrt(1 / 2)
        self.key_value.gain = math.sqrt(3 / 4)

    def forward(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        context = dot_product_attention(
            self.queries(x), kv.keys, kv.values, mask, dropout=self.dropout.rate
        )
        output: Tensor = self.output(join_heads(context))
        return output

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        return attention_weights(self.queries(x), kv.keys, mask)


class AdditiveAttention(QueryKeyAttention):
    """Additive attention: a layer of tanh scores each pair of query and key, here in several heads.

    See Bahdanau et al. (2015), appendix A.1.2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        head_dim = config.d_model // config.num_heads
        initial_score = torch.empty(config.num_heads, head_dim).normal_(std=head_dim**-0.5)
        self.score = nn.Parameter(initial_score)  # the vector v of the paper, one for each head

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        return masked_softmax(additive_scores(self.queries(x), kv.keys, self.score), mask)


class DenseSynthesizerAttention(Attention):
    """Dense Synthesizer: a query's weights come from its own state and position, not from any key.

    With e the state of a word and PE the sinusoids of its position:

        h = ReLU(W_e e + W_p PE)
        weights = softmax(W_o h) over the positions that the mask lets the word attend to
        values = W_c (e + PE)

    This is section 3 of Tay et al. (2021), with position encodings added in every layer. W_o has a
    row for each head and each of `max_length` positions, so longer sentences are not possible.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.max_length is not None, config
        d_model = config.d_model
        self.num_heads = config.num_heads
        self.max_length = config.max_length
        self.word = Linear(d_model, d_model)
        self.position = Linear(d_model, d_model, bias=False)
        self.score = Linear(d_model, self.num_heads * self.max_length)
        self.value = Linear(d_model, d_model)
        self.output = Linear(d_model, d_model)
        self.dropout = Dropout(config.attention_dropout)

    def keys_values(self, memory: Tensor, positions: Tensor) -> KeysValues:
        encodings = self._position_encodings(positions, like=memory)
        values = split_heads(self.value(memory + encodings), self.num_heads)
        no_keys = values[..., :0]
        return KeysValues(no_keys, values)

    def forward(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        weights = self.dropout(self.weights(x, kv, mask, positions))
        output: Tensor = self.output(join_heads(weighted_sum(weights, kv.values)))
        return output

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        query_positions = positions[:, -x.size(1) :]
        encodings = self._position_encodings(query_positions, like=x)
        hidden = F.relu(self.word(x) + self.position(encodings))

        # Score only the positions that occur: each is less than the number of keys.
        length = min(kv.length, self.max_length)
        d_model = self.score.weight.size(1)
        all_weights = self.score.weight.view(self.num_heads, self.max_length, d_model)
        all_biases = self.score.bias.view(self.num_heads, self.max_length)
        weight = all_weights[:, :length].flatten(0, 1)  # (num_heads * length, d_model)
        bias = all_biases[:, :length].flatten()
        position_scores = split_heads(linear(hidden, weight, bias), self.num_heads)

        # (rows, num_heads, query_length, length), by position -> (..., key_length), by key.
        index = positions[:, None, None].expand(*position_scores.shape[:3], -1)
        return masked_softmax(position_scores.gather(3, index), mask)

    def _position_encodings(self, positions: Tensor, *, like: Tensor) -> Tensor:
        """Return sinusoids (rows or 1, length, d_model) of `positions`, in the dtype of `like`."""
        return sinusoids(positions, like.size(2)).to(like.dtype)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Reshape (rows, length, num_heads * width) to (rows, num_heads, length, width)."""
    return x.view(*x.shape[:-1], num_heads, x.size(-1) // num_heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Reshape (rows, num_heads, length, head_dim) to (rows, length, d_model)."""
    return x.transpose(1, 2).flatten(2)


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Return weights @ values, computed in the dtype of `values`."""
    return weights.to(values.dtype) @ values


ATTENTION_KINDS: dict[str, type[Attention]] = {
    "dot_product": DotProductAttention,
    "additive": AdditiveAttention,
    "dense_synthesizer": DenseSynthesizerAttention,
}
