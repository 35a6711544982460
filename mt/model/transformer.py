"""The encoder-decoder Transformer (Vaswani et al. 2017), with the decoder's memory as an explicit value."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt.config import ModelConfig
from mt.errors import DataError
from mt.model.attention import KINDS, KeysValues
from mt.model.dropout import Dropout
from mt.model.linear import Linear, linear
from mt.model.positions import sinusoids

# Which table each role reads from: a tied weight is one parameter with one name.
TABLES = {
    "all": {"src": "shared", "tgt": "shared", "output": "shared"},
    "decoder": {"src": "src", "tgt": "tgt", "output": "tgt"},
    "none": {"src": "src", "tgt": "tgt", "output": "output"},
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class Memory(NamedTuple):
    """The encoded source."""

    states: Tensor  # (batch, src_length, d_model)
    mask: Tensor  # (batch, 1, 1, src_length) bool, True = a real token


class LayerCache(NamedTuple):
    """What one decoder layer remembers."""

    past: KeysValues  # of the target so far; rows = batch * beam
    memory: KeysValues  # of the source; rows = batch, shared by the beams of a sentence


@dataclass(frozen=True)
class DecoderCache:
    """All that decoding one more position needs: a value, replaced and never changed."""

    layers: tuple[LayerCache, ...]
    mask: Tensor  # (batch, 1, 1, src_length) bool
    length: int  # target positions decoded so far

    def reorder(self, beam_index: Tensor) -> "DecoderCache":
        """Beam j of sentence i goes on from beam `beam_index[i, j]` (long, (batch, new_beam)) of the same sentence."""
        batch_size = self.mask.size(0)
        beam = self.layers[0].past.keys.size(0) // batch_size
        first = torch.arange(0, batch_size * beam, beam, device=beam_index.device)
        rows = (first.unsqueeze(1) + beam_index).flatten()  # (batch * new_beam,)
        return self._replace(rows, None)

    def keep(self, sentences: Tensor) -> "DecoderCache":
        """Only the given sentences (long, (kept,)), in their order."""
        batch_size = self.mask.size(0)
        beam = self.layers[0].past.keys.size(0) // batch_size
        beams = torch.arange(beam, device=sentences.device)
        rows = (sentences.unsqueeze(1) * beam + beams).flatten()  # (kept * beam,)
        return self._replace(rows, sentences)

    def _replace(self, rows: Tensor, sentences: Tensor | None) -> "DecoderCache":
        layers = tuple(
            LayerCache(past.select(rows), memory if sentences is None else memory.select(sentences))
            for past, memory in self.layers
        )
        return DecoderCache(layers, self.mask if sentences is None else self.mask[sentences], self.length)


class Residual(nn.Module):
    """x + f(x), with layer normalisation before `f` (pre-norm, Xiong et al. 2020) or after the sum (post-norm)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.norm_first = config.norm == "pre"

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        summed: Tensor = x + self.dropout(sublayer(self.norm(x) if self.norm_first else x))
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
        output: Tensor = self.outer(self.dropout(self.activation(self.inner(x))))
        return output


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = KINDS[config.self_attention](config)
        self.feed_forward = FeedForward(config)
        self.attention_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        def attend(h: Tensor) -> Tensor:
            return self.attention(h, self.attention.keys_values(h, 0), mask, 0)

        x = self.attention_residual(x, attend)
        return self.feed_forward_residual(x, self.feed_forward)  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Self-attention to the target so far, cross-attention to the source, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = KINDS[config.self_attention](config)
        self.cross_attention = KINDS[config.cross_attention](config)
        self.feed_forward = FeedForward(config)
        self.self_residual = Residual(config)
        self.cross_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def start(self, memory: Tensor) -> LayerCache:
        """The cache before the first target position, for `memory` (batch, src_length, d_model)."""
        return LayerCache(
            self.self_attention.keys_values(memory[:, :0], 0), self.cross_attention.keys_values(memory, 0)
        )

    def forward(
        self, x: Tensor, cache: LayerCache, *, mask: Tensor, memory_mask: Tensor, start: int
    ) -> tuple[Tensor, LayerCache]:
        """`x` is (rows, length, d_model) at positions `start` and on; rows = batch * beam."""
        past = cache.past

        def attend_target(h: Tensor) -> Tensor:
            nonlocal past
            past = past.append(self.self_attention.keys_values(h, start))
            return self.self_attention(h, past, mask, start)

        def attend_source(h: Tensor) -> Tensor:
            # The beams of a sentence are more queries to the same keys: (batch, beam * length, d_model).
            folded = h.reshape(memory_mask.size(0), -1, h.size(-1))
            return self.cross_attention(folded, cache.memory, memory_mask, start).view(h.shape)

        x = self.self_residual(x, attend_target)
        x = self.cross_residual(x, attend_source)
        x = self.feed_forward_residual(x, self.feed_forward)
        return x, LayerCache(past, cache.memory)


