"""Writes an encoded corpus, chunk by chunk, so that a killed process loses little of its work.

A corpus is a directory with src.ids, src.offsets, tgt.ids, tgt.offsets and meta.json. Until it is
complete, the name of the directory is `.NAME.unfinished`, and progress.json says how much of the
files is certainly on the disk, and from which part of the text it was made. The next writer of the
same name continues from there.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from mt.data.chunk_encoder import EncodedChunk, FilterCounts
from mt.data.token_array import TokenArray
from mt.errors import DataError, DiskError
from mt.storage.atomic import atomic_file, fsync_path, os_errors_as_disk_error, remove
from mt.storage.locks import try_lock

# Pairs of text between two records of the progress. They take some seconds to encode.
PAIRS_PER_RECORD = 500_000

ID_SIZE = np.dtype(np.int32).itemsize
OFFSET_SIZE = np.dtype(np.int64).itemsize


@dataclass(frozen=True)
class Progress:
    """How much of the text is encoded."""

    corpus_index: int  # of the last corpus that was read from
    num_read: int  # pairs of that corpus
    num_pairs: list[int]  # kept, of each corpus
    counts: FilterCounts
    num_several_sentences: int  # sources
    num_src_ids: int
    num_tgt_ids: int

    def add(self, chunk: EncodedChunk) -> "Progress":
        """Return the progress after one more chunk."""
        num_pairs = list(self.num_pairs)
        num_pairs[chunk.corpus_index] += chunk.counts.kept
        is_same_corpus = chunk.corpus_index == self.corpus_index
        num_read_before = self.num_read if is_same_corpus else 0
        return Progress(
            corpus_index=chunk.corpus_index,
            num_read=num_read_before + chunk.counts.total,
            num_pairs=num_pairs,
            counts=self.counts + chunk.counts,
            num_several_sentences=self.num_several_sentences + chunk.num_several_sentences,
            num_src_ids=self.num_src_ids + len(chunk.src.ids),
            num_tgt_ids=self.num_tgt_ids + len(chunk.tgt.ids),
        )

    def file_sizes(self) -> dict[str, int]:
        """Return the size of each file in bytes."""
        offsets_size = (self.counts.kept + 1) * OFFSET_SIZE
        return {
            "src.ids": self.num_src_ids * ID_SIZE,
            "src.offsets": offsets_size,
            "tgt.ids": self.num_tgt_ids * ID_SIZE,
            "tgt.offsets": offsets_size,
        }


class CorpusWriter:
    """Writes the corpus `directory`, which exists only after `finish`.

    When the `with` block ends before that, the next writer continues from the last record of the
    progress. Without a record, what is unfinished is deleted. An interrupt makes a record.
    Raises DataError when another process writes the same corpus, and DiskError.
    """

    def __init__(self, directory: Path, *, num_corpora: int) -> None:
        self._directory = directory
        self._unfinished = directory.with_name(f".{directory.name}.unfinished")
        self._files: dict[str, BinaryIO] = {}
        self.progress = Progress(
            corpus_index=0,
            num_read=0,
            num_pairs=[0] * num_corpora,
            counts=FilterCounts(),
            num_several_sentences=0,
            num_src_ids=0,
            num_tgt_ids=0,
        )
        self._num_recorded = 0  # pairs of text

    def __enter__(self) -> Self:
        with os_errors_as_disk_error(self._directory):
            self._unfinished.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._unfinished, os.O_RDONLY)
            try:
                self._lock()
                self._open_files()
                self._continue_or_start()
            except BaseException:
                self._close_files()
                raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_interrupt = error is not None and not isinstance(error, Exception)
        try:
            if self._is_unfinished():
                if is_interrupt:
                    with suppress(DiskError):  # the interrupt is what the user must see
                        self._record_progress()
                if self._num_recorded == 0:
                    remove(self._unfinished)
        finally:
            self._close_files()

    def append(self, chunk: EncodedChunk) -> None:
        """Write the pairs of a chunk after those before it."""
        with os_errors_as_disk_error(self._directory):
            self._append_side("src", chunk.src, num_ids_before=self.progress.num_src_ids)
            self._append_side("tgt", chunk.tgt, num_ids_before=self.progress.num_tgt_ids)
        self.progress = self.progress.add(chunk)
        if self.progress.counts.total - self._num_recorded >= PAIRS_PER_RECORD:
            self._record_progress()

    def finish(self) -> None:
        """Give the corpus its name, once all files are on the disk."""
        meta = {
            "num_pairs": self.progress.num_pairs,
            "counts": asdict(self.progress.counts),
            "num_several_sentences": self.progress.num_several_sentences,
        }
        with os_errors_as_disk_error(self._directory):
            (self._unfinished / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            self._sync_files()
            fsync_path(self._unfinished / "meta.json")
            fsync_path(self._unfinished)
            self._unfinished.rename(self._directory)
            fsync_path(self._directory.parent)
            # Only now: a writer that is killed before the rename continues from this record.
            remove(self._directory / "progress.json")

    def _append_side(self, side: str, rows: TokenArray, *, num_ids_before: int) -> None:
        """Write the ids of one side, and their offsets in the whole file."""
        self._files[f"{side}.ids"].write(rows.ids.tobytes())
        self._files[f"{side}.offsets"].write((rows.offsets[1:] + num_ids_before).tobytes())

    def _lock(self) -> None:
        """Keep other processes from writing the same files. The lock ends with the process.

        The process that had the lock may have finished or deleted the directory in the meantime.
        """
        is_locked = try_lock(self._descriptor)
        if not is_locked or not self._is_unfinished() or self._directory.exists():
            raise DataError(
                f"{self._directory}: another process is encoding this text, or has just done so; "
                "start again when it has ended"
            )

    def _is_unfinished(self) -> bool:
        """Return whether the unfinished directory is still the one that this writer opened."""
        try:
            status = self._unfinished.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(status, os.fstat(self._descriptor))

    def _open_files(self) -> None:
        for name in self.progress.file_sizes():
            # Mode "a" makes a file that does not exist, and does not empty one that does.
            self._files[name] = (self._unfinished / name).open("ab")

    def _continue_or_start(self) -> None:
        """Cut the files to what the recorded progress says, or to nothing."""
        recorded = self._read_progress()
        if recorded is not None:
            self.progress = recorded
            self._num_recorded = recorded.counts.total
        for name, size in self.progress.file_sizes().items():
            self._files[name].truncate(size if recorded is not None else 0)
        if recorded is None:
            for side in ("src", "tgt"):
                self._files[f"{side}.offsets"].write(np.zeros(1, np.int64).tobytes())

    def _read_progress(self) -> Progress | None:
        """Return the recorded progress; None if there is none, or if the files are shorter."""
        try:
            fields = json.loads((self._unfinished / "progress.json").read_text(encoding="utf-8"))
            counts = FilterCounts(**fields.pop("counts"))
            progress = Progress(counts=counts, **fields)
            sizes = progress.file_sizes()
            is_whole = len(progress.num_pairs) == len(self.progress.num_pairs) and all(
                (self._unfinished / name).stat().st_size >= size for name, size in sizes.items()
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return progress if is_whole else None

    def _record_progress(self) -> None:
        """Write how far the text is encoded. Raises DiskError."""
        with os_errors_as_disk_error(self._directory):
            self._sync_files()
        with atomic_file(self._unfinished / "progress.json") as file:
            file.write(json.dumps(asdict(self.progress)).encode())
        self._num_recorded = self.progress.counts.total

    def _close_files(self) -> None:
        for file in self._files.values():
            with suppress(OSError):  # of a full disk; what is not recorded is written again
                file.close()
        os.close(self._descriptor)  # releases the lock

    def _sync_files(self) -> None:
        """Wait until all that was written is on the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())


def delete_unfinished(unfinished: Path) -> None:
    """Delete the directory of an unfinished corpus, unless a process is writing it."""
    with suppress(OSError):  # another process may have deleted it
        descriptor = os.open(unfinished, os.O_RDONLY)
        try:
            if try_lock(descriptor):
                remove(unfinished)
        finally:
            os.close(descriptor)
