"""File names in a run directory, and its lock. Files in `checkpoints/` are in checkpoint.py."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mt.errors import RunDirError
from mt.storage.atomic import os_errors_as_disk_error, remove


class RunDir:
    """Directory with everything of one run. A copy of it translates on another machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.jsonl"
        self.source_stats_path = path / "source_stats.json"  # of the training text
        self.checkpoints_dir = path / "checkpoints"
        self.cache_dir = path / "cache"  # the encoded training text; may be deleted

    @property
    def display_path(self) -> str:
        """The path for messages: relative if it is below the current directory, else absolute."""
        relative = os.path.relpath(self.path)
        return str(self.path) if relative.startswith(os.pardir) else relative

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process from training here, and remove what a killed one left.

        The system releases the lock when this process ends, however it ends. RunDirError when
        another process has the lock, DiskError when the directory cannot be written to.
        """
        with os_errors_as_disk_error(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock = FileLock(self.path / ".lock", timeout=0).acquire()
            except Timeout:
                raise RunDirError(
                    f"{self.path}: another process is training here (--run-dir chooses another)"
                ) from None
        with lock:
            for partial in self.path.rglob(".*.partial"):
                remove(partial)
            yield

    def tokenizer_paths(self, joint: bool) -> tuple[Path, Path]:
        """Return the paths of the source and target tokenizer models: the same one if joint."""
        if joint:
            path = self.path / "tokenizer.model"
            return path, path
        return self.path / "tokenizer.src.model", self.path / "tokenizer.tgt.model"


def open_run_dir(path: Path) -> RunDir:
    """Return the existing run directory at `path`. RunDirError when there is none."""
    run_dir = RunDir(path)
    if not path.is_dir():
        raise RunDirError(f"{path}: no such run directory (mt train makes one)")
    if not run_dir.config_path.is_file():
        raise RunDirError(
            f"{path}: not a run directory: it has no config.yaml (mt train makes one)"
        )
    return run_dir
