"""Tests of encoding a large corpus: in several processes, killed, and started a second time."""

from __future__ import annotations

import errno
import fcntl
import json
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mt.data.corpus
import mt.data.corpus_writer
import mt.storage.known_files
from mt.data.chunk_encoder import (
    ChunkEncoder,
    EncodedChunk,
    FilterCounts,
    FilterLimits,
    TextChunk,
)
from mt.data.corpus import EncodedCorpus, TrainingCorpus, encode_corpus
from mt.data.corpus_writer import CorpusWriter
from mt.data.encoding_processes import (
    MAX_PROCESSES,
    MIN_TEXT_SIZE,
    EncodingProcess,
    choose_num_processes,
    encode_in_processes,
)
from mt.data.parallel_text import TwoFiles
from mt.data.token_array import TokenArray
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.errors import DataError, DiskError, ProcessError

PAIRS = [(f"the dog sees {number}", f"der Hund sieht {number}") for number in range(50)]
PAIRS[7] = ("", "Hund")
PAIRS[23] = ("x" * 90, "Hund")
LIMITS = FilterLimits(max_length=50, max_length_ratio=9.0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    train_tokenizer([text for pair in PAIRS for text in pair], path, kind="bpe", vocab_size=320)
    return Tokenizer.load(path)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mt.data.corpus, "CHUNK_SIZE", 4)


def write_corpus(directory: Path, name: str = "train") -> TrainingCorpus:
    files = TwoFiles(directory / f"{name}.en", directory / f"{name}.de")
    files.src.write_text("".join(f"{src}\n" for src, _ in PAIRS), encoding="utf-8")
    files.tgt.write_text("".join(f"{tgt}\n" for _, tgt in PAIRS), encoding="utf-8")
    return TrainingCorpus(files)


def encode(directory: Path, tokenizer: Tokenizer, *corpora: TrainingCorpus) -> EncodedCorpus:
    return encode_corpus(
        corpora,
        tokenizer,
        tokenizer,
        max_length=LIMITS.max_length,
        max_length_ratio=LIMITS.max_length_ratio,
        cache_dir=directory,
        normalization="nfc",
    )


def cached_bytes(directory: Path) -> dict[str, bytes]:
    """Return the content of each file of the only corpus in a cache directory."""
    (corpus,) = (path for path in directory.iterdir() if path.is_dir())
    return {path.name: path.read_bytes() for path in corpus.iterdir()}


def interrupting_encoder(after: int) -> type[ChunkEncoder]:
    """Return an encoder that is interrupted, as by Ctrl-C, at chunk number `after`."""
    num_chunks = 0

    class InterruptedEncoder(ChunkEncoder):
        def encode(self, chunk: TextChunk) -> EncodedChunk:
            nonlocal num_chunks
            if num_chunks == after:
                raise KeyboardInterrupt
            num_chunks += 1
            return super().encode(chunk)

    return InterruptedEncoder


def some_pairs(num_pairs: int) -> EncodedChunk:
    rows = TokenArray.from_rows([[5, 3]] * num_pairs)
    return EncodedChunk(0, rows, rows, FilterCounts(kept=num_pairs), 0)


