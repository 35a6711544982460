"""Training with the reference kernels: what a GPU runs, run on a CPU in each precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fake_data import FakeDataset, random_batch
from runs import read_lines_without_timing
from torch import Tensor

from mt.config.schema import ModelConfig, TrainConfig
from mt.data.batching import Batch
from mt.distributed import Runtime
from mt.kernels.dispatch import use_reference
from mt.model.transformer import Transformer
from mt.storage.run_dir import RunDir
from mt.training.all_ranks import Interrupting
from mt.training.metrics_log import Validation
from mt.training.objective import Objective
from mt.training.trainer import Trainer

PAD_ID = 0
VOCAB_SIZE = 20
NUM_UPDATES = 12
BATCHES = [random_batch(seed) for seed in range(2)]
SHAPE = {
    "d_model": 16,
    "d_ff": 32,
    "num_heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
}
DROPOUT = {
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "token_dropout": 0.02,
}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
KINDS_OF_MODEL: dict[str, dict[str, Any]] = {
    "dot_product": {},
    "additive": {"self_attention": "additive", "cross_attention": "additive"},
    "synthesizer": {"self_attention": "dense_synthesizer", "max_length": 9},
    "rms_norm-swiglu": {"norm_kind": "rms_norm", "activation": "swiglu"},
}
EVERY_KIND_OF_MODEL = pytest.mark.parametrize(
    "kind", KINDS_OF_MODEL.values(), ids=KINDS_OF_MODEL.keys()
)
EVERY_DTYPE = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str
)


def make_objective(**settings: Any) -> Objective:
    torch.manual_seed(3)
    config = ModelConfig(**{**SHAPE, **settings})
    transformer = Transformer(
        config, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, pad_id=PAD_ID
    )
    return Objective(transformer, label_smoothing=0.1)


def fake_validate(objective: Objective, *, interrupting: Interrupting) -> Validation:
    return Validation(loss=1.0, scores={}, signatures={}, samples=())


def train(run_dir: Path, *, dtype: torch.dtype, **settings: Any) -> list[float]:
    """Train for a few updates in `dtype`; return the loss of each update, None if not finite."""
    run_dir.mkdir()
    trainer = Trainer(
        make_objective(**settings),
        FakeDataset(BATCHES),  # type: ignore[arg-type]
        fake_validate,
        valid_digest="",
        config=TrainConfig(
            learning_rate=1e-2,
            warmup_steps=0,
            metric="loss",
            log_every=1,
            max_steps=NUM_UPDATES,
            epsilon=1e-3,
        ),
        run_dir=RunDir(run_dir),
        runtime=Runtime(torch.device("cpu"), dtype),
    )
    assert trainer.scaler.is_enabled() == (dtype is torch.float16)
    assert trainer.objective.transformer.compute_dtype is dtype
    trainer.fit()
    assert all(parameter.dtype is torch.float32 for parameter in trainer.objective.parameters())
    return [line["loss"] for line in read_lines_without_timing(run_dir) if line["kind"] == "train"]


@EVERY_KIND_OF_MODEL
@EVERY_DTYPE
def test_loss_is_finite_and_falls(dtype: torch.dtype, kind: dict[str, Any], tmp_path: Path) -> None:
    """In fp16 with a GradScaler, which finds its scale by skipping updates."""
    with use_reference():
        losses = train(tmp_path / "run", dtype=dtype, **DROPOUT, **kind)
    assert len(losses) == NUM_UPDATES
    assert None not in losses
    assert losses[-1] < losses[0] - 0.2


@EVERY_KIND_OF_MODEL
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)], ids=str
)
def test_losses_are_those_of_the_fast_kernels(
    dtype: torch.dtype, tolerance: float, kind: dict[str, Any], tmp_path: Path
) -> None:
    with use_reference():
        reference = train(tmp_path / "reference", dtype=dtype, **NO_DROPOUT, **kind)
    fast = train(tmp_path / "fast", dtype=dtype, **NO_DROPOUT, **kind)
    assert reference == pytest.approx(fast, rel=tolerance)


def test_attention_is_that_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is called for three attention layers with dropout, in each update."""
    rates = []
    original = F.scaled_dot_product_attention

    def recording(*args: Tensor, **kwargs: Any) -> Tensor:
        rates.append(kwargs["dropout_p"])
        return original(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recording)
    with use_reference():
        objective = make_objective(**DROPOUT).train()
        objective(BATCHES[0]).loss.backward()
    assert rates == [0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("dot_product", torch.float32),
        ("dot_product", torch.float16),
        *((kind, torch.bfloat16) for kind in KINDS_OF_MODEL),
    ],
    ids=str,
)
def test_training_is_compiled_to_one_graph(kind: str, dtype: torch.dtype) -> None:
    """With dropout, which draws other masks: only without it can results be compared.

    Compiling takes seconds, and no code depends on both the kind and the dtype.
    """
    settings = KINDS_OF_MODEL[kind]
    torch._dynamo.reset()
    batch: Batch = BATCHES[0]
    for rates in (DROPOUT, NO_DROPOUT):
        compiled = make_objective(**rates, **settings).train()
        compiled.transformer.compute_dtype = dtype
        compiled.transformer.compile(dynamic=True, fullgraph=True, backend="eager")
        loss = compiled(batch).loss
        loss.backward()
        assert loss.isfinite()
        gradients = [p.grad for p in compiled.parameters() if p.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
    plain = make_objective(**NO_DROPOUT, **settings).train()
    plain.transformer.compute_dtype = dtype
    with use_reference():
        expected = plain(batch).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
