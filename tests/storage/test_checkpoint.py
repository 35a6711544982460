"""A checkpoint is on the disk completely or not at all, and a damaged one is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mt.errors import CheckpointError, DiskError
from mt.storage import checkpoint
from mt.storage.atomic import sha256
from mt.storage.checkpoint import (
    CHECKSUMS,
    EMA,
    FORMAT_VERSION,
    META,
    MODEL,
    OPTIMIZER,
    Checkpoint,
    CheckpointStore,
    average_weights,
    checkpoints_newest_first,
    find_checkpoint,
    load_checkpoint,
    load_meta,
    load_weights,
    step_name,
)

FILES = (MODEL, OPTIMIZER, META, CHECKSUMS)


def make_checkpoint(step: int) -> Checkpoint:
    """Return tensors and values that are different for each step."""
    generator = torch.Generator().manual_seed(step)
    model = {
        "embeddings.shared": torch.randn(7, 4, generator=generator),
        "layer.bias": torch.randn(4, generator=generator).bfloat16(),
    }
    optimizer = {
        "embeddings.shared/exp_avg": torch.randn(7, 4, generator=generator),
        "embeddings.shared/step": torch.tensor(float(step)),
    }
    state = {"step": step, "best_score": 12.5, "reason": None}
    return Checkpoint(model, optimizer, {"state": state, "scaler": {}})


def save(store: CheckpointStore, step: int, *, is_best: bool = False) -> Path:
    return save_checkpoint(store, make_checkpoint(step), step=step, is_best=is_best)


def save_checkpoint(
    store: CheckpointStore, checkpoint: Checkpoint, *, step: int, is_best: bool = False
) -> Path:
    """Save a checkpoint and return its directory."""
    store.save(checkpoint, step=step, is_best=is_best)
    return store.path / step_name(step)


def make_store(tmp_path: Path, *, keep: int = 2) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=keep)


def names_in(store: CheckpointStore) -> set[str]:
    return {path.name for path in store.path.iterdir()}


def loaded_step(loaded: Checkpoint) -> int:
    step: int = loaded.meta["state"]["step"]
    return step


def assert_is_step(directory: Path, step: int) -> None:
    """Check that `directory` holds bit for bit what was saved at `step`."""
    loaded = load_checkpoint(directory)
    expected = make_checkpoint(step)
    assert_equal_tensors(loaded.model, expected.model)
    assert_equal_tensors(loaded.optimizer, expected.optimizer)
    assert {key: loaded.meta[key] for key in expected.meta} == expected.meta


def assert_equal_tensors(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype is tensor.dtype
        assert torch.equal(actual[name], tensor), name


# Saving and finding


def test_saved_checkpoint_loads_unchanged(tmp_path: Path) -> None:
    directory = save(make_store(tmp_path), 12)
    assert directory.name == "step_00000012"
    assert_is_step(directory, 12)


def test_weights_load_into_the_same_model(tmp_path: Path) -> None:
    saved = nn.Linear(4, 3)
    store = make_store(tmp_path)
    directory = save_checkpoint(store, Checkpoint(dict(saved.state_dict()), {}, {}), step=1)
    loaded = nn.Linear(4, 3)
    load_weights(loaded, directory)
    assert_equal_tensors(dict(loaded.state_dict()), dict(saved.state_dict()))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    saved = nn.Linear(4, 3)
    store = make_store(tmp_path)
    directory = save_checkpoint(store, Checkpoint(dict(saved.state_dict()), {}, {}), step=1)
    with pytest.raises(CheckpointError, match="another model") as caught:
        load_weights(nn.Linear(5, 3), directory)
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    saved = nn.Linear(4, 3)
    saved.weight.data[1, 2] = value
    store = make_store(tmp_path)
    directory = save_checkpoint(store, Checkpoint(dict(saved.state_dict()), {}, {}), step=1)
    with pytest.raises(CheckpointError, match="not finite") as caught:
        load_weights(nn.Linear(4, 3), directory)
    assert str(directory) in str(caught.value)


def test_loaded_weights_do_not_change_with_their_file(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    directory = save(store, 1)
    loaded = load_checkpoint(directory)
    model = nn.Linear(4, 3)
    checkpoint = Checkpoint(dict(model.state_dict()), {}, {})
    linear_directory = save_checkpoint(store, checkpoint, step=2)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_weights(model, linear_directory)
    for path in (directory / MODEL, directory / OPTIMIZER, linear_directory / MODEL):
        with path.open("r+b") as file:  # in place, as `cp` does it
            file.write(bytes(path.stat().st_size))
    assert_equal_tensors(loaded.model, make_checkpoint(1).model)
    assert_equal_tensors(loaded.optimizer, make_checkpoint(1).optimizer)
    assert_equal_tensors(dict(model.state_dict()), expected)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_permissions_that_the_umask_allows(tmp_path: Path, umask: int) -> None:
    old_umask = os.umask(umask)
    try:
        directory = save(make_store(tmp_path), 1)
    finally:
        os.umask(old_umask)
    for path in directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path.name


def test_loaded_checkpoint_can_be_saved_with_other_weights(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    loaded = load_checkpoint(save(store, 1))
    doubled = {name: 2 * tensor for name, tensor in loaded.model.items()}
    directory = save_checkpoint(store, loaded._replace(model=doubled), step=2)
    assert_equal_tensors(load_checkpoint(directory).model, doubled)


def test_files_are_safetensors_and_json(tmp_path: Path) -> None:
    """Nothing is pickled."""
    store = make_store(tmp_path)
    directory = save(store, 1, is_best=True)
    assert {path.name for path in directory.iterdir()} == set(FILES)
    assert names_in(store) == {directory.name, "last", "best"}
    for name in (MODEL, OPTIMIZER):
        content = (directory / name).read_bytes()
        # A safetensors file has the length of the header, the header in JSON, then the tensors.
        header_length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_length])
        assert isinstance(header, dict)
    meta = json.loads((directory / META).read_text(encoding="utf-8"))
    assert meta["format_version"] == FORMAT_VERSION


def test_last_and_best_are_found(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    save(store, 1, is_best=True)
    save(store, 2, is_best=True)
    save(store, 3, is_best=False)
    assert_is_step(find_checkpoint(store.path, "last"), 3)
    assert_is_step(find_checkpoint(store.path, "best"), 2)
    assert (store.path / "last").read_text() == "step_00000003\n"


def test_checkpoint_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    directory = save(store, 4)
    copy = Path(shutil.copytree(directory, tmp_path / "elsewhere"))
    assert_is_step(find_checkpoint(store.path, directory.name), 4)
    assert_is_step(find_checkpoint(store.path, str(copy)), 4)


@pytest.mark.parametrize("which", ["last", "best", "step_00000009", "nowhere"])
def test_missing_checkpoint_is_one_line(tmp_path: Path, which: str) -> None:
    with pytest.raises(CheckpointError, match=which) as caught:
        find_checkpoint(tmp_path, which)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_best_is_an_error_and_last_is_found(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    save(store, 1)
    assert_is_step(find_checkpoint(store.path, "last"), 1)
    with pytest.raises(CheckpointError, match="best"):
        find_checkpoint(store.path, "best")


def assert_has_weights_only(directory: Path, step: int) -> None:
    """A run does not resume from such a checkpoint, but translates with it."""
    assert not (directory / OPTIMIZER).exists()
    assert load_meta(directory)["state"]["step"] == step
    with pytest.raises(CheckpointError, match=OPTIMIZER):
        load_checkpoint(directory)
    checksums = (directory / CHECKSUMS).read_text(encoding="ascii").split()
    assert checksums[::2] == [sha256(directory / name) for name in (MODEL, META)]
    assert checksums[1::2] == [MODEL, META]


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("best", [1, 2, 5, 6])
def test_newest_and_best_are_kept(tmp_path: Path, keep: int, best: int) -> None:
    store = make_store(tmp_path, keep=keep)
    for step in range(1, 7):
        save(store, step, is_best=step == best)
    kept_steps = {best, *range(7 - keep, 7)}
    assert names_in(store) == {f"step_{step:08d}" for step in kept_steps} | {"last", "best"}
    for step in kept_steps & {5, 6}:
        assert_is_step(store.path / f"step_{step:08d}", step)
    for step in kept_steps - {5, 6}:
        assert_has_weights_only(store.path / f"step_{step:08d}", step)


def test_copies_that_a_user_made_are_kept_and_not_resumed_from(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=1)
    copies = {"step_00000001_good", "step_1", "step_00000009.old"}
    first = save(store, 1)
    for name in copies:
        shutil.copytree(first, store.path / name)
    for step in range(2, 5):
        save(store, step)
    assert names_in(store) == copies | {"step_00000004", "last"}
    (store.path / "last").unlink()
    checkpoint, _ = store.load_newest()
    assert loaded_step(checkpoint) == 4


def test_missing_pointers_are_written_again(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=3)
    for step in range(1, 5):
        save(store, step, is_best=step in (1, 3))
    for pointer in ("last", "best"):
        (store.path / pointer).unlink()
    store.repair_pointers(4)
    assert find_checkpoint(store.path, "last").name == "step_00000004"
    assert find_checkpoint(store.path, "best").name == "step_00000003"


def test_newest_checkpoint_is_found_by_its_number(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=1)
    save(store, 99_999_999)
    save(store, 100_000_000)
    assert names_in(store) == {"step_100000000", "last"}


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    save(store, 1)
    store.save(make_checkpoint(8), step=1, is_best=False)
    assert_is_step(find_checkpoint(store.path, "last"), 8)


# Averages


def save_model(store: CheckpointStore, step: int, *, ema: Mapping[str, Tensor]) -> Path:
    model = make_linear(step)
    checkpoint = Checkpoint(model.state_dict(), {}, {"state": {"step": step}}, ema)
    return save_checkpoint(store, checkpoint, step=step)


def make_linear(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


def test_averages_are_the_weights_to_translate_with(tmp_path: Path) -> None:
    ema = make_linear(9).state_dict()
    directory = save_model(make_store(tmp_path), 1, ema=ema)
    model = nn.Linear(4, 3)
    load_weights(model, directory)
    assert_equal_tensors(model.state_dict(), ema)
    loaded = load_checkpoint(directory)
    assert_equal_tensors(loaded.model, make_linear(1).state_dict())
    assert_equal_tensors(loaded.ema, ema)


def test_missing_averages_are_an_error(tmp_path: Path) -> None:
    """The weights themselves would translate too, but otherwise than in validation."""
    directory = save_model(make_store(tmp_path), 1, ema=make_linear(9).state_dict())
    (directory / EMA).unlink()
    with pytest.raises(CheckpointError, match=EMA):
        load_weights(nn.Linear(4, 3), directory)


def test_mean_of_checkpoints_is_a_checkpoint(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=3)
    directories = [save_model(store, step, ema={}) for step in (1, 2, 3)]
    output = store.path / "average"
    average_weights(directories, output)
    model = nn.Linear(4, 3)
    load_weights(model, find_checkpoint(store.path, "average"))
    biases = torch.stack([make_linear(step).bias for step in (1, 2, 3)])
    assert torch.allclose(model.bias, biases.mean(0))
    assert load_meta(output)["average_of"] == [directory.name for directory in directories]
    assert checkpoints_newest_first(store.path) == directories[::-1], "training ignores the average"


def test_checkpoints_of_different_models_have_no_mean(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    first = save_model(store, 1, ema={})
    other = save(store, 2)
    with pytest.raises(CheckpointError, match="another model"):
        average_weights([first, other], store.path / "average")
    assert not (store.path / "average").exists()


# Damage


def test_damaged_old_checkpoint_does_not_stop_a_save(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=4)
    first = save(store, 1)
    (first / CHECKSUMS).unlink()
    for step in (2, 3, 4):
        save(store, step)
    assert loaded_step(store.load_newest()[0]) == 4
    assert not (store.path / "step_00000002" / OPTIMIZER).exists()


def flip_bit(content: bytes, position: float) -> bytes:
    """Flip a bit of the byte at a position from 0.0, the first, to 1.0, the last."""
    index = min(int(position * len(content)), len(content) - 1)
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "first byte": lambda content: flip_bit(content, 0.0),
    "early byte": lambda content: flip_bit(content, 0.01),
    "middle byte": lambda content: flip_bit(content, 0.5),
    "last byte": lambda content: flip_bit(content, 1.0),
    "one byte missing": lambda content: content[:-1],
    "half missing": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "one byte more": lambda content: content + b"\0",
}


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, META])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    path = save(make_store(tmp_path), 1) / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path.parent)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"3", b'"text"', b"\xff\xfe", b"{}", b'{"format_version": "1"}'],
)
def test_foreign_meta_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    directory = save(make_store(tmp_path), 1)
    (directory / META).write_bytes(content)
    with pytest.raises(CheckpointError, match=META) as caught:
        load_checkpoint(directory)
    assert "\n" not in str(caught.value)


def test_truncated_meta_file_is_refused(tmp_path: Path) -> None:
    directory = save(make_store(tmp_path), 1)
    content = (directory / META).read_bytes()
    for length in range(len(content)):
        (directory / META).write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=META):
            load_meta(directory)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    directory = save(make_store(tmp_path), 1)
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(directory)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 1, 0, None, "3"])
def test_unknown_format_version_is_refused(tmp_path: Path, version: object) -> None:
    directory = save(make_store(tmp_path), 1)
    meta = json.loads((directory / META).read_text(encoding="utf-8"))
    (directory / META).write_text(json.dumps({**meta, "format_version": version}), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(directory)
    message = str(caught.value)
    assert str(directory / META) in message
    assert f"format version {version}," in message
    assert f"reads 2, 3, {FORMAT_VERSION}" in message
    assert ("newer mt" in message) == (version == FORMAT_VERSION + 1)
    assert "\n" not in message


@pytest.mark.parametrize("position", [0.0, 0.3, 0.7])
def test_damaged_checksums_are_refused(tmp_path: Path, position: float) -> None:
    directory = save(make_store(tmp_path), 1)
    checksums = directory / CHECKSUMS
    checksums.write_bytes(flip_bit(checksums.read_bytes(), position))
    with pytest.raises(CheckpointError, match=r"damaged: its checksum .* SHA256SUMS"):
        load_checkpoint(directory)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs the sha256sum command")
def test_sha256sum_verifies_a_checkpoint(tmp_path: Path) -> None:
    directory = save(make_store(tmp_path), 1)
    command = ["sha256sum", "--check", "--strict", CHECKSUMS]
    assert subprocess.run(command, cwd=directory, capture_output=True).returncode == 0
    (directory / MODEL).write_bytes(flip_bit((directory / MODEL).read_bytes(), 0.9))
    assert subprocess.run(command, cwd=directory, capture_output=True).returncode == 1


# Loading the newest intact checkpoint


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("is_damaged", [False, True])
def test_load_newest_passes_over_a_damaged_checkpoint(
    tmp_path: Path, name: str, is_damaged: bool
) -> None:
    store = make_store(tmp_path, keep=3)
    newest = [save(store, step) for step in (1, 2, 3)][-1]
    if is_damaged:
        (newest / name).write_bytes(b"rubbish")
    loaded, errors = store.load_newest()
    if is_damaged:
        assert loaded_step(loaded) == 2
        assert [str(newest) in str(error) for error in errors] == [True]
    else:
        assert loaded_step(loaded) == 3
        assert errors == []


def test_older_checkpoint_without_optimizer_does_not_replace_damaged_ones(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=3)
    directories = [save(store, step) for step in (1, 2, 3)]
    for directory in directories[1:]:
        (directory / MODEL).write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="step_00000003"):
        store.load_newest()


def test_load_newest_reports_the_newest_when_none_is_intact(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for step in (1, 2):
        (save(store, step) / META).unlink()
    with pytest.raises(CheckpointError, match="step_00000002"):
        store.load_newest()


def test_load_newest_without_checkpoints_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint is left"):
        make_store(tmp_path).load_newest()


@pytest.mark.parametrize(
    "pointer",
    [b"", b"rubbish", b"../step_00000001", b"step_00000009", b"\xff\x00", b"step_1\n" * 99],
)
def test_load_newest_works_with_a_damaged_pointer(tmp_path: Path, pointer: bytes) -> None:
    store = make_store(tmp_path)
    save(store, 1)
    save(store, 2)
    (store.path / "last").write_bytes(pointer)
    loaded, _ = store.load_newest()
    assert loaded_step(loaded) == 2
    with pytest.raises(CheckpointError, match="last"):
        find_checkpoint(store.path, "last")


def test_load_newest_ignores_checkpoints_after_last(tmp_path: Path) -> None:
    """A run that is killed before it updates `last` repeats the updates since then."""
    store = make_store(tmp_path)
    save(store, 1)
    pointer = (store.path / "last").read_bytes()
    save(store, 2)
    (store.path / "last").write_bytes(pointer)
    loaded, _ = store.load_newest()
    assert loaded_step(loaded) == 1


# Crashes


class Crash(BaseException):
    """A power failure."""


def crash_before(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Raise Crash in place of disk operation `number`, counted from 0, and of all later ones."""
    num_operations = 0

    def guarded(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run_or_crash(*args: Any, **kwargs: Any) -> Any:
            nonlocal num_operations
            num_operations += 1
            if num_operations > number:
                raise Crash
            return operation(*args, **kwargs)

        return run_or_crash

    operations: list[tuple[Any, str]] = [
        (checkpoint, "save_file"),
        (os, "fsync"),
        (shutil, "rmtree"),
        (Path, "mkdir"),
        (Path, "open"),
        (Path, "rename"),
        (Path, "replace"),
        (Path, "unlink"),
        (Path, "write_text"),
    ]
    for owner, name in operations:
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name)))


