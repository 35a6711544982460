"""Tests of encoding and filtering a corpus, of its cache, and of prefixes of tags."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mt.data.corpus
from mt.config.choices import Normalization
from mt.config.schema import CorpusConfig, DataConfig
from mt.data.chunk_encoder import (
    SHORT_PAIR_TOKENS,
    ChunkEncoder,
    EncodedChunk,
    FilterCounts,
    TextChunk,
)
from mt.data.corpus import (
    EncodedCorpus,
    TrainingCorpus,
    encode_corpus,
    encode_pairs,
    report_equal_sides,
)
from mt.data.eval_set import texts_of_two_languages
from mt.data.parallel_text import TwoFiles
from mt.data.token_array import TokenArray
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.errors import DataError
from mt.storage.known_files import KnownFiles

PAIRS = [
    (f"The {adjective} dog sees {number}.", f"Der {adjective} Hund sieht {number}.")
    for adjective in ("old", "small", "red")
    for number in range(8)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    train_tokenizer([text for pair in PAIRS for text in pair], path, kind="bpe", vocab_size=320)
    return path


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.load(model)


def write_pairs(
    directory: Path, pairs: list[tuple[str, str]], *, name: str = "train", weight: float = 1.0
) -> TrainingCorpus:
    files = TwoFiles(directory / f"{name}.en", directory / f"{name}.de")
    files.src.write_text("".join(f"{src}\n" for src, _ in pairs), encoding="utf-8")
    files.tgt.write_text("".join(f"{tgt}\n" for _, tgt in pairs), encoding="utf-8")
    return TrainingCorpus(files, weight)


def encode_files(
    tmp_path: Path,
    tokenizer: Tokenizer,
    *corpora: TrainingCorpus,
    max_length: int = 50,
    max_length_ratio: float = 9.0,
    normalization: Normalization = "nfc",
) -> EncodedCorpus:
    """Encode one or more corpora with a cache in `tmp_path`."""
    return encode_corpus(
        corpora,
        tokenizer,
        tokenizer,
        max_length=max_length,
        max_length_ratio=max_length_ratio,
        cache_dir=tmp_path / "cache",
        normalization=normalization,
    )


def rows_of(side: TokenArray) -> list[list[int]]:
    return [side[index].tolist() for index in range(len(side))]


def decode_pairs(corpus: EncodedCorpus, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    src_texts = tokenizer.decode(rows_of(corpus.src))
    tgt_texts = tokenizer.decode(rows_of(corpus.tgt))
    return list(zip(src_texts, tgt_texts, strict=True))


# Encoding and filtering


@pytest.mark.parametrize("chunk_size", [1, 7, 10_000])
def test_corpus_has_the_ids_of_all_pairs_in_order(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, chunk_size: int
) -> None:
    monkeypatch.setattr(mt.data.corpus, "CHUNK_SIZE", chunk_size)
    corpus = encode_files(tmp_path, tokenizer, write_pairs(tmp_path, PAIRS))
    src_texts, tgt_texts = zip(*PAIRS, strict=True)
    assert len(corpus) == len(PAIRS)
    for side, texts in ((corpus.src, src_texts), (corpus.tgt, tgt_texts)):
        expected = tokenizer.encode(texts)
        assert rows_of(side) == expected
        assert side.lengths.tolist() == [len(ids) for ids in expected]
        assert side.ids.dtype == np.int32


def test_pairs_are_left_out_and_counted_by_reason(tmp_path: Path, tokenizer: Tokenizer) -> None:
    left_out = [
        ("", "Hund"),  # blank
        ("dog", " \t\u3000"),
        ("", ""),
        ("x" * 60, "Hund"),  # too long
        ("dog", "y" * 60),
        ("x" * 30, "y"),  # bad ratio
    ]
    files = write_pairs(tmp_path, PAIRS[:3] + left_out + PAIRS[3:])
    corpus = encode_files(tmp_path, tokenizer, files)
    assert decode_pairs(corpus, tokenizer) == PAIRS
    assert corpus.counts == FilterCounts(kept=24, blank=3, too_long=2, bad_ratio=1)


def test_both_sides_are_normalized(tmp_path: Path, tokenizer: Tokenizer) -> None:
    changed = [(f" {src.replace(' ', chr(0xA0))}", tgt.replace(" ", "  ")) for src, tgt in PAIRS]
    files = write_pairs(tmp_path, changed)
    assert decode_pairs(encode_files(tmp_path, tokenizer, files), tokenizer) == PAIRS
    as_it_is = encode_files(tmp_path, tokenizer, files, normalization="none")
    assert decode_pairs(as_it_is, tokenizer) == changed


def test_line_without_a_visible_character_is_blank(tmp_path: Path, tokenizer: Tokenizer) -> None:
    invisible = [("dog", "\u200b"), ("\ufeff", "Hund"), ("\u200e\u3164", "Hund")]
    files = write_pairs(tmp_path, PAIRS[:3] + invisible)
    assert encode_files(tmp_path, tokenizer, files).counts == FilterCounts(kept=3, blank=3)
    # A run of the time before normalization resumes with the pairs that it began with.
    old = encode_files(tmp_path, tokenizer, files, normalization="none")
    assert old.counts.kept == 6


def test_validation_sources_are_prepared_as_for_a_translation(tokenizer: Tokenizer) -> None:
    (src, tgt), *_ = PAIRS
    corpus = encode_pairs(
        [src.replace("old", "\uff4fl\u0323d").replace(" ", "\u00a0")],
        [tgt.replace(" ", "  ")],
        src_tokenizer=tokenizer,
        tgt_tokenizer=tokenizer,
        normalization="nfc",
    )
    assert decode_pairs(corpus, tokenizer) == [(src, tgt)]


def test_filter_counts_as_text() -> None:
    counts = FilterCounts(kept=24, blank=3, too_long=2, bad_ratio=1)
    expected = "24 of 30 pairs kept (left out: 3 blank, 2 too long, 1 bad length ratio)"
    assert str(counts) == expected
    assert str(FilterCounts(kept=29_000)) == "29,000 of 29,000 pairs kept"


def test_filter_counts_add_up() -> None:
    first = FilterCounts(kept=1, blank=2, too_long=3, bad_ratio=4)
    second = FilterCounts(kept=10, blank=2, too_long=3, bad_ratio=4)
    assert first + second == FilterCounts(kept=11, blank=4, too_long=6, bad_ratio=8)


def test_kept_sources_of_several_sentences_are_counted(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mt.data.corpus, "CHUNK_SIZE", 2)
    several = [("A dog. A red dog.", "Hund"), ("Mr. Dog", "Hund. Hund."), ("Red? No. Old.", "rot")]
    left_out = [("A dog. A dog.", "")]
    files = write_pairs(tmp_path, several + left_out + PAIRS)
    encoded = encode_files(tmp_path, tokenizer, files)
    cached = encode_files(tmp_path, tokenizer, files)
    assert encoded.num_several_sentences == cached.num_several_sentences == 2


def test_cache_of_an_older_version_can_be_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    files = write_pairs(tmp_path, PAIRS)
    encode_files(tmp_path, tokenizer, files)
    (meta_path,) = (tmp_path / "cache").glob("*/meta.json")
    meta = json.loads(meta_path.read_text(encoding="utf-8"))
    del meta["num_several_sentences"]
    meta_path.write_text(json.dumps(meta), encoding="utf-8")
    corpus = encode_files(tmp_path, tokenizer, files)
    assert corpus.num_several_sentences is None
    assert decode_pairs(corpus, tokenizer) == PAIRS


@pytest.mark.parametrize("number", ["", [], False, -1, 25, 0.5])
def test_cache_with_an_impossible_number_of_sources_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, number: object
) -> None:
    files = write_pairs(tmp_path, PAIRS)
    encode_files(tmp_path, tokenizer, files)
    (meta_path,) = (tmp_path / "cache").glob("*/meta.json")
    meta = json.loads(meta_path.read_text(encoding="utf-8"))
    meta["num_several_sentences"] = number
    meta_path.write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(DataError, match="this cache is damaged"):
        encode_files(tmp_path, tokenizer, files)


def test_limits_are_inclusive_and_short_pairs_have_no_ratio(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    def num_tokens(text: str) -> int:
        return len(tokenizer.encode([text])[0])

    long_text = "x" * 30
    short_text = "x" * 8
    assert num_tokens(short_text) <= SHORT_PAIR_TOKENS < num_tokens(long_text)
    equal_pair = (long_text, long_text)
    uneven_pair = (long_text, "y")
    short_uneven_pair = (short_text, "y")
    files = write_pairs(tmp_path, [equal_pair, uneven_pair, short_uneven_pair])

    def kept(max_length: int, max_length_ratio: float) -> list[tuple[str, str]]:
        corpus = encode_files(
            tmp_path,
            tokenizer,
            files,
            max_length=max_length,
            max_length_ratio=max_length_ratio,
        )
        return decode_pairs(corpus, tokenizer)

    length = num_tokens(long_text)
    ratio = length / num_tokens("y")
    assert kept(length, ratio) == [equal_pair, uneven_pair, short_uneven_pair]
    assert kept(length, ratio - 0.01) == [equal_pair, short_uneven_pair]
    assert kept(length, 1.0) == [equal_pair, short_uneven_pair]
    assert kept(length - 1, ratio) == [short_uneven_pair]


def test_pairs_have_the_weight_of_their_corpus(tmp_path: Path, tokenizer: Tokenizer) -> None:
    first = write_pairs(tmp_path, [*PAIRS[:5], ("", "")], name="first", weight=0.25)
    second = write_pairs(tmp_path, PAIRS[5:8], name="second", weight=2.0)
    corpus = encode_files(tmp_path, tokenizer, first, second)
    assert decode_pairs(corpus, tokenizer) == PAIRS[:8]
    assert corpus.weights.tolist() == [0.25] * 5 + [2.0] * 3


def test_equal_weights_take_no_memory(tmp_path: Path, tokenizer: Tokenizer) -> None:
    first = write_pairs(tmp_path, PAIRS[:5], name="first", weight=0.5)
    second = write_pairs(tmp_path, PAIRS[5:8], name="second", weight=0.5)
    weights = encode_files(tmp_path, tokenizer, first, second).weights
    assert weights.tolist() == [0.5] * 8
    assert weights.strides == (0,)


def test_long_lines_are_encoded_in_smaller_chunks(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encode_files(tmp_path, tokenizer, write_pairs(tmp_path, PAIRS))
    num_chars_of_chunks = []

    class RecordingEncoder(ChunkEncoder):
        def encode(self, chunk: TextChunk) -> EncodedChunk:
            num_chars_of_chunks.append(sum(len(src + tgt) for src, tgt in chunk.pairs))
            return super().encode(chunk)

    monkeypatch.setattr(mt.data.corpus, "CHUNK_CHARS", 100)
    monkeypatch.setattr(mt.data.corpus, "ChunkEncoder", RecordingEncoder)
    corpus = encode_files(tmp_path / "again", tokenizer, write_pairs(tmp_path, PAIRS))
    longest_pair = 60
    assert max(num_chars_of_chunks) < 100 + longest_pair
    assert corpus.src.ids.tolist() == expected.src.ids.tolist()


def test_pairs_for_validation_are_not_filtered(tokenizer: Tokenizer) -> None:
    pairs = [*PAIRS, ("", "x" * 500), ("", "")]
    src_texts, tgt_texts = zip(*pairs, strict=True)
    corpus = encode_pairs(src_texts, tgt_texts, src_tokenizer=tokenizer, tgt_tokenizer=tokenizer)
    assert decode_pairs(corpus, tokenizer) == pairs
    assert corpus.src[len(PAIRS)].tolist() == [tokenizer.eos_id]
    assert corpus.weights.tolist() == [1.0] * len(pairs)


# The cache


def test_corpus_is_encoded_only_once(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_pairs(tmp_path, PAIRS)
    corpus = encode_files(tmp_path, tokenizer, files)
    monkeypatch.setattr(mt.data.corpus, "read_pairs", None)  # encoding again would fail
    os.utime(files.text.paths[0], (0, 0))
    cached = encode_files(tmp_path, tokenizer, files._replace(weight=3.0))
    assert decode_pairs(cached, tokenizer) == decode_pairs(corpus, tokenizer)
    assert cached.counts == corpus.counts
    assert cached.digest == corpus.digest
    assert set(cached.weights) == {3.0}


def test_cache_depends_on_text_tokenizer_and_limits(tmp_path: Path, tokenizer: Tokenizer) -> None:
    other_model = tmp_path / "other.model"
    train_tokenizer(["The old dog", "Der Hund"], other_model, kind="bpe", vocab_size=290)
    other_tokenizer = Tokenizer.load(other_model)
    files = write_pairs(tmp_path, PAIRS)
    other_files = write_pairs(tmp_path, PAIRS[::-1], name="other")
    digests = {
        encode_files(tmp_path, tokenizer, files).digest,
        encode_files(tmp_path, other_tokenizer, files).digest,
        encode_files(tmp_path, tokenizer, files, max_length=49).digest,
        encode_files(tmp_path, tokenizer, files, max_length_ratio=8.0).digest,
        encode_files(tmp_path, tokenizer, files, files).digest,
        encode_files(tmp_path, tokenizer, other_files).digest,
        encode_files(tmp_path, tokenizer, files, normalization="nfkc").digest,
        encode_files(tmp_path, tokenizer, files, normalization="none").digest,
    }
    assert len(digests) == 8
    directories = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert {path.name for path in directories} == digests


def test_digest_of_the_same_data_never_changes(tmp_path: Path) -> None:
    """Runs of earlier versions resume only if their data has the digest that they stored."""

    class FixedTokenizer:
        """A tokenizer with a digest that does not depend on SentencePiece."""

        digest = "0123"
        vocab_size = 10
        eos_id = 3
        encodes_words_alone = False

        def encode(self, texts: list[str]) -> list[list[int]]:
            return [[5, 3] for _ in texts]

    files = write_pairs(tmp_path, [("The dog", "Der Hund"), ("a cat", "eine Katze")])
    tokenizer: Any = FixedTokenizer()
    corpus = encode_files(tmp_path, tokenizer, files, normalization="none")
    assert corpus.digest == "a5efc24bfb04869cb5f504ab6772edd4"


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
def test_failed_encoding_leaves_no_cache(
    tmp_path: Path, tokenizer: Tokenizer, src: bytes, tgt: bytes | None, message: str
) -> None:
    files = TwoFiles(tmp_path / "train.en", tmp_path / "train.de")
    files.src.write_bytes(src)
    if tgt is not None:
        files.tgt.write_bytes(tgt)
    with pytest.raises(DataError) as caught:
        encode_files(tmp_path, tokenizer, TrainingCorpus(files))
    assert message in str(caught.value)
    assert not list(tmp_path.glob("cache/*"))


@pytest.mark.parametrize("name", ["meta.json", "src.ids", "tgt.offsets"])
@pytest.mark.parametrize("content", [b"", b"?"])
def test_damaged_cache_is_refused_with_its_path(
    tmp_path: Path, tokenizer: Tokenizer, name: str, content: bytes
) -> None:
    files = write_pairs(tmp_path, PAIRS)
    encode_files(tmp_path, tokenizer, files)
    (directory,) = (path.parent for path in tmp_path.glob("cache/*/meta.json"))
    (directory / name).write_bytes(content)
    with pytest.raises(DataError, match=f"^{directory}: this cache is damaged; delete it"):
        encode_files(tmp_path, tokenizer, files)


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
def test_cache_with_impossible_ids_or_offsets_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, name: str, values: list[int], dtype: type
) -> None:
    def load() -> EncodedCorpus:
        return mt.data.corpus._load_cache(
            tmp_path,
            weights=[1.0],
            src_vocab_size=tokenizer.vocab_size,
            tgt_vocab_size=tokenizer.vocab_size,
            known_files=KnownFiles(tmp_path / "known_files.json"),
        )

    for side in ("src", "tgt"):
        (tmp_path / f"{side}.ids").write_bytes(np.full(30, 5, np.int32).tobytes())
        (tmp_path / f"{side}.offsets").write_bytes(np.array([0, 10, 20, 30], np.int64).tobytes())
    meta = {"num_pairs": [3], "counts": {"kept": 3}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert len(load()) == 3

    (tmp_path / name).write_bytes(np.array(values, dtype).tobytes())
    with pytest.raises(DataError, match="this cache is damaged"):
        load()


@pytest.mark.parametrize(
    "num_pairs", [[2], [3, 0], [-1, 4], [1.5, 1.5], [10**18], ["3"], "3", None, 3, [True, 2]]
)
def test_cache_with_impossible_counts_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, num_pairs: object
) -> None:
    files = write_pairs(tmp_path, PAIRS[:3])
    encode_files(tmp_path, tokenizer, files)
    (path,) = (tmp_path / "cache").glob("*/meta.json")
    path.write_text(json.dumps({"num_pairs": num_pairs, "counts": {"kept": 3}}))
    with pytest.raises(DataError, match="this cache is damaged"):
        encode_files(tmp_path, tokenizer, files)


# Prefixes


def test_prefix_is_kept_beside_the_ids(tmp_path: Path, tokenizer: Tokenizer) -> None:
    first = write_pairs(tmp_path, PAIRS[:5], name="first")
    second = write_pairs(tmp_path, PAIRS[5:8], name="second")
    prefix = tokenizer.tag_ids[:2]
    corpus = encode_files(tmp_path, tokenizer, first, second._replace(src_prefix=prefix))
    plain = encode_files(tmp_path / "plain", tokenizer, first, second)
    assert decode_pairs(corpus, tokenizer) == PAIRS[:8]
    assert rows_of(corpus.src) == rows_of(plain.src)
    assert corpus.src_lengths.tolist() == (plain.src.lengths + np.repeat([0, 2], [5, 3])).tolist()
    assert plain.src_lengths.tolist() == plain.src.lengths.tolist()
    pairs = corpus.pairs(np.array([6, 1, 5, 4]))
    assert pairs.src_prefixes == [prefix, (), prefix, ()]
    assert rows_of(pairs.src) == [corpus.src[index].tolist() for index in (6, 1, 5, 4)]
    assert rows_of(pairs.tgt) == [corpus.tgt[index].tolist() for index in (6, 1, 5, 4)]
    assert pairs.take(np.array([3, 0])).src_prefixes == [(), prefix]


def test_only_prefixes_that_exist_change_the_digest(tmp_path: Path, tokenizer: Tokenizer) -> None:
    files = write_pairs(tmp_path, PAIRS)
    first_tag, second_tag = tokenizer.tag_ids[:2]
    digests = [
        encode_files(tmp_path, tokenizer, files._replace(src_prefix=prefix)).digest
        for prefix in [(), (first_tag,), (second_tag,), (first_tag, second_tag)]
    ]
    assert len(set(digests)) == 4
    assert encode_files(tmp_path / "again", tokenizer, files).digest == digests[0]
    cached = encode_files(tmp_path, tokenizer, files._replace(src_prefix=(second_tag,)))
    assert cached.digest == digests[2]
    assert cached.src_prefixes == ((second_tag,),)


def test_prefix_counts_in_max_length(tmp_path: Path, tokenizer: Tokenizer) -> None:
    files = write_pairs(tmp_path, [("x" * length, "y" * length) for length in range(1, 20)])
    lengths = encode_files(tmp_path, tokenizer, files, max_length=20).src.lengths
    tagged_files = files._replace(src_prefix=tokenizer.tag_ids[:3])
    corpus = encode_files(tmp_path, tokenizer, tagged_files, max_length=20)
    assert corpus.src.lengths.tolist() == lengths[lengths + 3 <= 20].tolist()
    assert 0 < corpus.counts.too_long < len(lengths)


def test_prefix_of_other_ids_than_tags_is_a_bug(tmp_path: Path, tokenizer: Tokenizer) -> None:
    files = write_pairs(tmp_path, PAIRS)
    with pytest.raises(AssertionError, match="not all tags"):
        encode_files(tmp_path, tokenizer, files._replace(src_prefix=(tokenizer.eos_id,)))


def test_copied_text_is_not_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both sides of copied text have one language; the same file as a translation is a mistake."""
    caplog.set_level(logging.INFO, logger="mt")
    write_pairs(tmp_path, PAIRS)
    german = tmp_path / "train.de"
    copied = CorpusConfig(src=str(german), tgt=str(german), src_lang="de")
    english = tmp_path / "train.en"
    mistake = CorpusConfig(src=str(english), tgt=str(english))
    table = tmp_path / "table.tsv"
    table.write_text("a\ta\n", encoding="utf-8")
    data = DataConfig(
        src_lang="en",
        tgt_lang="de",
        train=(CorpusConfig(tsv=str(table)), copied, mistake),
        valid=str(tmp_path / "train"),
    )
    report_equal_sides(texts_of_two_languages(data))
    assert caplog.messages == [f"train: {english} and {english} have the same content"]


@pytest.mark.parametrize("is_same", [True, False])
def test_sides_with_the_same_content_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_same: bool
) -> None:
    caplog.set_level(logging.INFO, logger="mt")
    pairs = [(src, src if is_same else tgt) for src, tgt in PAIRS]
    report_equal_sides([write_pairs(tmp_path, pairs).text])
    is_named = f"{tmp_path / 'train.en'} and {tmp_path / 'train.de'}" in caplog.text
    assert is_named == is_same
