"""Faults during a run, and what its user sees: full disks, damaged files, divergence, no memory."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from copy_task import write_copy_task
from forked import ForkedProcess, run_mt
from runs import train_command
from shell import Ended, mt

from mt.data.corpus import KNOWN_FILES_NAME
from mt.storage.checkpoint import (
    CHECKSUMS,
    META,
    MODEL,
    OPTIMIZER,
    CheckpointStore,
    find_checkpoint,
    load_checkpoint,
)
from mt.storage.run_dir import RunDir
from mt.training import trainer

CONFIG = """\
data:
  src_lang: aa
  tgt_lang: bb
  train: [{prefix: AT/train}]
  valid: {name: v, prefix: AT/valid}
  max_length: 24
tokenizer: {vocab_size: 330}
model: {d_model: 16, d_ff: 32, num_heads: 2, num_encoder_layers: 1, num_decoder_layers: 1}
train:
  device: cpu
  precision: fp32
  batch_tokens: 128
  max_steps: 8
  log_every: 2
  validate_every: 2
  num_samples: 0
search: {beam_size: 1, max_length_factor: 1.0, max_length_offset: 2}
"""

needs_memory_limits = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs Linux, which enforces memory limits"
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture(scope="module")
def finished_run(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 updates without faults, with its checkpoints 6 and 8."""
    run_dir = tmp_path_factory.mktemp("finished")
    ended = train(config, run_dir)
    assert ended.code == 0, ended.err
    assert "warning" not in ended.err
    return run_dir


def train(config: Path, run_dir: Path, **settings: Any) -> Ended:
    """Run `mt train` in this process, with settings of the section `train`."""
    arguments: list[str | Path] = ["train", "--config", config, "--run-dir", run_dir]
    for key, value in settings.items():
        arguments += ["--set", f"train.{key}={value}"]
    return mt(*arguments)


