"""Encoded corpora: parallel text as token ids, filtered, cached on disk and mapped into memory.

The name of a cache is a digest of everything that its content depends on: the text, the tokenizers
and the limits of the filter. When one of these changes, another cache is made, so a cache is never
out of date.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mt.config.choices import Normalization
from mt.data.normalization import Normalizer, is_blank_line, normalize
from mt.data.parallel_text import ParallelText, TwoFiles, file_digest, read_pairs
from mt.data.progress import bytes_bar
from mt.data.sentences import sentence_cuts
from mt.data.tags import Prefix
from mt.data.text import OnBytes, chunked
from mt.data.tokenizer import Tokenizer
from mt.errors import DataError
from mt.storage.atomic import atomic_directory

logger = logging.getLogger(__name__)

FORMAT_VERSION = 3
CHUNK_SIZE = 16_384  # pairs that are encoded at a time
CHUNK_CHARS = 8_000_000  # characters of these; long lines make a chunk of fewer pairs
SHORT_LENGTH = 10  # tokens; if neither side is longer, a high length ratio means nothing


class TrainingCorpus(NamedTuple):
    """A parallel text, and how its pairs are used in training."""

    text: ParallelText
    weight: float = 1.0  # how often each pair is taken in an epoch
    src_prefix: Prefix = ()


@dataclass(frozen=True)
class TokenArray:
    """Sequences of ids, stored end to end: sequence i is `ids[offsets[i] : offsets[i + 1]]`."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]  # (len + 1,)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]]) -> Self:
        """Return a copy of lists of ids."""
        ids, lengths = _flatten(rows)
        return cls(ids, _offsets([lengths]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the length of each sequence, (len,)."""
        return np.diff(self.offsets)

    def take(self, indices: NDArray[np.int64]) -> Self:
        """Return a copy of the sequences at `indices`, in that order."""
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        offsets = _offsets([lengths])
        # The place of each id here, and how far from there it stands in `self.ids`.
        positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return type(self)(self.ids[positions], offsets)

    def rows(self) -> list[list[int]]:
        """Return the sequences as lists of ids."""
        return [self[index].tolist() for index in range(len(self))]


@dataclass(frozen=True)
class FilterCounts:
    """Numbers of pairs that the filter kept, and that it left out for each reason."""

    kept: int = 0
    blank: int = 0
    too_long: int = 0
    bad_ratio: int = 0

    def __add__(self, other: "FilterCounts") -> "FilterCounts":
        return FilterCounts(
            kept=self.kept + other.kept,
            blank=self.blank + other.blank,
            too_long=self.too_long + other.too_long,
            bad_ratio=self.bad_ratio + other.bad_ratio,
        )

    def __str__(self) -> str:
        total = self.kept + self.blank + self.too_long + self.bad_ratio
        text = f"{self.kept:,} of {total:,} pairs kept"
        counts_by_reason = {
            "blank": self.blank,
            "too long": self.too_long,
            "bad length ratio": self.bad_ratio,
        }
        left_out = [f"{count:,} {reason}" for reason, count in counts_by_reason.items() if count]
        if left_out:
            text += f" (left out: {', '.join(left_out)})"
        return text


class EncodedPairs(NamedTuple):
    """A few sentence pairs as ids, such as those of a batch; every sequence ends in eos."""

    src: TokenArray  # without the prefixes
    tgt: TokenArray
    src_prefixes: Sequence[Prefix]  # of each pair

    @property
    def src_lengths(self) -> NDArray[np.int64]:
        """Return the length of each source with its prefix."""
        prefix_lengths = np.array([len(prefix) for prefix in self.src_prefixes], np.int64)
        return np.add(self.src.lengths, prefix_lengths)

    def take(self, indices: NDArray[np.int64]) -> Self:
        """Return a copy of the pairs at `indices`, in that order."""
        prefixes = [self.src_prefixes[index] for index in indices]
        return type(self)(self.src.take(indices), self.tgt.take(indices), prefixes)


@dataclass(frozen=True)
class EncodedCorpus:
    """Sentence pairs of one or more corpora as ids; every sequence ends in eos.

    All pairs of one corpus have the same prefix of tags in front of their sources. It is kept
    beside the ids, because a text cannot express it: it would be lost when a text is decoded and
    encoded again.
    """

    src: TokenArray  # without the prefixes
    tgt: TokenArray
    weights: NDArray[np.float32]  # (len,): how often each pair is taken in an epoch
    counts: FilterCounts
    digest: str = ""  # of the text, the tokenizers and the limits; "" if the corpus is not cached
    num_pairs: tuple[int, ...] = ()  # of each corpus
    src_prefixes: tuple[Prefix, ...] = ()  # of each corpus; () if no corpus has a prefix
    num_several_sentences: int | None = None  # sources; None: an older cache

    def __len__(self) -> int:
        return len(self.src)

    @property
    def src_lengths(self) -> NDArray[np.int64]:
        """Return the length of each source with its prefix, (len,)."""
        if not self.src_prefixes:
            return self.src.lengths
        prefix_lengths = np.array([len(prefix) for prefix in self.src_prefixes], np.int64)
        return np.add(self.src.lengths, np.repeat(prefix_lengths, self.num_pairs))

    @property
    def tgt_lengths(self) -> NDArray[np.int64]:
        """Return the length of each target, (len,)."""
        return self.tgt.lengths

    def pairs(self, indices: NDArray[np.int64]) -> EncodedPairs:
        """Return a copy of the pairs at `indices`, in that order."""
        prefixes: list[Prefix] = [()] * len(indices)
        if self.src_prefixes:
            corpus_ends = np.cumsum(self.num_pairs)
            corpus_indices = np.searchsorted(corpus_ends, indices, side="right")
            prefixes = [self.src_prefixes[corpus_index] for corpus_index in corpus_indices]
        return EncodedPairs(self.src.take(indices), self.tgt.take(indices), prefixes)


def encode_corpus(
    corpora: Sequence[TrainingCorpus],
    src_tokenizer: Tokenizer,
    tgt_tokenizer: Tokenizer,
    *,
    max_length: int,
    max_length_ratio: float,
    cache_dir: Path,
    normalization: Normalization,
) -> EncodedCorpus:
    """Return the training pairs of all corpora, normalized and in order, from the cache.

    The cache is in `cache_dir`. It is written first if it does not exist. The memory for this does
    not grow with the size of the corpora.

    Left out are pairs with a blank side, with a side of more than `max_length` tokens (eos and
    prefix included), or with one side more than `max_length_ratio` times as long as the other. The
    ratio does not matter for pairs of at most SHORT_LENGTH tokens.

    Raises DataError when a file cannot be read, when the files of a pair differ in their number of
    lines, when the cache is damaged, and when no pair is left.
    """
    # A run resumes only with data of the digest that it was started with. So the same data must
    # have the same digest in all versions of mt: what is hashed here must not change.
    identity: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "files": [corpus.text.identity() for corpus in corpora],
        "tokenizers": [src_tokenizer.digest, tgt_tokenizer.digest],
        "limits": [max_length, max_length_ratio, SHORT_LENGTH],
    }
    if normalization != "none":
        identity["normalization"] = normalization
    src_prefixes = tuple(corpus.src_prefix for corpus in corpora)
    if any(src_prefixes):
        _assert_tags(src_tokenizer, src_prefixes)
        identity["src_prefixes"] = src_prefixes
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    directory = cache_dir / digest
    if not directory.exists():
        paths = [path for corpus in corpora for path in corpus.text.paths]
        with bytes_bar("encoding", paths) as on_bytes, atomic_directory(directory) as partial:
            chunks = _encode_chunks(
                corpora,
                src_tokenizer,
                tgt_tokenizer,
                max_length=max_length,
                max_length_ratio=max_length_ratio,
                normalization=normalization,
                on_bytes=on_bytes,
            )
            counts = _write_cache(partial, chunks, num_corpora=len(corpora))
            if counts.kept == 0:
                names = ", ".join(str(corpus.text.paths[0]) for corpus in corpora)
                raise DataError(f"{names}: no training pair is left: {counts}")
    return _load_cache(
        directory,
        weights=[corpus.weight for corpus in corpora],
        src_prefixes=src_prefixes if any(src_prefixes) else (),
        src_vocab_size=src_tokenizer.vocab_size,
        tgt_vocab_size=tgt_tokenizer.vocab_size,
    )


def encode_pairs(
    src_texts: Sequence[str],
    tgt_texts: Sequence[str],
    *,
    src_tokenizer: Tokenizer,
    tgt_tokenizer: Tokenizer,
    src_prefix: Prefix = (),
    normalization: Normalization = "none",
) -> EncodedCorpus:
    """Return all the given pairs, in memory and without a filter.

    Validation uses this, because a score must count every sentence of its set. Sources are prepared
    as for a translation; targets are normalized.
    """
    if src_prefix:
        _assert_tags(src_tokenizer, [src_prefix])
    src_normalizer = Normalizer(normalization, src_tokenizer)
    src_texts = [src_normalizer(text) for text in src_texts]
    tgt_texts = [normalize(text, normalization) for text in tgt_texts]
    src = TokenArray.from_rows(src_tokenizer.encode(src_texts))
    tgt = TokenArray.from_rows(tgt_tokenizer.encode(tgt_texts))
    assert len(src) == len(tgt), (len(src), len(tgt))
    return EncodedCorpus(
        src,
        tgt,
        weights=np.ones(len(src), np.float32),
        counts=FilterCounts(kept=len(src)),
        num_pairs=(len(src),),
        src_prefixes=(src_prefix,) if src_prefix else (),
    )


def _assert_tags(tokenizer: Tokenizer, prefixes: Sequence[Prefix]) -> None:
    """Check that prefixes consist of tags, which decoding leaves out."""
    ids = set(chain.from_iterable(prefixes))
    assert ids <= set(tokenizer.tag_ids), f"{ids} are not all tags of the source tokenizer"


# Encoding and filtering


class _Chunk(NamedTuple):
    """Pairs that the filter kept of a part of one corpus."""

    corpus_index: int
    src_rows: list[list[int]]
    tgt_rows: list[list[int]]
    counts: FilterCounts
    num_several_sentences: int  # sources


def warn_of_equal_sides(corpora: Sequence[TrainingCorpus]) -> None:
    """Say which corpora have the same text on both sides. Raises DataError."""
    for text in (corpus.text for corpus in corpora):
        if isinstance(text, TwoFiles) and file_digest(text.src) == file_digest(text.tgt):
            logger.info(f"train: {text.src} and {text.tgt} have the same content")


def _encode_chunks(
    corpora: Sequence[TrainingCorpus],
    src_tokenizer: Tokenizer,
    tgt_tokenizer: Tokenizer,
    *,
    max_length: int,
    max_length_ratio: float,
    normalization: Normalization,
    on_bytes: OnBytes,
) -> Iterator[_Chunk]:
    for corpus_index, corpus in enumerate(corpora):
        text_pairs = read_pairs(corpus.text, on_bytes=on_bytes)
        for text_chunk in chunked(text_pairs, size=CHUNK_SIZE, num_chars=CHUNK_CHARS):
            src_texts = [normalize(src, normalization) for src, _ in text_chunk]
            tgt_texts = [normalize(tgt, normalization) for _, tgt in text_chunk]
            src_encoded = src_tokenizer.encode(src_texts)
            tgt_encoded = tgt_tokenizer.encode(tgt_texts)
            src_kept = []
            tgt_kept = []
            num_several_sentences = 0
            outcomes: Counter[str] = Counter()
            rows = zip(src_texts, tgt_texts, src_encoded, tgt_encoded, strict=True)
            for src_text, tgt_text, src_ids, tgt_ids in rows:
                outcome = _filter_pair(
                    (src_text, tgt_text),
                    lengths=(len(corpus.src_prefix) + len(src_ids), len(tgt_ids)),
                    max_length=max_length,
                    max_length_ratio=max_length_ratio,
                    normalization=normalization,
                )
                outcomes[outcome] += 1
                if outcome == "kept":
                    src_kept.append(src_ids)
                    tgt_kept.append(tgt_ids)
                    if sentence_cuts(src_text):
                        num_several_sentences += 1
            counts = FilterCounts(**outcomes)
            yield _Chunk(corpus_index, src_kept, tgt_kept, counts, num_several_sentences)


def _filter_pair(
    texts: tuple[str, str],
    *,
    lengths: tuple[int, int],
    max_length: int,
    max_length_ratio: float,
    normalization: Normalization,
) -> Literal["kept", "blank", "too_long", "bad_ratio"]:
    """Return "kept", or the first reason to leave a pair out: the name of a field of FilterCounts.

    `lengths` are the numbers of tokens of both sides.
    """
    longer = max(lengths)
    shorter = min(lengths)
    if any(is_blank_line(text, normalization) for text in texts):
        return "blank"
    if longer > max_length:
        return "too_long"
    if longer > SHORT_LENGTH and longer > max_length_ratio * shorter:
        return "bad_ratio"
    return "kept"


# The cache: a directory with src.ids, src.offsets, tgt.ids, tgt.offsets and meta.json


def _write_cache(directory: Path, chunks: Iterable[_Chunk], *, num_corpora: int) -> FilterCounts:
    """Write the ids chunk by chunk and the other files, which are small, at the end."""
    counts = FilterCounts()
    num_pairs = [0] * num_corpora
    num_several_sentences = 0
    src_lengths: list[NDArray[np.int64]] = []
    tgt_lengths: list[NDArray[np.int64]] = []
    with (
        (directory / "src.ids").open("wb") as src_file,
        (directory / "tgt.ids").open("wb") as tgt_file,
    ):
        for chunk in chunks:
            src_ids, chunk_src_lengths = _flatten(chunk.src_rows)
            src_file.write(src_ids.tobytes())
            src_lengths.append(chunk_src_lengths)
            tgt_ids, chunk_tgt_lengths = _flatten(chunk.tgt_rows)
            tgt_file.write(tgt_ids.tobytes())
            tgt_lengths.append(chunk_tgt_lengths)
            counts += chunk.counts
            num_pairs[chunk.corpus_index] += chunk.counts.kept
            num_several_sentences += chunk.num_several_sentences
    (directory / "src.offsets").write_bytes(_offsets(src_lengths).tobytes())
    (directory / "tgt.offsets").write_bytes(_offsets(tgt_lengths).tobytes())
    meta = {
        "num_pairs": num_pairs,
        "counts": asdict(counts),
        "num_several_sentences": num_several_sentences,
    }
    (directory / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return counts


def _load_cache(
    directory: Path,
    *,
    weights: Sequence[float],
    src_prefixes: tuple[Prefix, ...] = (),
    src_vocab_size: int,
    tgt_vocab_size: int,
) -> EncodedCorpus:
    """Map the files of a cache into memory.

    Raises DataError when the files do not fit each other or the vocabularies. Everything is
    checked, because a cache is part of a run directory and may come from somewhere else.
    """
    numbers = load_pair_numbers(directory)
    try:
        src = _load_side(directory, "src", src_vocab_size)
        tgt = _load_side(directory, "tgt", tgt_vocab_size)
        if not len(src) == len(tgt) == numbers.counts.kept:
            raise ValueError(
                f"{len(src)} sources, {len(tgt)} targets, "
                f"and in meta.json {numbers.counts.kept} pairs"
            )
        pair_weights = np.repeat(np.array(weights, np.float32), numbers.num_pairs)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{directory}: this cache is damaged; delete it and start again ({error})"
        ) from error
    return EncodedCorpus(
        src,
        tgt,
        pair_weights,
        numbers.counts,
        digest=directory.name,
        num_pairs=tuple(numbers.num_pairs),
        src_prefixes=src_prefixes,
        num_several_sentences=numbers.num_several_sentences,
    )


class PairNumbers(NamedTuple):
    """What a cache says of its pairs."""

    num_pairs: list[int]  # of each corpus
    counts: FilterCounts  # over all corpora
    num_several_sentences: int | None  # sources; None: a cache of an older version


def load_pair_numbers(cache_entry: Path) -> PairNumbers:
    """Read the numbers of pairs of a cache. Raises DataError for a damaged cache."""
    path = cache_entry / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        num_pairs = list(meta["num_pairs"])
        counts = FilterCounts(**meta["counts"])
        num_several_sentences = meta.get("num_several_sentences")
        all_numbers = [*num_pairs, *asdict(counts).values()]
        if num_several_sentences is not None:
            all_numbers.append(num_several_sentences)
        for number in all_numbers:
            # Not `isinstance`: JSON's true and false are instances of int.
            if type(number) is not int or number < 0:
                raise ValueError(f"{number!r} is not a number of pairs")
        if sum(num_pairs) != counts.kept:
            raise ValueError(f"{sum(num_pairs)} pairs, but {counts.kept} were kept")
        if num_several_sentences is not None and num_several_sentences > counts.kept:
            raise ValueError(f"{num_several_sentences} sources of {counts.kept}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{cache_entry}: this cache is damaged; delete it and start again (meta.json: {error})"
        ) from error
    return PairNumbers(num_pairs, counts, num_several_sentences)


def _load_side(directory: Path, side: Literal["src", "tgt"], vocab_size: int) -> TokenArray:
    # `np.asarray` keeps the mapping, and drops the memmap class, which is slow to index.
    ids = np.asarray(np.memmap(directory / f"{side}.ids", mode="r", dtype=np.int32))
    offsets = np.asarray(np.memmap(directory / f"{side}.offsets", mode="r", dtype=np.int64))
    if offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 1).any():
        raise ValueError(f"{side}.offsets does not belong to {side}.ids")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"{side}.ids has ids that the tokenizer does not have")
    return TokenArray(ids, offsets)


# Lists of ids as arrays


def _flatten(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the ids of all rows end to end, and the length of each row."""
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    ids = np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum())
    return ids, lengths


def _offsets(lengths: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return where each row starts, and where the last ends, from the lengths in each chunk."""
    return np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)
