"""Parallel text as token ids: filtered, encoded once, kept on disk, and mapped into memory when used.

The cache is named by everything that its content depends on, so a changed file, tokenizer or limit makes another one,
and none is ever out of date.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mt.data.text import chunked, read_parallel
from mt.data.tokenizer import Tokenizer
from mt.errors import DataError
from mt.storage.atomic import atomic_directory, sha256

FORMAT_VERSION = 3
CHUNK_SIZE, CHUNK_CHARS = 16_384, 8_000_000  # pairs encoded at a time, and characters
SHORT_LENGTH = 10  # tokens; in pairs up to this length, a high length ratio means nothing


class ParallelFiles(NamedTuple):
    """Two text files that translate each other line by line, and how often an epoch is to see each pair."""

    src: Path
    tgt: Path
    weight: float = 1.0


@dataclass(frozen=True)
class TokenArray:
    """Many id sequences laid end to end: sequence i is `ids[offsets[i] : offsets[i + 1]]`."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]  # (len + 1,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)


@dataclass(frozen=True)
class FilterCounts:
    """How many pairs were kept, and how many were left out for what reason."""

    kept: int = 0
    blank: int = 0
    too_long: int = 0
    bad_ratio: int = 0

    def __add__(self, other: "FilterCounts") -> "FilterCounts":
        return FilterCounts(
            *(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )

    def __str__(self) -> str:
        reasons = {
            "blank": self.blank,
            "too long": self.too_long,
            "bad length ratio": self.bad_ratio,
        }
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        total = sum(vars(self).values())
        return f"{self.kept:,} of {total:,} pairs kept" + (
            f" (left out: {left_out})" if left_out else ""
        )


@dataclass(frozen=True)
class EncodedCorpus:
    """Sentence pairs as ids, every sequence ending in eos."""

    src: TokenArray
    tgt: TokenArray
    weights: NDArray[np.float32]  # (len,): how often an epoch is to see each pair
    counts: FilterCounts
    digest: str = ""  # names the content of the files, the tokenizers and the limits; "" in memory

    def __len__(self) -> int:
        return len(self.src)


class _Chunk(NamedTuple):
    """The pairs kept from a stretch of one corpus."""

    corpus_index: int
    src: list[list[int]]
    tgt: list[list[int]]
    counts: FilterCounts


def encode_corpus(
    corpora: Sequence[ParallelFiles],
    src_tokenizer: Tokenizer,
    tgt_tokenizer: Tokenizer,
    *,
    max_length: int,
    max_length_ratio: float,
    cache_dir: Path,
) -> EncodedCorpus:
    """The training pairs of all corpora, in order, encoded now or taken from `cache_dir`.

    Left out are pairs with a blank side, with more than `max_length` tokens on a side (eos included), or with one side
    more than `max_length_ratio` times as long as the other. Memory does not grow with the corpus. DataError when no
    pair is left.
    """
    identity = {
        "format_version": FORMAT_VERSION,
        "files": [[_sha256(path) for path in (files.src, files.tgt)] for files in corpora],
        "tokenizers": [src_tokenizer.digest, tgt_tokenizer.digest],
        "limits": [max_length, max_length_ratio, SHORT_LENGTH],
    }
    directory = cache_dir / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    if not directory.exists():
        chunks = _encode_chunks(
            corpora, (src_tokenizer, tgt_tokenizer), (max_length, max_length_ratio)
        )
        with atomic_directory(directory) as partial:
            counts = _write(partial, chunks, num_corpora=len(corpora))
            if counts.kept == 0:
                raise DataError(
                    f"{', '.join(str(files.src) for files in corpora)}: no training pair is left: {counts}"
                )
    sizes = {"src": src_tokenizer.vocab_size, "tgt": tgt_tokenizer.vocab_size}
    return _load(directory, weights=[files.weight for files in corpora], vocab_sizes=sizes)


def encode_pairs(
    src_texts: Sequence[str],
    tgt_texts: Sequence[str],
    *,
    src_tokenizer: Tokenizer,
    tgt_tokenizer: Tokenizer,
) -> EncodedCorpus:
    """All the pairs given, in memory and unfiltered: for validation, where no sentence may go missing."""
    src = _pack([src_tokenizer.encode(src_texts)])
    tgt = _pack([tgt_tokenizer.encode(tgt_texts)])
    assert len(src) == len(tgt), (len(src), len(tgt))
    return EncodedCorpus(src, tgt, np.ones(len(src), np.float32), FilterCounts(kept=len(src)))


def resample(
    corpus: EncodedCorpus,
    src_tokenizer: Tokenizer,
    tgt_tokenizer: Tokenizer,
    *,
    epoch: int,
    max_length: int,
) -> EncodedCorpus:
    """The same pairs in this epoch's sampled encoding, in memory; a side stays plain where it would be over-long.

    No text is needed, since decoding gives it back exactly.
    """
    src = _resample_side(corpus.src, src_tokenizer, epoch=epoch, max_length=max_length)
    tgt = _resample_side(corpus.tgt, tgt_tokenizer, epoch=epoch, max_length=max_length)
    return EncodedCorpus(src, tgt, corpus.weights, corpus.counts)


def _resample_side(
    side: TokenArray, tokenizer: Tokenizer, *, epoch: int, max_length: int
) -> TokenArray:
    if tokenizer.bpe_dropout == 0.0:
        return side

    def chunks() -> Iterator[list[list[int]]]:
        for start in range(0, len(side), CHUNK_SIZE):
            plain = [
                side[index].tolist() for index in range(start, min(start + CHUNK_SIZE, len(side)))
            ]
            sampled = tokenizer.encode(tokenizer.decode(plain), epoch=epoch)
            yield [
                new if len(new) <= max_length else old
                for old, new in zip(plain, sampled, strict=True)
            ]

    return _pack(chunks())


def _encode_chunks(
    corpora: Sequence[ParallelFiles],
    tokenizers: tuple[Tokenizer, Tokenizer],
    limits: tuple[int, float],
) -> Iterator[_Chunk]:
    max_length, max_length_ratio = limits
    for corpus_index, files in enumerate(corpora):
        pairs = read_parallel(files.src, files.tgt)
        for chunk in chunked(pairs, size=CHUNK_SIZE, num_chars=CHUNK_CHARS):
            texts = zip(*chunk, strict=True)
            src, tgt = (
                tokenizer.encode(side) for tokenizer, side in zip(tokenizers, texts, strict=True)
            )
            lengths = np.array([[len(a), len(b)] for a, b in zip(src, tgt, strict=True)])
            longer, shorter = lengths.max(axis=1), lengths.min(axis=1)
            blank = np.array([not (a.strip() and b.strip()) for a, b in chunk])
            too_long = ~blank & (longer > max_length)
            bad_ratio = (
                ~blank & ~too_long & (longer > SHORT_LENGTH) & (longer > max_length_ratio * shorter)
            )
            keep = ~(blank | too_long | bad_ratio)
            counts = FilterCounts(*(int(mask.sum()) for mask in (keep, blank, too_long, bad_ratio)))
            yield _Chunk(corpus_index, list(compress(src, keep)), list(compress(tgt, keep)), counts)


def _write(directory: Path, chunks: Iterable[_Chunk], *, num_corpora: int) -> FilterCounts:
    """Write ids as they come; offsets and a description, which are small, at the end."""
    counts, num_pairs = FilterCounts(), [0] * num_corpora
    lengths: dict[str, list[NDArray[np.int64]]] = {"src": [], "tgt": []}
    with (
        (directory / "src.ids").open("wb") as src_file,
        (directory / "tgt.ids").open("wb") as tgt_file,
    ):
        for chunk in chunks:
            for side, file, rows in (("src", src_file, chunk.src), ("tgt", tgt_file, chunk.tgt)):
                ids, row_lengths = _flatten(rows)
                file.write(ids.tobytes())
                lengths[side].append(row_lengths)
            counts += chunk.counts
            num_pairs[chunk.corpus_index] += chunk.counts.kept
    for side, side_lengths in lengths.items():
        (directory / f"{side}.offsets").write_bytes(_offsets(side_lengths).tobytes())
    meta = {"num_pairs": num_pairs, "counts": asdict(counts)}
    (directory / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return counts


def _load(
    directory: Path, *, weights: Sequence[float], vocab_sizes: Mapping[str, int]
) -> EncodedCorpus:
    """The cache in `directory`, believed in nothing: it comes and goes with a run directory."""
    try:
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        num_pairs, counts = meta["num_pairs"], FilterCounts(**meta["counts"])
        if not all(
            type(number) is int and number >= 0 for number in (*num_pairs, *vars(counts).values())
        ):
            raise ValueError("meta.json has counts that are none")
        src, tgt = (
            _load_side(directory, side, vocab_size) for side, vocab_size in vocab_sizes.items()
        )
        if not len(src) == len(tgt) == sum(num_pairs) == counts.kept:
            raise ValueError(f"{len(src)} sources, {len(tgt)} targets, {sum(num_pairs)} pairs")
        pair_weights = np.repeat(np.array(weights, np.float32), num_pairs)
        return EncodedCorpus(src, tgt, pair_weights, counts, directory.name)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{directory}: this cache is damaged; delete it and start again ({error})"
        ) from error


def _load_side(directory: Path, side: str, vocab_size: int) -> TokenArray:
    ids = np.asarray(np.memmap(directory / f"{side}.ids", mode="r", dtype=np.int32))
    offsets = np.asarray(np.memmap(directory / f"{side}.offsets", mode="r", dtype=np.int64))
    if offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 1).any():
        raise ValueError(f"{side}.offsets does not belong to {side}.ids")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"{side}.ids has ids that are not the tokenizer's")
    return TokenArray(ids, offsets)  # the same pages, without the slow indexing of a memmap object


def _pack(chunks: Iterable[list[list[int]]]) -> TokenArray:
    ids, lengths = zip(*(_flatten(rows) for rows in chunks), strict=True)
    return TokenArray(np.concatenate(ids), _offsets(lengths))


def _flatten(rows: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """All ids end to end, and the length of each row."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum()), lengths


def _offsets(lengths: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error
