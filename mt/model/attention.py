"""Kinds of attention with one interface, so that the Transformer does not depend on the kind.

Shapes: rows = sentences of a batch, head_dim = d_model / num_heads.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.kernels.additive import additive_scores
from mt.kernels.attention import dot_product_attention
from mt.kernels.dropout import Dropout
from mt.kernels.linear import Linear, use_cpu_kernel
from mt.model.kv_cache import KeysValues
from mt.model.positions import sinusoids


class Attention(Protocol):
    """Attention layer: each query position gets a weighted sum of values.

    The weights of a query sum to one over the keys that `mask` lets it attend to.

    `x` is (rows, query_length, d_model). `mask` is bool, True = may attend, and broadcasts to
    (rows, 1, query_length, key_length). `positions` is long (rows or 1, key_length) and holds the
    position of each key in its sentence. A kind of attention that uses positions takes the queries
    to be the last of the keys.
    """

    def keys_values(self, memory: Tensor, positions: Tensor) -> KeysValues:
        """Project `memory` (rows, key_length, d_model) once, for any number of queries."""

    def __call__(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        """Return the output (rows, query_length, d_model)."""

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        """Return the weights (rows, num_heads, query_length, key_length), without dropout."""


class QueryKeyAttention(nn.Module):
    """Base class for attention that compares queries with keys; subclasses define `weights`."""

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
        weights = self.dropout(self.weights(x, kv, mask, positions))
        output: Tensor = self.output(join_heads(weights @ kv.values))
        return output

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        raise NotImplementedError


class DotProductAttention(QueryKeyAttention):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        # Start with the range that the rows of one matrix (3 * d_model, d_model) for queries, keys
        # and values would have, as in PyTorch's nn.MultiheadAttention.
        self.query.gain = math.sqrt(1 / 2)
        self.key_value.gain = math.sqrt(3 / 4)

    def forward(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        if not x.is_cuda and not use_cpu_kernel(x):
            return super().forward(x, kv, mask, positions)
        queries = split_heads(self.query(x), self.num_heads)
        if x.is_cuda:
            context = F.scaled_dot_product_attention(
                queries, kv.keys, kv.values, attn_mask=mask, dropout_p=self.dropout.rate
            )
        else:
            context = dot_product_attention(
                queries, kv.keys, kv.values, mask, dropout=self.dropout.rate
            )
        output: Tensor = self.output(join_heads(context))
        return output

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        queries = split_heads(self.query(x), self.num_heads)
        head_dim = queries.size(-1)
        scores = (queries / math.sqrt(head_dim)) @ kv.keys.transpose(-2, -1)
        return masked_softmax(scores, mask)


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
        queries = split_heads(self.query(x), self.num_heads)
        return masked_softmax(additive_scores(queries, kv.keys, self.score), mask)


class DenseSynthesizerAttention(nn.Module):
    """Dense Synthesizer: a query's weights come from its own state and position, not from any key.

    With e the state of a word and PE the sinusoids of its position:

        h = ReLU(W_e e + W_p PE)
        weights = softmax(W_o h) over the positions that the mask lets the word attend to
        values = W_c (e + PE)

    This is section 3 of Tay et al. (2021), with positions read in every layer. W_o has a row for
    each head and each of `max_length` positions, so longer sentences are not possible.
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
        output: Tensor = self.output(join_heads(weights @ kv.values))
        return output

    def weights(self, x: Tensor, kv: KeysValues, mask: Tensor, positions: Tensor) -> Tensor:
        query_positions = positions[:, -x.size(1) :]
        encodings = self._position_encodings(query_positions, like=x)
        hidden = F.relu(self.word(x) + self.position(encodings))

        # Score the positions that occur only: none of them is greater than the number of keys.
        length = min(kv.length, self.max_length)
        d_model = self.score.weight.size(1)
        all_weights = self.score.weight.view(self.num_heads, self.max_length, d_model)
        all_biases = self.score.bias.view(self.num_heads, self.max_length)
        weight = all_weights[:, :length].flatten(0, 1)  # (num_heads * length, d_model)
        bias = all_biases[:, :length].flatten()
        position_scores = split_heads(F.linear(hidden, weight, bias), self.num_heads)

        # (rows, num_heads, query_length, length), by position -> (..., key_length), by key.
        index = positions[:, None, None].expand(*position_scores.shape[:3], -1)
        return masked_softmax(position_scores.gather(3, index), mask)

    def _position_encodings(self, positions: Tensor, *, like: Tensor) -> Tensor:
        """Return sinusoids (rows or 1, length, d_model) of `positions`, in the dtype of `like`."""
        # On a GPU the check would wait for the device, and `gather` reports a bad index there.
        if not positions.is_cuda and not torch.compiler.is_compiling():
            in_range = bool((positions < self.max_length).all())
            assert in_range, (positions, self.max_length)
        return sinusoids(positions, like.size(2)).to(like.dtype)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Reshape (rows, length, num_heads * width) to (rows, num_heads, length, width)."""
    return x.view(*x.shape[:-1], num_heads, x.size(-1) // num_heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Reshape (rows, num_heads, length, head_dim) to (rows, length, d_model)."""
    return x.transpose(1, 2).flatten(2)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Return weights that sum to one over the last dimension and are zero where `mask` is False."""
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1)


ATTENTION_KINDS: dict[str, Callable[[ModelConfig], Attention]] = {
    "dot_product": DotProductAttention,
    "additive": AdditiveAttention,
    "dense_synthesizer": DenseSynthesizerAttention,
}
