"""The encoder-decoder Transformer (Vaswani et al. 2017), with what the decoder remembers as an explicit value."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.errors import DataError
from mt.kernels.dropout import Dropout
from mt.kernels.feed_forward import feed_forward
from mt.kernels.linear import Linear, cast_for_autocast, linear, use_cpu_kernel
from mt.model.attention import ATTENTION_KINDS
from mt.model.kv_cache import AttentionMasks, DecoderCache, KeysValues, KVBuffer, LayerCache
from mt.model.positions import sinusoids

# Which table each role reads from: a tied weight is one parameter with one name.
EMBEDDING_TYING = {
    "all": {"src": "shared", "tgt": "shared", "output": "shared"},
    "decoder": {"src": "src", "tgt": "tgt", "output": "tgt"},
    "none": {"src": "src", "tgt": "tgt", "output": "output"},
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class Memory(NamedTuple):
    """The encoded source."""

    states: Tensor  # (batch, src_length, d_model)
    mask: Tensor  # (batch, 1, 1, src_length) bool, True = a real token


class Residual(nn.Module):
    """x + f(x), with layer normalisation before `f` (pre-norm, Xiong et al. 2020) or after the sum (post-norm)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.norm_first = config.norm == "pre"

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        change: Tensor = self.dropout(
            sublayer(cast_for_autocast(self.norm(x) if self.norm_first else x))
        )
        # A CPU would make a mixed sum from a copy of the change, and so two new tensors.
        summed = change.to(x.dtype).add_(x) if x.is_cpu and change.dtype != x.dtype else x + change
        return summed if self.norm_first else self.norm(summed)