def metrics_lines(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    text = (run_dir / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["kind"] == kind]


def logged_steps(run_dir: Path, kind: str) -> list[int]:
    return [line["step"] for line in metrics_lines(run_dir, kind)]


def last_weights(run_dir: Path) -> bytes:
    return (find_checkpoint(run_dir / "checkpoints", "last") / MODEL).read_bytes()


def saved_state(run_dir: Path, which: str) -> dict[str, Any]:
    """Return the training state in a checkpoint."""
    checkpoint = load_checkpoint(find_checkpoint(run_dir / "checkpoints", which))
    state: dict[str, Any] = checkpoint.meta["state"]
    return state


def warnings_in(ended: Ended) -> list[str]:
    return [line for line in ended.err.splitlines() if line.startswith("warning: ")]


def last_line(text: str) -> str:
    return text.splitlines()[-1]


# A full disk


class Filler:
    """Fills a small disk, and makes room on it again."""

    def __init__(self, disk: Path) -> None:
        self.path = disk / "fill"

    def fill(self) -> None:
        with suppress(OSError), self.path.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def make_room(self) -> None:
        self.path.unlink()


def before_saving(monkeypatch: pytest.MonkeyPatch, actions: dict[int, Callable[[], None]]) -> None:
    """Call `actions[step]` just before the checkpoint of `step` is saved."""
    original_save = CheckpointStore.save

    def act_and_save(self: CheckpointStore, checkpoint: Any, *, step: int, is_best: bool) -> Path:
        if step in actions:
            actions[step]()
        return original_save(self, checkpoint, step=step, is_best=is_best)

    monkeypatch.setattr(CheckpointStore, "save", act_and_save)


def test_disk_that_is_full_for_a_while_costs_only_checkpoints(
    config: Path, finished_run: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = full_disk / "run"
    filler = Filler(full_disk)
    before_saving(monkeypatch, {4: filler.fill, 8: filler.make_room})
    ended = train(config, run_dir)
    assert ended.code == 0, ended.err
    warnings = warnings_in(ended)
    assert len(warnings) == 2
    for step, warning in zip((4, 6), warnings, strict=True):
        assert f"update {step}: " in warning
        assert f"{run_dir}/checkpoints/step_{step:08d}: cannot write: " in warning
        assert "No space left on device" in warning
        assert ended.err.count(warning.removeprefix("warning: ")) == 2  # again in the summary
    assert last_weights(run_dir) == last_weights(finished_run)
    assert logged_steps(run_dir, "incident") == [4, 6]
    assert logged_steps(run_dir, "train") == [2, 4, 6, 8]
    assert not list(run_dir.rglob("*.partial"))


def test_disk_that_stays_full_ends_the_run_with_an_error(
    config: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = full_disk / "run"
    filler = Filler(full_disk)
    before_saving(monkeypatch, {6: filler.fill})
    ended = train(config, run_dir)
    assert ended.code == 1
    error = last_line(ended.err)
    assert error.startswith(f"mt: {run_dir}/checkpoints/step_00000008: cannot write: ")
    assert "No space left on device" in error
    assert saved_state(run_dir, "last")["step"] == 4
    # The updates that could not be saved are repeated once there is room.
    filler.make_room()
    monkeypatch.undo()
    ended = train(config, run_dir)
    assert ended.code == 0, ended.err
    assert logged_steps(run_dir, "train") == [2, 4, 6, 8]


def test_best_checkpoint_that_was_not_saved_does_not_count_as_best(
    config: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By loss, each validation is the best so far. That of step 6 is not saved, so 8 is best."""
    run_dir = full_disk / "run"
    filler = Filler(full_disk)
    before_saving(monkeypatch, {6: filler.fill, 8: filler.make_room})
    ended = train(config, run_dir, metric="loss", learning_rate=1e-2, warmup_steps=1)
    assert ended.code == 0, ended.err
    losses = [line["loss"] for line in metrics_lines(run_dir, "valid")]
    assert losses == sorted(losses, reverse=True), "this test needs falling losses"
    state = saved_state(run_dir, "best")
    assert state["step"] == 8
    assert state["best_score"] == -losses[-1]
    assert state["best_loss"] == losses[-1]


def test_read_only_disk_is_one_line(config: Path, full_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    run_dir = full_disk / "run"
    ended = train(config, run_dir)
    assert ended == (1, "", f"mt: {run_dir}: cannot write: Read-only file system\n")


# Damaged checkpoints


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_bit(content: bytes) -> bytes:
    return content[:40] + bytes([content[40] ^ 4]) + content[41:]


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, META, CHECKSUMS])
@pytest.mark.parametrize("damage", [truncate, flip_bit])
def test_resume_passes_over_a_damaged_checkpoint(
    config: Path,
    finished_run: Path,
    tmp_path: Path,
    name: str,
    damage: Callable[[bytes], bytes],
) -> None:
    run_dir = Path(shutil.copytree(finished_run, tmp_path / "run"))
    file = find_checkpoint(run_dir / "checkpoints", "last") / name
    file.write_bytes(damage(file.read_bytes()))
    ended = train(config, run_dir)
    assert ended.code == 0, ended.err
    warning = warnings_in(ended)[0]
    assert str(file.parent) in warning
    assert "damaged" in warning or "not readable" in warning
    assert "update 6" in warning
    assert last_weights(run_dir) == last_weights(finished_run)
    assert logged_steps(run_dir, "train") == [2, 4, 6, 8]
    assert len(metrics_lines(run_dir, "incident")) == 1


def test_resume_without_an_intact_checkpoint_changes_nothing(
    config: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for file in run_dir.glob(f"checkpoints/*/{MODEL}"):
        file.write_bytes(b"")
    contents = {
        path: path.read_bytes()
        for path in run_dir.rglob("*")
        if path.is_file() and path.name not in ("config.yaml", ".lock", KNOWN_FILES_NAME)
    }
    ended = train(config, run_dir)
    assert ended.code == 1
    error = last_line(ended.err)
    assert error.startswith(f"mt: {run_dir}/checkpoints/step_00000008/{MODEL}: damaged: ")
    assert CHECKSUMS in error
    assert {path: path.read_bytes() for path in contents} == contents


# Divergence


def make_gradients_nan(monkeypatch: pytest.MonkeyPatch, *, from_step: int) -> None:
    """Make the gradients of all updates after `from_step` NaN."""
    original_update = trainer.Trainer.update

    def update(self: trainer.Trainer, epoch: Any, indices: range) -> None:
        if self.state.step == from_step:
            parameter = next(self.objective.parameters())
            parameter.register_hook(lambda gradient: gradient * float("nan"))
        original_update(self, epoch, indices)

    monkeypatch.setattr(trainer.Trainer, "update", update)


@pytest.mark.parametrize("last_good_step", [0, 4])
def test_repeated_non_finite_updates_end_the_run(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_good_step: int
) -> None:
    make_gradients_nan(monkeypatch, from_step=last_good_step)
    ended = train(config, tmp_path, max_steps=99, max_skipped=4, validate_every=4, log_every=2)
    assert ended.code == 1
    error = last_line(ended.err)
    assert error.startswith("mt: ")
    problem = "gradients were not finite in 4 updates in a row"
    assert f"update {last_good_step + 4}: {problem}" in error
    if last_good_step > 0:
        assert f"the last good checkpoint is {tmp_path}/checkpoints/step_00000004" in error
    else:
        assert "no good checkpoint" in error
    assert "train.learning_rate" in error
    not_saved = tmp_path / "checkpoints" / f"step_{last_good_step + 4:08d}"
    assert not not_saved.exists()
    incidents = metrics_lines(tmp_path, "incident")
    assert [line["step"] for line in incidents] == [last_good_step + 2, last_good_step + 4]
    for incident in incidents:
        assert "2 updates skipped" in incident["text"]
        assert "not finite" in incident["text"]


def test_skipped_updates_after_the_last_log_line_are_counted(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gradients_nan(monkeypatch, from_step=0)
    ended = train(config, tmp_path, max_steps=5, log_every=3)
    assert ended.code == 0
    assert "update 3: 3 updates skipped" in ended.err
    assert "5 updates (5 skipped)" in ended.err


def test_non_finite_weights_are_never_saved(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original_check = trainer.Trainer._validate_and_save

    def corrupt_and_check(self: Any) -> None:
        if self.state.step == 4:
            next(self.objective.parameters()).data[0, 0] = float("inf")
        original_check(self)

    monkeypatch.setattr(trainer.Trainer, "_validate_and_save", corrupt_and_check)
    ended = train(config, tmp_path / "run")
    assert ended.code == 1
    error = last_line(ended.err)
    assert error.startswith("mt: ")
    assert "update 4: " in error
    assert "weights are not finite" in error
    assert f"the last good checkpoint is {tmp_path}/run/checkpoints/step_00000002" in error
    checkpoints = (tmp_path / "run" / "checkpoints").glob("step_*")
    assert [path.name for path in checkpoints] == ["step_00000002"]


# Other processes and machines


def test_second_process_in_a_run_directory_is_refused(
    config: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(finished_run, tmp_path / "run"))
    with RunDir(run_dir).lock():
        ended = train(config, run_dir)
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith(f"mt: {run_dir}: another process is training here")
    assert ended.err.count("\n") == 1
    assert train(config, run_dir).code == 0


def test_resume_in_another_environment_warns(
    config: Path, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(finished_run, tmp_path / "run"))
    directory = find_checkpoint(run_dir / "checkpoints", "last")
    meta = json.loads((directory / META).read_text(encoding="utf-8"))
    meta["environment"]["threads"] = "128"
    (directory / META).write_text(json.dumps(meta), encoding="utf-8")
    write_checksums(directory)
    ended = train(config, run_dir, max_epochs=99)
    assert any("threads 128 -> " in warning for warning in warnings_in(ended)), ended.err


def write_checksums(directory: Path) -> None:
    lines = []
    for name in (MODEL, OPTIMIZER, META):
        digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        lines.append(f"{digest}  {name}\n")
    (directory / CHECKSUMS).write_text("".join(lines), encoding="ascii")


# Too little memory


def train_with_little_memory(
    config: Path, run_dir: Path, overrides: list[str], *, prepare: Callable[[], None]
) -> str:
    """Run `mt train` in a process that first calls `prepare`, and fails; return what it prints."""
    command = train_command(config, run_dir, *overrides)

    def train() -> None:
        prepare()
        run_mt(command[command.index("train") :])

    process = ForkedProcess(train, output=run_dir.parent / "log")
    assert process.wait() == 1, process.output()
    return process.output()


def limit_memory(num_bytes: int) -> None:
    """Limit the address space of this process to what it uses and `num_bytes` more."""
    num_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = num_pages * resource.getpagesize() + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def limit_memory_before_its_check() -> None:
    """Let the check of memory find half a GB.

    Making the first batch with unseen characters in each source takes 120 MB of it.
    """
    original_check_memory = trainer.check_memory

    def limited_check_memory(*arguments: Any, **options: Any) -> None:
        limit_memory(2**29)
        original_check_memory(*arguments, **options)

    trainer.check_memory = limited_check_memory


@needs_memory_limits
def test_batches_too_large_for_memory_end_before_training(config: Path, tmp_path: Path) -> None:
    text = "balo deru fimi gona hupe\n" * 20_000
    for lang in ("aa", "bb"):
        (tmp_path / f"train.{lang}").write_text(text)
    overrides = [
        "train.batch_tokens=200000",
        "data.max_length=1000",
        "model.d_ff=4096",
        f"data.train.0.prefix={tmp_path / 'train'}",
        "tokenizer.vocab_size=320",
    ]
    run_dir = tmp_path / "run"
    printed = train_with_little_memory(
        config, run_dir, overrides, prepare=limit_memory_before_its_check
    )
    error = last_line(printed)
    assert error.startswith("mt: too little memory for train.batch_tokens 200000; "), printed
    assert " fits" in error
    assert "train.gradient_accumulation" in error
    assert not (run_dir / "checkpoints").exists()


@needs_memory_limits
def test_model_too_large_for_memory_is_one_line(config: Path, tmp_path: Path) -> None:
    """A matrix of the feed-forward layer takes 1 GB, as much as the process can have."""
    overrides = ["model.d_model=4096", "model.d_ff=65536"]
    printed = train_with_little_memory(
        config, tmp_path / "run", overrides, prepare=lambda: limit_memory(2**30)
    )
    error = last_line(printed)
    assert error.startswith("mt: too little memory for this model's weights"), printed
    assert "model.d_model" in error
    assert "Traceback" not in printed
