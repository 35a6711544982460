"""What CTranslate2 makes of an export is what our own model makes of the same words."""

from __future__ import annotations

import builtins
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from shell import mt

from mt.config.load import load_config
from mt.data.tokenizer import Tokenizer, train_tokenizer
from mt.decoding.translator import Translator
from mt.errors import ConfigError, DeviceError, DiskError
from mt.export.ctranslate2 import MARK, MIN_POSITIONS, export
from mt.model.transformer import Transformer
from mt.storage.checkpoint import Checkpoint, CheckpointStore

ctranslate2 = pytest.importorskip("ctranslate2")

WORDS = [
    "balo",
    "deru",
    "fimi",
    "gona",
    "hupe",
    "jasi",
    "kelo",
    "mavu",
    "nira",
    "potu",
    "ruke",
    "sifa",
]
CONFIG = """\
data: {src_lang: aa, tgt_lang: bb, train: [{prefix: train}], valid: {name: valid, prefix: valid}, max_length: 64}
train: {max_steps: 1}
search: {beam_size: 1, max_length_factor: 1.0, max_length_offset: 20}
"""
SMALL = [
    "model.d_model=32",
    "model.d_ff=48",
    "model.num_encoder_layers=2",
    "model.num_decoder_layers=1",
]
NUM_TOKENS = 15  # of a greedy translation that is compared; a random model seldom ends one


def make_texts(num_texts: int, *, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(num_texts)]


