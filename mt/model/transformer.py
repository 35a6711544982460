"""Encoder-decoder Transformer (Vaswani et al. 2017).

`forward` computes all target positions at once, for training. For translation, `start` makes a KV
cache and `decode` computes the next positions with it; the states are the same.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.errors import DataError
from mt.kernels.linear import linear
from mt.model.attention import ATTENTION_KINDS
from mt.model.feed_forward import build_feed_forward
from mt.model.kv_cache import AttentionMasks, KeysValues, KVCache
from mt.model.layers import NORM_KINDS, Dropout, Linear, drop_tokens
from mt.model.positions import sinusoids

# The name of the embedding matrix for each role. Roles with the same name share one parameter.
EMBEDDING_TYING = {
    "all": {"src": "shared", "tgt": "shared", "output": "shared"},
    "decoder": {"src": "src", "tgt": "tgt", "output": "tgt"},
    "none": {"src": "src", "tgt": "tgt", "output": "output"},
}


class Memory(NamedTuple):
    """The encoded source."""

    states: Tensor  # (batch, src_length, d_model)
    mask: Tensor  # bool (batch, 1, 1, src_length), True = a real token


class Residual(nn.Module):
    """Residual connection with a norm: x + dropout(sublayer(x)).

    Pre-norm normalizes the input of the sublayer (Xiong et al. 2020), post-norm the sum. Norm and
    sum are float32; the sublayer computes in `compute_dtype`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = NORM_KINDS[config.norm_kind](config.d_model)
        self.dropout = Dropout(config.dropout)
        self.norm_first = config.norm == "pre"
        self.compute_dtype = torch.float32

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        sublayer_input = self.norm(x) if self.norm_first else x
        sublayer_output: Tensor = self.dropout(sublayer(sublayer_input.to(self.compute_dtype)))
        residual_sum = x + sublayer_output
        return residual_sum if self.norm_first else self.norm(residual_sum)


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = ATTENTION_KINDS[config.self_attention](config)
        self.feed_forward = build_feed_forward(config)
        self.attention_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, x: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Return the next states; `x` is (batch, src_length, d_model)."""

        def attend(h: Tensor) -> Tensor:
            kv = self.attention.keys_values(h, positions)
            return self.attention(h, kv, mask, positions)

        x = self.attention_residual(x, attend)
        output: Tensor = self.feed_forward_residual(x, self.feed_forward)
        return output


class DecoderLayer(nn.Module):
    """Self-attention to the target so far, cross-attention to the source, then feed-forward.

    `index` is the number of the layer in the decoder, counted from 0.
    """

    def __init__(self, config: ModelConfig, *, index: int) -> None:
        super().__init__()
        self.index = index
        self.self_attention = ATTENTION_KINDS[config.self_attention](config)
        self.cross_attention = ATTENTION_KINDS[config.cross_attention](config)
        self.feed_forward = build_feed_forward(config)
        self.self_residual = Residual(config)
        self.cross_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def project_source(self, memory: Tensor, positions: Tensor) -> KeysValues:
        """Return the keys and values of the encoded source for cross-attention.

        `memory` is (batch, src_length, d_model), `positions` is (1, src_length).
        """
        keys, values = self.cross_attention.keys_values(memory, positions)
        # Contiguous, because every decoding step reads them.
        return KeysValues(keys.contiguous(), values.contiguous())

    def forward(
        self, x: Tensor, source: KeysValues, masks: AttentionMasks, cache: KVCache | None = None
    ) -> Tensor:
        """Return the next states; `x` is (batch, num_queries, d_model).

        `source` is what `project_source` returned. With a cache, `x` continues the target in it:
        the queries attend to its keys too, and their own keys and values are added to it.
        """

        def attend_to_target(h: Tensor) -> Tensor:
            target = self.self_attention.keys_values(h, masks.query_positions)
            if cache is not None:
                target = cache.append(self.index, target)
            return self.self_attention(h, target, masks.self_mask, masks.target_positions)

        def attend_to_source(h: Tensor) -> Tensor:
            return self.cross_attention(h, source, masks.cross_mask, masks.source_positions)

        x = self.self_residual(x, attend_to_target)
        x = self.cross_residual(x, attend_to_source)
        output: Tensor = self.feed_forward_residual(x, self.feed_forward)
        return output


class Transformer(nn.Module):
    """Encoder, decoder and embeddings.

    `compute_dtype` is float32 unless it is set to another dtype.
    """

    def __init__(
        self, config: ModelConfig, *, src_vocab_size: int, tgt_vocab_size: int, pad_id: int
    ) -> None:
        super().__init__()
        self.pad_id = pad_id
        # The largest number of tokens of a sentence, eos included; None: any number.
        self.max_length = config.max_length
        self.embedding_names = EMBEDDING_TYING[config.tie_embeddings]
        self.embeddings = self._make_embeddings(config.d_model, src_vocab_size, tgt_vocab_size)
        embedding_dropout = config.embedding_dropout
        if embedding_dropout is None:
            embedding_dropout = config.dropout
        self.dropout = Dropout(embedding_dropout)
        self.token_dropout = config.token_dropout
        self.encoder_layers = nn.ModuleList(
            EncoderLayer(config) for _ in range(config.num_encoder_layers)
        )
        self.decoder_layers = nn.ModuleList(
            DecoderLayer(config, index=index) for index in range(config.num_decoder_layers)
        )
        # With pre-norm, the last residual sum is not normalized yet.
        is_pre_norm = config.norm == "pre"
        norm_class = NORM_KINDS[config.norm_kind]
        self.encoder_norm = norm_class(config.d_model) if is_pre_norm else nn.Identity()
        self.decoder_norm = norm_class(config.d_model) if is_pre_norm else nn.Identity()
        self.compute_dtype = torch.float32
        # On the meta device there are no values to initialize, and drawing them there would import
        # torch._dynamo, which takes a second.
        if not self.output_weight.is_meta:
            self._initialize()

    def encode(self, src: Tensor) -> Memory:
        """Encode `src`, long (batch, src_length), padded with pad_id."""
        self._require_positions("source", src.size(1))
        mask = (src != self.pad_id)[:, None, None, :]  # (batch, 1, 1, src_length)
        positions = _positions(src.size(1), src.device)
        x = self._embed(src, "src", positions)
        for layer in self.encoder_layers:
            x = layer(x, mask, positions)
        return Memory(self.encoder_norm(x).to(self.compute_dtype), mask)

    def forward(self, src: Tensor, tgt_in: Tensor) -> Tensor:
        """Return the states (batch, tgt_length, d_model) of all target positions.

        `src` is long (batch, src_length), and `tgt_in` is long (batch, tgt_length). Each position
        attends to itself and to the target positions before it, so padding must be at the end.
        """
        memory = self.encode(src)
        tgt_length = tgt_in.size(1)
        self._require_positions("target", tgt_length)
        positions = _positions(tgt_length, tgt_in.device)
        causal_mask = positions <= positions.T  # (tgt_length, tgt_length)
        masks = AttentionMasks(
            self_mask=causal_mask[None, None],
            target_positions=positions,
            cross_mask=memory.mask,
            source_positions=_positions(src.size(1), src.device),
        )
        x = self._embed(tgt_in, "tgt", positions)
        for layer in self._decoder():
            source = layer.project_source(memory.states, masks.source_positions)
            x = layer(x, source, masks)
        states: Tensor = self.decoder_norm(x)
        return states

    @torch.no_grad()
    def start(self, memory: Memory) -> KVCache:
        """Return a cache with the source projected for each layer and no target position."""
        positions = _positions(memory.states.size(1), memory.states.device)
        source = [layer.project_source(memory.states, positions) for layer in self._decoder()]
        return KVCache(source, memory.mask)

    @torch.no_grad()
    def decode(self, tgt: Tensor, cache: KVCache) -> Tensor:
        """Return the states (batch * beam, length, d_model) of `tgt`, and add it to the cache.

        `tgt` is long (batch * beam, length) and continues the target where the cache ends. Rows may
        be padded at the end only in the last call: a later call would attend to the padding.
        """
        batch, beam, _ = cache.beam_mask.shape
        rows, length = tgt.shape
        assert rows == batch * beam, (tgt.shape, cache.beam_mask.shape)
        self._require_positions("target", cache.length + length)
        masks = cache.add_positions(length)
        # The beams of a sentence are laid out along the query dimension and share its keys.
        queries = tgt.reshape(batch, beam * length)
        x = self._embed(queries, "tgt", masks.query_positions)
        for layer, source in zip(self._decoder(), cache.source, strict=True):
            x = layer(x, source, masks, cache)
        states: Tensor = self.decoder_norm(x)
        return states.view(rows, length, -1)

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits (..., tgt_vocab_size) of `states` (..., d_model)."""
        return linear(states.to(self.compute_dtype), self.output_weight)

    def embedding_weight(self, role: str) -> Tensor:
        """Return the matrix (vocab_size, d_model) for the role "src", "tgt" or "output"."""
        weight: Tensor = self.embeddings[self.embedding_names[role]]
        return weight

    @property
    def num_parameters(self) -> int:
        """The number of weights; a matrix that is used twice counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the matrix products; weights, residual sums and norms stay float32."""
        return self._compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        self._compute_dtype = dtype
        for module in self.modules():
            if isinstance(module, Residual):
                module.compute_dtype = dtype

    @contextmanager
    def computing_in(self, dtype: torch.dtype) -> Iterator[None]:
        """Use another `compute_dtype` inside the context."""
        dtype_before = self.compute_dtype
        self.compute_dtype = dtype
        try:
            yield
        finally:
            self.compute_dtype = dtype_before

    @property
    def output_weight(self) -> Tensor:
        """The matrix (tgt_vocab_size, d_model) that turns states into logits."""
        return self.embedding_weight("output")

    def _decoder(self) -> list[DecoderLayer]:
        """Return the decoder layers, typed for mypy."""
        return list(self.decoder_layers)  # type: ignore[arg-type]

    def _make_embeddings(
        self, d_model: int, src_vocab_size: int, tgt_vocab_size: int
    ) -> nn.ParameterDict:
        """Return an uninitialized matrix (vocab_size, d_model) for each embedding name."""
        vocab_sizes = {"src": src_vocab_size, "tgt": tgt_vocab_size, "output": tgt_vocab_size}
        embeddings: dict[str, nn.Parameter] = {}
        for role, name in self.embedding_names.items():
            if name in embeddings:
                assert len(embeddings[name]) == vocab_sizes[role], (src_vocab_size, tgt_vocab_size)
            else:
                embeddings[name] = nn.Parameter(torch.empty(vocab_sizes[role], d_model))
        return nn.ParameterDict(embeddings)

    def _embed(self, ids: Tensor, role: str, positions: Tensor) -> Tensor:
        """Return the embeddings (rows, length, d_model) of token ids with their positions added.

        `ids` is (rows, length), `positions` is (rows or 1, length).
        """
        weight = self.embedding_weight(role)
        d_model = weight.size(1)
        x = F.embedding(ids, weight) * math.sqrt(d_model)
        if self.training and self.token_dropout > 0.0:
            x = drop_tokens(x, self.token_dropout)
        embedded: Tensor = self.dropout(x + sinusoids(positions, d_model))
        return embedded

    def _require_positions(self, side: str, length: int) -> None:
        """Raise DataError if a sentence has more tokens than the model has positions."""
        if self.max_length is not None and length > self.max_length:
            raise DataError(
                f"a {side} sentence has {length} tokens, but the model's dense_synthesizer has "
                f"weights for {self.max_length} positions (model.max_length)"
            )

    def _initialize(self) -> None:
        """Draw the initial weights.

        Linear layers start as in Glorot and Bengio (2010), with zero biases. Embeddings have unit
        variance after they are scaled up by sqrt(d_model).
        """
        for weight in self.embeddings.values():
            nn.init.normal_(weight, std=weight.size(1) ** -0.5)
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.xavier_uniform_(module.weight, gain=module.gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _positions(length: int, device: torch.device) -> Tensor:
    """Return the positions 0, 1, ... of a sentence: long (1, length)."""
    return torch.arange(length, device=device)[None]
