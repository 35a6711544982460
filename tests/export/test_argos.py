"""Packages for Argos Translate: their layout, and that they translate as Argos does it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import sentencepiece
from random_run import SEVERAL_LANGUAGES, TEXTS, make_run, make_tokenizers
from shell import mt

from mt.decoding.translator import Translator
from mt.errors import ConfigError
from mt.export.argos import export

ctranslate2 = pytest.importorskip("ctranslate2")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_tokenizers(tmp_path_factory.mktemp("tokenizers"))


def extract(package: Path, folder: Path) -> Path:
    """Extract a package as Argos Translate does, and return its one folder."""
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    (extracted,) = folder.iterdir()
    return extracted


def test_package_has_the_layout_that_argos_reads(tokenizers: list[Path], tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers)
    export(run_dir, tmp_path / "aa-bb.argosmodel", license_name="CC0-1.0")
    package = extract(tmp_path / "aa-bb.argosmodel", tmp_path / "packages")
    names = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "metadata.json",
        "sentencepiece.model",
        "model/config.json",
        "model/model.bin",
        "model/shared_vocabulary.json",
    }
    metadata = json.loads((package / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["from_code"] == "aa"
    assert metadata["to_code"] == "bb"
    assert metadata.keys() >= {"package_version", "argos_version", "from_name", "to_name"}


def test_package_translates_as_argos_does(tokenizers: list[Path], tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers)
    export(run_dir, tmp_path / "aa-bb.argosmodel")
    package = extract(tmp_path / "aa-bb.argosmodel", tmp_path / "packages")
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=str(package / "sentencepiece.model")
    )
    exported = ctranslate2.Translator(str(package / "model"), intra_threads=1)
    tokenized = [tokenizer.encode(text, out_type=str) for text in TEXTS]
    results = exported.translate_batch(
        tokenized, replace_unknowns=True, beam_size=4, max_decoding_length=15
    )
    rows = [result.hypotheses[0] for result in results]

    translator = Translator.load(run_dir, device="cpu", beam_size=4)
    translations = translator.n_best(TEXTS, num_translations=1)
    expected = [
        [translator.tgt_tokenizer.piece(i) for i in found[0].segments[0].tgt][:15]
        for found in translations
    ]
    assert len({tuple(row) for row in rows}) > len(TEXTS) / 2, "the model ignores its input"
    num_equal = sum(row[:4] == pieces[:4] for row, pieces in zip(rows, expected, strict=True))
    assert num_equal >= len(TEXTS) / 2  # the searches end at limits of their own


def test_separate_tokenizers_are_refused(tokenizers: list[Path], tmp_path: Path) -> None:
    overrides = ["tokenizer.joint=false", "model.tie_embeddings=none"]
    run_dir = make_run(tmp_path / "run", tokenizers, overrides)
    with pytest.raises(ConfigError, match=r"config\.yaml: tokenizer\.joint: "):
        export(run_dir, tmp_path / "aa-bb.argosmodel")
    assert list(tmp_path.iterdir()) == [run_dir]


def test_several_target_languages_are_refused(tokenizers: list[Path], tmp_path: Path) -> None:
    """Argos Translate cannot choose one of them."""
    run_dir = make_run(tmp_path / "run", tokenizers, SEVERAL_LANGUAGES)
    with pytest.raises(ConfigError, match=r"config\.yaml: data\.tags: .*bb, cc"):
        export(run_dir, tmp_path / "aa-bb.argosmodel")
    assert list(tmp_path.iterdir()) == [run_dir]


def test_other_file_names_are_refused(tokenizers: list[Path], tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers)
    ended = mt("export", run_dir, "--to", "argos", tmp_path / "aa-bb")
    assert ended.code == 1
    assert ".argosmodel" in ended.err
    assert list(tmp_path.iterdir()) == [run_dir]
