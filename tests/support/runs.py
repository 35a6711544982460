"""Tiny runs on the copy task: their config, and what they leave in a run directory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from copy_task import write_copy_task

from mt.config.load import load_config
from mt.config.schema import Config, TrainConfig
from mt.data.corpus import KNOWN_FILES_NAME
from mt.training import stopping
from mt.training.run import run_training
from mt.training.run_plan import RunPlan
from mt.training.state import TrainState

CONFIG = """\
data:
  src_lang: aa
  tgt_lang: bb
  train:
    - prefix: AT/train
  valid:
    name: valid
    prefix: AT/valid
  max_length: 24
tokenizer:
  vocab_size: 330
model:
  d_model: 16
  d_ff: 32
  num_heads: 2
  num_encoder_layers: 1
  num_decoder_layers: 1
train:
  device: cpu
  precision: fp32
  batch_tokens: 128
  learning_rate: 5e-3
  ema_decay: 0.7
  warmup_steps: 4
  max_steps: 12
  validate_every: 3
  log_every: 2
  metric: loss
  num_samples: 0
search:
  beam_size: 2
  max_length_factor: 1.0
  max_length_offset: 2
"""
# Validations translate the whole set, by the search of `mt translate`.
FULL_VALIDATION = (
    "train.validation_lines=null",
    "train.validation_beam_size=null",
    "train.validation_length_limit=search",
)
# Everything that draws random numbers.
RANDOM = ("model.dropout=0.1", "model.token_dropout=0.1", "tokenizer.bpe_dropout=0.2")


def train(config: Config) -> Path:
    """Train as mt train does. Return the run directory."""
    return run_training(config).run_dir


def configure(path: Path, run_dir: Path, *overrides: str) -> Config:
    """Return the config at `path` with changes, for a run in `run_dir`."""
    return load_config(path, [*overrides, f"train.run_dir={run_dir}"])


def train_two_seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Train two runs that differ in their seed, each with a tokenizer of its own."""
    config_path = write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)
    folder = tmp_path_factory.mktemp("runs")
    run_dirs = []
    for seed in (1, 2):
        overrides = (f"train.seed={seed}", "train.max_steps=2")
        run_dirs.append(train(configure(config_path, folder / f"seed{seed}", *overrides)))
    return run_dirs


def train_until(step: int, config: Config) -> Path:
    """Train until update `step`, as if a limit ended the run there; the plan of the run is kept."""
    stop_reason = stopping.stop_reason

    def stop_at_step(state: TrainState, plan: RunPlan, config: TrainConfig) -> str | None:
        return "paused" if state.step >= step else stop_reason(state, plan, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopping, "stop_reason", stop_at_step)
        return train(config)


def train_command(config_path: Path, run_dir: Path, *overrides: str) -> list[str]:
    """Return the command line of `mt train` in a process of its own."""
    command = [sys.executable, "-m", "mt", "train", "-c", str(config_path)]
    command += ["--run-dir", str(run_dir)]
    for override in overrides:
        command += ["--set", override]
    return command


def one_thread(**variables: str) -> dict[str, str]:
    """Return this process's environment with `variables`, and one thread for PyTorch."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **variables}


def checkpoint_path(run_dir: Path, pointer: str = "last") -> Path:
    """Return the checkpoint that `last` or `best` names."""
    checkpoints = run_dir / "checkpoints"
    return checkpoints / (checkpoints / pointer).read_text(encoding="utf-8").strip()


def read_lines_without_timing(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without what depends on a clock."""
    text = (run_dir / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert line.pop("timing")
    return lines


def assert_same_run(first: Path, second: Path) -> None:
    """Compare byte for byte: weights, their averages, optimizer, training state, metrics, and the
    best checkpoint.
    """
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        first_bytes = (checkpoint_path(first) / name).read_bytes()
        assert first_bytes == (checkpoint_path(second) / name).read_bytes(), name
    assert _meta_without_times(first) == _meta_without_times(second)
    assert read_lines_without_timing(first) == read_lines_without_timing(second)
    assert checkpoint_path(first, "best").name == checkpoint_path(second, "best").name


def read_all_files(directory: Path) -> dict[Path, bytes]:
    """Return the content of every file below `directory`.

    What is known of the text files is left out: a start may find that they are old enough to be
    remembered.
    """
    return {
        path: path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != KNOWN_FILES_NAME
    }


def _meta_without_times(run_dir: Path) -> dict[str, Any]:
    meta: dict[str, Any]
    meta = json.loads((checkpoint_path(run_dir) / "meta.json").read_text(encoding="utf-8"))
    del meta["state"]["elapsed_seconds"]
    del meta["pace"]
    del meta["metrics_size"]  # depends on the number of digits of times
    return meta