class Transformer(nn.Module):
    """Encoder, decoder and embeddings; training is one long `decode` from an empty cache."""

    def __init__(self, config: ModelConfig, *, src_vocab_size: int, tgt_vocab_size: int, pad_id: int) -> None:
        super().__init__()
        self.pad_id = pad_id
        self.max_length = config.max_length  # most tokens of a sentence, eos included; None: any number
        self.roles = TABLES[config.tie_embeddings]
        sizes = {"src": src_vocab_size, "tgt": tgt_vocab_size, "output": tgt_vocab_size}
        assert config.tie_embeddings != "all" or src_vocab_size == tgt_vocab_size, (src_vocab_size, tgt_vocab_size)
        self.tables = nn.ParameterDict(
            {table: nn.Parameter(torch.empty(sizes[role], config.d_model)) for role, table in self.roles.items()}
        )
        self.dropout = Dropout(config.dropout if config.embedding_dropout is None else config.embedding_dropout)
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.decoder_layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        # Pre-norm leaves the last sum unnormalised.
        self.encoder_norm = nn.LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()
        if not self.output_table.is_meta:  # no number is kept there; to draw one imports torch._dynamo, for a second
            self._initialise()

    def encode(self, src: Tensor) -> Memory:
        """`src` is long (batch, src_length), padded with pad_id."""
        mask = (src != self.pad_id)[:, None, None, :]  # (batch, 1, 1, src_length)
        x = self._embed(src, "src", 0)
        for layer in self.encoder_layers:
            x = layer(x, mask)
        return Memory(self.encoder_norm(x), mask)

    def start(self, memory: Memory) -> DecoderCache:
        """The cache before the first target position: the source projected once for every layer."""
        layers = tuple(layer.start(memory.states) for layer in self._decoder())
        return DecoderCache(layers, memory.mask, 0)

    def decode(self, tgt: Tensor, cache: DecoderCache) -> tuple[Tensor, DecoderCache]:
        """States (rows, length, d_model) of `tgt` (rows, length), which goes on where `cache` ends.

        rows = batch * beam.
        Padding may stand at the end of a row only, where no real position looks at it.
        """
        start, end = cache.length, cache.length + tgt.size(1)
        mask = torch.ones(tgt.size(1), end, dtype=torch.bool, device=tgt.device).tril(start)  # (length, end)
        x = self._embed(tgt, "tgt", start)
        layers = []
        for layer, layer_cache in zip(self._decoder(), cache.layers, strict=True):
            x, layer_cache = layer(x, layer_cache, mask=mask, memory_mask=cache.mask, start=start)
            layers.append(layer_cache)
        return self.decoder_norm(x), DecoderCache(tuple(layers), cache.mask, end)

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
        table: Tensor = self.tables[self.roles["output"]]
        return table

    def _decoder(self) -> list[DecoderLayer]:
        return list(self.decoder_layers)  # type: ignore[arg-type]  # a ModuleList forgets what it holds

    def _embed(self, ids: Tensor, role: str, start: int) -> Tensor:
        """(rows, length) -> (rows, length, d_model). Raises DataError for positions that the model does not have."""
        if self.max_length is not None and start + ids.size(1) > self.max_length:
            side = {"src": "source", "tgt": "target"}[role]
            raise DataError(
                f"a {side} sentence has {start + ids.size(1)} tokens, but the model's dense_synthesizer has weights "
                f"for {self.max_length} positions (model.max_length)"
            )
        table = self.tables[self.roles[role]]
        d_model = table.size(1)
        x = F.embedding(ids, table) * math.sqrt(d_model)
        embedded: Tensor = self.dropout(x + sinusoids(start, ids.size(1), d_model, device=ids.device))
        return embedded

    def _initialise(self) -> None:
        """Glorot and Bengio (2010) for weights, zero for biases; embeddings of unit variance once scaled up."""
        for table in self.tables.values():
            nn.init.normal_(table, std=table.size(1) ** -0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
