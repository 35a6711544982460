"""A plain training loop, for comparison: torch.nn.Transformer as a good tutorial would train it.

Model, batches, loss, optimizer and learning rates are those of `mt`. Everything is float32, and
nothing is done for speed except what PyTorch does by itself.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt.config.schema import Config
from mt.data.batching import Batch
from mt.model.positions import sinusoids
from mt.training.run_plan import UNKNOWN_TOTAL, RunPlan
from mt.training.schedule import learning_rate


class PlainTransformer(nn.Module):
    """torch.nn.Transformer with one table for embeddings and output (Vaswani et al., 2017)."""

    def __init__(self, config: Config, *, vocab_size: int, pad_id: int) -> None:
        super().__init__()
        model = config.model
        self.pad_id = pad_id
        self.table = nn.Embedding(vocab_size, model.d_model)
        nn.init.normal_(self.table.weight, std=model.d_model**-0.5)
        self.transformer = build_transformer(config)
        self.dropout = nn.Dropout(model.dropout)
        max_length = 10 * config.data.max_length + 1
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(torch.arange(max_length), model.d_model))

    def forward(self, src: Tensor, tgt_in: Tensor) -> Tensor:
        """Return the decoder's states, (batch, tgt_length, d_model)."""
        src_padding = src == self.pad_id
        causal_mask = nn.Transformer.generate_square_subsequent_mask(
            tgt_in.size(1), device=tgt_in.device, dtype=torch.bool
        )
        states: Tensor = self.transformer(
            self.embed(src),
            self.embed(tgt_in),
            tgt_mask=causal_mask,
            src_key_padding_mask=src_padding,
            memory_key_padding_mask=src_padding,
            tgt_is_causal=True,
        )
        return states

    def embed(self, ids: Tensor) -> Tensor:
        """Embed ids, (batch, length) -> (batch, length, d_model)."""
        scale = math.sqrt(self.table.embedding_dim)
        positions = self.positions[: ids.size(1)]
        embedded: Tensor = self.dropout(self.table(ids) * scale + positions)
        return embedded


def build_transformer(config: Config) -> nn.Transformer:
    model = config.model
    is_pre_norm = model.norm == "pre"
    encoder_layer = nn.TransformerEncoderLayer(
        model.d_model,
        model.num_heads,
        model.d_ff,
        model.dropout,
        model.activation,
        norm_first=is_pre_norm,
        batch_first=True,
    )
    # The default encoder would warn that it cannot use nested tensors with these options.
    encoder = nn.TransformerEncoder(
        encoder_layer,
        model.num_encoder_layers,
        nn.LayerNorm(model.d_model) if is_pre_norm else None,
        enable_nested_tensor=False,
    )
    return nn.Transformer(
        model.d_model,
        model.num_heads,
        model.num_encoder_layers,
        model.num_decoder_layers,
        model.d_ff,
        model.dropout,
        model.activation,
        custom_encoder=encoder,
        norm_first=is_pre_norm,
        batch_first=True,
    )


class PlainTrainer:
    """A PlainTransformer and its optimizer."""

    def __init__(
        self, config: Config, *, vocab_size: int, pad_id: int, device: torch.device
    ) -> None:
        train = config.train
        torch.manual_seed(train.seed)
        self.config = config
        self.device = device
        self.step = 0
        self.plan = RunPlan.of_new_run(UNKNOWN_TOTAL, train)
        self.model = PlainTransformer(config, vocab_size=vocab_size, pad_id=pad_id).to(device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=train.learning_rate, betas=train.betas, eps=train.epsilon
        )
        self.criterion = nn.CrossEntropyLoss(label_smoothing=train.label_smoothing)

    def logits_and_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits, (num_tokens, vocab_size), and targets, (num_tokens,), without padding."""
        states = self.model(batch.src, batch.tgt_in)
        is_token = batch.tgt_out != self.model.pad_id
        logits = F.linear(states[is_token], self.model.table.weight)
        return logits, batch.tgt_out[is_token]

    def update(self, batch: Batch) -> None:
        """Make one step of the optimizer."""
        self.model.train()
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.plan, self.config.train)
        logits, targets = self.logits_and_targets(batch.to(self.device))
        loss = self.criterion(logits, targets)
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.train.clip_norm > 0.0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm)
        self.optimizer.step()

    @torch.inference_mode()
    def mean_nll(self, batches: list[Batch]) -> float:
        """Return the negative log-likelihood without label smoothing, in nats per target token."""
        self.model.eval()
        total = 0.0
        num_tokens = 0
        for batch in batches:
            logits, targets = self.logits_and_targets(batch.to(self.device))
            total += float(F.cross_entropy(logits, targets, reduction="sum"))
            num_tokens += batch.num_tokens
        return total / num_tokens
