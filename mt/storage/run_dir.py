"""File names in a run directory, and its lock. Files in `checkpoints/` are in checkpoint.py."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mt.errors import RunDirError
from mt.storage.atomic import fsync_path, os_errors_as_disk_error, remove
from mt.storage.locks import try_lock

# Each directory that mt export writes contains this empty file, as a sign that a newer export may
# replace it.
EXPORT_MARKER = ".made_by_mt_export"
REPORT_FILE = "report.html"
ATTENTION_FILE = "attention.html"
CTRANSLATE2_MODEL = "model.bin"  # the weights in an export for CTranslate2

# What training writes, as a pattern of names in each folder of a run directory.
WRITTEN_NAMES = {
    ".": r"config\.yaml|metrics\.jsonl|source_stats\.json|tokenizer(\.src|\.tgt)?\.model",
    "tensorboard": r"events\.out\.tfevents\.mt",
    "checkpoints": r"step_[0-9]{8,}|last|best",
    "checkpoints/step_*": r"SHA256SUMS",
    "cache": r"[0-9a-f]{32}|known_files\.json",
    "cache/.*.unfinished": r"progress\.json",
}


def display_path(path: str) -> str:
    """Return a path for messages: relative if it is below the current directory, else as it is.

    A place such as FILE:LINE is a path too.
    """
    try:
        relative = os.path.relpath(path)
    except FileNotFoundError:  # the current directory was deleted
        return path
    return path if relative.startswith(os.pardir) else relative


class RunDir:
    """Directory with everything of one run. A copy of it translates on another machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.jsonl"
        self.source_stats_path = path / "source_stats.json"  # of the training text
        self.tensorboard_dir = path / "tensorboard"
        self.checkpoints_dir = path / "checkpoints"
        self.cache_dir = path / "cache"  # the encoded training text; may be deleted
        self.report_path = path / REPORT_FILE  # where mt report writes by default
        self.attention_path = path / ATTENTION_FILE  # where mt attention writes by default

    @property
    def display_path(self) -> str:
        """The path for messages, see the function of this name."""
        return display_path(str(self.path))

    @property
    def holds_run(self) -> bool:
        """Whether a training has begun here."""
        return self.config_path.exists() or self.checkpoints_dir.exists()

    @property
    def is_export(self) -> bool:
        """Whether `mt export` wrote this: it translates, but no training can resume."""
        return (self.path / EXPORT_MARKER).is_file()

    @property
    def is_for_ctranslate2(self) -> bool:
        """Whether this is an export for CTranslate2, with another kind of weights than a run."""
        has_model = (self.path / CTRANSLATE2_MODEL).is_file()
        return has_model and not self.checkpoints_dir.exists()

    def move_aside(self) -> Path | None:
        """Rename the directory, if it holds a run, and return its new path, else None.

        The new name is NAME.1, the next time NAME.2, and so on. Raises RunDirError when another
        process is training here, DiskError when the directory cannot be renamed.
        """
        if not self.holds_run:
            return None
        with self.lock(), os_errors_as_disk_error(self.path):
            new_path = self._next_name()
            self.path.rename(new_path)  # fails if the name has been taken in the meantime
            fsync_path(new_path.parent)
        return new_path

    def _next_name(self) -> Path:
        """Return the path NAME.1, or the one after the highest number that is taken."""
        pattern = re.compile(rf"{re.escape(self.path.name)}\.([1-9][0-9]{{0,8}})")
        matches = [pattern.fullmatch(path.name) for path in self.path.parent.iterdir()]
        numbers = [int(match[1]) for match in matches if match]
        return self.path.with_name(f"{self.path.name}.{max(numbers, default=0) + 1}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process from training here, and remove what a killed one left.

        The system releases the lock when this process ends, however it ends. Raises RunDirError
        when another process has the lock, DiskError when the directory cannot be written to.
        """
        with ExitStack() as stack:
            with os_errors_as_disk_error(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                # Users delete the file `.lock`, so the directory itself is locked too.
                directory = os.open(self.path, os.O_RDONLY)
                stack.callback(os.close, directory)
                file = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, mode=0o644)
                stack.callback(os.close, file)
            if not try_lock(directory) or not try_lock(file):
                raise RunDirError(
                    f"{self.path}: another process is training here (--run-dir chooses another)"
                )
            for partial in self._leftovers():
                remove(partial)
            yield

    def _leftovers(self) -> Iterator[Path]:
        """Yield what a killed training left half-written. Files of other programs are not ours."""
        for folder, names in WRITTEN_NAMES.items():
            pattern = re.compile(rf"\.({names})(\.[0-9a-f]{{8}})?\.partial")
            for path in self.path.glob(f"{folder}/.*.partial"):
                if pattern.fullmatch(path.name):
                    yield path

    def tokenizer_paths(self, joint: bool) -> tuple[Path, Path]:
        """Return the paths of the source and target tokenizer models: the same one if joint."""
        if joint:
            path = self.path / "tokenizer.model"
            return path, path
        return self.path / "tokenizer.src.model", self.path / "tokenizer.tgt.model"


def open_run_dir(path: Path, *, key: str | None = None) -> RunDir:
    """Return the existing run directory at `path`.

    Raises RunDirError when there is none; the message names `key`, the key of the config that has
    the path.
    """
    run_dir = RunDir(path)
    name = str(path) if key is None else f"{key}: {path}"
    if not path.is_dir():
        raise RunDirError(f"{name}: no such run directory (mt train makes one)")
    if run_dir.is_for_ctranslate2:
        raise RunDirError(
            f"{name}: an export for CTranslate2, which only mt translate and mt serve read"
        )
    if not run_dir.config_path.is_file():
        raise RunDirError(
            f"{name}: not a run directory: it has no config.yaml (mt train makes one)"
        )
    return run_dir
