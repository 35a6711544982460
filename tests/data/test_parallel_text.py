"""Tests of what a parallel text is on the disk: named in a config, read, and identified."""

from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from mt.config.schema import CorpusConfig, DataConfig, EvalSetConfig
from mt.data.eval_set import load_eval_set, training_corpora
from mt.data.parallel_text import (
    ParallelText,
    TmxFile,
    TsvFile,
    TwoFiles,
    parallel_texts,
    read_pairs,
    text_of_names,
)
from mt.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PAIRS = [("dog", "hund"), ("cat", "katt")]
VARIANT = '<tuv xml:lang="{}"><seg>{}</seg></tuv>'
UNITS = [
    f"<tu>{VARIANT.format('en-US', src)}{VARIANT.format('sv', tgt)}</tu>" for src, tgt in PAIRS
]
TMX = f"<tmx><body>{''.join(UNITS)}</body></tmx>"


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the same pairs in all forms to the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("a.en").write_text("dog\ncat\n")
    Path("a.sv").write_text("hund\nkatt\n")
    Path("b.en.gz").write_bytes(gzip.compress(b"dog\ncat\n"))
    Path("b.sv.zst").write_bytes(zstd.compress(b"hund\nkatt\n"))
    Path("c.txt").write_text("dog\thund\tCC-BY\ncat\tkatt\tCC-BY\n")
    Path("d.tsv").write_text("id\tsv\ten\n1\thund\tdog\n2\tkatt\tcat\n")
    Path("e.tmx").write_text(TMX)
    Path("f.tmx.zst").write_bytes(zstd.compress(TMX.encode()))


FORMS: list[Any] = [
    "a",
    {"prefix": "a"},
    {"src": "a.en", "tgt": "a.sv"},
    "b",
    "c.txt",
    {"tsv": "c.txt", "columns": (1, 2)},
    {"tsv": "d.tsv", "columns": ("en", "sv")},
    "e.tmx",
    "f.tmx.zst",
    {"tmx": "e.tmx"},
]


