"""Checkpoints on disk: complete or absent, verified when read, and never unpickled."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from mt.errors import CheckpointError, DiskError
from mt.storage import migrations
from mt.storage.atomic import atomic_directory, atomic_file, remove, sha256

T = TypeVar("T")

FORMAT_VERSION = 4
READABLE_VERSIONS = (2, 3, FORMAT_VERSION)

# The files in the directory of a checkpoint.
MODEL = "model.safetensors"
EMA = "ema.safetensors"  # averages of the weights, if the run has them
OPTIMIZER = "optimizer.safetensors"  # only where a run can resume
META = "meta.json"
CHECKSUMS = "SHA256SUMS"  # of the others, as the command sha256sum writes and checks them

NUM_RESUMABLE = 2  # newest checkpoints with an optimizer: the last, and one in case it is damaged

STEP_NAME = re.compile(r"step_[0-9]{8,}")  # of the directory of a checkpoint

# Files beside the directories of checkpoints. Each has the name of one.
LAST = "last"
BEST = "best"


class Checkpoint(NamedTuple):
    """Everything needed to resume a run after an update."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]  # by `<name of the parameter>/<kind>`
    meta: dict[str, Any]  # training state, random states, scaler and so on; JSON values only
    ema: Mapping[str, Tensor] = MappingProxyType({})  # averages of the weights, or nothing


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints in RUN_DIR/checkpoints, and the files `last` and `best` that name one."""

    path: Path
    keep: int  # number of newest checkpoints to keep besides the best

    def save(self, checkpoint: Checkpoint, *, step: int, is_best: bool) -> None:
        """Save a checkpoint, point `last` to it (and `best` if it is), and delete old ones.

        Raises DiskError when it cannot be written; earlier checkpoints and the pointers are then
        unchanged.
        """
        directory = self.path / step_name(step)
        tensors = {MODEL: checkpoint.model, OPTIMIZER: checkpoint.optimizer}
        if checkpoint.ema:
            tensors[EMA] = checkpoint.ema
        _write_directory(directory, tensors, {**checkpoint.meta, "is_best": is_best})
        # `best` first: a run that is killed between the two resumes from the old `last`, and so
        # validates and saves this checkpoint again.
        if is_best:
            self._point(BEST, directory)
        self._point(LAST, directory)
        # Only now: until then the pointers may name the checkpoints that are deleted.
        self._prune()

    def load_newest(self) -> tuple[Checkpoint, list[CheckpointError]]:
        """Load the newest intact checkpoint that is not newer than `last`.

        Also returns the errors of the damaged ones that were passed over. Raises the error of the
        newest checkpoint when none is intact.
        """
        return _load_newest(self.path, load_checkpoint)

    def repair_pointers(self, step: int) -> None:
        """Write `last` and `best` again where they are missing, when a run resumes from `step`.

        Without `last`, a save may have been killed before it wrote `best`. Raises DiskError when a
        pointer cannot be written.
        """
        has_last = _read_pointer(self.path / LAST) is not None
        has_best = _read_pointer(self.path / BEST) is not None
        if not has_last:
            self._point(LAST, self.path / step_name(step))
        if has_last and has_best:
            return
        for directory in _resume_candidates(self.path):
            with suppress(CheckpointError):
                if load_meta(directory).get("is_best"):
                    self._point(BEST, directory)
                    return

    def _point(self, pointer: str, directory: Path) -> None:
        with atomic_file(self.path / pointer) as file:
            file.write(f"{directory.name}\n".encode())

    def _prune(self) -> None:
        """Delete all checkpoints but the newest `keep` and those that are pointed to.

        A run resumes only from the newest NUM_RESUMABLE checkpoints. The optimizer of older ones is
        deleted. A damaged checkpoint is left as it is.
        """
        pointed_to = {_read_pointer(self.path / pointer) for pointer in (BEST, LAST)}
        newest_first = checkpoints_newest_first(self.path)
        for directory in newest_first[self.keep :]:
            if directory.name not in pointed_to:
                remove(directory)
        for directory in newest_first[NUM_RESUMABLE:]:
            if (directory / OPTIMIZER).exists():
                with suppress(CheckpointError, DiskError):
                    _remove_optimizer(directory)


def step_name(step: int) -> str:
    """Return the name of the directory of a checkpoint."""
    return f"step_{step:08d}"


def step_of(directory: Path) -> int:
    """Return the step of a checkpoint from the name of its directory, which is a STEP_NAME."""
    return int(directory.name.removeprefix("step_"))


def has_checkpoint(checkpoints: Path) -> bool:
    """Return whether a run has a checkpoint to resume from, or had one that is damaged now."""
    return (checkpoints / LAST).is_file() or bool(checkpoints_newest_first(checkpoints))


def has_best(checkpoints: Path) -> bool:
    """Return whether a validation has chosen a best checkpoint."""
    return (checkpoints / BEST).is_file()


def newest_meta(checkpoints: Path) -> dict[str, Any]:
    """Return the content of the newest intact meta.json that is not newer than `last`.

    Raises the error of the newest one when none is intact.
    """
    meta, _ = _load_newest(checkpoints, load_meta)
    return meta


def find_checkpoint(checkpoints: Path, which: str) -> Path:
    """Return the directory of the checkpoint `which`, in the directory `checkpoints` or elsewhere.

    `which` is `last`, `best`, a name such as `step_00012000`, or any path. Raises CheckpointError
    when there is none.
    """
    if which in (LAST, BEST):
        pointer = checkpoints / which
        if not pointer.is_file():
            raise CheckpointError(f"{checkpoints}: no {which} checkpoint yet (mt train makes one)")
        name = _read_pointer(pointer)
        if name is None:
            raise CheckpointError(f"{pointer}: damaged: wanted the name of a step directory")
        candidates = [checkpoints / name]
    else:
        candidates = [checkpoints / which, Path(which)]
    for directory in candidates:
        if (directory / META).is_file():
            return directory
    raise CheckpointError(
        f"{which}: no such checkpoint in {checkpoints} (wanted best, last or a directory)"
    )


def load_checkpoint(directory: Path) -> Checkpoint:
    """Return everything saved in a checkpoint, which may be of an older format.

    Raises CheckpointError for a missing or damaged file, or for one that is not of a checkpoint.
    """
    meta = _read_meta(directory)
    model = _load_tensors(directory / MODEL)
    ema = _load_tensors(directory / EMA) if _has_file(directory, EMA) else {}
    optimizer = _load_tensors(directory / OPTIMIZER)
    if meta["format_version"] == 2:
        try:
            optimizer = migrations.convert_optimizer(optimizer, model)
        except ValueError as error:
            raise CheckpointError(
                f"{directory / OPTIMIZER}: not readable as format 2 ({error})"
            ) from error
        model = migrations.convert_model(model)
    return Checkpoint(model, optimizer, migrations.convert_meta(meta), ema)


def load_weights(model: nn.Module, directory: Path) -> None:
    """Load a checkpoint's weights into `model`, which may be on the meta device.

    If the checkpoint has moving averages of the weights, it loads these.

    Raises CheckpointError when they are the weights of another model, or are not finite.
    """
    if _has_file(directory, EMA):
        name = EMA
        _read_meta(directory)  # checks the format
        tensors = _load_tensors(directory / EMA)
    else:
        name = MODEL
        tensors = _load_model(directory)
    if _shapes(tensors) != _shapes(model.state_dict()):
        raise CheckpointError(f"{directory}: holds another model than the run's config describes")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise CheckpointError(
            f"{directory / name}: some weights are not finite; choose another checkpoint"
        )
    model.load_state_dict(tensors, assign=True)


def average_weights(directories: Sequence[Path], output: Path) -> None:
    """Write a checkpoint with the mean of the weights of several ones.

    A run cannot resume from it. Its meta.json is that of the first, and names all of them. Raises
    CheckpointError when one cannot be read or has another model, DiskError when `output` cannot be
    written.
    """
    mean: dict[str, Tensor] = {}
    for directory in directories:
        weights = _load_model(directory)
        if not mean:
            mean = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        if _shapes(weights) != _shapes(mean):
            raise CheckpointError(f"{directory}: holds another model than {directories[0]}")
        for name, weight in weights.items():
            mean[name] += weight / len(directories)
    names = [directory.name for directory in directories]
    _write_directory(output, {MODEL: mean}, {**load_meta(directories[0]), "average_of": names})


def write_weights(
    weights: Mapping[str, Tensor], checkpoints: Path, *, step: int, meta: Mapping[str, Any]
) -> None:
    """Make the directory `checkpoints` with one checkpoint, which is both `best` and `last`.

    A run cannot resume from it. Its meta.json has `meta`. Raises OSError: a part of the directory
    may be left then.
    """
    name = step_name(step)
    directory = checkpoints / name
    directory.mkdir(parents=True)
    _write_files(directory, {MODEL: weights}, meta)
    for pointer in (BEST, LAST):
        (checkpoints / pointer).write_text(f"{name}\n", encoding="utf-8")


def load_meta(directory: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's meta.json, which may be of an older format.

    Raises CheckpointError for a missing or damaged file, and for a format version that is not
    readable.
    """
    return migrations.convert_meta(_read_meta(directory))


