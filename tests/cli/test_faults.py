"""What breaks while a run lasts, and what its owner then sees: a full disk, damaged files, numbers that run away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from copy_task import write_copy_task
from shell import Ended, mt

from mt.storage.checkpoint import CheckpointStore, find_checkpoint, load_checkpoint
from mt.storage.run_dir import RunDir
from mt.training import trainer

CONFIG = """\
data: {src_lang: aa, tgt_lang: bb, train: [{prefix: AT/train}], valid: {name: v, prefix: AT/valid}, max_length: 24}
tokenizer: {vocab_size: 330}
model: {d_model: 16, d_ff: 32, num_heads: 2, num_encoder_layers: 1, num_decoder_layers: 1}
train: {device: cpu, precision: fp32, batch_tokens: 128, max_steps: 8, log_every: 2, validate_every: 2, num_samples: 0}
search: {beam_size: 1, max_length_factor: 1.0, max_length_offset: 2}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 updates that nothing happened to, which keeps checkpoints 6 and 8."""
    run_dir = tmp_path_factory.mktemp("finished")
    ended = train(config, run_dir)
    assert ended.code == 0, ended.err
    assert "what went wrong" not in ended.err
    return run_dir


def train(config: Path, run_dir: Path, **settings: Any) -> Ended:
    changes = [
        word for key, value in settings.items() for word in ("--set", f"train.{key}={value}")
    ]
    return mt("train", "--config", config, "--run-dir", run_dir, *changes)


def lines(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    found = [
        json.loads(line)
        for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [line for line in found if line["kind"] == kind]


def weights(run_dir: Path, name: str = "last") -> bytes:
    return (find_checkpoint(run_dir / "checkpoints", name) / "model.safetensors").read_bytes()


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Within it, there is room for nothing on `disk`."""
    fill = disk / "fill"
    with suppress(OSError), fill.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    yield
    fill.unlink()


def at_save(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], Any]) -> None:
    """Call `act(step)` just before each checkpoint is saved."""
    save = CheckpointStore.save

    def act_and_save(self: CheckpointStore, snapshot: Any, *, step: int, is_best: bool) -> Path:
        act(step)
        return save(self, snapshot, step=step, is_best=is_best)

    monkeypatch.setattr(CheckpointStore, "save", act_and_save)


