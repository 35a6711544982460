"""A run is a function of its config: however it is cut into batches, ranks or sittings, it ends in the same weights."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copy_task import write_copy_task
from fake_data import FakeEpoch
from safetensors.torch import load_file

import mt.storage.atomic
from mt.config.load import load_config
from mt.config.schema import Config, ModelConfig, TrainConfig
from mt.data.batching import Batch, BatchPlan
from mt.distributed import Runtime, open_runtime
from mt.errors import CheckpointError, DataError, DeviceError, RunDirError
from mt.model.transformer import Transformer
from mt.storage.checkpoint import CheckpointStore
from mt.training.metrics_log import MetricsFile, Validation
from mt.training.objective import Objective
from mt.training.run import train
from mt.training.trainer import Trainer

CONFIG = """\
data:
  src_lang: aa
  tgt_lang: bb
  train:
    - prefix: AT/train
  valid:
    name: valid
    prefix: AT/valid
  max_length: 24
tokenizer:
  vocab_size: 330
model:
  d_model: 16
  d_ff: 32
  num_heads: 2
  num_encoder_layers: 1
  num_decoder_layers: 1
train:
  device: cpu
  precision: fp32
  batch_tokens: 128
  learning_rate: 5e-3
  warmup_steps: 4
  max_steps: 12
  validate_every: 3
  log_every: 2
  metric: loss
  num_samples: 0
search:
  beam_size: 2
  max_length_factor: 1.0
  max_length_offset: 2
"""
RANDOM = (
    "model.dropout=0.1",
    "tokenizer.bpe_dropout=0.2",
)  # all that draws numbers while a run lasts


class Killed(BaseException):
    """As sudden as kill -9."""


# Whole runs, on a language whose sentences translate to themselves


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


def configure(path: Path, run_dir: Path, *overrides: str) -> Config:
    return load_config(path, [*overrides, f"train.run_dir={run_dir}"])


def checkpoint(run_dir: Path, name: str = "last") -> Path:
    return (
        run_dir
        / "checkpoints"
        / (run_dir / "checkpoints" / name).read_text(encoding="utf-8").strip()
    )


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """All of metrics.jsonl but what a clock decides."""
    lines = [
        json.loads(line)
        for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert all(line.pop("timing") for line in lines)
    return lines


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: weights, optimizer, the state, what was logged, and what is called best."""
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (checkpoint(one) / name).read_bytes() == (checkpoint(other) / name).read_bytes(), (
            name
        )
    states = [
        json.loads((checkpoint(run) / "meta.json").read_text(encoding="utf-8"))
        for run in (one, other)
    ]
    for meta in states:
        del meta["state"]["elapsed_seconds"], meta["metrics_size"]  # the clock decides
    assert states[0] == states[1]
    assert metrics(one) == metrics(other)
    assert checkpoint(one, "best").name == checkpoint(other, "best").name


