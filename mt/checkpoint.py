"""Checkpoints on disk: complete or absent, verified when read, and never unpickled."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mt.disk import remove, whole_directory, whole_file
from mt.errors import CheckpointError, DiskError

FORMAT_VERSION = 1
MODEL, OPTIMIZER, META = "model.safetensors", "optimizer.safetensors", "meta.json"
POINTERS = ("best", "last")  # in this order: a run killed in between does again what `last` lacks


class Snapshot(NamedTuple):
    """All that a run is at the boundary between two updates."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    meta: dict[str, Any]  # the train state, random states, scaler; JSON values only


@dataclass(frozen=True)
class CheckpointStore:
    """The directory RUN_DIR/checkpoints: step directories, and the pointers `last` and `best`."""

    path: Path
    keep: int  # newest ones to keep, besides the best

    def save(self, snapshot: Snapshot, *, step: int, is_best: bool) -> Path:
        """Write under a temporary name, flush to disk, rename, point to it; only then prune old ones."""
        final = self.path / f"step_{step:08d}"
        with whole_directory(final) as directory:
            _save_tensors(snapshot.model, directory / MODEL)
            _save_tensors(snapshot.optimizer, directory / OPTIMIZER)
            checksums = {name: _sha256(directory / name) for name in (MODEL, OPTIMIZER)}
            meta = {**snapshot.meta, "format_version": FORMAT_VERSION, "checksums": checksums}
            (directory / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")
        for pointer in POINTERS if is_best else POINTERS[1:]:
            with whole_file(self.path / pointer) as file:
                file.write(f"{final.name}\n".encode())
        self._prune()
        return final

    def _prune(self) -> None:
        """Drop all but the newest `keep` checkpoints and those pointed to."""
        pointed = {(self.path / name).read_text().strip() for name in POINTERS if (self.path / name).exists()}
        steps = sorted(path for path in self.path.glob("step_*") if path.is_dir())
        for old in steps[: max(0, len(steps) - self.keep)]:
            if old.name not in pointed:
                remove(old)


def find_checkpoint(checkpoints: Path, which: str) -> Path:
    """The step directory called `last`, `best` or `step_00012000` in `checkpoints`, or any other by its path.

    Raises CheckpointError when there is none.
    """
    candidates = [checkpoints / which, Path(which)]
    if which in POINTERS:
        if not candidates[0].is_file():
            raise CheckpointError(f"{checkpoints}: no {which} checkpoint yet (mt train makes one)")
        candidates = [checkpoints / candidates[0].read_text(encoding="utf-8", errors="replace").strip()]
    found = next((path for path in candidates if (path / META).is_file()), None)
    if found is None:
        raise CheckpointError(f"{which}: no such checkpoint in {checkpoints} (wanted best, last or a directory)")
    return found


def load_snapshot(directory: Path) -> Snapshot:
    """Everything saved in a checkpoint. Raises CheckpointError for a missing, damaged or foreign file."""
    meta = load_meta(directory)
    return Snapshot(_load_tensors(directory / MODEL, meta), _load_tensors(directory / OPTIMIZER, meta), meta)


def load_weights(model: nn.Module, directory: Path) -> None:
    """Give `model` the weights of a checkpoint, which is all that translation needs of it."""
    try:
        model.load_state_dict(_load_tensors(directory / MODEL, load_meta(directory)))
    except RuntimeError as error:
        raise CheckpointError(f"{directory}: holds another model than the run's config describes") from error


def load_meta(directory: Path) -> dict[str, Any]:
    """The checkpoint's meta.json, of a format version that this program reads."""
    path = directory / META
    try:
        meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = meta["format_version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: not readable as a checkpoint's meta.json ({error})") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version}, but this mt reads {FORMAT_VERSION}")
    return meta


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # a full disk comes as this, not as OSError
        raise DiskError(f"{path}: cannot write: {error}") from error


def _load_tensors(path: Path, meta: dict[str, Any]) -> dict[str, Tensor]:
    try:
        if _sha256(path) != meta.get("checksums", {}).get(path.name):
            raise CheckpointError(f"{path}: damaged: its checksum is not the one in {META}")
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from error
    return tensors


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
