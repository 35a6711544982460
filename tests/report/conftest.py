"""A small trained run, and a browser to show pages in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, open_browser
from shell import mt

WORDS = ["balo", "deru", "fimi", "gona", "hupe", "jasi", "kelo", "mavu", "nira", "potu"]
CONFIG = """\
data:
  src_lang: aa
  tgt_lang: bb
  train: [{{prefix: {folder}/train}}]
  max_length: 32
  valid: {{name: valid, prefix: {folder}/valid}}
  test:
    - {{name: test, prefix: {folder}/test}}
    - {{name: other, prefix: {folder}/other}}
tokenizer: {{vocab_size: 320}}
model: {{d_model: 16, d_ff: 16, num_heads: 2, num_encoder_layers: 1, num_decoder_layers: 2}}
train: {{precision: fp32, batch_tokens: 512, max_steps: 6, validate_every: 2, log_every: 1}}
search: {{max_length_factor: 1, max_length_offset: 4, beam_size: 2}}
"""


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six updates that copies its input, with two test sets. Tests must not change it."""
    folder = tmp_path_factory.mktemp("run")
    sentences_by_file = {
        "train": [make_sentence(i) for i in range(80)],
        "valid": [make_sentence(i) for i in range(6)],
        "test": [make_sentence(i) for i in range(40)],
        "other": [make_sentence(i) for i in range(40, 44)],
    }
    sentences_by_file["train"][3] = ""
    for name, sentences in sentences_by_file.items():
        for lang in ("aa", "bb"):
            text = "\n".join(sentences) + "\n"
            (folder / f"{name}.{lang}").write_text(text, encoding="utf-8")
    config_path = folder / "small.yaml"
    config_path.write_text(CONFIG.format(folder=folder), encoding="utf-8")
    ended = mt("train", "--config", config_path, "--run-dir", folder / "small")
    assert ended.code == 0, ended.err
    return folder / "small"


def make_sentence(number: int) -> str:
    """Return a sentence of one to nine words."""
    length = 1 + number % 9
    return " ".join(WORDS[(number * 7 + k * k) % len(WORDS)] for k in range(length)) + "."


@pytest.fixture
def run_dir(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the trained run that a test may change."""
    return Path(shutil.copytree(trained_run, tmp_path / "small"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser
