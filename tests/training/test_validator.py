"""Tests of validation during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from copy_task import write_copy_task
from runs import CONFIG, configure, read_lines_without_timing
from torch import Tensor

from mt.decoding.translator import Translator
from mt.model.transformer import Transformer
from mt.training.run import train


def test_bf16_run_translates_in_float32_and_computes_its_loss_in_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a validation gives the scores of `mt evaluate`, which always computes in float32."""
    translating_dtypes = set()
    loss_dtypes = set()
    original_translate = Translator.translate
    original_forward = Transformer.forward

    def translate(translator: Translator, texts: list[str]) -> Any:
        translating_dtypes.add(translator.model.compute_dtype)
        return original_translate(translator, texts)

    def forward(model: Transformer, src: Tensor, tgt_in: Tensor) -> Tensor:
        loss_dtypes.add(model.compute_dtype)
        return original_forward(model, src, tgt_in)

    monkeypatch.setattr(Translator, "translate", translate)
    monkeypatch.setattr(Transformer, "forward", forward)
    config_path = write_copy_task(tmp_path, CONFIG)
    run_dir = train(
        configure(config_path, tmp_path / "run", "train.precision=bf16", "train.max_steps=3")
    )
    assert any(line["kind"] == "valid" for line in read_lines_without_timing(run_dir))
    assert translating_dtypes == {torch.float32}
    assert loss_dtypes == {torch.bfloat16}