def fill_disk(patch: pytest.MonkeyPatch) -> None:
    """Let every `fsync` fail as on a full disk."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr("os.fsync", fail)


def test_number_of_processes_does_not_change_the_corpus(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora = [write_corpus(tmp_path, "first"), write_corpus(tmp_path, "second")]
    encode(tmp_path / "alone", tokenizer, *corpora)
    monkeypatch.setattr(mt.data.corpus, "choose_num_processes", lambda text_size: 3)
    corpus = encode(tmp_path / "processes", tokenizer, *corpora)
    assert corpus.num_pairs == (48, 48)
    assert cached_bytes(tmp_path / "processes") == cached_bytes(tmp_path / "alone")


def test_processes_are_started_for_a_large_text_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(3)), raising=False)
    assert choose_num_processes(MIN_TEXT_SIZE - 1) == 0
    assert choose_num_processes(MIN_TEXT_SIZE) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(99)))
    assert choose_num_processes(MIN_TEXT_SIZE) == MAX_PROCESSES
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    assert choose_num_processes(MIN_TEXT_SIZE) == 0


def test_bad_text_ends_the_processes(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path)
    assert isinstance(corpus.text, TwoFiles)
    corpus.text.tgt.write_bytes(b"Hund\n" * 40 + b"K\xe4tzchen\n" * 10)
    processes = []
    monkeypatch.setattr(mt.data.corpus, "choose_num_processes", lambda text_size: 2)
    monkeypatch.setattr(EncodingProcess, "__enter__", lambda self: processes.append(self) or self)
    with pytest.raises(DataError, match=r"train\.de:41: not UTF-8"):
        encode(tmp_path / "cache", tokenizer, corpus)
    assert [process._process.returncode for process in processes] == [-signal.SIGKILL] * 2
    assert not list((tmp_path / "cache").iterdir())


def test_killed_process_gives_an_error(tokenizer: Tokenizer) -> None:
    encoder = ChunkEncoder(tokenizer, tokenizer, limits=LIMITS, normalization="nfc")
    with EncodingProcess(encoder) as process:
        process._process.kill()
        with pytest.raises(ProcessError, match="ended with code -9"):
            process.encode(TextChunk(0, 0, PAIRS))


def test_process_that_is_killed_at_once_gives_an_error(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledProcess(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__(
                [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], **options
            )
            self.wait()

    monkeypatch.setattr("subprocess.Popen", KilledProcess)
    with pytest.raises(ProcessError, match="ended with code -9"):
        EncodingProcess(ChunkEncoder(tokenizer, tokenizer, limits=LIMITS, normalization="nfc"))


@pytest.mark.parametrize("message", ["encoder", "chunk"])
def test_process_ends_quietly_when_half_a_message_comes(tokenizer: Tokenizer, message: str) -> None:
    encoder = ChunkEncoder(tokenizer, tokenizer, limits=LIMITS, normalization="nfc")
    data = pickle.dumps(encoder)
    if message == "chunk":
        whole = pickle.dumps(TextChunk(0, 0, PAIRS))
        data += whole[: len(whole) // 2]
    else:
        data = data[: len(data) // 2]
    ended = subprocess.run(
        [sys.executable, "-c", "from mt.data.encoding_processes import main; main()"],
        input=data,
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, b"", b"")


def test_process_ends_with_the_one_that_started_it(tokenizer: Tokenizer) -> None:
    encoder = ChunkEncoder(tokenizer, tokenizer, limits=LIMITS, normalization="nfc")
    with EncodingProcess(encoder) as process:
        process.encode(TextChunk(0, 0, PAIRS))
        assert process._process.stdin is not None
        process._process.stdin.close()  # what the system does when a process is killed
        assert process._process.wait() == 0


def test_chunks_come_back_in_order(tokenizer: Tokenizer) -> None:
    encoder = ChunkEncoder(tokenizer, tokenizer, limits=LIMITS, normalization="nfc")
    chunks = [TextChunk(number, 0, PAIRS[:1]) for number in range(20)]
    encoded = list(encode_in_processes(chunks, encoder, num_processes=2))
    assert [chunk.corpus_index for chunk in encoded] == list(range(20))


def test_interrupted_encoding_continues(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora = [write_corpus(tmp_path, "first"), write_corpus(tmp_path, "second")]
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(mt.data.corpus, "ChunkEncoder", interrupting_encoder(after=20))
        with pytest.raises(KeyboardInterrupt):
            encode(cache, tokenizer, *corpora)
    (unfinished,) = (path for path in cache.iterdir() if path.is_dir())
    assert unfinished.name.endswith(".unfinished")
    for name in ("src.ids", "tgt.offsets"):  # what a killed process wrote after the last record
        with (unfinished / name).open("ab") as file:
            file.write(b"?" * 21)

    encoded_pairs = []

    class RecordingEncoder(ChunkEncoder):
        def encode(self, chunk: TextChunk) -> EncodedChunk:
            encoded_pairs.extend(chunk.pairs)
            return super().encode(chunk)

    monkeypatch.setattr(mt.data.corpus, "ChunkEncoder", RecordingEncoder)
    encode(cache, tokenizer, *corpora)
    num_before = len(PAIRS) + (20 - 13) * 4  # 13 chunks of the first corpus, 7 of the second
    assert encoded_pairs == [*PAIRS, *PAIRS][num_before:]
    encode(tmp_path / "uninterrupted", tokenizer, *corpora)
    assert cached_bytes(cache) == cached_bytes(tmp_path / "uninterrupted")


KILLED_ENCODING = """
import os, signal, sys
from pathlib import Path
import mt.data.corpus, mt.data.corpus_writer
from mt.data.chunk_encoder import ChunkEncoder
from mt.data.corpus import TrainingCorpus, encode_corpus
from mt.data.parallel_text import TwoFiles
from mt.data.tokenizer import Tokenizer

