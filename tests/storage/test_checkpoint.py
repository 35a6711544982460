"""A checkpoint is on the disk completely or not at all, and what is damaged is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from mt.errors import CheckpointError, DiskError
from mt.storage import checkpoint
from mt.storage.checkpoint import (
    CHECKSUMS,
    FORMAT_VERSION,
    META,
    MODEL,
    OPTIMIZER,
    Checkpoint,
    CheckpointStore,
    find_checkpoint,
    load_checkpoint,
    load_meta,
    load_weights,
)

FILES = (MODEL, OPTIMIZER, META, CHECKSUMS)


def make_snapshot(step: int) -> Checkpoint:
    """Tensors and values that tell the step they were saved at."""
    generator = torch.Generator().manual_seed(step)
    model = {
        "embeddings.shared": torch.randn(7, 4, generator=generator),
        "layer.bias": torch.randn(4, generator=generator).bfloat16(),
    }
    optimizer = {
        "embeddings.shared/exp_avg": torch.randn(7, 4, generator=generator),
        "embeddings.shared/step": torch.tensor(float(step)),
    }
    return Checkpoint(
        model,
        optimizer,
        {"state": {"step": step, "best_score": 12.5, "reason": None}, "scaler": {}},
    )


def save(store: CheckpointStore, step: int, *, is_best: bool = False) -> Path:
    return store.save(make_snapshot(step), step=step, is_best=is_best)


def make_store(tmp_path: Path, *, keep: int = 2) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=keep)


def names_in(store: CheckpointStore) -> set[str]:
    return {path.name for path in store.path.iterdir()}


def assert_is_step(directory: Path, step: int) -> None:
    """`directory` holds bit for bit what was saved at `step`."""
    loaded, saved = load_checkpoint(directory), make_snapshot(step)
    for tensors, wanted in ((loaded.model, saved.model), (loaded.optimizer, saved.optimizer)):
        assert tensors.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert tensors[name].dtype is tensor.dtype
            assert torch.equal(tensors[name], tensor), name
    assert {key: loaded.meta[key] for key in saved.meta} == saved.meta


# Saving and finding


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    directory = save(make_store(tmp_path), 12)
    assert directory.name == "step_00000012"
    assert_is_step(directory, 12)


def test_weights_fill_the_model_they_came_from_and_no_other(tmp_path: Path) -> None:
    saved, same, other = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), torch.nn.Linear(5, 3)
    directory = make_store(tmp_path).save(
        Checkpoint(dict(saved.state_dict()), {}, {}), step=1, is_best=False
    )
    load_weights(same, directory)
    assert all(
        torch.equal(same.state_dict()[name], tensor) for name, tensor in saved.state_dict().items()
    )
    with pytest.raises(
        CheckpointError, match="holds another model than the run's config describes"
    ):
        load_weights(other, directory)


def test_a_loaded_snapshot_can_be_saved_again_with_other_weights(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    loaded = load_checkpoint(save(store, 1))
    doubled = {name: 2 * tensor for name, tensor in loaded.model.items()}
    directory = store.save(loaded._replace(model=doubled), step=2, is_best=False)
    again = load_checkpoint(directory)
    assert all(torch.equal(again.model[name], tensor) for name, tensor in doubled.items())


def test_nothing_is_pickled(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    directory = save(store, 1, is_best=True)
    assert {path.name for path in directory.iterdir()} == {*FILES}
    assert names_in(store) == {directory.name, "last", "best"}
    for name in (MODEL, OPTIMIZER):
        content = (directory / name).read_bytes()
        header_length = int.from_bytes(
            content[:8], "little"
        )  # as the safetensors format has it: then JSON, then bytes
        assert isinstance(json.loads(content[8 : 8 + header_length]), dict)
    assert (
        json.loads((directory / META).read_text(encoding="utf-8"))["format_version"]
        == FORMAT_VERSION
    )


def test_last_and_best_point_to_the_last_and_the_best(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for step, is_best in ((1, True), (2, True), (3, False)):
        save(store, step, is_best=is_best)
    assert_is_step(find_checkpoint(store.path, "last"), 3)
    assert_is_step(find_checkpoint(store.path, "best"), 2)
    assert (store.path / "last").read_text() == "step_00000003\n"


def test_a_checkpoint_is_found_by_the_name_of_its_step_and_by_its_path(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    directory = save(store, 4)
    moved = Path(shutil.copytree(directory, tmp_path / "elsewhere"))
    assert_is_step(find_checkpoint(store.path, directory.name), 4)
    assert_is_step(find_checkpoint(store.path, str(moved)), 4)


@pytest.mark.parametrize("which", ["last", "best", "step_00000009", "nowhere"])
def test_a_checkpoint_that_is_not_there_is_an_error_of_one_line(tmp_path: Path, which: str) -> None:
    with pytest.raises(CheckpointError, match=which) as caught:
        find_checkpoint(tmp_path, which)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_best_checkpoint_best_is_an_error_and_last_is_not(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    save(store, 1)
    assert_is_step(find_checkpoint(store.path, "last"), 1)
    with pytest.raises(CheckpointError, match="best"):
        find_checkpoint(store.path, "best")


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("best", [1, 2, 5, 6])
def test_the_newest_and_the_best_are_kept_and_no_others(
    tmp_path: Path, keep: int, best: int
) -> None:
    store = make_store(tmp_path, keep=keep)
    for step in range(1, 7):
        save(store, step, is_best=step == best)
    kept = {best, *range(7 - keep, 7)}
    assert names_in(store) == {f"step_{step:08d}" for step in kept} | {"last", "best"}
    for step in kept:
        assert_is_step(store.path / f"step_{step:08d}", step)


def test_a_step_that_is_saved_again_is_replaced(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    save(store, 1)
    store.save(make_snapshot(8), step=1, is_best=False)
    assert_is_step(find_checkpoint(store.path, "last"), 8)


# Damage


def flip(content: bytes, place: float) -> bytes:
    index = min(int(place * len(content)), len(content) - 1)
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


DAMAGES: list[Callable[[bytes], bytes]] = [
    *(lambda content, place=place: flip(content, place) for place in (0.0, 0.01, 0.5, 1.0)),
    lambda content: content[:-1],
    lambda content: content[: len(content) // 2],
    lambda content: b"",
    lambda content: content + b"\0",
]


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, META])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_name(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    directory = save(make_store(tmp_path), 1)
    (directory / name).write_bytes(damage((directory / name).read_bytes()))
    with pytest.raises(CheckpointError, match=name) as caught:
        load_checkpoint(directory)
    assert str(directory / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"3", b'"text"', b"\xff\xfe", b"{}", b'{"format_version": "1"}'],
)
def test_a_meta_file_that_is_not_one_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    directory = save(make_store(tmp_path), 1)
    (directory / META).write_bytes(content)
    with pytest.raises(CheckpointError, match=META) as caught:
        load_checkpoint(directory)
    assert "\n" not in str(caught.value)


def test_a_truncated_meta_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    directory = save(make_store(tmp_path), 1)
    content = (directory / META).read_bytes()
    for length in range(len(content)):
        (directory / META).write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=META):
            load_meta(directory)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
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
    assert f"reads 2 and {FORMAT_VERSION}" in message
    assert ("newer mt" in message) == (version == FORMAT_VERSION + 1)
    assert "\n" not in message


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7])
def test_where_the_checksums_themselves_are_damaged_nothing_is_trusted(
    tmp_path: Path, place: float
) -> None:
    directory = save(make_store(tmp_path), 1)
    (directory / CHECKSUMS).write_bytes(flip((directory / CHECKSUMS).read_bytes(), place))
    with pytest.raises(
        CheckpointError, match=r"damaged: its checksum is not the one in SHA256SUMS"
    ):
        load_checkpoint(directory)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs the sha256sum command")
def test_anyone_can_verify_a_checkpoint_with_sha256sum(tmp_path: Path) -> None:
    directory = save(make_store(tmp_path), 1)
    check = ["sha256sum", "--check", "--strict", CHECKSUMS]
    assert subprocess.run(check, cwd=directory, capture_output=True).returncode == 0
    (directory / MODEL).write_bytes(flip((directory / MODEL).read_bytes(), 0.9))
    assert subprocess.run(check, cwd=directory, capture_output=True).returncode == 1


# Going back


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("num_damaged", [0, 1, 2])
def test_the_newest_whole_checkpoint_is_gone_back_to_and_the_damaged_ones_are_named(
    tmp_path: Path, name: str, num_damaged: int
) -> None:
    store = make_store(tmp_path, keep=3)
    directories = [save(store, step) for step in (1, 2, 3)][::-1]
    for directory in directories[:num_damaged]:
        (directory / name).write_bytes(b"rubbish")
    snapshot, errors = store.load_newest()
    assert snapshot.meta["state"]["step"] == 3 - num_damaged
    assert len(errors) == num_damaged
    assert all(
        str(directory) in str(error) for directory, error in zip(directories, errors, strict=False)
    )


def test_where_no_checkpoint_is_whole_the_newest_one_is_complained_of(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for step in (1, 2):
        (save(store, step) / META).unlink()
    with pytest.raises(CheckpointError, match="step_00000002"):
        store.load_newest()
    shutil.rmtree(store.path)
    with pytest.raises(CheckpointError, match="no checkpoint is left"):
        store.load_newest()


@pytest.mark.parametrize(
    "pointer",
    [b"", b"rubbish", b"../step_00000001", b"step_00000009", b"\xff\x00", b"step_1\n" * 99],
)
def test_a_damaged_pointer_loses_no_checkpoint(tmp_path: Path, pointer: bytes) -> None:
    store = make_store(tmp_path)
    save(store, 1)
    save(store, 2)
    (store.path / "last").write_bytes(pointer)
    assert store.load_newest()[0].meta["state"]["step"] == 2
    with pytest.raises(CheckpointError, match="last"):
        find_checkpoint(store.path, "last")


def test_a_checkpoint_that_was_never_pointed_to_is_not_gone_on_from(tmp_path: Path) -> None:
    """A run killed before it could say which checkpoint is the best does the last stretch again."""
    store = make_store(tmp_path)
    save(store, 1)
    pointer = (store.path / "last").read_bytes()
    save(store, 2)
    (store.path / "last").write_bytes(pointer)
    assert store.load_newest()[0].meta["state"]["step"] == 1


# Crashes


class Crash(BaseException):
    """The power goes out."""


def crash_before(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the power go out before touch number `number` (from 0) of the disk."""
    touches = 0

    def guarded(touch: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **kwargs: Any) -> Any:
            nonlocal touches
            touches += 1
            if touches > number:
                raise Crash
            return touch(*args, **kwargs)

        return act

    path_methods = ("mkdir", "open", "rename", "replace", "unlink", "write_text")
    for owner, name in (
        (checkpoint, "save_file"),
        (os, "fsync"),
        (shutil, "rmtree"),
        *((Path, name) for name in path_methods),
    ):
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name)))


