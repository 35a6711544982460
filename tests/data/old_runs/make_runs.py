"""Make the runs in this folder with commit 97b8936, the last one of format version 2.

    git worktree add OLD 97b8936
    PYTHONPATH=OLD OMP_NUM_THREADS=1 python tests/data/old_runs/make_runs.py

Each run is stopped at update 13, in the middle of an epoch. `expected.json` holds what that commit
computed for the next 20 updates: loss, nll and gradient norm of each, the learning rate, and a
SHA-256 of the weights after the last. Later code never runs this script. It resumes the runs and
compares (tests/test_old_runs.py).
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from mt.commands.train import train
from mt.config import load_config

HERE = Path(__file__).resolve().parent
STOP, END = 13, 33
BASE: dict[str, dict[str, Any]] = {
    "data": {
        "src_lang": "en",
        "tgt_lang": "de",
        "train": [{"prefix": "AT/train"}],
        "valid": {"name": "valid", "prefix": "AT/valid"},
        "max_length": 96,
    },
    "tokenizer": {"vocab_size": 345},
    "model": {
        "d_model": 4,
        "d_ff": 16,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
    },
    "train": {
        "device": "cpu",
        "precision": "fp32",
        "max_tokens": 400,
        "learning_rate": 5e-3,
        "warmup_steps": 8,
        "max_steps": END,
        "log_every": 1,
        "save_every": STOP,
        "validate_every": END,
        "keep_checkpoints": 9,
        "num_samples": 1,
    },
    "search": {"beam_size": 2, "max_length_factor": 1.0, "max_length_offset": 4},
}
SEPARATE: dict[str, dict[str, Any]] = {
    "tokenizer": {"joint": False, "vocab_size": 335},
    "model": {"tie_embeddings": "decoder"},
}
SYNTHESIZER = {"self_attention": "dense_synthesizer", "max_length": 100}
ADDITIVE = {"self_attention": "additive", "cross_attention": "additive"}


def merged(*changes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return BASE with the changes of each section."""
    config = {section: dict(values) for section, values in BASE.items()}
    for change in changes:
        for section, values in change.items():
            config[section].update(values)
    return config


VARIANTS = {
    "dot_pre_joint": merged({"train": {"schedule": "cosine", "weight_decay": 0.01}}),
    "dot_post_separate_dropout_accumulate": merged(
        SEPARATE,
        {
            "tokenizer": {"sampling": 0.1},
            "model": {"norm": "post", "activation": "gelu"},
            "train": {"accumulate": 2, "max_tokens": 200},
        },
    ),
    "dot_pre_joint_dropout_bf16": merged(
        {
            "data": {
                "train": [
                    {"prefix": "AT/train", "weight": 1.5},
                    {"src": "AT/valid.en", "tgt": "AT/valid.de"},
                ]
            },
            "tokenizer": {"sampling": 0.1},
            "model": {"attention_dropout": 0.1, "activation_dropout": 0.1},
            "train": {"precision": "bf16"},
        }
    ),
    "additive_pre_separate_dropout": merged(
        SEPARATE, {"tokenizer": {"sampling": 0.1}, "model": {**ADDITIVE, "tie_embeddings": "none"}}
    ),
    "additive_post_joint_accumulate_bf16": merged(
        {
            "model": {**ADDITIVE, "norm": "post"},
            "train": {"accumulate": 2, "max_tokens": 200, "precision": "bf16"},
        }
    ),
    "synthesizer_pre_joint_dropout_accumulate": merged(
        {
            "tokenizer": {"sampling": 0.1},
            "model": SYNTHESIZER,
            "train": {"accumulate": 2, "max_tokens": 200, "clip_norm": 0.0},
        }
    ),
    "synthesizer_post_separate": merged(
        SEPARATE,
        {
            "tokenizer": {"kind": "unigram"},
            "model": {**SYNTHESIZER, "norm": "post"},
            "train": {"optimizer": "adam", "schedule": "constant", "label_smoothing": 0.0},
        },
    ),
}


def main() -> None:
    """Train each variant to the end, and keep its checkpoint of update 13 and what came after
    it.
    """
    torch.set_num_threads(1)
    expected: dict[str, Any] = {"cpu": cpu_model(), "torch": torch.__version__, "runs": {}}
    for name, config in VARIANTS.items():
        kept = HERE / name
        shutil.rmtree(kept, ignore_errors=True)
        with tempfile.TemporaryDirectory() as directory:
            text = yaml.safe_dump(config).replace("AT/", f"{HERE}/")
            path = Path(directory, "config.yaml")
            path.write_text(text, encoding="utf-8")
            run = train(load_config(path, [f"train.run_dir={directory}/run"]))
            keep_start(run, kept, {directory: "RUNS", str(HERE): "DATA"})
            expected["runs"][name] = {**updates(run), "weights": weights_digest(run)}
        resumed = resume(kept)
        assert resumed == expected["runs"][name], f"{name}: resuming gives other numbers"
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def keep_start(run: Path, kept: Path, places: dict[str, str]) -> None:
    """Copy what a run killed after update 13 would have left, with placeholders for directories."""
    (kept / "checkpoints").mkdir(parents=True)
    step = f"step_{STOP:08d}"
    shutil.copytree(run / "checkpoints" / step, kept / "checkpoints" / step)
    (kept / "checkpoints" / "last").write_text(f"{step}\n", encoding="ascii")
    for path in run.glob("tokenizer*.model"):
        shutil.copy(path, kept)
    size = json.loads((kept / "checkpoints" / step / "meta.json").read_text(encoding="utf-8"))[
        "metrics_size"
    ]
    (kept / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes()[:size])
    config = (run / "config.yaml").read_text(encoding="utf-8")
    for directory, placeholder in places.items():
        config = config.replace(directory, placeholder)
    (kept / "config.yaml").write_text(config, encoding="utf-8")


def resume(kept: Path) -> dict[str, Any]:
    """Resume a kept run to its end, with the code that made it."""
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory, "run")
        shutil.copytree(kept, run)
        config = (run / "config.yaml").read_text(encoding="utf-8")
        config = config.replace("RUNS", directory).replace("DATA", str(HERE))
        (run / "config.yaml").write_text(config, encoding="utf-8")
        train(load_config(run / "config.yaml"))
        return {**updates(run), "weights": weights_digest(run)}


def updates(run: Path) -> dict[str, list[float]]:
    """Return the numbers of each update after STOP, by name."""
    lines = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    later = [line for line in lines if line["kind"] == "train" and line["step"] > STOP]
    assert [line["step"] for line in later] == list(range(STOP + 1, END + 1))
    return {
        key: [line[key] for line in later]
        for key in ("loss", "nll", "grad_norm", "lr", "tokens_seen")
    }


def weights_digest(run: Path) -> str:
    """Return a SHA-256 of all weights after the last update, in the order of their names."""
    tensors = load_file(run / "checkpoints" / f"step_{END:08d}" / "model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def cpu_model() -> str:
    """Return what the last bits of a sum may depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    model = f"{named.get('cpu family')}/{named.get('model')}"
    return f"{platform.machine()} {named.get('vendor_id')} {model}"


if __name__ == "__main__":
    main()