class FeedForward(nn.Module):
    """Two linear layers applied to each position alone (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.inner = Linear(config.d_model, config.d_ff)
        self.outer = Linear(config.d_ff, config.d_model)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        if self.activation is F.relu and use_cpu_kernel(x):
            return feed_forward(x, self.inner, self.outer, dropout=self.dropout.rate)
        return self.outer(self.dropout(self.activation(self.inner(x))))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = ATTENTION_KINDS[config.self_attention](config)
        self.feed_forward = FeedForward(config)
        self.attention_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, x: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        def attend(h: Tensor) -> Tensor:
            return self.attention(h, self.attention.keys_values(h, positions), mask, positions)

        x = self.attention_residual(x, attend)
        return self.feed_forward_residual(x, self.feed_forward)  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Self-attention to the target so far, cross-attention to the source, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = ATTENTION_KINDS[config.self_attention](config)
        self.cross_attention = ATTENTION_KINDS[config.cross_attention](config)
        self.feed_forward = FeedForward(config)
        self.self_residual = Residual(config)
        self.cross_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def start(self, memory: Tensor, positions: Tensor) -> LayerCache:
        """The cache before the first target position, for `memory` (batch, src_length, d_model)."""
        nothing = self.self_attention.keys_values(memory[:, :0], positions[:, :0])
        keys, values = self.cross_attention.keys_values(memory, positions)
        # Laid out once as they are read at every step.
        return LayerCache(KVBuffer.of(nothing), KeysValues(keys.contiguous(), values.contiguous()))

    def forward(
        self, x: Tensor, cache: LayerCache, sight: AttentionMasks
    ) -> tuple[Tensor, LayerCache]:
        """`x` is (batch, num_queries, d_model): the beams of a sentence are more queries to the same keys."""
        past = cache.past

        def attend_target(h: Tensor) -> Tensor:
            nonlocal past
            past = past.append(
                self.self_attention.keys_values(h, sight.target_positions[:, -h.size(1) :])
            )
            return self.self_attention(h, past.seen, sight.target, sight.target_positions)

        def attend_source(h: Tensor) -> Tensor:
            return self.cross_attention(h, cache.source, sight.source, sight.source_positions)

        x = self.self_residual(x, attend_target)
        x = self.cross_residual(x, attend_source)
        x = self.feed_forward_residual(x, self.feed_forward)
        return x, LayerCache(past, cache.source)


class Transformer(nn.Module):
    """Encoder, decoder and embeddings; training is one long `decode` from an empty cache."""

    def __init__(
        self, config: ModelConfig, *, src_vocab_size: int, tgt_vocab_size: int, pad_id: int
    ) -> None:
        super().__init__()
        self.pad_id = pad_id
        self.max_length = (
            config.max_length
        )  # most tokens of a sentence, eos included; None: any number
        self.roles = EMBEDDING_TYING[config.tie_embeddings]
        sizes = {"src": src_vocab_size, "tgt": tgt_vocab_size, "output": tgt_vocab_size}
        assert config.tie_embeddings != "all" or src_vocab_size == tgt_vocab_size, (
            src_vocab_size,
            tgt_vocab_size,
        )
        self.embeddings = nn.ParameterDict(
            {
                table: nn.Parameter(torch.empty(sizes[role], config.d_model))
                for role, table in self.roles.items()
            }
        )
        self.dropout = Dropout(
            config.dropout if config.embedding_dropout is None else config.embedding_dropout
        )
        self.encoder_layers = nn.ModuleList(
            EncoderLayer(config) for _ in range(config.num_encoder_layers)
        )
        self.decoder_layers = nn.ModuleList(
            DecoderLayer(config) for _ in range(config.num_decoder_layers)
        )
        # Pre-norm leaves the last sum unnormalised.
        self.encoder_norm = nn.LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()
        if (
            not self.output_table.is_meta
        ):  # no number is kept there; to draw one imports torch._dynamo, for a second
            self._initialise()

    def encode(self, src: Tensor) -> Memory:
        """`src` is long (batch, src_length), padded with pad_id."""
        self._require_positions("source", src.size(1))
        mask = (src != self.pad_id)[:, None, None, :]  # (batch, 1, 1, src_length)
        positions = torch.arange(src.size(1), device=src.device)[None]
        x = self._embed(src, "src", positions)
        for layer in self.encoder_layers:
            x = layer(x, mask, positions)
        return Memory(cast_for_autocast(self.encoder_norm(x)), mask)

    def start(self, memory: Memory) -> DecoderCache:
        """The cache before the first target position: the source projected once for every layer."""
        positions = torch.arange(memory.states.size(1), device=memory.states.device)[None]
        layers = tuple(layer.start(memory.states, positions) for layer in self._decoder())
        return DecoderCache.start(layers, memory.mask)

    def decode(self, tgt: Tensor, cache: DecoderCache) -> tuple[Tensor, DecoderCache]:
        """States (batch * beam, length, d_model) of `tgt` (batch * beam, length), which goes on where `cache` ends.

        Padding may stand at the end of a row only, where no real position looks at it.
        """
        self._require_positions("target", cache.length + tgt.size(1))
        sight = cache.sight(tgt.size(1))
        # The beams of a sentence are more queries to the same keys: (batch, beam * length, d_model).
        queries = tgt.reshape(sight.source.size(0), sight.target.size(2))
        x = self._embed(queries, "tgt", sight.target_positions[:, -queries.size(1) :])
        layers = []
        for layer, layer_cache in zip(self._decoder(), cache.layers, strict=True):
            x, layer_cache = layer(x, layer_cache, sight)
            layers.append(layer_cache)
        states = self.decoder_norm(x).view(*tgt.shape, -1)
        return states, cache.after(sight, tuple(layers))

    def logits(self, states: Tensor) -> Tensor:
        """(..., d_model) -> (..., tgt_vocab_size)"""
        return linear(states, self.output_table)

    def forward(self, src: Tensor, tgt_in: Tensor) -> Tensor:
        """States (batch, tgt_length, d_model) for every target position, each seeing only those before it."""
        states, _ = self.decode(tgt_in, self.start(self.encode(src)))
        return states

    @property
    def output_table(self) -> Tensor:
        """The weight (tgt_vocab_size, d_model) that turns states into logits."""
        table: Tensor = self.embeddings[self.roles["output"]]
        return table

    def _decoder(self) -> list[DecoderLayer]:
        return list(self.decoder_layers)  # type: ignore[arg-type]  # a ModuleList forgets what it holds

    def _embed(self, ids: Tensor, role: str, positions: Tensor) -> Tensor:
        """(rows, length) at `positions` (rows or 1, length) -> (rows, length, d_model)."""
        table = self.embeddings[self.roles[role]]
        x = F.embedding(ids, table) * math.sqrt(table.size(1))
        embedded: Tensor = self.dropout(x + sinusoids(positions, table.size(1)))
        return embedded

    def _require_positions(self, side: str, length: int) -> None:
        """Raises DataError for a sentence of more tokens than the model has weights for."""
        if self.max_length is not None and length > self.max_length:
            known = f"the model's dense_synthesizer has weights for {self.max_length} positions (model.max_length)"
            raise DataError(f"a {side} sentence has {length} tokens, but {known}")

    def _initialise(self) -> None:
        """Glorot and Bengio (2010) for weights, zero for biases; embeddings of unit variance once scaled up."""
        for table in self.embeddings.values():
            nn.init.normal_(table, std=table.size(1) ** -0.5)
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.xavier_uniform_(module.weight, gain=module.gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