def crash_at_each_operation(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], check: Callable[[], None]
) -> int:
    """Run `act` with a crash before its first disk operation, its second and so on.

    Calls `check` after each crash, and returns the number of crashes once `act` succeeds.
    """
    number = 0
    while True:
        with monkeypatch.context() as context:
            crash_before(context, number)
            try:
                act()
            except Crash:
                pass
            else:
                return number
        check()
        number += 1


@pytest.mark.parametrize("is_best", [False, True])
def test_crash_while_saving_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_best: bool
) -> None:
    store = make_store(tmp_path, keep=1)
    reset_to_first_checkpoint(store)

    def check() -> None:
        for pointer in ("last", "best"):
            directory = find_checkpoint(store.path, pointer)
            assert directory.name in {"step_00000001", "step_00000002"}
            assert_is_step(directory, int(directory.name[-1]))
        reset_to_first_checkpoint(store)

    num_crashes = crash_at_each_operation(
        monkeypatch, lambda: save(store, 2, is_best=is_best), check
    )
    assert num_crashes > 10
    assert_is_step(find_checkpoint(store.path, "last"), 2)


def reset_to_first_checkpoint(store: CheckpointStore) -> None:
    """Leave only a checkpoint of step 1, which is also the best."""
    shutil.rmtree(store.path, ignore_errors=True)
    save(store, 1, is_best=True)


def test_partial_checkpoint_is_ignored(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    directory = save(store, 1)
    partial = store.path / ".step_00000002.1a2b3c4d.partial"
    shutil.copytree(directory, partial)
    (partial / MODEL).write_bytes(b"half a mod")
    (partial / "rubbish").write_bytes(b"")
    with pytest.raises(CheckpointError):
        find_checkpoint(store.path, "step_00000002")
    assert_is_step(find_checkpoint(store.path, "last"), 1)
    assert_is_step(save(store, 2), 2)
    assert names_in(store) == {"step_00000001", "step_00000002", "last", partial.name}
    assert {path.name for path in (store.path / "step_00000002").iterdir()} == set(FILES)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
    ids=["OSError", "SafetensorError"],
)
def test_full_disk_is_one_line_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = make_store(tmp_path)
    save(store, 1)

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(DiskError, match="No space left on device") as caught:
        save(store, 2)
    assert "step_00000002" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names_in(store) == {"step_00000001", "last"}
    assert_is_step(find_checkpoint(store.path, "last"), 1)