def data_config(**values: Any) -> DataConfig:
    return DataConfig(**{"src_lang": "en", "tgt_lang": "sv", "train": "a", "valid": "a"} | values)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_training_text_gives_the_same_pairs(form: Any) -> None:
    (corpus,) = training_corpora(data_config(train=form))
    assert list(read_pairs(corpus.text)) == PAIRS
    assert list(corpus.text.read_side("src")) == ["dog", "cat"]
    assert list(corpus.text.read_side("tgt")) == ["hund", "katt"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_evaluation_set_gives_the_same_lines(form: Any) -> None:
    section = form
    if isinstance(form, dict):
        section = {"name": "valid"} | form
        if "tgt" in form:
            section = {"name": "valid", "src": form["src"], "refs": (form["tgt"],)}
    data = data_config(valid=section)
    eval_set = load_eval_set(data.valid[0], data)
    assert eval_set.src == ["dog", "cat"]
    assert eval_set.refs == [["hund", "katt"]]
    assert eval_set.digest == load_eval_set(data_config().valid[0], data_config()).digest


def test_several_forms_are_mixed_in_order() -> None:
    corpora = training_corpora(data_config(train=("a", {"tmx": "e.tmx", "weight": 2.0}, "c.txt")))
    assert [type(corpus.text) for corpus in corpora] == [TwoFiles, TmxFile, TsvFile]
    assert [corpus.weight for corpus in corpora] == [1.0, 2.0, 1.0]


def test_source_language_of_a_corpus_selects_its_units() -> None:
    section = CorpusConfig(tmx="e.tmx", src_lang="de")
    (text,) = parallel_texts(section, data_config())
    with pytest.raises(DataError, match=r"wanted units in de and sv.*en-US \(2\)"):
        list(read_pairs(text))


def test_several_references_are_several_texts() -> None:
    section = EvalSetConfig(name="x", src="a.en", refs=("a.sv", "b.sv.zst"))
    texts = parallel_texts(section, data_config())
    assert [path.name for text in texts for path in text.paths] == [
        "a.en",
        "a.sv",
        "a.en",
        "b.sv.zst",
    ]


@pytest.mark.parametrize(
    ("names", "columns", "expected"),
    [
        (["a"], None, TwoFiles(Path("a.en"), Path("a.sv"))),
        (["a.en", "b.sv.zst"], None, TwoFiles(Path("a.en"), Path("b.sv.zst"))),
        (["c.txt"], None, TsvFile(Path("c.txt"))),
        (["c.txt"], (3, 1), TsvFile(Path("c.txt"), (3, 1))),
        (["c"], ("x", "y"), TsvFile(Path("c"), ("x", "y"))),
        (["e.tmx"], None, TmxFile(Path("e.tmx"), "en", "sv")),
    ],
)
def test_names_on_a_command_line_are_a_text(
    names: list[str], columns: Any, expected: ParallelText
) -> None:
    assert text_of_names(names, src_lang="en", tgt_lang="sv", columns=columns) == expected


def test_missing_prefix_that_is_a_file_is_explained(tmp_path: Path) -> None:
    Path("g.dat").write_text("dog\thund\n")
    with pytest.raises(DataError, match=r"g\.dat\.en: no such file .*; g\.dat is a file"):
        text_of_names(["g.dat"], src_lang="en", tgt_lang="sv")


def test_identity_is_of_the_content_and_of_what_is_read_of_it() -> None:
    """That of two files is part of the names of old caches, and must never change."""
    digests = [hashlib.sha256(text).hexdigest() for text in (b"dog\ncat\n", b"hund\nkatt\n")]
    assert TwoFiles(Path("a.en"), Path("a.sv")).identity() == digests
    Path("c.txt").rename("moved.txt")
    Path("c.txt").write_text("other\ttext\n")
    texts: list[ParallelText] = [
        TsvFile(Path("moved.txt")),
        TsvFile(Path("moved.txt"), (2, 1)),
        TsvFile(Path("c.txt")),
        TsvFile(Path("d.tsv"), ("en", "sv")),
        TsvFile(Path("d.tsv"), ("sv", "en")),
        TmxFile(Path("e.tmx"), "en", "sv"),
        TmxFile(Path("e.tmx"), "sv", "en"),
    ]
    identities = {tuple(text.identity()) for text in texts}
    assert len(identities) == len(texts)
    identity = TsvFile(Path("moved.txt")).identity()
    Path("moved.txt").rename("elsewhere.tsv")
    assert TsvFile(Path("elsewhere.tsv")).identity() == identity


def test_incomplete_row_is_a_blank_line_of_each_side() -> None:
    """So line i of a side stays line i of the file, as the findings of `mt check` say."""
    Path("h.tsv").write_text("dog\thund\n" * 150 + "==\n" + "cat\tkatt\n")
    text = TsvFile(Path("h.tsv"))
    assert list(text.read_side("src"))[149:] == ["dog", "", "cat"]
    assert list(text.read_side("tgt"))[149:] == ["hund", "", "katt"]
    assert len(list(read_pairs(text))) == 151


@pytest.mark.parametrize("form", FORMS)
def test_all_bytes_are_counted_while_a_text_is_read(form: Any) -> None:
    (corpus,) = training_corpora(data_config(train=form))
    counted: list[int] = []
    list(read_pairs(corpus.text, on_bytes=counted.append))
    assert sum(counted) == sum(path.stat().st_size for path in corpus.text.paths)


@pytest.mark.parametrize("name", ["x.zst", "x.tsv.zst", "x.tmx.zst"])
def test_damaged_zstd_data_are_refused(name: str) -> None:
    content = TMX.encode() if "tmx" in name else b"dog\thund\n" * 1000
    packed = zstd.compress(content)
    for damaged in (packed[:-5], content, packed[:10] + b"\xff" * 20):
        Path("a.en.zst" if name == "x.zst" else name).write_bytes(damaged)
        text = text_of_names(
            ["a.en.zst", "a.en.zst"] if name == "x.zst" else [name], src_lang="en", tgt_lang="sv"
        )
        with pytest.raises(DataError, match=r"zst:\d+: the zstd data are damaged"):
            list(read_pairs(text))
