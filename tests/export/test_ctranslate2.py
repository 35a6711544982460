"""Exports to CTranslate2 score and translate like the model that was exported."""

from __future__ import annotations

import builtins
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from random_run import SEVERAL_LANGUAGES, TEXTS, make_run, make_texts, make_tokenizers
from shell import mt
from torch import nn

from mt.data.tokenizer import Tokenizer
from mt.decoding.translator import Translator
from mt.errors import ConfigError, DiskError, PackageError
from mt.export.ctranslate2 import export
from mt.export.positions import MIN_POSITIONS
from mt.model.feed_forward import ACTIVATIONS, GATED_ACTIVATIONS
from mt.model.layers import RMSNorm
from mt.storage.run_dir import EXPORT_MARKER

ctranslate2 = pytest.importorskip("ctranslate2")

NUM_TOKENS = 15  # of a translation that are compared: a random model rarely ends a sentence


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two tokenizers of different sizes."""
    return make_tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tokenizers: list[Path]) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", tokenizers)


def open_export(path: Path) -> Any:
    return ctranslate2.Translator(str(path), device="cpu", compute_type="float32", intra_threads=1)


def to_pieces(tokenizer: Tokenizer, rows: Sequence[Sequence[int]]) -> list[list[str]]:
    """Return rows of ids as CTranslate2 takes them, without eos, which it adds itself."""
    return [[tokenizer.piece(i) for i in row if i != tokenizer.eos_id] for row in rows]


def score_with_ctranslate2(
    exported: Any, translator: Translator, src_rows: list[list[int]], tgt_rows: list[list[int]]
) -> list[float]:
    """Return the log-probability of each target, including eos."""
    results = exported.score_batch(
        to_pieces(translator.src_tokenizer, src_rows),
        to_pieces(translator.tgt_tokenizer, tgt_rows),
    )
    return [sum(result.log_probs) for result in results]


@torch.inference_mode()
def score_with_model(
    translator: Translator, src_rows: list[list[int]], tgt_rows: list[list[int]]
) -> list[float]:
    """Return the log-probability of each target, including eos, one pair at a time."""
    model = translator.model
    bos_id = translator.tgt_tokenizer.bos_id
    scores = []
    for src, tgt in zip(src_rows, tgt_rows, strict=True):
        tgt_in = torch.tensor([[bos_id, *tgt[:-1]]])
        states = model(torch.tensor([src]), tgt_in)
        log_probs = model.logits(states).log_softmax(-1)[0]  # (tgt_length, vocab_size)
        scores.append(log_probs[torch.arange(len(tgt)), torch.tensor(tgt)].sum().item())
    return scores


def translate_with_ctranslate2(
    exported: Any, translator: Translator, texts: list[str]
) -> list[list[str]]:
    """Return the first pieces of greedy translations, without the ids that our search forbids."""
    tokenizer = translator.tgt_tokenizer
    texts = [translator.src_normalizer(text) for text in texts]
    results = exported.translate_batch(
        to_pieces(translator.src_tokenizer, translator.src_tokenizer.encode(texts)),
        beam_size=1,
        suppress_sequences=[[tokenizer.piece(i)] for i in tokenizer.forbidden_ids],
        min_decoding_length=0,
        max_decoding_length=NUM_TOKENS,
    )
    return [result.hypotheses[0] for result in results]


def translate_with_model(translator: Translator, texts: list[str]) -> list[list[str]]:
    """Return the first pieces of greedy translations."""
    rows = []
    for translations in translator.n_best(texts):
        (segment,) = translations[0].segments
        without_eos = segment.tgt[:-1]
        rows.append(without_eos[:NUM_TOKENS])
    return to_pieces(translator.tgt_tokenizer, rows)


def num_different(translations: list[list[str]]) -> int:
    return len({tuple(translation) for translation in translations})


MODEL_KINDS = [
    [f"model.norm={norm}", f"model.activation={activation}", *embeddings]
    for norm in ("pre", "post")
    for activation in (*ACTIVATIONS, *GATED_ACTIVATIONS)
    for embeddings in (
        ["model.tie_embeddings=all"],
        ["model.tie_embeddings=none"],
        ["model.tie_embeddings=decoder", "tokenizer.joint=false"],
    )
]
MODEL_KINDS += [
    [f"model.norm={norm}", "model.norm_kind=rms_norm", f"model.activation={activation}"]
    for norm in ("pre", "post")
    for activation in ("relu", "swiglu")
]


@pytest.mark.parametrize("overrides", MODEL_KINDS, ids=" ".join)
def test_export_scores_and_translates_like_the_model(
    overrides: list[str], tokenizers: list[Path], tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers, overrides)
    export(run_dir, tmp_path / "exported")
    exported = open_export(tmp_path / "exported")
    translator = Translator.load(run_dir, device="cpu")

    src_rows = translator.src_tokenizer.encode(TEXTS)
    tgt_rows = translator.tgt_tokenizer.encode(TEXTS[::-1])
    scores = score_with_model(translator, src_rows, tgt_rows)
    exported_scores = score_with_ctranslate2(exported, translator, src_rows, tgt_rows)
    assert exported_scores == pytest.approx(scores, rel=0, abs=1e-3)
    assert max(scores) - min(scores) > 10, "equal scores would not show an error"

    translations = translate_with_model(translator, TEXTS)
    assert translate_with_ctranslate2(exported, translator, TEXTS) == translations
    assert num_different(translations) > len(TEXTS) / 2, "the model ignores its input"


def test_a_thousand_sentences_are_scored_and_translated_alike(
    run_dir: Path, tmp_path: Path
) -> None:
    export(run_dir, tmp_path / "exported")
    exported = open_export(tmp_path / "exported")
    translator = Translator.load(run_dir, device="cpu", beam_size=1)
    texts = make_texts(1000, seed=5)

    src_rows = translator.src_tokenizer.encode(texts)
    tgt_rows = translator.tgt_tokenizer.encode(texts[::-1])
    scores = score_with_model(translator, src_rows, tgt_rows)
    exported_scores = score_with_ctranslate2(exported, translator, src_rows, tgt_rows)
    assert exported_scores == pytest.approx(scores, rel=0, abs=1e-3)

    translations = translate_with_model(translator, texts)
    exported_translations = translate_with_ctranslate2(exported, translator, texts)
    pairs = zip(translations, exported_translations, strict=True)
    num_equal = sum(ours == theirs for ours, theirs in pairs)
    assert num_equal >= 995  # near-ties may be decided differently
    assert num_different(translations) > 100, "the model ignores its input"


@pytest.mark.parametrize("norm_kind", ["layer_norm", "rms_norm"])
def test_epsilon_of_the_norms_is_exported(
    norm_kind: str, tokenizers: list[Path], tmp_path: Path
) -> None:
    """CTranslate2 has another default for RMSNorm."""
    run_dir = make_run(tmp_path / "run", tokenizers, [f"model.norm_kind={norm_kind}"])
    export(run_dir, tmp_path / "exported")
    config = json.loads((tmp_path / "exported" / "config.json").read_text(encoding="utf-8"))
    model = Translator.load(run_dir, device="cpu").model
    norm = model.encoder_norm
    assert isinstance(norm, (nn.LayerNorm, RMSNorm))
    assert config["layer_norm_epsilon"] == norm.eps


def test_export_is_self_contained(run_dir: Path, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    assert mt("export", run_dir, "--to", "ctranslate2", exported).code == 0
    assert {path.name for path in exported.iterdir()} == {
        EXPORT_MARKER,
        "model.bin",
        "README.md",
        "config.json",
        "config.yaml",
        "shared_vocabulary.json",
        "tokenizer.model",
    }
    tokenizer = (run_dir / "tokenizer.model").read_bytes()
    assert (exported / "tokenizer.model").read_bytes() == tokenizer
    assert list(tmp_path.iterdir()) == [exported]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [*SEVERAL_LANGUAGES, "data.tgt_lang=cc"],
        ["tokenizer.joint=false", "model.tie_embeddings=none"],
    ],
    ids=["one language", "several languages", "two tokenizers"],
)
def test_code_on_the_card_translates(
    overrides: list[str],
    tokenizers: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers, overrides)
    export(run_dir, tmp_path / "exported")
    monkeypatch.chdir(tmp_path)
    card = (tmp_path / "exported/README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    exec(card.split("```python\n")[1].split("```")[0], {})
    printed = capsys.readouterr().out
    expected = Translator.load(run_dir, device="cpu").translate("A sentence.")
    assert printed[:15] == expected[:15] != ""


@pytest.mark.parametrize(
    ("length_factor", "max_length", "num_positions"),
    [(1.0, 64, MIN_POSITIONS), (40.0, 64, 40 * 64 + 20), (0.1, 2500, 2500)],
)
def test_positions_cover_the_longest_source_and_translation(
    length_factor: float,
    max_length: int,
    num_positions: int,
    tokenizers: list[Path],
    tmp_path: Path,
) -> None:
    overrides = [f"search.max_length_factor={length_factor}", f"data.max_length={max_length}"]
    run_dir = make_run(tmp_path / "run", tokenizers, overrides)
    export(run_dir, tmp_path / "exported")
    exported = open_export(tmp_path / "exported")
    longest = ["▁balo"] * (num_positions - 1)  # CTranslate2 puts bos before it
    exported.score_batch([["▁balo"]], [longest], max_input_length=0)
    with pytest.raises(RuntimeError, match="position"):
        exported.score_batch([["▁balo"]], [[*longest, "▁balo"]], max_input_length=0)


@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_int8_export_is_smaller_and_scores_similarly(
    activation: str, tokenizers: list[Path], tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers, [f"model.activation={activation}"])
    export(run_dir, tmp_path / "float32")
    export(run_dir, tmp_path / "int8", quantization="int8")
    float_size = (tmp_path / "float32/model.bin").stat().st_size
    int8_size = (tmp_path / "int8/model.bin").stat().st_size
    assert int8_size < float_size
    translator = Translator.load(run_dir, device="cpu")
    rows = translator.src_tokenizer.encode(TEXTS)
    exported_scores = score_with_ctranslate2(open_export(tmp_path / "int8"), translator, rows, rows)
    assert exported_scores == pytest.approx(score_with_model(translator, rows, rows), rel=0.05)


@pytest.mark.parametrize(
    ("overrides", "attention"),
    [
        (["model.cross_attention=additive"], "additive"),
        (["model.self_attention=dense_synthesizer", "model.max_length=64"], "dense_synthesizer"),
    ],
)
def test_unsupported_attention_is_refused(
    overrides: list[str], attention: str, tokenizers: list[Path], tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers, overrides)
    with pytest.raises(ConfigError, match=f"config.yaml: .*dot_product.*found {attention}$"):
        export(run_dir, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == [run_dir]


def test_export_replaces_an_older_export(run_dir: Path, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    exported.mkdir()
    export(run_dir, exported, quantization="int8")
    int8_size = (exported / "model.bin").stat().st_size
    export(run_dir, exported)
    assert (exported / "model.bin").stat().st_size > int8_size


def test_export_does_not_replace_other_files(run_dir: Path, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    export(run_dir, exported)
    (exported / "notes.txt").write_text("mine", encoding="utf-8")
    contents = {path: path.read_bytes() for path in exported.iterdir()}
    for existing in (exported, exported / "notes.txt"):
        with pytest.raises(DiskError, match=f"^{existing}: .*not written by mt export"):
            export(run_dir, existing)
    assert {path: path.read_bytes() for path in exported.iterdir()} == contents


def test_directory_without_marker_is_not_replaced(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("mine", encoding="utf-8")
    with pytest.raises(DiskError, match="not written by mt export"):
        export(run_dir, tmp_path)
    assert (tmp_path / "tokenizer.model").read_text(encoding="utf-8") == "mine"


def test_missing_package_is_one_line_that_names_the_extra(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original_import = builtins.__import__

    def import_without_ctranslate2(name: str, *args: Any) -> Any:
        if name.split(".")[0] == "ctranslate2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", import_without_ctranslate2)
    with pytest.raises(PackageError, match=r"ctranslate2 .*pip install -e '\.\[ctranslate2\]'"):
        export(run_dir, tmp_path / "exported")
    ended = mt("export", run_dir, "--to", "ctranslate2", tmp_path / "exported")
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