def _load_model(directory: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, which may be of an older format."""
    meta = _read_meta(directory)
    tensors = _load_tensors(directory / MODEL)
    if meta["format_version"] == 2:
        return migrations.convert_model(tensors)
    return tensors


def _write_directory(
    directory: Path, tensors: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]
) -> None:
    """Write the files of a checkpoint, tensors by the name of their file. Raises DiskError."""
    # Written under another name, flushed to the disk, then renamed.
    with atomic_directory(directory) as partial:
        _write_files(partial, tensors, meta)


def _write_files(
    directory: Path, tensors: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]
) -> None:
    """Write the files of a checkpoint into an existing directory. Raises OSError."""
    for name, values in tensors.items():
        save_tensors(values, directory / name)
    text = json.dumps({**meta, "format_version": FORMAT_VERSION}, indent=1)
    (directory / META).write_text(text, encoding="utf-8")
    lines = [f"{sha256(directory / name)}  {name}\n" for name in (*tensors, META)]
    (directory / CHECKSUMS).write_text("".join(lines), encoding="ascii")


def _read_meta(directory: Path) -> dict[str, Any]:
    """Return the content of meta.json as it is; its `format_version` is one of those readable."""
    path = directory / META
    try:
        content = path.read_bytes()
        meta: dict[str, Any] = json.loads(content.decode())
        version = meta["format_version"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not readable as a checkpoint's meta.json ({error})"
        ) from error
    if version not in READABLE_VERSIONS:
        readable = ", ".join(str(number) for number in READABLE_VERSIONS)
        hint = "; install a newer mt" if type(version) is int and version > FORMAT_VERSION else ""
        raise CheckpointError(
            f"{path}: format version {str(version)[:80]}, but this mt reads {readable}{hint}"
        )
    _verify(path, content)
    return meta


def _load_newest(checkpoints: Path, load: Callable[[Path], T]) -> tuple[T, list[CheckpointError]]:
    """Return what `load` returns for the newest intact checkpoint, and the errors of newer ones."""
    errors: list[CheckpointError] = []
    for directory in _resume_candidates(checkpoints):
        try:
            return load(directory), errors
        except CheckpointError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    raise CheckpointError(f"{checkpoints}: no checkpoint is left (mt train makes one)")


def _resume_candidates(checkpoints: Path) -> list[Path]:
    """Return the checkpoints that a run may resume from, newest first.

    `last` is set after a checkpoint is complete, so one that is newer than `last` is from a killed
    save, and is left out. Without a readable `last`, all are returned.
    """
    directories = checkpoints_newest_first(checkpoints)
    last = _read_pointer(checkpoints / LAST)
    if last is None:
        return directories
    last_step = step_of(Path(last))
    return [directory for directory in directories if step_of(directory) <= last_step]


def _read_pointer(path: Path) -> str | None:
    """Return the name in a pointer file; None when the file is missing or damaged."""
    if not path.is_file():
        return None
    name = path.read_bytes()[:100].decode(errors="replace").strip()
    return name if STEP_NAME.fullmatch(name) else None


def checkpoints_newest_first(checkpoints: Path) -> list[Path]:
    """Return the directories of the checkpoints that training made, newest first.

    A copy made by a user has another name and is not included.
    """
    directories = [path for path in checkpoints.glob("step_*") if path.is_dir()]
    own = [path for path in directories if STEP_NAME.fullmatch(path.name)]
    return sorted(own, key=step_of, reverse=True)


def _remove_optimizer(directory: Path) -> None:
    """Remove the optimizer's tensors from a checkpoint, which stays intact at every moment."""
    checksums = directory / CHECKSUMS
    lines = [line for line in _read_checksums(directory) if not line.endswith(OPTIMIZER)]
    with atomic_file(checksums) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    remove(directory / OPTIMIZER)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file. Raises OSError, for a full disk too."""
    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:  # what safetensors raises for a full disk, for one
        raise OSError(str(error)) from error
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors makes files for the owner only


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file, which is read once and not mapped into memory.

    So another process that replaces the file later cannot change them.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read: {error.strerror}") from error
    _verify(path, content)
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not readable ({error})") from error
    # PyTorch aligns its own tensors in memory, and the last bits of a product can depend on that.
    return {name: tensors.pop(name).clone() for name in list(tensors)}


def _has_file(directory: Path, name: str) -> bool:
    """Return whether a file is part of a checkpoint, by its SHA256SUMS."""
    return any(line.endswith(f"  {name}") for line in _read_checksums(directory))


def _verify(path: Path, content: bytes) -> None:
    """Compare the content of a file with its line in SHA256SUMS.

    Raises CheckpointError if they differ.
    """
    line = f"{hashlib.sha256(content).hexdigest()}  {path.name}"
    if line not in _read_checksums(path.parent):
        raise CheckpointError(f"{path}: damaged: its checksum is not the one in {CHECKSUMS}")


def _read_checksums(directory: Path) -> list[str]:
    """Return the lines of SHA256SUMS: a checksum, two spaces and the name of a file."""
    path = directory / CHECKSUMS
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read: {error.strerror}") from error


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the weights, by which a later run recognizes the model."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()
