"""Encoded corpora: parallel text as token ids, filtered, cached on disk and mapped into memory.

The name of a cache is a digest of everything that its content depends on: the text, the tokenizers
and the limits of the filter. When one of these changes, another cache is made, so a cache is never
out of date.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mt.config.choices import Normalization
from mt.data.chunk_encoder import (
    SHORT_PAIR_TOKENS,
    ChunkEncoder,
    EncodedChunk,
    FilterCounts,
    FilterLimits,
    TextChunk,
)
from mt.data.corpus_writer import CorpusWriter, Progress, delete_unfinished
from mt.data.encoding_processes import choose_num_processes, encode_in_processes
from mt.data.normalization import Normalizer, normalize
from mt.data.parallel_text import ParallelText, TwoFiles, has_same_content, read_pairs
from mt.data.progress import bytes_bar
from mt.data.tags import Prefix
from mt.data.text import OnBytes, chunked
from mt.data.token_array import TokenArray
from mt.data.tokenizer import Tokenizer
from mt.errors import DataError
from mt.storage.known_files import FileState, KnownFiles

logger = logging.getLogger(__name__)

FORMAT_VERSION = 3
CHUNK_SIZE = 16_384  # pairs that are encoded at a time
CHUNK_CHARS = 8_000_000  # characters of these; long lines make a chunk of fewer pairs
BLOCK_SIZE = 2**20  # numbers in one block: temporary arrays have this size, not that of the corpus

KNOWN_FILES_NAME = "known_files.json"  # in the cache directory


class TrainingCorpus(NamedTuple):
    """A parallel text, and how its pairs are used in training."""

    text: ParallelText
    weight: float = 1.0  # how often each pair is taken in an epoch
    src_prefix: Prefix = ()


class EncodedPairs(NamedTuple):
    """A few sentence pairs as ids, such as those of a batch; every sequence ends in eos."""

    src: TokenArray  # without the prefixes
    tgt: TokenArray
    src_prefixes: Sequence[Prefix]  # of each pair

    @property
    def src_lengths(self) -> NDArray[np.int64]:
        """The length of each source with its prefix."""
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
    def src_lengths(self) -> NDArray[np.int32]:
        """The length of each source with its prefix, (len,)."""
        lengths = self.src.lengths_int32
        if self.src_prefixes:
            bounds = np.cumsum([0, *self.num_pairs])
            for prefix, (start, end) in zip(self.src_prefixes, pairwise(bounds), strict=True):
                lengths[start:end] += len(prefix)
        return lengths

    @property
    def tgt_lengths(self) -> NDArray[np.int32]:
        """The length of each target, (len,)."""
        return self.tgt.lengths_int32

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

    The cache is in `cache_dir`. It is written first if it does not exist, on all processors if the
    text is large. The memory for this does not grow with the size of the corpora. After a kill, the
    next call continues with what was written.

    Left out are pairs with a blank side, with a side of more than `max_length` tokens (eos and
    prefix included), or with one side more than `max_length_ratio` times as long as the other. The
    ratio does not matter for pairs of at most SHORT_PAIR_TOKENS.

    Raises DataError when a file cannot be read, when the files of a pair differ in their number of
    lines, when the cache is damaged, and when no pair is left. Raises DiskError when the cache
    cannot be written, ProcessError when a process that encodes is killed.
    """
    known_files = KnownFiles(cache_dir / KNOWN_FILES_NAME)
    src_prefixes = tuple(corpus.src_prefix for corpus in corpora)
    if any(src_prefixes):
        _assert_tags(src_tokenizer, src_prefixes)
    limits = FilterLimits(max_length, max_length_ratio)
    digest = _digest(
        corpora,
        known_files,
        tokenizers=(src_tokenizer, tgt_tokenizer),
        limits=limits,
        normalization=normalization,
    )
    known_files.save()  # before the encoding, which may be killed
    directory = cache_dir / digest
    if not directory.exists():
        _delete_unfinished(cache_dir, keep=digest)
        encoder = ChunkEncoder(
            src_tokenizer, tgt_tokenizer, limits=limits, normalization=normalization
        )
        _write_cache(directory, corpora, encoder)
    corpus = _load_cache(
        directory,
        weights=[corpus.weight for corpus in corpora],
        src_prefixes=src_prefixes if any(src_prefixes) else (),
        src_vocab_size=src_tokenizer.vocab_size,
        tgt_vocab_size=tgt_tokenizer.vocab_size,
        known_files=known_files,
    )
    known_files.save()
    return corpus


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


def report_equal_sides(texts: Sequence[ParallelText]) -> None:
    """Log which texts in two files have the same content on both sides. Raises DataError."""
    for text in texts:
        if isinstance(text, TwoFiles) and has_same_content(text.src, text.tgt):
            logger.info(f"train: {text.src} and {text.tgt} have the same content")


# The cache: a directory for each encoded corpus (see `mt.data.corpus_writer`)