# A full disk


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_nothing_else(
    config: Path, finished: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, fill = full_disk / "run", filled(full_disk)
    at_save(
        monkeypatch,
        lambda step: {4: fill.__enter__, 8: lambda: fill.__exit__(None, None, None)}.get(
            step, int
        )(),
    )
    ended = train(config, run_dir)
    assert ended.code == 0, ended.err
    for step in (4, 6):
        assert (
            f"warning: no checkpoint of update {step}: {run_dir}/checkpoints/step_0000000{step}: cannot write: "
            in ended.err
        )
        assert "No space left on device" in ended.err
    assert "what went wrong:\n  update 4: no checkpoint of update 4" in ended.err
    assert weights(run_dir) == weights(finished)
    assert [line["step"] for line in lines(run_dir, "incident")] == [4, 6]
    assert [line["step"] for line in lines(run_dir, "train")] == [2, 4, 6, 8]
    assert not list(run_dir.rglob("*.partial"))


def test_a_disk_that_stays_full_ends_the_run_with_an_error_and_the_checkpoint_before_is_whole(
    config: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, fill = full_disk / "run", filled(full_disk)
    at_save(monkeypatch, lambda step: fill.__enter__() if step == 6 else None)
    ended = train(config, run_dir)
    assert ended.code == 1
    last = ended.err.splitlines()[-1]
    assert last.startswith(f"mt: {run_dir}/checkpoints/step_00000008: cannot write: ")
    assert "No space left on device" in last
    assert (
        load_checkpoint(find_checkpoint(run_dir / "checkpoints", "last")).meta["state"]["step"] == 4
    )
    # What the disk had no room for was done all the same, and is done again once there is room.
    fill.__exit__(None, None, None)
    monkeypatch.undo()
    ended = train(config, run_dir)
    assert ended.code == 0, ended.err
    assert [line["step"] for line in lines(run_dir, "train")] == [2, 4, 6, 8]


def test_the_best_that_could_not_be_saved_is_not_what_later_ones_are_measured_against(
    config: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By loss, each checkpoint is better than the one before; the last, which is saved, must be called best."""
    run_dir, fill = full_disk / "run", filled(full_disk)
    at_save(
        monkeypatch,
        lambda step: {6: fill.__enter__, 8: lambda: fill.__exit__(None, None, None)}.get(
            step, int
        )(),
    )
    assert train(config, run_dir, metric="loss", learning_rate=1e-2, warmup_steps=1).code == 0
    losses = [line["loss"] for line in lines(run_dir, "valid")]
    assert losses == sorted(losses, reverse=True), (
        "this test needs validations that get better and better"
    )
    state = load_checkpoint(find_checkpoint(run_dir / "checkpoints", "best")).meta["state"]
    assert (state["step"], state["best_score"]) == (8, -losses[-1])


# Damaged files


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "meta.json", "SHA256SUMS"]
)
@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:40] + bytes([b[40] ^ 4]) + b[41:]]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_gone_on_from(
    config: Path, finished: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    run_dir = Path(shutil.copytree(finished, tmp_path / "run"))
    file = find_checkpoint(run_dir / "checkpoints", "last") / name
    file.write_bytes(damage(file.read_bytes()))
    ended = train(config, run_dir)
    assert ended.code == 0, ended.err
    warning = next(line for line in ended.err.splitlines() if line.startswith("warning: "))
    assert str(file.parent) in warning
    assert "damaged" in warning or "not display_pieces" in warning
    assert warning.endswith("going back to update 6")
    assert weights(run_dir) == weights(finished)
    assert [line["step"] for line in lines(run_dir, "train")] == [2, 4, 6, 8]
    assert len(lines(run_dir, "incident")) == 1


def test_where_every_checkpoint_is_damaged_the_run_ends_with_one_line_and_touches_nothing(
    config: Path, finished: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(finished, tmp_path / "run"))
    for file in run_dir.glob("checkpoints/*/model.safetensors"):
        file.write_bytes(b"")
    before = {
        path: path.read_bytes()
        for path in run_dir.rglob("*")
        if path.is_file() and path.name not in ("config.yaml", ".lock")
    }
    ended = train(config, run_dir)
    assert ended.code == 1
    assert ended.err.splitlines()[-1] == (
        f"mt: {run_dir}/checkpoints/step_00000008/model.safetensors: damaged: its checksum is not the one in SHA256SUMS"
    )
    assert {path: path.read_bytes() for path in before} == before


# Numbers that run away


@pytest.mark.parametrize(("last_good", "num_incidents"), [(0, 2), (4, 2)])
def test_updates_that_stay_not_finite_end_the_run_and_the_last_good_checkpoint_is_named(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last_good: int,
    num_incidents: int,
) -> None:
    """Every gradient is NaN from some update on."""
    update = trainer.Trainer.update

    def poisoned(self: trainer.Trainer, epoch: Any, indices: range) -> None:
        if self.state.step == last_good:
            next(self.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        update(self, epoch, indices)

    monkeypatch.setattr(trainer.Trainer, "update", poisoned)
    ended = train(config, tmp_path, max_steps=99, max_skipped=4, validate_every=4, log_every=2)
    assert ended.code == 1
    saved = tmp_path / "checkpoints" / f"step_{last_good + 4:08d}"
    verdict = ended.err.splitlines()[-1]
    assert verdict.startswith(
        f"mt: stopped at update {last_good + 4}: 4 updates in a row had gradients that were not "
    )
    if last_good:
        assert (
            f"the last good checkpoint is {tmp_path / 'checkpoints' / 'step_00000004'}; what may help"
            in verdict
        )
    else:
        assert (
            "there is no good checkpoint yet; what may help: a lower train.learning_rate" in verdict
        )
    assert not saved.exists(), "nothing was learned since"
    assert [line["text"] for line in lines(tmp_path, "incident")] == [
        "2 updates skipped: gradients were not finite"
    ] * num_incidents


def test_updates_that_were_skipped_since_the_last_line_of_the_log_are_told_at_the_end(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = trainer.Trainer.update

    def poisoned(self: trainer.Trainer, epoch: Any, indices: range) -> None:
        bad = next(self.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        update(self, epoch, indices)
        bad.remove()

    monkeypatch.setattr(trainer.Trainer, "update", poisoned)
    ended = train(config, tmp_path, max_steps=5, log_every=3)
    assert ended.code == 0
    assert "update 3: 3 updates skipped" in ended.err
    assert "max_steps 5 reached after 5 updates, 5 of them skipped, and " in ended.err


def test_weights_that_are_not_finite_are_never_saved(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = trainer.Trainer._check

    def corrupted(self: Any) -> None:
        if self.state.step == 4:
            next(self.model.parameters()).data[0, 0] = float("inf")
        check(self)

    monkeypatch.setattr(trainer.Trainer, "_check", corrupted)
    ended = train(config, tmp_path / "run")
    assert ended.code == 1
    assert (
        "mt: stopped at update 4: some weights are not finite; the last good checkpoint is "
        in ended.err
    )
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")) == [
        "step_00000002"
    ]


# Others, and rights


def test_a_second_process_on_one_run_directory_is_refused(
    config: Path, finished: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(finished, tmp_path / "run"))
    with RunDir(run_dir).lock():
        ended = train(config, run_dir)
    assert ended == (
        1,
        "",
        f"mt: {run_dir}: another process is training here (--run-dir chooses another)\n",
    )
    assert train(config, run_dir).code == 0


def test_a_read_only_disk_is_one_line(config: Path, full_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    ended = train(config, full_disk / "run")
    assert ended == (1, "", f"mt: {full_disk / 'run'}: cannot write: Read-only file system\n")


def test_going_on_elsewhere_is_said_for_it_is_not_bit_for_bit(
    config: Path, finished: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(finished, tmp_path / "run"))
    directory = find_checkpoint(run_dir / "checkpoints", "last")
    meta = directory / "meta.json"
    changed = json.loads(meta.read_text())
    changed["environment"]["threads"] = "128"
    meta.write_text(json.dumps(changed))
    sums = subprocess.run(
        ["sha256sum", "model.safetensors", "optimizer.safetensors", "meta.json"],
        cwd=directory,
        capture_output=True,
    )
    (directory / "SHA256SUMS").write_bytes(sums.stdout)
    ended = train(config, run_dir, max_epochs=99)
    assert (
        "warning: goes on elsewhere, so not bit for bit as if uninterrupted: threads 128 -> "
        in ended.err
    )


def train_by(
    script: str, config: Path, run_dir: Path, *words: str
) -> subprocess.CompletedProcess[str]:
    """`mt train` by a Python script, in a process of its own."""
    command = [
        sys.executable,
        "-c",
        script,
        "train",
        "--config",
        str(config),
        "--run-dir",
        str(run_dir),
        *words,
    ]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs a limit on memory that holds"
)
def test_too_little_memory_is_told_before_the_first_update_with_a_size_that_fits(
    config: Path, tmp_path: Path
) -> None:
    """A limit on the address space of the process, at what it has when the model stands and a little more."""
    script = """
import resource, sys
from mt.cli.app import main
from mt.training import trainer
check = trainer.check_memory
def limited(*args, **kwargs):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
    check(*args, **kwargs)
trainer.check_memory = limited
main()
"""
    changes = ["train.batch_tokens=200000", "data.max_length=1000", "model.d_ff=4096"]
    words = [word for change in changes for word in ("--set", change)]
    text = "".join("balo deru fimi gona hupe\n" * 20_000)
    for lang in ("aa", "bb"):
        (tmp_path / f"train.{lang}").write_text(text)
    words += [
        "--set",
        f"data.train.0.prefix={tmp_path / 'train'}",
        "--set",
        "tokenizer.vocab_size=320",
    ]
    ended = train_by(script, config, tmp_path / "run", *words)
    assert ended.returncode == 1, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("mt: too little memory for train.batch_tokens 200000; "), ended.stderr
    assert "fits, and with" in last
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs a limit on memory that holds"
)
def test_a_model_that_no_memory_holds_is_one_line(config: Path, tmp_path: Path) -> None:
    """Some 20 GB of weights, in an address space of 8 GiB."""
    script = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33)); from mt.cli.app import main; main()"
    words = [
        word for change in ("model.d_model=16384", "model.d_ff=65536") for word in ("--set", change)
    ]
    ended = train_by(script, config, tmp_path / "run", *words)
    last = ended.stderr.splitlines()[-1]
    assert (
        last
        == "mt: too little memory for this model's weights: wanted a smaller model.d_model or d_ff"
    ), ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 1