def files_in(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(configure(config_path, tmp_path_factory.mktemp("uninterrupted"), *RANDOM))


def act_at(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Let `act` happen once, in the middle of the update after `step`."""
    update, acted = Trainer.update, []

    def update_and_act(trainer: Trainer, epoch: FakeEpoch, indices: range) -> None:
        if trainer.state.step == step and not acted:
            acted.append(step)
            assert trainer.state.batch_index > 0, "not in the middle of an epoch"
            act()
        update(trainer, epoch, indices)

    monkeypatch.setattr(Trainer, "update", update_and_act)


def test_the_uninterrupted_run_has_more_than_one_epoch_and_its_weights_change(
    uninterrupted: Path,
) -> None:
    lines = metrics(uninterrupted)
    assert [line["step"] for line in lines if line["kind"] == "valid"] == [3, 6, 9, 12]
    assert lines[-1]["epoch"] >= 1
    assert len({line["loss"] for line in lines if line["kind"] == "train"}) == 6


def test_the_same_config_gives_the_same_run(
    config_path: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    assert_same_run(train(configure(config_path, tmp_path, *RANDOM)), uninterrupted)


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_that_ended_at_max_steps_goes_on_as_if_it_had_not(
    config_path: Path, uninterrupted: Path, tmp_path: Path, step: int
) -> None:
    train(configure(config_path, tmp_path, *RANDOM, f"train.max_steps={step}"))
    assert checkpoint(tmp_path).name == f"step_{step:08}"
    train(configure(config_path, tmp_path, *RANDOM))
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 8])
def test_a_run_that_a_signal_ended_goes_on_as_if_it_had_not(
    config_path: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    number: signal.Signals,
) -> None:
    config = configure(config_path, tmp_path, *RANDOM)
    act_at(monkeypatch, step, lambda: signal.raise_signal(number))
    train(config)
    assert checkpoint(tmp_path).name == f"step_{step + 1:08}"
    train(config)
    assert_same_run(tmp_path, uninterrupted)


def test_a_run_of_so_many_epochs_that_was_stopped_in_the_middle_of_one_does_them_all(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (
        configure(
            config_path, tmp_path / name, *RANDOM, "train.max_steps=null", "train.max_epochs=2"
        )
        for name in ("one", "other")
    )
    train(one)
    with monkeypatch.context() as patch:
        act_at(patch, 4, lambda: signal.raise_signal(signal.SIGTERM))
        train(other)
    train(other)
    assert_same_run(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("step", [1, 4, 8])
def test_a_run_that_was_killed_does_again_what_was_not_saved(
    config_path: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    def die() -> None:
        raise Killed

    config = configure(config_path, tmp_path, *RANDOM)
    act_at(monkeypatch, step, die)
    with pytest.raises(Killed):
        train(config)
    train(config)
    assert_same_run(tmp_path, uninterrupted)


@pytest.fixture(scope="module")
def half(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(configure(config_path, tmp_path_factory.mktemp("half"), "train.max_steps=6"))


@pytest.mark.parametrize("num_writes", range(9))
def test_a_run_killed_while_it_writes_its_last_checkpoint_comes_to_the_same_end(
    config_path: Path, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_writes: int
) -> None:
    train(configure(config_path, tmp_path, "train.max_steps=3"))
    left, flush = [num_writes], mt.storage.atomic.fsync_path

    def flush_or_die(path: Path) -> None:
        left[0] -= "checkpoints" in path.parts
        if left[0] < 0:
            raise Killed
        fsync_path(path)

    config = configure(config_path, tmp_path, "train.max_steps=6")
    with monkeypatch.context() as patch:
        patch.setattr(mt.storage.atomic, "flush", flush_or_die)
        with pytest.raises(Killed):
            train(config)
    train(config)
    assert_same_run(tmp_path, half)


def test_a_finished_run_started_again_says_so_and_changes_nothing(
    config_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_in(uninterrupted)
    train(configure(config_path, uninterrupted, *RANDOM))
    assert "max_steps 12 reached after 12 updates" in capsys.readouterr().err
    assert files_in(uninterrupted) == before


def test_a_run_does_not_go_on_with_another_config_and_the_difference_is_named(
    config_path: Path, uninterrupted: Path
) -> None:
    before = files_in(uninterrupted)
    with pytest.raises(RunDirError, match="begun with another config") as caught:
        train(
            configure(
                config_path, uninterrupted, *RANDOM, "train.learning_rate=1e-3", "model.d_ff=64"
            )
        )
    changes = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert changes == ["model.d_ff: 32 -> 64", "train.learning_rate: 0.005 -> 0.001"]
    assert files_in(uninterrupted) == before


def test_how_long_and_how_watched_a_run_is_may_change(config_path: Path, tmp_path: Path) -> None:
    train(configure(config_path, tmp_path, "train.max_steps=3"))
    changes = (
        "train.max_steps=6",
        "train.patience=9",
        "train.keep_checkpoints=5",
        "train.num_samples=1",
    )
    train(configure(config_path, tmp_path, *changes))
    assert checkpoint(tmp_path).name == "step_00000006"


def test_a_run_that_was_moved_goes_on_where_it_is(
    config_path: Path, half: Path, tmp_path: Path
) -> None:
    shutil.copytree(half, tmp_path / "moved")
    train(configure(config_path, tmp_path / "moved"))
    assert checkpoint(tmp_path / "moved").name == "step_00000012"
    assert checkpoint(half).name == "step_00000006"


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **variables}


def command(config_path: Path, run_dir: Path, *overrides: str) -> list[str]:
    options = [word for override in overrides for word in ("--set", override)]
    return [
        sys.executable,
        "-m",
        "mt",
        "train",
        "-c",
        str(config_path),
        "--run-dir",
        str(run_dir),
        *options,
    ]


def test_sigterm_saves_and_leaves_and_the_same_command_goes_on_exactly(
    config_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = (*RANDOM, "train.max_steps=400", "train.validate_every=200", "train.log_every=5")
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    process = subprocess.Popen(
        command(config_path, stopped, *overrides),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    deadline = time.monotonic() + 60
    while (
        not (stopped / "metrics.jsonl").exists()
        or b'"train"' not in (stopped / "metrics.jsonl").read_bytes()
    ):
        assert time.monotonic() < deadline, "no update within a minute"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 0, words
    assert "stopped by SIGTERM after" in words
    assert words.endswith("the same command again goes on from here\n")
    step = int(checkpoint(stopped).name.removeprefix("step_"))
    assert 0 < step < 400

    train(configure(config_path, stopped, *overrides))
    assert f"going on from update {step}" in capsys.readouterr().err
    assert_same_run(stopped, train(configure(config_path, whole, *overrides)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to compile for")
def test_to_compile_for_a_cpu_is_refused_in_words(config_path: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"^train\.compile is slower on a CPU: wanted false, or a CUDA device$"
    ):
        train(configure(config_path, tmp_path / "run", "train.device=auto", "train.compile=true"))
    assert not list((tmp_path / "run").glob("[!.]*")), "it is known before anything is made"


# One rank of a run, which a signal reaches in the middle of update SIGNAL_AT.
RANK = """
import os, signal
from mt.cli.process import run
from mt.training.trainer import Trainer

update = Trainer.update

def update_with_signal(trainer, epoch, indices):
    if trainer.state.step + 1 == int(os.environ["SIGNAL_AT"]):
        signal.raise_signal(signal.SIGTERM)
    update(trainer, epoch, indices)

Trainer.update = update_with_signal
run()
"""


def train_on_two_ranks(
    config_path: Path, run_dir: Path, *overrides: str, signal_at: int = 0
) -> None:
    """As torchrun does it; the signal reaches the first rank alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    python, _, _, *arguments = command(config_path, run_dir, *overrides)
    with ExitStack() as stack:
        ranks = [
            subprocess.Popen(
                [python, "-c", RANK, *arguments],
                stderr=subprocess.PIPE,
                text=True,
                env=environment(
                    **shared,
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    SIGNAL_AT=str(signal_at * (rank == 0)),
                ),
            )
            for rank in range(2)
        ]
        for process in ranks:
            stack.enter_context(process)
            stack.callback(process.kill)
        for process in ranks:
            _, words = process.communicate(timeout=60)
            assert process.returncode == 0, words


ON_TWO_RANKS = (
    "model.dropout=0.0",
    "train.epsilon=1e-4",
    "train.gradient_accumulation=2",
    "train.validate_every=6",
    "train.log_every=4",
)


@pytest.fixture(scope="module")
def two_ranks(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks in two sittings, the first one ended between two lines of the log."""
    run_dir = tmp_path_factory.mktemp("two_ranks")
    train_on_two_ranks(config_path, run_dir, *ON_TWO_RANKS, signal_at=5)
    assert checkpoint(run_dir).name == "step_00000005"
    train_on_two_ranks(config_path, run_dir, *ON_TWO_RANKS)
    return run_dir


def test_two_ranks_of_two_batches_are_one_rank_of_four(
    config_path: Path, two_ranks: Path, tmp_path: Path
) -> None:
    """To 1e-5 in weights and losses, for sums in another order round differently."""
    train(configure(config_path, tmp_path, *ON_TWO_RANKS, "train.gradient_accumulation=4"))
    assert_close(
        *(load_file(checkpoint(run) / "model.safetensors") for run in (two_ranks, tmp_path)),
        atol=1e-5,
    )
    losses = [
        [line["loss"] for line in metrics(run) if "loss" in line] for run in (two_ranks, tmp_path)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_run_does_not_go_on_with_another_number_of_ranks(
    config_path: Path, two_ranks: Path
) -> None:
    before = files_in(two_ranks)
    with pytest.raises(CheckpointError, match="begun on 2 ranks"):
        train(configure(config_path, two_ranks, *ON_TWO_RANKS))
    assert files_in(two_ranks) == before


def test_a_run_does_not_go_on_with_other_text(config_path: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(configure(config_path, run_dir, "train.max_steps=2"))
    config = configure(config_path, run_dir, "train.max_steps=4")
    src = Path(f"{config.data.train[0].prefix}.{config.data.src_lang}")
    text = src.read_text(encoding="utf-8")
    try:
        src.write_text(text[1:], encoding="utf-8")
        with pytest.raises(
            CheckpointError, match="the training text has changed since the run began"
        ):
            train(config)
    finally:
        src.write_text(text, encoding="utf-8")


# The loop alone, on batches of random ids


SIZES = {"src_vocab_size": 20, "tgt_vocab_size": 20, "pad_id": 0}
CPU = Runtime(torch.device("cpu"))


def test_a_validation_pair_that_the_model_cannot_take_is_named_before_training_begins(
    config_path: Path, tmp_path: Path
) -> None:
    limits = ("model.self_attention=dense_synthesizer", "model.max_length=24")
    for lang in ("aa", "bb"):
        (tmp_path / f"valid.{lang}").write_text("balo\n" + "balo " * 30 + "\n")
    config = configure(
        config_path, tmp_path / "run", *limits, f"data.valid.prefix={tmp_path / 'valid'}"
    )
    with pytest.raises(DataError, match=r"^valid: line 2 has \d+ tokens; model\.max_length is 24$"):
        train(config)


def random_batch(seed: int, num_pairs: int = 4) -> Batch:
    """Rows of different lengths, padded at the end."""
    generator = torch.Generator().manual_seed(seed)
    src, tgt = torch.randint(1, 20, (2, num_pairs, 7), generator=generator)
    for row in range(num_pairs):
        tgt[row, 7 - (seed + row) % 5 :] = 0
        src[row, 7 - (seed + 2 * row) % 3 :] = 0
    bos = torch.ones(num_pairs, 1, dtype=torch.long)
    return Batch(src, torch.cat((bos, tgt[:, :-1]), dim=1) * (tgt != 0), tgt, int((tgt != 0).sum()))


def stack(batches: Sequence[Batch]) -> Batch:
    columns = zip(*(batch[:3] for batch in batches), strict=True)
    return Batch(*map(torch.cat, columns), num_tokens=sum(batch.num_tokens for batch in batches))


def as_epoch(batches: Sequence[Batch]) -> FakeEpoch:
    indices = np.arange(len(batches) + 1)
    sizes = [(batch.num_tokens, batch.src.size(1), batch.tgt_out.size(1)) for batch in batches]
    return FakeEpoch(BatchPlan(indices[:-1], indices, *np.array(sizes).T), batches.__getitem__)


def make_trainer(
    tmp_path: Path,
    batches: Sequence[Batch] = (),
    *,
    losses: Sequence[float] = (),
    dropout: float = 0.0,
    runtime: Runtime = CPU,
    **limits: Any,
) -> Trainer:
    """A trainer whose validations find the given losses, and then nothing but worse."""
    shape = {
        "d_model": 16,
        "d_ff": 32,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
    }
    torch.manual_seed(3)
    transformer = Transformer(ModelConfig(**shape, dropout=dropout), **SIZES)
    found = [*losses, *(9.0 + n for n in range(100))]
    settings: dict[str, Any] = {
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "metric": "loss",
        "epsilon": 1e-3,
        **limits,
    }
    tmp_path.mkdir(exist_ok=True)
    return Trainer(
        Objective(transformer.to(runtime.device), label_smoothing=0.1, dtype=runtime.dtype),
        config=TrainConfig(**settings),
        runtime=runtime,
        open_epoch=lambda number, batch_tokens: as_epoch(
            batches or [random_batch(seed) for seed in range(4)]
        ),
        validate=lambda: Validation(loss=found.pop(0), scores={}, signatures={}, samples=()),
        store=CheckpointStore(tmp_path / "checkpoints", keep=settings.get("keep_checkpoints", 2)),
        metrics=MetricsFile(tmp_path / "metrics.jsonl"),
    )


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_close(
    one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, atol: float
) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=atol, rtol=0.0)


@pytest.mark.parametrize("gradient_accumulation", [2, 3, 4])
def test_accumulated_batches_are_one_big_batch(tmp_path: Path, gradient_accumulation: int) -> None:
    """To 1e-6, after a whole update with clipping; the batches differ in length, so sums count and not means."""
    batches = [random_batch(seed, num_pairs=2 + seed) for seed in range(gradient_accumulation)]
    small = make_trainer(
        tmp_path / "small", batches, gradient_accumulation=gradient_accumulation, max_steps=3
    )
    big = make_trainer(tmp_path / "big", [stack(batches)], max_steps=3)
    before = weights_of(small)
    for trainer in (small, big):
        trainer.run()
    assert_close(weights_of(small), weights_of(big), atol=1e-6)
    assert (
        max((value - before[name]).abs().max().item() for name, value in weights_of(small).items())
        > 1e-3
    )
    assert (
        small.state.tokens_seen
        == big.state.tokens_seen
        == 3 * sum(batch.num_tokens for batch in batches)
    )


def test_the_last_update_of_an_epoch_takes_the_batches_that_are_left(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, gradient_accumulation=3, max_epochs=2
    )  # of 4 batches: 3 + 1, twice
    assert trainer.run() == "max_epochs 2 reached"
    assert (trainer.state.step, trainer.state.epoch, trainer.state.batch_index) == (4, 2, 0)
    assert trainer.state.tokens_seen == 2 * sum(random_batch(seed).num_tokens for seed in range(4))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "fp32"),
        *(pytest.param("cuda", name, marks=pytest.mark.gpu) for name in ("fp32", "bf16", "fp16")),
    ],
)
def test_an_update_whose_gradient_is_not_finite_changes_nothing_and_is_counted(
    tmp_path: Path, device: str, precision: str, value: float, clip_norm: float
) -> None:
    runtime = open_runtime(device, precision)
    trainer = make_trainer(tmp_path, runtime=runtime, max_steps=9, clip_norm=clip_norm)
    epoch = trainer.open_epoch(0, 64)
    trainer.update(epoch, range(0, 1))
    before, moments = weights_of(trainer), trainer.optimizer.state_dict()["state"]
    moments = {
        index: {name: item.clone() for name, item in state.items()}
        for index, state in moments.items()
    }
    poison = next(trainer.model.parameters()).register_hook(lambda gradient: gradient * value)
    trainer.update(epoch, range(1, 2))
    poison.remove()
    assert_close(weights_of(trainer), before, atol=0.0)
    for index, state in trainer.optimizer.state_dict()["state"].items():
        assert_close(state, moments[index], atol=0.0)
    trainer.update(epoch, range(2, 3))
    trainer.began = time.monotonic()
    trainer.pulse = (0.0, 0)
    trainer._log()
    line, *incidents = metrics(tmp_path)
    assert line["num_skipped"] == trainer.state.num_skipped == 1
    assert all(math.isfinite(number) for name, number in line.items() if name != "kind")
    told = {"kind": "incident", "step": 3, "text": "1 update skipped: gradients were not finite"}
    assert incidents == ([told] if precision != "fp16" else []), (
        "in fp16 it is how the scale of the loss is found"
    )
    assert any((item != before[name]).any() for name, item in weights_of(trainer).items()), (
        "the next one counts again"
    )


def test_a_run_that_goes_on_is_not_asked_to_make_room_for_moments_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(
        "mt.training.trainer.check_memory", lambda *_, begun, **__: asked.append(begun)
    )
    make_trainer(tmp_path, max_epochs=1).run()
    other = make_trainer(tmp_path, max_epochs=2)
    other.restore(other.store.load_newest()[0])
    other.run()
    assert asked == [False, True]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # PyTorch calls it a prototype
@pytest.mark.parametrize("gradient_accumulation", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_update_on_a_gpu_never_waits_for_it(
    tmp_path: Path, precision: str, gradient_accumulation: int
) -> None:
    batches = [
        random_batch(seed, num_pairs=800) for seed in range(2 * gradient_accumulation)
    ]  # thousands of tokens
    runtime = open_runtime("cuda", precision)
    trainer = make_trainer(
        tmp_path,
        batches,
        runtime=runtime,
        dropout=0.1,
        gradient_accumulation=gradient_accumulation,
        max_steps=9,
    )
    epoch = trainer.open_epoch(0, 64)
    trainer.update(epoch, range(gradient_accumulation))  # makes room for the optimizer's state
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.update(epoch, range(gradient_accumulation, 2 * gradient_accumulation))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_training_stops_when_patience_is_at_its_end_and_best_is_the_best_by_the_metric(
    tmp_path: Path,
) -> None:
    losses = [3.0, 2.0, 1.5, 1.75, 1.5]  # an equal score is no gain
    trainer = make_trainer(
        tmp_path, losses=losses, patience=2, validate_every=2, max_steps=100, keep_checkpoints=1
    )
    assert trainer.run() == "no gain in 2 validations"
    assert (trainer.state.step, trainer.state.best_score) == (10, -1.5)
    assert (checkpoint(tmp_path, "best").name, checkpoint(tmp_path).name) == (
        "step_00000006",
        "step_00000010",
    )
    assert [line["is_best"] for line in metrics(tmp_path)] == [True, True, True, False, False]
    left = sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*"))
    assert left == ["step_00000006", "step_00000010"]


def test_training_stops_after_max_epochs_and_validates_and_saves_what_it_has(
    tmp_path: Path,
) -> None:
    trainer = make_trainer(tmp_path, losses=[1.0], max_epochs=3)
    assert trainer.run() == "max_epochs 3 reached"
    assert checkpoint(tmp_path).name == checkpoint(tmp_path, "best").name == "step_00000012"
    assert [(line["kind"], line["step"]) for line in metrics(tmp_path)] == [("valid", 12)]


def test_a_limit_is_told_with_every_digit(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1_234_567)
    trainer.state.step = 1_234_567
    assert trainer.verdict() == "max_steps 1234567 reached"


def test_training_stops_after_max_minutes(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_minutes=1e-6, max_steps=50)
    assert trainer.run() == "max_minutes 1e-06 reached"
    assert trainer.state.step == 1


def test_the_minutes_of_all_sittings_count(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_minutes=1.0)
    trainer.state.elapsed_seconds = 61.0
    assert trainer.run() == "max_minutes 1 reached"
    assert trainer.state.step == 0


def test_no_more_than_the_time_that_is_left_is_announced(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_minutes=1.0)
    trainer.state.elapsed_seconds = 45.0
    assert trainer.seconds_left == pytest.approx(15.0)
    trainer.state.elapsed_seconds = 75.0
    assert trainer.seconds_left == 0.0


def test_checkpoints_come_between_validations_when_asked_for(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, max_steps=6, save_every=2, validate_every=5, keep_checkpoints=9
    )
    trainer.run()
    steps = [int(path.name[5:]) for path in sorted((tmp_path / "checkpoints").glob("step_*"))]
    assert steps == [2, 4, 5, 6]


def test_dropout_acts_in_training_and_not_in_validation(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, dropout=0.5, max_steps=2, validate_every=1)
    trainer.is_rehearsed = True
    modes = []
    validate, forward = trainer.validate, trainer.model.forward

    def looking_validate() -> Validation:
        modes.append(("valid", trainer.model.training))
        return validate()

    def looking_forward(batch: Batch) -> Any:
        modes.append(("train", trainer.model.training))
        return forward(batch)

    trainer.validate, trainer.model.forward = looking_validate, looking_forward  # type: ignore[method-assign]
    trainer.run()
    assert modes == [("train", True), ("valid", False)] * 2