directory = Path(sys.argv[1])
mt.data.corpus.CHUNK_SIZE = 4
mt.data.corpus_writer.PAIRS_PER_RECORD = 8

class KilledEncoder(ChunkEncoder):
    num_chunks = 0

    def encode(self, chunk):
        if self.num_chunks == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        self.num_chunks += 1
        return super().encode(chunk)

mt.data.corpus.ChunkEncoder = KilledEncoder
tokenizer = Tokenizer.load(directory / "tokenizer.model")
text = TwoFiles(directory / "train.en", directory / "train.de")
encode_corpus(
    [TrainingCorpus(text)], tokenizer, tokenizer, max_length=50, max_length_ratio=9.0,
    cache_dir=directory / "cache", normalization="nfc",
)
"""


def test_killed_encoding_continues_from_its_last_record(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model)
    ended = subprocess.run([sys.executable, "-c", KILLED_ENCODING, tmp_path], check=False)
    assert ended.returncode == -signal.SIGKILL
    num_encoded = 0

    class CountingEncoder(ChunkEncoder):
        def encode(self, chunk: TextChunk) -> EncodedChunk:
            nonlocal num_encoded
            num_encoded += len(chunk.pairs)
            return super().encode(chunk)

    monkeypatch.setattr(mt.data.corpus, "ChunkEncoder", CountingEncoder)
    encode(tmp_path / "cache", tokenizer, corpus)
    assert num_encoded == len(PAIRS) - 24  # six chunks of four pairs were recorded
    encode(tmp_path / "undisturbed", tokenizer, corpus)
    assert cached_bytes(tmp_path / "cache") == cached_bytes(tmp_path / "undisturbed")


@pytest.mark.parametrize("damage", ["short file", "no record", "bad record"])
def test_unfinished_corpus_that_is_damaged_is_not_used(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    corpus = write_corpus(tmp_path)
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(mt.data.corpus, "ChunkEncoder", interrupting_encoder(after=5))
        with pytest.raises(KeyboardInterrupt):
            encode(cache, tokenizer, corpus)
    (unfinished,) = (path for path in cache.iterdir() if path.is_dir())
    if damage == "short file":
        (unfinished / "tgt.ids").write_bytes(b"")
    elif damage == "no record":
        (unfinished / "progress.json").unlink()
    else:
        (unfinished / "progress.json").write_text('{"counts": {}}')
    encode(cache, tokenizer, corpus)
    encode(tmp_path / "uninterrupted", tokenizer, corpus)
    assert cached_bytes(cache) == cached_bytes(tmp_path / "uninterrupted")


def test_progress_is_recorded_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    monkeypatch.setattr(mt.data.corpus_writer, "PAIRS_PER_RECORD", 8)
    encoder = ChunkEncoder(tokenizer, tokenizer, limits=LIMITS, normalization="nfc")
    with CorpusWriter(tmp_path / "corpus", num_corpora=1) as writer:
        record = tmp_path / ".corpus.unfinished/progress.json"
        for start in (0, 4):
            assert not record.exists()
            writer.append(encoder.encode(TextChunk(0, 0, PAIRS[start : start + 4])))
        assert record.exists()


def test_two_processes_cannot_write_the_same_corpus(tmp_path: Path) -> None:
    with CorpusWriter(tmp_path / "corpus", num_corpora=1) as writer:
        with (
            pytest.raises(DataError, match="another process"),
            CorpusWriter(tmp_path / "corpus", num_corpora=1),
        ):
            pass
        writer.finish()
    assert (tmp_path / "corpus/meta.json").exists()


def test_full_disk_is_named_and_keeps_what_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mt.data.corpus_writer, "PAIRS_PER_RECORD", 3)
    corpus = tmp_path / "corpus"

    def write_until_the_disk_is_full(patch: pytest.MonkeyPatch) -> None:
        with CorpusWriter(corpus, num_corpora=1) as writer:
            writer.append(some_pairs(3))
            fill_disk(patch)
            writer.append(some_pairs(3))

    with monkeypatch.context() as patch, pytest.raises(DiskError, match="corpus: cannot write"):
        write_until_the_disk_is_full(patch)
    with CorpusWriter(corpus, num_corpora=1) as writer:
        assert writer.progress.counts.total == 3
        writer.append(some_pairs(2))
        writer.finish()
    assert np.fromfile(corpus / "tgt.offsets", np.int64).tolist() == [0, 2, 4, 6, 8, 10]


def test_killed_encoder_leaves_what_is_recorded(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mt.data.corpus_writer, "PAIRS_PER_RECORD", 8)
    corpus = write_corpus(tmp_path)
    encode_chunk = EncodingProcess.encode
    num_chunks = 0

    def kill_at_fifth_chunk(self: EncodingProcess, chunk: TextChunk) -> EncodedChunk:
        nonlocal num_chunks
        num_chunks += 1
        if num_chunks == 5:
            self._process.kill()
        return encode_chunk(self, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(mt.data.corpus, "choose_num_processes", lambda text_size: 1)
        patch.setattr(EncodingProcess, "encode", kill_at_fifth_chunk)
        with pytest.raises(ProcessError, match="ended with code -9"):
            encode(tmp_path / "cache", tokenizer, corpus)
    (record,) = (tmp_path / "cache").glob(".*.unfinished/progress.json")
    assert json.loads(record.read_text())["num_read"] == 16
    encode(tmp_path / "cache", tokenizer, corpus)
    encode(tmp_path / "undisturbed", tokenizer, corpus)
    assert cached_bytes(tmp_path / "cache") == cached_bytes(tmp_path / "undisturbed")


def write_until(error: BaseException, corpus: Path) -> None:
    with CorpusWriter(corpus, num_corpora=1) as writer:
        writer.append(some_pairs(3))
        raise error


def test_error_before_the_first_record_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bad text"):
        write_until(DataError("bad text"), tmp_path / "corpus")
    assert not list(tmp_path.iterdir())


def test_interrupt_on_a_full_disk_stays_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        write_until(KeyboardInterrupt(), tmp_path / "corpus")


KILLED_FINISH = """
import os, signal, sys
from pathlib import Path
import mt.data.corpus_writer
from mt.data.chunk_encoder import EncodedChunk, FilterCounts
from mt.data.corpus_writer import CorpusWriter
from mt.data.token_array import TokenArray

