"""All commands work with a deep encoder, a shallow decoder, RMSNorm and SwiGLU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from shell import Ended, mt

from mt.decoding.translator import Translator
from mt.model.feed_forward import GatedFeedForward
from mt.model.layers import RMSNorm
from mt.preflight import dry_run

NUM_ENCODER_LAYERS = 12
NUM_HEADS = 2
WORDS = ["balo", "deru", "fimi", "gona", "hupe", "jasi", "kelo", "mavu", "nira", "potu"]
CONFIG = """\
data:
  src_lang: aa
  tgt_lang: bb
  train: FOLDER/train
  valid: FOLDER/valid
  test: FOLDER/test
  max_length: 32
tokenizer: {vocab_size: 320}
model:
  d_model: 16
  d_ff: 16
  num_heads: 2
  num_encoder_layers: 12
  num_decoder_layers: 1
  norm_kind: rms_norm
  activation: swiglu
train: {device: cpu, batch_tokens: 256, max_steps: 4, validate_every: 2, log_every: 1}
search: {max_length_factor: 1, max_length_offset: 4, beam_size: 2}
"""


def make_sentence(number: int) -> str:
    length = 1 + number % 7
    return " ".join(WORDS[(number * 7 + k * k) % len(WORDS)] for k in range(length))


def run_command(*arguments: str | Path, stdin: str = "") -> Ended:
    """Run a command that must succeed."""
    ended = mt(*arguments, stdin=stdin)
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text and a config."""
    folder = tmp_path_factory.mktemp("choices")
    for name, numbers in {
        "train": range(60),
        "valid": range(60, 64),
        "test": range(64, 68),
    }.items():
        text = "".join(make_sentence(number) + "\n" for number in numbers)
        (folder / f"{name}.aa").write_text(text, encoding="utf-8")
        (folder / f"{name}.bb").write_text(text.replace("a", "ö"), encoding="utf-8")
    config = CONFIG.replace("FOLDER", str(folder))
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run_dir(folder: Path) -> Path:
    """A run of four updates."""
    run_command("train", "-c", folder / "config.yaml", "--run-dir", folder / "run")
    return folder / "run"


def test_run_has_the_model_of_its_config(run_dir: Path) -> None:
    model = Translator.load(run_dir, device="cpu").model
    assert len(model.encoder_layers) == NUM_ENCODER_LAYERS
    assert len(model.decoder_layers) == 1
    for layer in (*model.encoder_layers, *model.decoder_layers):
        assert isinstance(layer.feed_forward, GatedFeedForward)
        assert isinstance(layer.feed_forward_residual.norm, RMSNorm)
    assert isinstance(model.decoder_norm, RMSNorm)
    start = json.loads((run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert start["num_parameters"] == num_parameters


def test_check_counts_the_parameters(
    folder: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "MIN_SECONDS", 0.0)
    ended = mt("check", folder / "config.yaml", "--json")
    findings = json.loads(ended.out)["findings"]
    (model,) = [finding for finding in findings if finding["what"] == "model"]
    start = json.loads((run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert model["numbers"]["parameters"] == start["num_parameters"]


def test_translate_align_and_score(run_dir: Path, tmp_path: Path) -> None:
    sources = "balo deru fimi\ngona hupe\n"
    translated = run_command("translate", run_dir, stdin=sources)
    assert translated.out.count("\n") == 2
    for name in ("src", "tgt"):
        (tmp_path / name).write_text(sources, encoding="utf-8")
    pair = ("--src", tmp_path / "src", "--tgt", tmp_path / "tgt")
    aligned = run_command("align", run_dir, *pair)
    linked_words = [
        {int(link.split("-")[1]) for link in line.split()} for line in aligned.out.splitlines()
    ]
    assert linked_words == [{0, 1, 2}, {0, 1}]
    scored = run_command("score", run_dir, *pair)
    assert scored.out.count("\n") == 2


def test_attention_has_every_layer_and_head(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "attention.json"
    run_command("attention", run_dir, "balo deru", "-o", output)
    attention = json.loads(output.read_text(encoding="utf-8"))["attention"]
    shapes = {}
    for kind, maps in attention.items():
        layers = maps["subwords"]
        shapes[kind] = (len(layers), len(layers[0]))
    assert shapes == {
        "encoder": (NUM_ENCODER_LAYERS, NUM_HEADS),
        "decoder": (1, NUM_HEADS),
        "cross": (1, NUM_HEADS),
    }


def test_report_is_written(run_dir: Path, tmp_path: Path) -> None:
    run_command("report", run_dir, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in ("rms_norm", "swiglu"):
        assert text in page


def test_run_resumes(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    longer = ("--set", "train.max_steps=5")
    run_command("train", "-c", copy / "config.yaml", "--run-dir", copy, *longer)
    last = (copy / "checkpoints" / "last").read_text(encoding="utf-8")
    assert last.strip() == "step_00000005"
