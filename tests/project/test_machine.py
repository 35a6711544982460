"""The measurement of a machine: real updates, and a sound number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mt.distributed import Runtime
from mt.project import machine
from mt.project.settings import TINY

MINIATURE = replace(TINY, d_model=16, d_ff=32, num_heads=2, num_layers=1)


def test_batch_has_the_tokens_of_the_text() -> None:
    batch = machine.random_batch(vocab_size=400, batch_tokens=1000, tokens_per_pair=9.6)
    assert batch.src.shape == batch.tgt_in.shape == batch.tgt_out.shape == (100, 10)
    assert batch.num_tokens == 1000
    assert batch.src.max() < 400
    longer = machine.random_batch(vocab_size=400, batch_tokens=64, tokens_per_pair=5000)
    assert longer.src.shape == (1, 64)


def test_update_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MIN_SECONDS", 0.01)
    seconds = [
        machine.measure_update(
            MINIATURE,
            Runtime(torch.device("cpu")),
            vocab_size=400,
            batch_tokens=num_tokens,
            tokens_per_pair=8,
        )
        for num_tokens in (16, 16 * 2000)
    ]
    assert 0 < 3 * seconds[0] < seconds[1]
