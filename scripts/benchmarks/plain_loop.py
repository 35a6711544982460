"""The plain training loop that `train_speed.py` races: torch.nn.Transformer as a good tutorial would train it.

Model, batches, loss, optimizer and learning rates are those of `mt`; all is float32, and nothing is done for speed but
what PyTorch does by itself.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt.config.schema import Config
from mt.data.batching import Batch
from mt.model.positions import sinusoids
from mt.training.optimizer import learning_rate


class PlainTransformer(nn.Module):
    """torch.nn.Transformer between embeddings and projection that share one table, as in Vaswani et al. (2017)."""

    def __init__(self, config: Config, *, vocab_size: int, pad_id: int) -> None:
        super().__init__()
        model = config.model
        self.pad_id = pad_id
        self.table = nn.Embedding(vocab_size, model.d_model)
        nn.init.normal_(self.table.weight, std=model.d_model**-0.5)
        pre, size = model.norm == "pre", (model.d_model, model.num_heads)
        options = {"activation": model.activation, "norm_first": pre, "batch_first": True}
        encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(*size, model.d_ff, model.dropout, **options),
            model.num_encoder_layers,
            nn.LayerNorm(model.d_model) if pre else None,
            enable_nested_tensor=False,  # it warns that it cannot
        )
        depth = (model.num_encoder_layers, model.num_decoder_layers)
        self.transformer = nn.Transformer(
            *size, *depth, model.d_ff, model.dropout, custom_encoder=encoder, **options
        )
        self.dropout = nn.Dropout(model.dropout)
        self.register_buffer(
            "positions", sinusoids(torch.arange(10 * config.data.max_length + 1), model.d_model)
        )

    def forward(self, src: Tensor, tgt_in: Tensor) -> Tensor:
        """States (batch, tgt_length, d_model) of the decoder."""
        src_padding = src == self.pad_id
        causal = nn.Transformer.generate_square_subsequent_mask(
            tgt_in.size(1), device=tgt_in.device, dtype=torch.bool
        )
        states: Tensor = self.transformer(
            self.embed(src),
            self.embed(tgt_in),
            tgt_mask=causal,
            src_key_padding_mask=src_padding,
            memory_key_padding_mask=src_padding,
            tgt_is_causal=True,
        )
        return states

    def embed(self, ids: Tensor) -> Tensor:
        """(batch, length) -> (batch, length, d_model)"""
        embedded: Tensor = self.dropout(
            self.table(ids) * math.sqrt(self.table.embedding_dim) + self.positions[: ids.size(1)]
        )
        return embedded


class PlainTrainer:
    """Owns a PlainTransformer and its optimizer."""

    def __init__(
        self, config: Config, *, vocab_size: int, pad_id: int, device: torch.device
    ) -> None:
        torch.manual_seed(config.train.seed)
        self.config, self.device, self.step = config, device, 0
        self.model = PlainTransformer(config, vocab_size=vocab_size, pad_id=pad_id).to(device)
        train = config.train
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=train.learning_rate, betas=train.betas, eps=train.epsilon
        )
        self.criterion = nn.CrossEntropyLoss(label_smoothing=train.label_smoothing)

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(num_tokens, vocab_size) and their targets, without padding."""
        states = self.model(batch.src, batch.tgt_in)
        real = batch.tgt_out != self.model.pad_id
        return F.linear(states[real], self.model.table.weight), batch.tgt_out[real]

    def update(self, batch: Batch) -> None:
        """One step of the optimizer."""
        self.model.train()
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config.train)
        loss = self.criterion(*self.logits(batch.to(self.device)))
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.train.clip_norm > 0.0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm)
        self.optimizer.step()

    @torch.inference_mode()
    def mean_nll(self, batches: list[Batch]) -> float:
        """Unsmoothed negative log-likelihood in nats per target token."""
        self.model.eval()
        sums = [
            F.cross_entropy(*self.logits(batch.to(self.device)), reduction="sum")
            for batch in batches
        ]
        return float(sum(sums)) / sum(batch.num_tokens for batch in batches)
