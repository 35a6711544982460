"""Runs with random models, for exports: no weight has its initial value."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from invented_words import INVENTED_WORDS

from mt.config.load import load_config
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import TokenizerKind, train_tokenizer
from mt.model.transformer import Transformer
from mt.storage.checkpoint import Checkpoint, CheckpointStore

CONFIG = """\
data:
  src_lang: aa
  tgt_lang: bb
  train: [{prefix: train}]
  valid: {name: valid, prefix: valid}
  max_length: 64
train: {max_steps: 1}
search: {beam_size: 1, max_length_factor: 1.0, max_length_offset: 20}
"""
# Overrides for a model that translates aa into bb and cc, and bb into cc.
SEVERAL_LANGUAGES = [
    "data.train=[{prefix: train, tgt_lang: bb}, {prefix: train, tgt_lang: cc}, "
    "{prefix: other, src_lang: bb, tgt_lang: cc}]",
    "data.valid=[{name: to-bb, prefix: valid, tgt_lang: bb}, "
    "{name: to-cc, prefix: valid, tgt_lang: cc}]",
]
SMALL_MODEL = [
    "model.d_model=32",
    "model.d_ff=48",
    "model.num_encoder_layers=2",
    "model.num_decoder_layers=1",
]


def make_texts(num_texts: int, *, seed: int) -> list[str]:
    generator = random.Random(seed)
    texts = []
    for _ in range(num_texts):
        num_words = generator.randint(1, 9)
        texts.append(" ".join(generator.choices(INVENTED_WORDS, k=num_words)))
    return texts


TEXTS = [*make_texts(14, seed=1), "xyz 123 Ü", "<s> </s>  中"]


def make_tokenizers(folder: Path, *, kind: TokenizerKind = "bpe") -> list[Path]:
    """Return two tokenizers of different sizes."""
    vocab_sizes = {"bpe": (330, 345), "unigram": (300, 305)}
    paths = []
    for vocab_size in vocab_sizes[kind]:
        path = folder / f"{vocab_size}.model"
        texts = make_texts(100, seed=vocab_size)
        train_tokenizer(texts, path, kind=kind, vocab_size=vocab_size)
        paths.append(path)
    return paths


def make_run(path: Path, tokenizers: Sequence[Path], overrides: Sequence[str] = ()) -> Path:
    """Make a run directory with a random model.

    No weight, bias or norm has its initial value, so that a test notices one that is not exported.
    """
    path.mkdir()
    (path / "source.yaml").write_text(CONFIG, encoding="utf-8")
    config = load_config(path / "source.yaml", [*SMALL_MODEL, *overrides])
    (path / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")

    tokenizer_names = ["tokenizer.src.model", "tokenizer.tgt.model"]
    if config.tokenizer.joint:
        tokenizer_names = ["tokenizer.model"]
    for name, tokenizer in zip(tokenizer_names, tokenizers, strict=False):
        (path / name).write_bytes(tokenizer.read_bytes())
    src_tokenizer = Tokenizer.load(path / tokenizer_names[0])
    tgt_tokenizer = Tokenizer.load(path / tokenizer_names[-1])

    torch.manual_seed(3)
    model = Transformer(
        config.model,
        src_vocab_size=src_tokenizer.vocab_size,
        tgt_vocab_size=tgt_tokenizer.vocab_size,
        pad_id=src_tokenizer.pad_id,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("embeddings"):  # the embeddings are random already
                scale = 0.1 if parameter.dim() == 1 else 0.4
                parameter += scale * torch.randn_like(parameter)
    store = CheckpointStore(path / "checkpoints", keep=1)
    store.save(Checkpoint(model.state_dict(), {}, {}), step=1, is_best=True)
    return path
