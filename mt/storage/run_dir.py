"""The file names in a run directory; those in `checkpoints/` are known to checkpoint.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mt.errors import RunDirError
from mt.storage.atomic import os_errors_as_disk_error, remove


class RunDir:
    """A directory that holds everything of one run: copy it, and it translates elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.cache = path / "cache"  # the encoded training text; may be deleted

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process from training here; the system lifts the lock with this one, however it ends.

        What a killed one left half-written is cleared away. RunDirError when another process has the lock, DiskError
        when the directory cannot be written to.
        """
        with os_errors_as_disk_error(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock = FileLock(self.path / ".lock", timeout=0).acquire()
            except Timeout:
                message = (
                    f"{self.path}: another process is training here (--run-dir chooses another)"
                )
                raise RunDirError(message) from None
        with lock:
            for partial in self.path.rglob(".*.partial"):
                remove(partial)
            yield

    def tokenizers(self, joint: bool) -> tuple[Path, Path]:
        """The source's and the target's tokenizer model: one file when joint."""
        names = (
            ("tokenizer.model",) * 2 if joint else ("tokenizer.src.model", "tokenizer.tgt.model")
        )
        return self.path / names[0], self.path / names[1]


def open_run_dir(path: Path) -> RunDir:
    """The run directory at `path`. Raises RunDirError when nothing was trained there."""
    run_dir = RunDir(path)
    if not path.is_dir():
        raise RunDirError(f"{path}: no such run directory (mt train makes one)")
    if not run_dir.config.is_file():
        raise RunDirError(
            f"{path}: not a run directory: it has no config.yaml (mt train makes one)"
        )
    return run_dir