def _digest(
    corpora: Sequence[TrainingCorpus],
    known_files: KnownFiles,
    *,
    tokenizers: tuple[Tokenizer, Tokenizer],
    limits: FilterLimits,
    normalization: Normalization,
) -> str:
    """Return a hash of all that the content of the cache depends on.

    A run resumes only with data of the digest that it was started with. So the same data must have
    the same digest in all versions of mt: what is hashed here must not change.
    """
    identity: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "files": [corpus.text.identity(known_files.digest) for corpus in corpora],
        "tokenizers": [tokenizer.digest for tokenizer in tokenizers],
        "limits": [limits.max_length, limits.max_length_ratio, SHORT_PAIR_TOKENS],
    }
    if normalization != "none":
        identity["normalization"] = normalization
    if any(corpus.src_prefix for corpus in corpora):
        identity["src_prefixes"] = [corpus.src_prefix for corpus in corpora]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def _write_cache(directory: Path, corpora: Sequence[TrainingCorpus], encoder: ChunkEncoder) -> None:
    """Encode all corpora into `directory`, or what an earlier process has left of them."""
    paths = [path for corpus in corpora for path in corpus.text.paths]
    text_size = sum(path.stat().st_size for path in paths if path.is_file())
    num_processes = choose_num_processes(text_size)
    with (
        CorpusWriter(directory, num_corpora=len(corpora)) as writer,
        bytes_bar("encoding", paths) as on_bytes,
    ):
        chunks = _read_chunks(corpora, writer.progress, on_bytes=on_bytes)
        encoded_chunks: Iterator[EncodedChunk]
        if num_processes == 0:
            encoded_chunks = map(encoder.encode, chunks)
        else:
            encoded_chunks = encode_in_processes(chunks, encoder, num_processes=num_processes)
        for chunk in encoded_chunks:
            writer.append(chunk)
        if writer.progress.counts.kept == 0:
            names = ", ".join(str(corpus.text.paths[0]) for corpus in corpora)
            counts = writer.progress.counts
            raise DataError(f"{names}: no training pair is left: {counts}")
        writer.finish()


def _read_chunks(
    corpora: Sequence[TrainingCorpus], progress: Progress, *, on_bytes: OnBytes
) -> Iterator[TextChunk]:
    """Yield the pairs of all corpora after those that `progress` counts."""
    for corpus_index, corpus in enumerate(corpora):
        if corpus_index < progress.corpus_index:
            continue
        text_pairs = read_pairs(corpus.text, on_bytes=on_bytes)
        if corpus_index == progress.corpus_index:
            text_pairs = islice(text_pairs, progress.num_read, None)
        for pairs in chunked(text_pairs, size=CHUNK_SIZE, num_chars=CHUNK_CHARS):
            yield TextChunk(corpus_index, len(corpus.src_prefix), pairs)


def _delete_unfinished(cache_dir: Path, *, keep: str) -> None:
    """Delete what killed processes left of other texts."""
    for path in cache_dir.glob(".*.unfinished"):
        if path.name != f".{keep}.unfinished":
            delete_unfinished(path)


def _load_cache(
    directory: Path,
    *,
    weights: Sequence[float],
    src_prefixes: tuple[Prefix, ...] = (),
    src_vocab_size: int,
    tgt_vocab_size: int,
    known_files: KnownFiles,
) -> EncodedCorpus:
    """Map the files of a cache into memory.

    Raises DataError when the files do not fit each other or the vocabularies. Everything is
    checked, because a cache is part of a run directory and may come from somewhere else. Files that
    are known from an earlier check are not read again.
    """
    numbers = load_pair_numbers(directory)
    try:
        src = _load_side(directory, "src", vocab_size=src_vocab_size, known_files=known_files)
        tgt = _load_side(directory, "tgt", vocab_size=tgt_vocab_size, known_files=known_files)
        if not len(src) == len(tgt) == numbers.counts.kept:
            raise ValueError(
                f"{len(src)} sources, {len(tgt)} targets, "
                f"and in meta.json {numbers.counts.kept} pairs"
            )
        pair_weights = _repeat_weights(weights, numbers.num_pairs)
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


def _repeat_weights(weights: Sequence[float], num_pairs: Sequence[int]) -> NDArray[np.float32]:
    """Return the weight of each pair. Weights that are all equal take no memory."""
    if len(weights) == len(num_pairs) and len(set(weights)) == 1:
        return np.broadcast_to(np.float32(weights[0]), sum(num_pairs))
    return np.repeat(np.array(weights, np.float32), num_pairs)


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


def _load_side(
    directory: Path, side: Literal["src", "tgt"], *, vocab_size: int, known_files: KnownFiles
) -> TokenArray:
    """Map one side into memory. Raises ValueError for files that do not belong together."""
    ids_path = directory / f"{side}.ids"
    offsets_path = directory / f"{side}.offsets"
    ids_state = FileState.of(ids_path)
    offsets_state = FileState.of(offsets_path)
    # `np.asarray` keeps the mapping, and drops the memmap class, which is slow to index.
    ids = np.asarray(np.memmap(ids_path, mode="r", dtype=np.int32))
    offsets = np.asarray(np.memmap(offsets_path, mode="r", dtype=np.int64))
    if offsets[0] != 0 or offsets[-1] != len(ids):
        raise ValueError(f"{side}.offsets does not belong to {side}.ids")
    checked = f"ascending offsets and ids below {vocab_size}"
    if known_files.fact(ids_path) == known_files.fact(offsets_path) == checked:
        return TokenArray(ids, offsets)
    if not _are_ascending(offsets):
        raise ValueError(f"{side}.offsets does not belong to {side}.ids")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"{side}.ids has ids that the tokenizer does not have")
    known_files.remember(ids_path, checked, state=ids_state)
    known_files.remember(offsets_path, checked, state=offsets_state)
    return TokenArray(ids, offsets)


def _are_ascending(offsets: NDArray[np.int64]) -> bool:
    """Return whether each offset is larger than the one before it; needs little memory."""
    for start in range(0, len(offsets) - 1, BLOCK_SIZE):
        block = offsets[start : start + BLOCK_SIZE + 1]
        if (np.diff(block) < 1).any():
            return False
    return True