mt.data.corpus_writer.PAIRS_PER_RECORD = 3
setattr(mt.data.corpus_writer, sys.argv[2], lambda path: os.kill(os.getpid(), signal.SIGKILL))
rows = TokenArray.from_rows([[5, 3]] * 3)
with CorpusWriter(Path(sys.argv[1]), num_corpora=1) as writer:
    writer.append(EncodedChunk(0, rows, rows, FilterCounts(kept=3), 0))
    writer.finish()
"""


@pytest.mark.parametrize("step", ["fsync_path", "remove"])
def test_writer_that_is_killed_while_it_finishes_loses_nothing(tmp_path: Path, step: str) -> None:
    corpus = tmp_path / "corpus"
    command = [sys.executable, "-c", KILLED_FINISH, corpus, step]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    if step == "remove":  # after the rename
        assert (corpus / "meta.json").exists()
        return
    with CorpusWriter(corpus, num_corpora=1) as writer:
        assert writer.progress.counts.total == 3


def test_complete_corpus_may_hold_a_record_of_progress(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    corpus = write_corpus(tmp_path)
    first = encode(tmp_path / "cache", tokenizer, corpus)
    (tmp_path / "cache" / first.digest / "progress.json").write_text("{}")
    second = encode(tmp_path / "cache", tokenizer, corpus)
    assert second.src.rows() == first.src.rows()


def test_interrupt_after_the_rename_leaves_the_complete_corpus_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync_path = mt.data.corpus_writer.fsync_path

    def interrupt(path: Path) -> None:
        if path == tmp_path:
            raise KeyboardInterrupt
        fsync_path(path)

    def write_corpus_to_the_end() -> None:
        with CorpusWriter(tmp_path / "corpus", num_corpora=1) as writer:
            writer.append(some_pairs(3))
            writer.finish()

    monkeypatch.setattr(mt.data.corpus_writer, "fsync_path", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_corpus_to_the_end()
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_writer_that_gets_the_lock_too_late_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writer finishes after this one has opened the directory, before it has the lock."""
    other = CorpusWriter(tmp_path / "corpus", num_corpora=1)
    flock = fcntl.flock

    def finish_first(file: Any, operation: int) -> None:
        monkeypatch.setattr("fcntl.flock", flock)
        other.finish()
        other.__exit__(None, None, None)
        flock(file, operation)

    other.__enter__()
    other.append(some_pairs(3))
    monkeypatch.setattr("fcntl.flock", finish_first)
    with (
        pytest.raises(DataError, match="another process"),
        CorpusWriter(tmp_path / "corpus", num_corpora=1),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert np.fromfile(tmp_path / "corpus/src.ids", np.int32).tolist() == [5, 3] * 3


def test_writer_that_has_ended_leaves_the_next_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CorpusWriter(tmp_path / "corpus", num_corpora=1) as writer:
        writer.append(some_pairs(3))
        writer.finish()
        shutil.rmtree(tmp_path / "corpus")
        later = CorpusWriter(tmp_path / "corpus", num_corpora=1)
        later.__enter__()
    later.append(some_pairs(2))
    later.finish()
    later.__exit__(None, None, None)
    assert np.fromfile(tmp_path / "corpus/src.ids", np.int32).tolist() == [5, 3] * 2


def test_unfinished_corpus_that_a_process_writes_is_not_deleted(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    cache = tmp_path / "cache"
    with CorpusWriter(cache / "0123", num_corpora=1) as writer:
        writer.append(some_pairs(3))
        encode(cache, tokenizer, write_corpus(tmp_path))
        writer.finish()
    assert np.fromfile(cache / "0123/src.ids", np.int32).tolist() == [5, 3] * 3


def test_unfinished_corpora_of_other_texts_are_deleted(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    stale = tmp_path / "cache/.0123.unfinished"
    stale.mkdir(parents=True)
    encode(tmp_path / "cache", tokenizer, write_corpus(tmp_path))
    assert not stale.exists()


def test_second_start_reads_neither_the_text_nor_the_corpus(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mt.storage.known_files, "MIN_AGE_NS", -(10**18))
    corpus = write_corpus(tmp_path)
    first = encode(tmp_path / "cache", tokenizer, corpus)
    monkeypatch.setattr(mt.storage.known_files, "sha256", None)  # to read the text would fail
    monkeypatch.setattr(mt.data.corpus, "_are_ascending", None)
    second = encode(tmp_path / "cache", tokenizer, corpus)
    assert second.digest == first.digest
    assert np.array_equal(second.src.ids, first.src.ids)


def test_text_is_hashed_once_even_if_the_encoding_is_interrupted(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mt.storage.known_files, "MIN_AGE_NS", -(10**18))
    corpus = write_corpus(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(mt.data.corpus, "ChunkEncoder", interrupting_encoder(after=2))
        with pytest.raises(KeyboardInterrupt):
            encode(tmp_path / "cache", tokenizer, corpus)
    monkeypatch.setattr(mt.storage.known_files, "sha256", None)  # to read the text would fail
    assert len(encode(tmp_path / "cache", tokenizer, corpus)) == 48


def test_corpus_that_was_changed_later_is_checked_again(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mt.storage.known_files, "MIN_AGE_NS", -(10**18))
    corpus = write_corpus(tmp_path)
    encode(tmp_path / "cache", tokenizer, corpus)
    (path,) = (tmp_path / "cache").glob("*/tgt.ids")
    ids = np.fromfile(path, np.int32)
    ids[3] = tokenizer.vocab_size
    path.write_bytes(ids.tobytes())
    with pytest.raises(DataError, match="this cache is damaged"):
        encode(tmp_path / "cache", tokenizer, corpus)


@pytest.mark.parametrize("bad_index", [None, 1, 5, 9, 10])
def test_offsets_are_checked_in_all_blocks(
    monkeypatch: pytest.MonkeyPatch, bad_index: int | None
) -> None:
    monkeypatch.setattr(mt.data.corpus, "BLOCK_SIZE", 3)
    offsets = np.arange(11) * 2
    if bad_index is not None:
        offsets[bad_index] = offsets[bad_index - 1]
    assert mt.data.corpus._are_ascending(offsets) == (bad_index is None)


def test_encoder_is_a_function_of_the_chunk(tokenizer: Tokenizer) -> None:
    encoder = ChunkEncoder(tokenizer, tokenizer, limits=LIMITS, normalization="nfc")
    whole = encoder.encode(TextChunk(0, 0, PAIRS))
    parts = [encoder.encode(TextChunk(0, 0, PAIRS[start : start + 9])) for start in range(0, 50, 9)]
    side: Callable[[EncodedChunk], TokenArray]
    for side in (lambda chunk: chunk.src, lambda chunk: chunk.tgt):
        assert side(whole).rows() == [row for part in parts for row in side(part).rows()]
    assert whole.counts == sum((part.counts for part in parts[1:]), parts[0].counts)