TEXTS = [*make_texts(14, seed=1), "xyz 123 Ü", "<s> </s>  中"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of different sizes."""
    paths = [tmp_path_factory.mktemp("tokenizers") / name for name in ("first", "second")]
    for path, vocab_size in zip(paths, (330, 345), strict=True):
        train_tokenizer(make_texts(100, seed=vocab_size), path, kind="bpe", vocab_size=vocab_size)
    return paths


def make_run(path: Path, tokenizers: Sequence[Path], overrides: Sequence[str] = ()) -> Path:
    """A run directory of a model in which no weight, bias or norm is what it begins as."""
    path.mkdir()
    joint = "tokenizer.joint=false" not in overrides
    (path / "written.yaml").write_text(CONFIG, encoding="utf-8")
    config = load_config(path / "written.yaml", [*SMALL, *overrides])
    (path / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    names = ["tokenizer.model"] if joint else ["tokenizer.src.model", "tokenizer.tgt.model"]
    for name, tokenizer in zip(names, tokenizers, strict=False):
        (path / name).write_bytes(tokenizer.read_bytes())
    src, tgt = (Tokenizer.load(path / name) for name in (names[0], names[-1]))
    torch.manual_seed(3)
    sizes = {"src_vocab_size": src.vocab_size, "tgt_vocab_size": tgt.vocab_size}
    model = Transformer(config.model, **sizes, pad_id=src.pad_id)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("embeddings"):  # these are random already
                parameter += (0.1 if parameter.dim() == 1 else 0.4) * torch.randn_like(parameter)
    CheckpointStore(path / "checkpoints", keep=1).save(
        Checkpoint(model.state_dict(), {}, {}), step=1, is_best=True
    )
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tokenizers: list[Path]) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", tokenizers)


def open_export(path: Path) -> Any:
    return ctranslate2.Translator(str(path), device="cpu", compute_type="float32", intra_threads=1)


def pieces(tokenizer: Tokenizer, rows: Sequence[Sequence[int]]) -> list[list[str]]:
    """As CTranslate2 takes them: it adds eos itself."""
    return [[tokenizer.piece(i) for i in row if i != tokenizer.eos_id] for row in rows]


@torch.inference_mode()
def forced_scores(
    translator: Translator, src: list[list[int]], tgt: list[list[int]]
) -> list[float]:
    """The log-probability of each target, eos included, one pair at a time."""
    scores = []
    for src_row, tgt_row in zip(src, tgt, strict=True):
        tgt_in = torch.tensor([[translator.tgt_tokenizer.bos_id, *tgt_row[:-1]]])
        model = translator.model
        log_probs = model.logits(model(torch.tensor([src_row]), tgt_in)).log_softmax(-1)[0]
        scores.append(log_probs[torch.arange(len(tgt_row)), torch.tensor(tgt_row)].sum().item())
    return scores


ATTENTION_KINDS = [
    [
        f"model.norm={norm}",
        f"model.activation={activation}",
        f"model.tie_embeddings={tie}",
        *separate,
    ]
    for norm in ("pre", "post")
    for activation in ("relu", "gelu")
    for tie, separate in (("all", []), ("none", []), ("decoder", ["tokenizer.joint=false"]))
]


@pytest.mark.parametrize("kind", ATTENTION_KINDS, ids=" ".join)
def test_an_export_scores_and_translates_as_the_model(
    kind: list[str], tokenizers: list[Path], tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers, kind)
    export(run_dir, tmp_path / "exported")
    theirs, ours = open_export(tmp_path / "exported"), Translator.load(run_dir, device="cpu")
    src, tgt = ours.src_tokenizer.encode(TEXTS), ours.tgt_tokenizer.encode(TEXTS[::-1])

    scored = theirs.score_batch(pieces(ours.src_tokenizer, src), pieces(ours.tgt_tokenizer, tgt))
    scores = forced_scores(ours, src, tgt)
    assert [sum(each.log_probs) for each in scored] == pytest.approx(scores, rel=0, abs=1e-3)
    assert max(scores) - min(scores) > 10

    never = [[ours.tgt_tokenizer.piece(i)] for i in ours.tgt_tokenizer.forbidden_ids]
    limits = {"min_decoding_length": 0, "max_decoding_length": NUM_TOKENS}
    found = theirs.translate_batch(
        pieces(ours.src_tokenizer, src), beam_size=1, suppress_sequences=never, **limits
    )
    greedy = [[part.tgt[:-1][:NUM_TOKENS] for part in each[0].parts] for each in ours.n_best(TEXTS)]
    assert [[each.hypotheses[0]] for each in found] == [
        pieces(ours.tgt_tokenizer, parts) for parts in greedy
    ]
    assert len({str(parts) for parts in greedy}) > len(TEXTS) / 2, (
        "a model that always says the same shows nothing"
    )


def test_of_a_thousand_sentences_nearly_all_are_scored_and_translated_alike(
    run_dir: Path, tmp_path: Path
) -> None:
    export(run_dir, tmp_path / "exported")
    theirs, ours = (
        open_export(tmp_path / "exported"),
        Translator.load(run_dir, device="cpu", beam_size=1),
    )
    texts = make_texts(1000, seed=5)
    src, tgt = (ours.src_tokenizer.encode(side) for side in (texts, texts[::-1]))
    scored = theirs.score_batch(pieces(ours.src_tokenizer, src), pieces(ours.tgt_tokenizer, tgt))
    scores = forced_scores(ours, src, tgt)
    assert [sum(each.log_probs) for each in scored] == pytest.approx(scores, rel=0, abs=1e-3)

    never = [[ours.tgt_tokenizer.piece(i)] for i in ours.tgt_tokenizer.forbidden_ids]
    limits = {"min_decoding_length": 0, "max_decoding_length": NUM_TOKENS}
    found = theirs.translate_batch(
        pieces(ours.src_tokenizer, src), beam_size=1, suppress_sequences=never, **limits
    )
    greedy = pieces(
        ours.tgt_tokenizer, [each[0].parts[0].tgt[:-1][:NUM_TOKENS] for each in ours.n_best(texts)]
    )
    num_equal = sum(each.hypotheses[0] == text for each, text in zip(found, greedy, strict=True))
    assert num_equal >= 995
    assert len({str(text) for text in greedy}) > 100, (
        "a model that always says the same shows nothing"
    )


def test_an_export_needs_no_file_beside_it(run_dir: Path, tmp_path: Path) -> None:
    assert mt("export", run_dir, "--to", "ctranslate2", tmp_path / "exported").code == 0
    names = {path.name for path in (tmp_path / "exported").iterdir()}
    assert names == {MARK, "model.bin", "config.json", "shared_vocabulary.json", "tokenizer.model"}
    assert (tmp_path / "exported/tokenizer.model").read_bytes() == (
        run_dir / "tokenizer.model"
    ).read_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "exported"]


def test_positions_reach_as_far_as_both_rules_for_length(
    tokenizers: list[Path], tmp_path: Path
) -> None:
    for factor, num_positions in ((1.0, MIN_POSITIONS), (40.0, 40 * 64 + 20)):
        run_dir = make_run(
            tmp_path / f"run{factor}", tokenizers, [f"search.max_length_factor={factor}"]
        )
        export(run_dir, tmp_path / "exported")
        model, line = open_export(tmp_path / "exported"), ["▁balo"]
        model.score_batch(
            [line], [line * (num_positions - 1)], max_input_length=0
        )  # bos and all of these are read
        with pytest.raises(RuntimeError, match="position"):
            model.score_batch([line], [line * num_positions], max_input_length=0)


def test_int8_is_smaller_and_says_nearly_the_same(run_dir: Path, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "whole")
    export(run_dir, tmp_path / "small", quantization="int8")
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("whole", "small")]
    assert sizes[1] < sizes[0]
    ours = Translator.load(run_dir, device="cpu")
    rows = ours.src_tokenizer.encode(TEXTS)
    scored = open_export(tmp_path / "small").score_batch(*[pieces(ours.src_tokenizer, rows)] * 2)
    assert [sum(each.log_probs) for each in scored] == pytest.approx(
        forced_scores(ours, rows, rows), rel=0.05
    )


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (["model.cross_attention=additive"], "additive"),
        (["model.self_attention=dense_synthesizer", "model.max_length=64"], "dense_synthesizer"),
    ],
)
def test_an_attention_that_ctranslate2_does_not_have_is_refused(
    kind: list[str], found: str, tokenizers: list[Path], tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers, kind)
    with pytest.raises(ConfigError, match=f"dot_product attention alone, found {found}$"):
        export(run_dir, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == [run_dir]


def test_an_older_export_is_replaced_and_nothing_else(run_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    export(run_dir, place, quantization="int8")
    before = (place / "model.bin").stat().st_size
    export(run_dir, place)
    assert (place / "model.bin").stat().st_size > before
    (place / "notes.txt").write_text("mine", encoding="utf-8")
    contents = {path: path.read_bytes() for path in place.iterdir()}
    for taken in (place, place / "notes.txt"):
        with pytest.raises(DiskError, match="is more than an earlier export"):
            export(run_dir, taken)
    assert {path: path.read_bytes() for path in place.iterdir()} == contents


def test_files_that_only_have_the_names_of_an_export_are_left_alone(
    run_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_text("mine", encoding="utf-8")
    with pytest.raises(DiskError, match="is more than an earlier export"):
        export(run_dir, tmp_path)
    assert (tmp_path / "tokenizer.model").read_text(encoding="utf-8") == "mine"


def test_without_the_package_one_line_names_the_extra(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importing = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "ctranslate2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DeviceError, match=r"ctranslate2 .*pip install -e '\.\[ctranslate2\]'"):
        export(run_dir, tmp_path / "exported")
    done = mt("export", run_dir, "--to", "ctranslate2", tmp_path / "exported")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert list(tmp_path.iterdir()) == []