def crash_everywhere(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], check: Callable[[], None]
) -> int:
    """Run `act` with a crash before its first touch of the disk, its second and so on, and `check` what is left."""
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
def test_a_crash_at_any_moment_leaves_the_checkpoint_before_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_best: bool
) -> None:
    store = make_store(tmp_path, keep=1)
    begin_with(store)

    def check() -> None:
        for pointer in ("last", "best"):
            found = find_checkpoint(store.path, pointer)
            assert found.name in {"step_00000001", "step_00000002"}
            assert_is_step(found, int(found.name[-1]))
        begin_with(store)

    num_crashes = crash_everywhere(monkeypatch, lambda: save(store, 2, is_best=is_best), check)
    assert num_crashes > 10
    assert_is_step(find_checkpoint(store.path, "last"), 2)


def begin_with(store: CheckpointStore) -> None:
    """One finished checkpoint, and nothing else."""
    shutil.rmtree(store.path, ignore_errors=True)
    save(store, 1, is_best=True)


def test_what_a_crash_left_behind_is_not_seen_and_gets_replaced(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    directory = save(store, 1)
    partial = store.path / ".step_00000002.partial"
    shutil.copytree(directory, partial)
    (partial / MODEL).write_bytes(b"half a mod")
    (partial / "rubbish").write_bytes(b"")
    with pytest.raises(CheckpointError):
        find_checkpoint(store.path, "step_00000002")
    assert_is_step(find_checkpoint(store.path, "last"), 1)
    assert_is_step(save(store, 2), 2)
    assert names_in(store) == {"step_00000001", "step_00000002", "last"}
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
def test_a_full_disk_is_an_error_of_one_line_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = make_store(tmp_path)
    save(store, 1)

    def refuse(*args: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(DiskError, match="No space left on device") as caught:
        save(store, 2)
    assert "step_00000002" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names_in(store) == {"step_00000001", "last"}
    assert_is_step(find_checkpoint(store.path, "last"), 1)
