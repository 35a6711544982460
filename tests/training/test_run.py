"""Whole runs on the copy task: however often a run is stopped or killed, it ends in the same
weights.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from copy_task import write_copy_task
from runs import (
    CONFIG,
    RANDOM,
    assert_same_run,
    checkpoint_path,
    configure,
    one_thread,
    read_all_files,
    read_lines_without_timing,
    train,
    train_command,
    train_until,
)

import mt.data.corpus
import mt.data.corpus_writer
import mt.storage.atomic
from mt.config.load import load_run_config
from mt.data.chunk_encoder import EncodedChunk, TextChunk
from mt.data.dataset import Epoch
from mt.data.encoding_processes import EncodingProcess
from mt.data.tokenizer_training import train_tokenizer
from mt.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    ProcessError,
    RunDirError,
)
from mt.experiment import Experiment
from mt.storage.checkpoint import Checkpoint, CheckpointStore
from mt.storage.run_dir import RunDir
from mt.training.run import read_config, run_training
from mt.training.trainer import Trainer
from mt.training.validator import Validator


class Killed(BaseException):
    """Ends a run at once, as `kill -9` does."""


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture(scope="module")
def uninterrupted(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(configure(config_path, tmp_path_factory.mktemp("uninterrupted"), *RANDOM))


@pytest.fixture(scope="module")
def half(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 6 of the 12 updates."""
    return train(configure(config_path, tmp_path_factory.mktemp("half"), "train.max_steps=6"))


@pytest.fixture(scope="module")
def quarter(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of 6 updates, stopped after 3 of them."""
    run_dir = tmp_path_factory.mktemp("quarter")
    return train_until(3, configure(config_path, run_dir, "train.max_steps=6"))


@pytest.fixture
def default_signal_handlers() -> Iterator[None]:
    """Set the handlers that a program in a terminal has. `nohup` and `&` ignore some signals."""
    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    }
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def call_at_update(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Call `action` once, before the update that follows `step`, in the middle of an epoch."""
    original_update = Trainer.update
    has_acted = False

    def update(trainer: Trainer, epoch: Epoch, indices: range) -> None:
        nonlocal has_acted
        if trainer.state.step == step and not has_acted:
            has_acted = True
            assert trainer.state.batch_index > 0, "not in the middle of an epoch"
            action()
        original_update(trainer, epoch, indices)

    monkeypatch.setattr(Trainer, "update", update)


def kill() -> None:
    raise Killed


def kill_in_save(monkeypatch: pytest.MonkeyPatch, *, num_writes: int) -> None:
    """Kill the run after it has written so many files or names of checkpoints to the disk."""
    fsync_path = mt.storage.atomic.fsync_path
    num_left = num_writes

    def fsync_or_die(path: Path) -> None:
        nonlocal num_left
        if "checkpoints" in path.parts:
            num_left -= 1
        if num_left < 0:
            raise Killed
        fsync_path(path)

    monkeypatch.setattr(mt.storage.atomic, "fsync_path", fsync_or_die)


def test_uninterrupted_run_has_several_epochs_and_losses(uninterrupted: Path) -> None:
    lines = read_lines_without_timing(uninterrupted)
    assert [line["step"] for line in lines if line["kind"] == "valid"] == [3, 6, 9, 12]
    assert [line["kind"] for line in lines[-2:]] == ["valid", "final"]
    assert lines[-2]["epoch"] >= 1
    assert len({line["loss"] for line in lines if line["kind"] == "train"}) == 6


def test_run_keeps_figures_of_its_training_text_from_its_start(
    config_path: Path, half: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(half, tmp_path / "run")
    experiment = Experiment.open(run_dir)
    stats = experiment.source_stats
    assert stats is not None
    assert stats.rare_length == experiment.training_data.corpus.src_lengths.max()
    assert stats.several_sentences_share == 0

    # A run of an older version does not get any when it is resumed: it would translate otherwise.
    experiment.run_dir.source_stats_path.unlink()
    train(configure(config_path, run_dir))
    assert Experiment.open(run_dir).source_stats is None


def test_same_config_gives_same_run(config_path: Path, uninterrupted: Path, tmp_path: Path) -> None:
    assert_same_run(train(configure(config_path, tmp_path, *RANDOM)), uninterrupted)


@pytest.mark.parametrize("step", [3, 6])
def test_resume_after_a_stop_equals_uninterrupted(
    config_path: Path, uninterrupted: Path, tmp_path: Path, step: int
) -> None:
    train_until(step, configure(config_path, tmp_path, *RANDOM))
    assert checkpoint_path(tmp_path).name == f"step_{step:08}"
    train(configure(config_path, tmp_path, *RANDOM))
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (signal.SIGTERM, 1),
        (signal.SIGINT, 8),
        (signal.SIGHUP, 1),
        (signal.SIGTERM, 2),  # before the validation of update 3
        (signal.SIGINT, 11),  # before that of the last update
    ],
)
def test_resume_after_signal_equals_uninterrupted(
    config_path: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    default_signal_handlers: None,
    step: int,
    number: signal.Signals,
) -> None:
    config = configure(config_path, tmp_path, *RANDOM)
    call_at_update(monkeypatch, step, lambda: signal.raise_signal(number))
    assert run_training(config).stop_signal == number.name
    assert checkpoint_path(tmp_path).name == f"step_{step + 1:08}"
    assert run_training(config).stop_signal is None
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("step", [6, 12])
@pytest.mark.parametrize("part", ["_translate", "_losses"])
def test_signal_during_validation_leaves_it_to_the_resumed_run(
    config_path: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    part: str,
) -> None:
    config = configure(config_path, tmp_path, *RANDOM)
    with monkeypatch.context() as patch:
        original_part = getattr(Validator, part)

        def validate_part(validator: Validator, *arguments: Any) -> Any:
            if not (tmp_path / "checkpoints" / f"step_{step - 3:08}").exists():
                return original_part(validator, *arguments)
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the validation goes on")

        patch.setattr(Validator, part, validate_part)
        assert run_training(config).stop_signal == "SIGTERM"
    assert checkpoint_path(tmp_path).name == f"step_{step:08}"
    valid_lines = [line for line in read_lines_without_timing(tmp_path) if line["kind"] == "valid"]
    assert [line["step"] for line in valid_lines] == list(range(3, step, 3))
    train(config)
    assert_same_run(tmp_path, uninterrupted)


