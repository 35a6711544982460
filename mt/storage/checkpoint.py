"""Checkpoints on disk: complete or absent, verified when read, and never unpickled."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mt.errors import CheckpointError
from mt.storage import migrations
from mt.storage.atomic import atomic_directory, atomic_file, remove, sha256

FORMAT_VERSION = 3
READABLE_VERSIONS = (2, FORMAT_VERSION)
MODEL, OPTIMIZER, META = "model.safetensors", "optimizer.safetensors", "meta.json"
CHECKSUMS = "SHA256SUMS"  # of the three, as the sha256sum command writes and checks them
POINTERS = ("best", "last")  # in this order: a run killed in between does again what `last` lacks


class Checkpoint(NamedTuple):
    """All that a run is at the boundary between two updates."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    meta: dict[str, Any]  # the train state, random states, scaler; JSON values only


@dataclass(frozen=True)
class CheckpointStore:
    """The directory RUN_DIR/checkpoints: step directories, and the pointers `last` and `best`."""

    path: Path
    keep: int  # newest ones to keep, besides the best

    def save(self, snapshot: Checkpoint, *, step: int, is_best: bool) -> Path:
        """Write under a temporary name, flush to disk, rename, point to it; only then prune old ones.

        DiskError when the disk refuses; what was there before is then as it was.
        """
        final = self.path / f"step_{step:08d}"
        with atomic_directory(final) as directory:
            _save_tensors(snapshot.model, directory / MODEL)
            _save_tensors(snapshot.optimizer, directory / OPTIMIZER)
            meta = {**snapshot.meta, "format_version": FORMAT_VERSION}
            (directory / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")
            sums = [f"{sha256(directory / name)}  {name}\n" for name in (MODEL, OPTIMIZER, META)]
            (directory / CHECKSUMS).write_text("".join(sums), encoding="ascii")
        for pointer in POINTERS if is_best else POINTERS[1:]:
            with atomic_file(self.path / pointer) as file:
                file.write(f"{final.name}\n".encode())
        self._prune()
        return final

    def load_newest(self) -> tuple[Checkpoint, list[CheckpointError]]:
        """The newest checkpoint that is whole, from `last` backwards, and what is wrong with those after it.

        Raises the newest one's CheckpointError when none is whole.
        """
        last = _read_pointer(self.path / "last")
        # What is newer than `last` was never pointed to; where the pointer itself is damaged, all are looked at.
        steps = [path for path in _newest_first(self.path) if last is None or path.name <= last]
        errors: list[CheckpointError] = []
        for directory in steps:
            try:
                return load_checkpoint(directory), errors
            except CheckpointError as error:
                errors.append(error)
        raise (
            errors[0]
            if errors
            else CheckpointError(f"{self.path}: no checkpoint is left (mt train makes one)")
        )

    def _prune(self) -> None:
        """Drop all but the newest `keep` checkpoints and those pointed to."""
        pointed = {_read_pointer(self.path / name) for name in POINTERS}
        for old in _newest_first(self.path)[self.keep :]:
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
        if (name := _read_pointer(candidates[0])) is None:
            raise CheckpointError(f"{candidates[0]}: damaged: wanted the name of a step directory")
        candidates = [checkpoints / name]
    found = next((path for path in candidates if (path / META).is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{which}: no such checkpoint in {checkpoints} (wanted best, last or a directory)"
        )
    return found


def load_checkpoint(directory: Path) -> Checkpoint:
    """Return everything saved in a checkpoint, which may be of an older format.

    CheckpointError for a missing or damaged file, or for one that is not of a checkpoint.
    """
    meta = _read_meta(directory)
    model = _load_tensors(directory / MODEL)
    optimizer = _load_tensors(directory / OPTIMIZER)
    if meta["format_version"] == 2:
        try:
            optimizer = migrations.convert_optimizer(optimizer, model)
        except ValueError as error:
            raise CheckpointError(
                f"{directory / OPTIMIZER}: not readable as format 2 ({error})"
            ) from error
        model = migrations.convert_model(model)
        meta = migrations.convert_meta(meta)
    return Checkpoint(model, optimizer, meta)


def load_weights(model: nn.Module, directory: Path) -> None:
    """Load a checkpoint's weights into `model`, which may be on the meta device.

    CheckpointError when they are the weights of another model.
    """
    meta = _read_meta(directory)
    tensors = _load_tensors(directory / MODEL)
    if meta["format_version"] == 2:
        tensors = migrations.convert_model(tensors)
    if _shapes(tensors) != _shapes(model.state_dict()):
        raise CheckpointError(f"{directory}: holds another model than the run's config describes")
    model.load_state_dict(tensors, assign=True)


def load_meta(directory: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's meta.json, which may be of an older format.

    CheckpointError for a missing or damaged file, and for a format version that is not readable.
    """
    meta = _read_meta(directory)
    if meta["format_version"] == 2:
        meta = migrations.convert_meta(meta)
    return meta


def _read_meta(directory: Path) -> dict[str, Any]:
    """Return the content of meta.json as it is; its `format_version` is one of those readable."""
    path = directory / META
    try:
        meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = meta["format_version"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not readable as a checkpoint's meta.json ({error})"
        ) from error
    if version not in READABLE_VERSIONS:
        readable = " and ".join(str(number) for number in READABLE_VERSIONS)
        hint = "; install a newer mt" if type(version) is int and version > FORMAT_VERSION else ""
        raise CheckpointError(
            f"{path}: format version {str(version)[:80]}, but this mt reads {readable}{hint}"
        )
    _verify(path)
    return meta


def _read_pointer(path: Path) -> str | None:
    """The name of the step directory that a pointer names; None where it is missing or damaged."""
    text = path.read_bytes()[:100].decode(errors="replace").strip() if path.is_file() else ""
    return text if re.fullmatch(r"step_[0-9]+", text) else None


def _newest_first(checkpoints: Path) -> list[Path]:
    return sorted((path for path in checkpoints.glob("step_*") if path.is_dir()), reverse=True)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # a full disk comes as this, not as OSError
        raise OSError(str(error)) from error


def _load_tensors(path: Path) -> dict[str, Tensor]:
    _verify(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from error
    return tensors


def _verify(path: Path) -> None:
    """Compare a file with its line in SHA256SUMS; CheckpointError when it differs or is not there."""
    sums = path.with_name(CHECKSUMS)
    try:
        if (
            f"{sha256(path)}  {path.name}"
            not in sums.read_text(encoding="ascii", errors="replace").splitlines()
        ):
            raise CheckpointError(f"{path}: damaged: its checksum is not the one in {CHECKSUMS}")
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot read: {error.strerror}") from error
