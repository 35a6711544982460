"""The encoded corpus is the text, filtered as said; its cache is complete or absent, and never out of date."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mt.data.corpus
from mt.data.corpus import (
    EncodedCorpus,
    FilterCounts,
    ParallelFiles,
    encode_corpus,
    encode_pairs,
    resample,
)
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.errors import DataError

PAIRS = [
    (f"The {x} dog sees {y}.", f"Der {x} Hund sieht {y}.")
    for x in ("old", "small", "red")
    for y in range(8)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    train_tokenizer([text for pair in PAIRS for text in pair], path, kind="bpe", vocab_size=320)
    return path


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.load(model)


def write(
    directory: Path, pairs: list[tuple[str, str]], *, name: str = "train", weight: float = 1.0
) -> ParallelFiles:
    files = ParallelFiles(directory / f"{name}.en", directory / f"{name}.de", weight)
    for path, texts in zip(files[:2], zip(*pairs, strict=True), strict=True):
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return files


def encode(
    tmp_path: Path, tokenizer: Tokenizer, *files: ParallelFiles, **limits: Any
) -> EncodedCorpus:
    options: dict[str, Any] = {"max_length": 50, "max_length_ratio": 9.0, **limits}
    return encode_corpus(files, tokenizer, tokenizer, cache_dir=tmp_path / "cache", **options)


def texts(corpus: EncodedCorpus, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    src, tgt = (
        tokenizer.decode([side[i].tolist() for i in range(len(side))])
        for side in (corpus.src, corpus.tgt)
    )
    return list(zip(src, tgt, strict=True))


@pytest.mark.parametrize("chunk_size", [1, 7, 10_000])
def test_the_corpus_holds_the_ids_of_all_pairs_in_order(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, chunk_size: int
) -> None:
    monkeypatch.setattr(mt.data.corpus, "CHUNK_SIZE", chunk_size)
    corpus = encode(tmp_path, tokenizer, write(tmp_path, PAIRS))
    assert len(corpus) == len(PAIRS)
    for side, index in ((corpus.src, 0), (corpus.tgt, 1)):
        expected = tokenizer.encode([pair[index] for pair in PAIRS])
        assert [side[i].tolist() for i in range(len(side))] == expected
        assert side.lengths.tolist() == [len(ids) for ids in expected]
        assert side.ids.dtype == np.int32


def test_pairs_are_left_out_by_reason_and_counted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    left_out = [
        ("", "Hund"),
        ("dog", " \t\u3000"),
        ("", ""),
        ("x" * 60, "Hund"),
        ("dog", "y" * 60),
        ("x" * 30, "y"),
    ]
    corpus = encode(tmp_path, tokenizer, write(tmp_path, PAIRS[:3] + left_out + PAIRS[3:]))
    assert texts(corpus, tokenizer) == PAIRS
    assert corpus.counts == FilterCounts(kept=24, blank=3, too_long=2, bad_ratio=1)
    assert (
        str(corpus.counts)
        == "24 of 30 pairs kept (left out: 3 blank, 2 too long, 1 bad length ratio)"
    )
    assert str(FilterCounts(kept=29_000)) == "29,000 of 29,000 pairs kept"


def test_limits_are_inclusive_and_the_ratio_of_short_pairs_is_not_judged(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    def num_tokens(text: str) -> int:
        return len(tokenizer.encode([text])[0])

    long = "x" * 30
    short = "x" * 8
    assert num_tokens(short) <= mt.data.corpus.SHORT_LENGTH < num_tokens(long)
    pairs = [(long, long), (long, "y"), (short, "y")]
    ratio = num_tokens(long) / num_tokens("y")
    for max_length, max_ratio, kept in [
        (num_tokens(long), ratio, pairs),
        (num_tokens(long), ratio - 0.01, [pairs[0], pairs[2]]),
        (num_tokens(long) - 1, ratio, [pairs[2]]),
        (num_tokens(long), 1.0, [pairs[0], pairs[2]]),
    ]:
        files = write(tmp_path, pairs)
        corpus = encode(
            tmp_path, tokenizer, files, max_length=max_length, max_length_ratio=max_ratio
        )
        assert texts(corpus, tokenizer) == kept


def test_corpora_follow_each_other_and_every_pair_has_the_weight_of_its_corpus(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    first = write(tmp_path, [*PAIRS[:5], ("", "")], name="first", weight=0.25)
    second = write(tmp_path, PAIRS[5:8], name="second", weight=2.0)
    corpus = encode(tmp_path, tokenizer, first, second)
    assert texts(corpus, tokenizer) == PAIRS[:8]
    assert corpus.weights.tolist() == [0.25] * 5 + [2.0] * 3


def test_a_corpus_is_encoded_once(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(tmp_path, PAIRS)
    corpus = encode(tmp_path, tokenizer, files)
    monkeypatch.setattr(mt.data.corpus, "read_parallel", None)  # a second encoding would fail
    os.utime(files.src, (0, 0))
    again = encode(tmp_path, tokenizer, files._replace(weight=3.0))
    assert texts(again, tokenizer) == texts(corpus, tokenizer)
    assert again.counts == corpus.counts
    assert set(again.weights) == {3.0}


def test_whatever_changes_the_ids_makes_a_cache_of_its_own(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    other_model = tmp_path / "other.model"
    train_tokenizer(["The old dog", "Der Hund"], other_model, kind="bpe", vocab_size=290)
    other = Tokenizer.load(other_model)
    files = write(tmp_path, PAIRS)
    caches = []
    for change in (
        lambda: encode(tmp_path, tokenizer, files),
        lambda: encode(tmp_path, other, files),
        lambda: encode(tmp_path, tokenizer, files, max_length=49),
        lambda: encode(tmp_path, tokenizer, files, max_length_ratio=8.0),
        lambda: encode(tmp_path, tokenizer, files, files),
        lambda: encode(tmp_path, tokenizer, write(tmp_path, PAIRS[::-1])),
    ):
        change()
        caches.append(len(list((tmp_path / "cache").iterdir())))
    assert caches == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("src", "tgt", "message"),
    [
        (
            b"\n \n",
            b"Hund\nKatze\n",
            "no training pair is left: 0 of 2 pairs kept (left out: 2 blank)",
        ),
        (b"dog\ncat\n", b"Hund\n", "has 2 lines, but"),
        (b"dog\ncat\n", b"Hund\nK\xe4tzchen\n", "train.de:2: not UTF-8: byte 0xE4 at column 2"),
        (b"", b"Hund\n", "train.en: the file is empty"),
        (b"dog\n", None, "train.de: cannot read: No such file"),
    ],
)
def test_a_corpus_that_fails_leaves_no_cache(
    tmp_path: Path, tokenizer: Tokenizer, src: bytes, tgt: bytes | None, message: str
) -> None:
    files = ParallelFiles(tmp_path / "train.en", tmp_path / "train.de")
    files.src.write_bytes(src)
    if tgt is not None:
        files.tgt.write_bytes(tgt)
    with pytest.raises(DataError) as caught:
        encode(tmp_path, tokenizer, files)
    assert message in str(caught.value)
    assert not list(tmp_path.glob("cache/*"))


@pytest.mark.parametrize("name", ["meta.json", "src.ids", "tgt.offsets"])
@pytest.mark.parametrize("damage", [b"", b"?"])
def test_a_damaged_cache_is_named(
    tmp_path: Path, tokenizer: Tokenizer, name: str, damage: bytes
) -> None:
    files = write(tmp_path, PAIRS)
    encode(tmp_path, tokenizer, files)
    (directory,) = (tmp_path / "cache").iterdir()
    (directory / name).write_bytes(damage)
    with pytest.raises(DataError, match=f"^{directory}: this cache is damaged; delete it"):
        encode(tmp_path, tokenizer, files)


@pytest.mark.parametrize(
    ("name", "values", "dtype"),
    [
        ("src.ids", [10**6, *[5] * 29], np.int32),
        ("tgt.ids", [-1, *[5] * 29], np.int32),
        ("src.offsets", [0, 10, 5, 30], np.int64),
        ("src.offsets", [0, 10, 10, 30], np.int64),
        ("tgt.offsets", [1, 10, 20, 30], np.int64),
        ("tgt.offsets", [0, 10, 20, 2**60], np.int64),
    ],
)
def test_a_cache_of_the_right_size_and_wrong_numbers_is_damaged(
    tmp_path: Path, tokenizer: Tokenizer, name: str, values: list[int], dtype: type
) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    for side in ("src", "tgt"):
        (directory / f"{side}.ids").write_bytes(np.full(30, 5, np.int32).tobytes())
        (directory / f"{side}.offsets").write_bytes(np.array([0, 10, 20, 30], np.int64).tobytes())
    meta = {"num_pairs": [3], "counts": {"kept": 3}}
    (directory / "meta.json").write_text(json.dumps(meta))

    def load() -> EncodedCorpus:
        return mt.data.corpus._load_cache(
            directory,
            weights=[1.0],
            src_vocab_size=tokenizer.vocab_size,
            tgt_vocab_size=tokenizer.vocab_size,
        )

    assert len(load()) == 3
    (directory / name).write_bytes(np.array(values, dtype).tobytes())
    with pytest.raises(DataError, match="this cache is damaged"):
        load()


@pytest.mark.parametrize(
    "num_pairs", [[2], [3, 0], [-1, 4], [1.5, 1.5], [10**18], ["3"], "3", None, 3, [True, 2]]
)
def test_a_cache_whose_counts_are_none_is_damaged(
    tmp_path: Path, tokenizer: Tokenizer, num_pairs: object
) -> None:
    files = write(tmp_path, PAIRS[:3])
    encode(tmp_path, tokenizer, files)
    (path,) = (tmp_path / "cache").glob("*/meta.json")
    path.write_text(json.dumps({"num_pairs": num_pairs, "counts": {"kept": 3}}))
    with pytest.raises(DataError, match="this cache is damaged"):
        encode(tmp_path, tokenizer, files)


def test_long_lines_are_encoded_a_few_at_a_time(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def encode_noting(texts: Any, **options: Any) -> Any:
        sizes.append(sum(map(len, texts)))
        return Tokenizer.encode(tokenizer, texts, **options)

    whole = encode(tmp_path, tokenizer, write(tmp_path, PAIRS))
    monkeypatch.setattr(mt.data.corpus, "CHUNK_CHARS", 100)
    monkeypatch.setattr(tokenizer, "encode", encode_noting)
    again = encode(tmp_path / "again", tokenizer, write(tmp_path, PAIRS))
    assert max(sizes) < 100 + 30
    assert again.src.ids.tolist() == whole.src.ids.tolist()


def test_a_validation_set_loses_no_pair(tokenizer: Tokenizer) -> None:
    pairs = [*PAIRS, ("", "x" * 500), ("", "")]
    src_texts, tgt_texts = zip(*pairs, strict=True)
    corpus = encode_pairs(src_texts, tgt_texts, src_tokenizer=tokenizer, tgt_tokenizer=tokenizer)
    assert texts(corpus, tokenizer) == pairs
    assert corpus.src[len(PAIRS)].tolist() == [tokenizer.eos_id]
    assert corpus.weights.tolist() == [1.0] * len(pairs)


def test_resampling_changes_the_encoding_with_the_epoch_and_never_the_text(
    tmp_path: Path, model: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mt.data.corpus, "CHUNK_SIZE", 10)
    corpus = encode(tmp_path, tokenizer, write(tmp_path, PAIRS, weight=2.0))
    sampling = Tokenizer.load(model, bpe_dropout=0.3, seed=1)
    first, second, first_again = (
        resample(corpus, sampling, tokenizer, epoch=epoch, max_length=50) for epoch in (1, 2, 1)
    )
    assert texts(first, tokenizer) == texts(second, tokenizer) == PAIRS
    assert first.src.ids.tolist() == first_again.src.ids.tolist() != second.src.ids.tolist()
    assert first.src.lengths.sum() > corpus.src.lengths.sum()
    assert first.tgt is corpus.tgt  # whose tokenizer does not sample
    assert (first.weights is corpus.weights, first.counts) == (True, corpus.counts)


def test_a_sampled_encoding_that_is_too_long_gives_way_to_the_plain_one(
    model: Path, tokenizer: Tokenizer
) -> None:
    src_texts, tgt_texts = zip(*PAIRS, strict=True)
    corpus = encode_pairs(src_texts, tgt_texts, src_tokenizer=tokenizer, tgt_tokenizer=tokenizer)
    sampling = Tokenizer.load(model, bpe_dropout=1.0)
    limit = int(corpus.tgt.lengths.max()) + 1
    resampled = resample(corpus, sampling, sampling, epoch=1, max_length=limit)
    assert resampled.tgt.lengths.max() <= limit
    assert resampled.tgt.ids.tolist() == corpus.tgt.ids.tolist()


def test_counts_add_up() -> None:
    counts = FilterCounts(kept=1, blank=2, too_long=3, bad_ratio=4)
    assert counts + replace(counts, kept=10) == FilterCounts(
        kept=11, blank=4, too_long=6, bad_ratio=8
    )