def test_ignored_sighup_stays_ignored(
    config_path: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under `nohup`."""
    call_at_update(monkeypatch, 4, lambda: signal.raise_signal(signal.SIGHUP))
    handler_before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        end = run_training(configure(config_path, tmp_path, *RANDOM))
    finally:
        signal.signal(signal.SIGHUP, handler_before)
    assert end.stop_signal is None
    assert_same_run(tmp_path, uninterrupted)


def test_sigusr1_saves_and_training_continues(
    config_path: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_at_update(monkeypatch, 4, lambda: signal.raise_signal(signal.SIGUSR1))
    saved = []
    original_save = CheckpointStore.save

    def save(store: CheckpointStore, checkpoint: Checkpoint, *, step: int, is_best: bool) -> Path:
        saved.append(step)
        return original_save(store, checkpoint, step=step, is_best=is_best)

    monkeypatch.setattr(CheckpointStore, "save", save)
    end = run_training(configure(config_path, tmp_path, *RANDOM))
    assert saved == [3, 5, 6, 9, 12]
    assert end.stop_signal is None
    assert_same_run(tmp_path, uninterrupted)


def test_second_sighup_of_a_closed_terminal_does_not_stop_the_save(
    config_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    default_signal_handlers: None,
) -> None:
    def close_terminal() -> None:
        signal.raise_signal(signal.SIGHUP)  # from the shell
        signal.raise_signal(signal.SIGHUP)  # from the system

    call_at_update(monkeypatch, 4, close_terminal)
    end = run_training(configure(config_path, tmp_path, *RANDOM))
    assert end.stop_signal == "SIGHUP"
    assert checkpoint_path(tmp_path).name == "step_00000005"


def test_resume_in_mid_epoch_completes_max_epochs(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ("train.max_steps=null", "train.max_epochs=2")
    whole = train(configure(config_path, tmp_path / "whole", *RANDOM, *limits))
    stopped_config = configure(config_path, tmp_path / "stopped", *RANDOM, *limits)
    with monkeypatch.context() as patch:
        call_at_update(patch, 4, lambda: signal.raise_signal(signal.SIGTERM))
        train(stopped_config)
    assert_same_run(train(stopped_config), whole)


@pytest.mark.parametrize("step", [1, 4, 8])
def test_killed_run_repeats_what_was_not_saved(
    config_path: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    config = configure(config_path, tmp_path, *RANDOM)
    call_at_update(monkeypatch, step, kill)
    with pytest.raises(Killed):
        train(config)
    train(config)
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("num_writes", range(9))
def test_run_killed_while_saving_resumes_exactly(
    config_path: Path,
    quarter: Path,
    half: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_writes: int,
) -> None:
    run_dir = Path(shutil.copytree(quarter, tmp_path / "run"))
    config = configure(config_path, run_dir, "train.max_steps=6")
    with monkeypatch.context() as patch:
        kill_in_save(patch, num_writes=num_writes)
        with pytest.raises(Killed):
            train(config)
    train(config)
    assert_same_run(run_dir, half)


@pytest.mark.parametrize("num_writes", range(1, 9))
def test_run_killed_in_its_first_save_resumes_exactly(
    config_path: Path,
    half: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_writes: int,
) -> None:
    """Before `last` is written, there may be a complete checkpoint already."""
    config = configure(config_path, tmp_path, "train.max_steps=6")
    with monkeypatch.context() as patch:
        kill_in_save(patch, num_writes=num_writes)
        with pytest.raises(Killed):
            train(config)
    assert not (tmp_path / "checkpoints" / "last").exists()
    train(config)
    assert_same_run(tmp_path, half)


@pytest.mark.parametrize("lost", [("last",), ("last", "best")])
@pytest.mark.parametrize("step", [6, 12])
def test_run_without_pointers_resumes_from_the_newest_checkpoint(
    config_path: Path,
    uninterrupted: Path,
    tmp_path: Path,
    lost: tuple[str, ...],
    step: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At update 12, all that is left to do is to write the pointers."""
    run_dir = tmp_path / "run"
    train_until(step, configure(config_path, run_dir, *RANDOM))
    for name in lost:
        (run_dir / "checkpoints" / name).unlink()
    with caplog.at_level(logging.INFO, "mt"):
        train(configure(config_path, run_dir, *RANDOM))
    assert f"resuming from update {step} " in caplog.text
    assert_same_run(run_dir, uninterrupted)


@pytest.mark.parametrize("cut", [10, 300])
def test_cut_metrics_are_reported_and_stay_readable(
    config_path: Path, half: Path, tmp_path: Path, cut: int
) -> None:
    run_dir = Path(shutil.copytree(half, tmp_path / "run"))
    metrics = run_dir / "metrics.jsonl"
    # The final score is written after the checkpoint, and may be missing.
    lines_of_checkpoint = metrics.read_bytes().splitlines(keepends=True)[:-1]
    content = b"".join(lines_of_checkpoint)
    metrics.write_bytes(content[:-cut])
    train(configure(config_path, run_dir))
    kept = content[:-cut].rpartition(b"\n")[0] + b"\n"
    assert metrics.read_bytes().startswith(kept)
    lines = read_lines_without_timing(run_dir)
    (incident,) = [line for line in lines if line["kind"] == "incident"]
    assert "metrics.jsonl: lines are missing" in incident["text"]
    assert lines[-1]["step"] == 12


def test_finished_run_is_left_unchanged(
    config_path: Path, uninterrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files_before = read_all_files(uninterrupted)
    with caplog.at_level(logging.INFO, "mt"):
        train(configure(config_path, uninterrupted, *RANDOM))
    assert "max_steps 12 reached after 12 updates" in caplog.text
    assert read_all_files(uninterrupted) == files_before


def test_resume_refuses_changed_config(config_path: Path, uninterrupted: Path) -> None:
    files_before = read_all_files(uninterrupted)
    changes = ("train.learning_rate=1e-3", "model.d_ff=64")
    with pytest.raises(RunDirError, match="another config") as caught:
        train(configure(config_path, uninterrupted, *RANDOM, *changes))
    listed = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert listed == ["model.d_ff: 32 -> 64", "train.learning_rate: 0.005 -> 0.001"]
    assert "--fresh" in str(caught.value).splitlines()[0]
    assert read_all_files(uninterrupted) == files_before


def test_resume_allows_changeable_keys(config_path: Path, tmp_path: Path) -> None:
    train(configure(config_path, tmp_path, "train.max_steps=3"))
    changes = (
        "train.max_steps=6",
        "train.patience=9",
        "train.keep_checkpoints=5",
        "train.num_samples=1",
    )
    train(configure(config_path, tmp_path, *changes))
    assert checkpoint_path(tmp_path).name == "step_00000006"


def test_resume_keeps_values_the_user_does_not_set(config_path: Path, tmp_path: Path) -> None:
    """A key that the user's file lacks takes the run's value, whatever today's default is."""
    train(configure(config_path, tmp_path, "train.max_steps=3", "model.dropout=0.25"))
    train(configure(config_path, tmp_path, "train.max_steps=6"))
    assert "dropout: 0.25" in (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert checkpoint_path(tmp_path).name == "step_00000006"


def test_moved_run_resumes(config_path: Path, half: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(half, moved)
    train(configure(config_path, moved))
    assert checkpoint_path(moved).name == "step_00000012"
    assert checkpoint_path(half).name == "step_00000006"


def test_project_that_moved_resumes(config_path: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """With its config, its text and its run."""
    first = tmp_path / "first"
    shutil.copytree(config_path.parent, first)
    text = config_path.read_text(encoding="utf-8")
    for project in ("first", "second"):
        moved = tmp_path / project
        if project == "second":
            first.rename(moved)
        (moved / "copy.yaml").write_text(text.replace(str(config_path.parent), str(moved)))
        step = {"first": 6, "second": 12}[project]
        run_dir = train_until(step, configure(moved / "copy.yaml", moved / "run", *RANDOM))
    assert_same_run(run_dir, uninterrupted)
    assert load_run_config(run_dir / "config.yaml").data.train[0].prefix == str(moved / "train")


def test_other_text_at_another_path_is_refused(
    config_path: Path, half: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(half, tmp_path / "run"))
    for lang in ("aa", "bb"):
        (tmp_path / f"other.{lang}").write_text("balo deru\n" * 20, encoding="utf-8")
    files_before = read_all_files(run_dir)
    for key in ("data.train.0.prefix", "data.valid.prefix"):
        with pytest.raises(CheckpointError, match="text has changed"):
            train(configure(config_path, run_dir, f"{key}={tmp_path / 'other'}"))
    files = read_all_files(run_dir)
    assert {path: files[path] for path in files_before} == files_before


def test_tokenizer_may_move_but_not_change(config_path: Path, half: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.model"
    shutil.copyfile(half / "tokenizer.model", given)
    run_dir = tmp_path / "run"
    overrides = ("tokenizer.vocab_size=8000", "train.max_steps=1")
    train(configure(config_path, run_dir, *overrides, f"tokenizer.model={given}"))
    moved = given.rename(tmp_path / "moved.model")
    overrides = ("tokenizer.vocab_size=8000", "train.max_steps=2")
    train(configure(config_path, run_dir, *overrides, f"tokenizer.model={moved}"))
    train_tokenizer(["one two three"] * 9, given, kind="bpe", vocab_size=290)
    with pytest.raises(RunDirError, match=r"another tokenizer than .*given\.model"):
        train(configure(config_path, run_dir, *overrides, f"tokenizer.model={given}"))


def test_sigterm_saves_and_same_command_resumes_exactly(config_path: Path, tmp_path: Path) -> None:
    overrides = (*RANDOM, "train.max_steps=400", "train.validate_every=20", "train.log_every=5")
    stopped = tmp_path / "stopped"
    process = subprocess.Popen(
        train_command(config_path, stopped, *overrides),
        stderr=subprocess.PIPE,
        text=True,
        env=one_thread(),
    )
    wait_for_first_update(stopped / "metrics.jsonl")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert "stopped by SIGTERM after" in stderr
    assert "same command again" in stderr.splitlines()[-1]
    step = int(checkpoint_path(stopped).name.removeprefix("step_"))
    assert 0 < step < 400

    next_validation = 20 * (step // 20 + 1)
    train_until(next_validation, configure(config_path, stopped, *overrides))
    whole = train_until(next_validation, configure(config_path, tmp_path / "whole", *overrides))
    assert_same_run(stopped, whole)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_signal_saves_when_stderr_cannot_be_written(config_path: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = train_command(config_path, run_dir, "train.max_steps=100000", "train.log_every=5")
    command += ["--set", "train.validate_every=100000"]
    with (
        open("/dev/full", "wb") as full,
        subprocess.Popen(command, stderr=full, env=one_thread()) as process,
    ):
        try:
            wait_for_first_update(run_dir / "metrics.jsonl")
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        finally:
            process.kill()
    assert checkpoint_path(run_dir).is_dir()


def wait_for_first_update(metrics: Path) -> None:
    deadline = time.monotonic() + 60
    while not (metrics.exists() and b'"train"' in metrics.read_bytes()):
        assert time.monotonic() < deadline, "no update within a minute"
        time.sleep(0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_compile_on_cpu_is_refused_before_anything_is_written(
    config_path: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(DeviceError, match=r"^train\.compile is slower on a CPU"):
        train(configure(config_path, run_dir, "train.device=auto", "train.compile=true"))
    assert not list(run_dir.glob("[!.]*"))


@pytest.mark.parametrize("name", ["train.aa", "valid.aa", "valid.bb"])
def test_resume_refuses_changed_text(config_path: Path, tmp_path: Path, name: str) -> None:
    run_dir = tmp_path / "run"
    train(configure(config_path, run_dir, "train.max_steps=2"))
    path = config_path.parent / name
    text = path.read_text(encoding="utf-8")
    kind = "training" if name == "train.aa" else "validation"
    try:
        path.write_text(text[1:], encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"{kind} text has changed"):
            train(configure(config_path, run_dir, "train.max_steps=4"))
    finally:
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("data.train.0.prefix=/nowhere", DataError),
        ("train.init_from=/nowhere", RunDirError),
        ("train.compile=true", DeviceError),
    ],
)
def test_failed_start_leaves_no_run_directory(
    config_path: Path, tmp_path: Path, override: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        train(configure(config_path, tmp_path / "runs" / "new", override, "train.device=auto"))
    assert not (tmp_path / "runs" / "new").exists()


def test_first_start_keeps_the_encoded_text_when_an_encoder_is_killed(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = EncodingProcess.encode
    num_chunks = 0

    def kill_at_third_chunk(self: EncodingProcess, chunk: TextChunk) -> EncodedChunk:
        nonlocal num_chunks
        num_chunks += 1
        if num_chunks == 3:
            self._process.kill()
        return encode(self, chunk)

    monkeypatch.setattr(mt.data.corpus, "choose_num_processes", lambda text_size: 1)
    monkeypatch.setattr(mt.data.corpus, "CHUNK_SIZE", 4)
    monkeypatch.setattr(mt.data.corpus_writer, "PAIRS_PER_RECORD", 4)
    monkeypatch.setattr(EncodingProcess, "encode", kill_at_third_chunk)
    with pytest.raises(ProcessError):
        train(configure(config_path, tmp_path / "run"))
    (record,) = (tmp_path / "run/cache").glob(".*.unfinished/progress.json")
    assert json.loads(record.read_text(encoding="utf-8"))["num_read"] == 8


def test_failed_start_leaves_an_existing_directory(config_path: Path, tmp_path: Path) -> None:
    missing = f"data.train.0.prefix={tmp_path}/nowhere"

    existing = tmp_path / "existing"
    existing.mkdir()
    (existing / "notes.txt").write_text("of the user", encoding="utf-8")
    with pytest.raises(DataError, match="nowhere"):
        train(configure(config_path, existing, missing))
    assert (existing / "notes.txt").exists()


def test_too_long_validation_pair_is_named_before_training(
    config_path: Path, tmp_path: Path
) -> None:
    for lang in ("aa", "bb"):
        text = "balo\n" + "balo " * 30 + "\n"
        (tmp_path / f"valid.{lang}").write_text(text, encoding="utf-8")
    config = configure(
        config_path,
        tmp_path / "run",
        "model.self_attention=dense_synthesizer",
        "model.max_length=24",
        f"data.valid.prefix={tmp_path / 'valid'}",
    )
    with pytest.raises(DataError, match=r"^valid: line 2 has \d+ tokens; model\.max_length is 24$"):
        train(config)


def test_library_call_writes_nothing_to_stderr(
    config_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(configure(config_path, tmp_path, "train.max_steps=2"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("first_is_fast", [True, False])
def test_run_killed_before_its_first_checkpoint_keeps_its_precision(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_is_fast: bool
) -> None:
    """Two measurements of the speed of bf16 may differ."""
    overrides = ("train.precision=auto", "train.max_steps=2")
    monkeypatch.setattr("mt.device._is_bf16_fast", lambda: first_is_fast)
    with monkeypatch.context() as patch:
        call_at_update(patch, 1, kill)
        with pytest.raises(Killed):
            train(configure(config_path, tmp_path, *overrides))
    monkeypatch.setattr("mt.device._is_bf16_fast", lambda: not first_is_fast)
    train(configure(config_path, tmp_path, *overrides))
    expected = "bf16" if first_is_fast else "fp32"
    assert load_run_config(tmp_path / "config.yaml").train.precision == expected


@pytest.mark.parametrize("config", ["", "train: {precision: bf16}", "\0"])
def test_config_of_no_run_does_not_settle_the_precision(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    monkeypatch.setattr("mt.device._is_bf16_fast", lambda: False)
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    train(configure(config_path, tmp_path, "train.precision=auto", "train.max_steps=1"))
    assert load_run_config(tmp_path / "config.yaml").train.precision == "fp32"


def test_renamed_key_is_reported_once(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_config = tmp_path / "old.yaml"
    text = config_path.read_text(encoding="utf-8").replace("batch_tokens:", "max_tokens:")
    old_config.write_text(text, encoding="utf-8")
    warnings = []
    monkeypatch.setattr(
        logging.getLogger("mt.config.load"), "warning", lambda *args: warnings.append(args)
    )
    config = read_config(old_config, run_dir=None, device=None)
    assert config.train.run_dir is not None
    assert config.train.run_dir.endswith("runs/old")
    assert len(warnings) == 1


# --fresh


def train_short(config_path: Path, run_dir: Path, *, fresh: bool, seed: int) -> None:
    config = configure(config_path, run_dir, "train.max_steps=2", f"train.seed={seed}")
    run_training(config, fresh=fresh)


def test_fresh_moves_earlier_runs_aside(
    config_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "runs" / "toy"
    for seed in (1, 2, 3):
        with caplog.at_level(logging.INFO, "mt"):
            train_short(config_path, run_dir, fresh=True, seed=seed)
    assert sorted(path.name for path in run_dir.parent.iterdir()) == ["toy", "toy.1", "toy.2"]
    seeds = {
        name: load_run_config(run_dir.with_name(name) / "config.yaml").train.seed
        for name in ("toy.1", "toy.2", "toy")
    }
    assert list(seeds.values()) == [1, 2, 3], "the highest number is the latest"
    for name in seeds:
        assert checkpoint_path(run_dir.with_name(name)).name == "step_00000002"
    messages = [record.getMessage() for record in caplog.records]
    for name in ("toy.1", "toy.2"):
        assert any(message.endswith(f"is now in {run_dir}.{name[-1]}") for message in messages)


def test_fresh_moves_the_earlier_run_back_after_a_mistake(
    config_path: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    files_before = read_all_files(run_dir)
    config = configure(config_path, run_dir, f"data.train.0.prefix={tmp_path}/nowhere")
    with pytest.raises(DataError, match="nowhere"):
        run_training(config, fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert read_all_files(run_dir) == files_before


def test_fresh_refuses_to_move_a_run_that_is_training(
    config_path: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    with (
        RunDir(run_dir).lock(),
        pytest.raises(RunDirError, match="another process is training here"),
    ):
        train_short(config_path, run_dir, fresh=True, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert checkpoint_path(run_dir).name == "step_00000012"


def test_fresh_leaves_a_directory_without_a_run_where_it_is(
    config_path: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "mine"
    run_dir.mkdir()
    (run_dir / "notes.txt").write_text("of the user", encoding="utf-8")
    train_short(config_path, run_dir, fresh=True, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (run_dir / "notes.txt").exists()


# The config of a run


def test_run_directory_resumes_with_its_own_config(
    config_path: Path, half: Path, tmp_path: Path
) -> None:
    """It may have moved: the directory is the one that is named, not the one in its config."""
    moved = tmp_path / "moved"
    shutil.copytree(half, moved)
    run_training(read_config(moved, ["train.max_steps=8"], run_dir=None, device=None))
    assert checkpoint_path(moved).name == "step_00000008"
    assert checkpoint_path(half).name == "step_00000006"


def test_config_of_a_run_directory_may_begin_another_run(half: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    by_option = read_config(half, run_dir=other, device=None)
    by_override = read_config(half, [f"train.run_dir={other}"], run_dir=None, device=None)
    assert by_option.train.run_dir == by_override.train.run_dir == str(other)
    assert by_option.train.max_steps == 6


def test_directory_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a directory without config\.yaml") as caught:
        read_config(tmp_path, run_dir=None, device=None)
    assert str(tmp_path) in str(caught.value)
