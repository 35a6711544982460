"""Training in two processes gives the result of one process with larger updates."""

from __future__ import annotations

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

import pytest
from copy_task import write_copy_task
from runs import (
    CONFIG,
    checkpoint_path,
    configure,
    one_thread,
    read_lines_without_timing,
    train_command,
    train_until,
)
from safetensors.torch import load_file
from torch.testing import assert_close

from mt.kernels.dispatch import use_reference
from mt.training.run import train

# The program of one rank, which sends itself a signal before update SIGNAL_AT.
RANK_PROGRAM = """
import os, signal
from mt.cli.process import run
from mt.kernels.dispatch import use_reference
from mt.training.trainer import Trainer

original_update = Trainer.update

def update(trainer, epoch, indices):
    if trainer.state.step + 1 == int(os.environ["SIGNAL_AT"]):
        signal.raise_signal(signal.SIGTERM)
    original_update(trainer, epoch, indices)

Trainer.update = update
if os.environ["KERNELS"] == "reference":
    use_reference().__enter__()
run()
"""

OVERRIDES = (
    "model.dropout=0.0",
    "tokenizer.bpe_dropout=0.2",  # batches with other numbers of tokens than the plan has
    "train.epsilon=1e-4",
    "train.gradient_accumulation=2",
    "train.validate_every=6",
    "train.log_every=4",
)


# The program of one rank. In the rank that FAILING names, a function that FUNCTION names fails.
FAILING_PROGRAM = """
import os
from importlib import import_module
from mt.cli.process import run
from mt.errors import DeviceError

def fail(*arguments, **options):
    raise DeviceError("this rank has a fault of its own")

if os.environ["RANK"] == os.environ["FAILING"]:
    module, _, name = os.environ["FUNCTION"].rpartition(".")
    setattr(import_module(module), name, fail)
run()
"""


def shared_environment() -> dict[str, str]:
    """Return the environment variables of two ranks of one training, as torchrun sets them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def train_on_two_ranks(
    config_path: Path,
    run_dir: Path,
    *,
    signal_at: int = 0,
    kernels: str = "auto",
    overrides: Sequence[str] = OVERRIDES,
    options: Sequence[str] = (),
) -> None:
    """Start two ranks as torchrun does. Only the first one gets the signal.

    `kernels` is "auto" or "reference". `options` are more options of `mt train`.
    """
    shared = {**shared_environment(), "KERNELS": kernels}
    arguments = [*train_command(config_path, run_dir, *overrides)[3:], *options]
    with ExitStack() as stack:
        processes = []
        for rank in range(2):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            own["SIGNAL_AT"] = str(signal_at) if rank == 0 else "0"
            process = subprocess.Popen(
                [sys.executable, "-c", RANK_PROGRAM, *arguments],
                stderr=subprocess.PIPE,
                text=True,
                env=one_thread(**shared, **own),
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            _, stderr = process.communicate(timeout=300)
            assert process.returncode == (128 + signal.SIGTERM if signal_at else 0), stderr


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture(scope="module")
def stopped(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on two ranks that was stopped between two logged lines."""
    run_dir = tmp_path_factory.mktemp("stopped")
    train_on_two_ranks(config_path, run_dir, signal_at=5)
    assert checkpoint_path(run_dir).name == "step_00000005"
    return run_dir


@pytest.fixture(scope="module")
def two_ranks(config_path: Path, stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on two ranks that was stopped once, and then resumed on two ranks."""
    run_dir = Path(shutil.copytree(stopped, tmp_path_factory.mktemp("two_ranks") / "run"))
    train_on_two_ranks(config_path, run_dir)
    return run_dir


def test_two_ranks_equal_one_rank_with_twice_the_accumulation(
    config_path: Path, two_ranks: Path, tmp_path: Path
) -> None:
    one_rank = train(configure(config_path, tmp_path, *OVERRIDES, "train.gradient_accumulation=4"))
    assert_equal_runs(two_ranks, one_rank)


def test_two_ranks_equal_one_rank_with_reference_kernels(config_path: Path, tmp_path: Path) -> None:
    """The kernels of a GPU in DistributedDataParallel."""
    two_ranks = tmp_path / "two_ranks"
    train_on_two_ranks(config_path, two_ranks, kernels="reference")
    with use_reference():
        one_rank = train(
            configure(
                config_path, tmp_path / "one_rank", *OVERRIDES, "train.gradient_accumulation=4"
            )
        )
    assert_equal_runs(two_ranks, one_rank)


def test_two_ranks_learn_from_a_teacher_as_one_rank_does(
    config_path: Path, two_ranks: Path, tmp_path: Path
) -> None:
    overrides = (*OVERRIDES, f"train.teacher={two_ranks}", "train.teacher_weight=0.7")
    train_on_two_ranks(config_path, tmp_path / "two", overrides=overrides)
    one_rank = train(
        configure(config_path, tmp_path / "one", *overrides, "train.gradient_accumulation=4")
    )
    assert_equal_runs(tmp_path / "two", one_rank)
    assert logged_losses(one_rank) != pytest.approx(logged_losses(two_ranks), abs=1e-2)


def assert_equal_runs(two_ranks: Path, one_rank: Path) -> None:
    """Compare to 1e-5, because sums in another order round differently."""
    weights = load_file(checkpoint_path(two_ranks) / "model.safetensors")
    expected = load_file(checkpoint_path(one_rank) / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert_close(weight, expected[name], atol=1e-5, rtol=0.0)
    assert logged_losses(two_ranks) == pytest.approx(logged_losses(one_rank), abs=1e-5)


def logged_losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in read_lines_without_timing(run_dir) if "loss" in line]


def test_run_of_two_ranks_resumes_on_one(
    config_path: Path, stopped: Path, two_ranks: Path, tmp_path: Path
) -> None:
    """It was stopped between two logged lines, so rank 0 must take over the losses of rank 1."""
    run_dir = Path(shutil.copytree(stopped, tmp_path / "run"))
    train(configure(config_path, run_dir, *OVERRIDES))
    assert_equal_runs(run_dir, two_ranks)
    assert "on 1 ranks after 2" in (run_dir / "metrics.jsonl").read_text(encoding="utf-8")


def test_run_of_one_rank_resumes_on_two(config_path: Path, tmp_path: Path) -> None:
    """The two ranks cannot share three batches evenly."""
    three = (*OVERRIDES, "train.gradient_accumulation=3")
    one_rank = train_until(5, configure(config_path, tmp_path / "one", *three))
    run_dir = Path(shutil.copytree(one_rank, tmp_path / "run"))
    train(configure(config_path, one_rank, *three))
    train_on_two_ranks(config_path, run_dir, overrides=three)
    assert_equal_runs(run_dir, one_rank)


def test_two_ranks_move_an_earlier_run_aside(
    config_path: Path, stopped: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(stopped, tmp_path / "run"))
    overrides = (*OVERRIDES, "train.warmup_steps=1", "train.max_steps=2")
    train_on_two_ranks(config_path, run_dir, overrides=overrides, options=["--fresh"])
    assert checkpoint_path(run_dir).name == "step_00000002"
    assert checkpoint_path(tmp_path / "run.1").name == "step_00000005"


# Faults


@pytest.mark.parametrize("failing", ["0", "1"])
@pytest.mark.parametrize(
    "function",
    [
        "mt.training.run.resolve_auto",
        "mt.training.trainer.check_memory",
        "mt.data.dataset.split_evenly",  # is called in another thread
        "mt.training.trainer.clip_gradients",
    ],
)
def test_error_of_one_rank_ends_the_other_with_one_line(
    config_path: Path, tmp_path: Path, failing: str, function: str
) -> None:
    shared = {**shared_environment(), "FAILING": failing, "FUNCTION": function}
    arguments = train_command(config_path, tmp_path / "run", *OVERRIDES)[3:]
    with ExitStack() as stack:
        processes = []
        for rank in ("0", "1"):
            process = subprocess.Popen(
                [sys.executable, "-c", FAILING_PROGRAM, *arguments, "--quiet"],
                stderr=subprocess.PIPE,
                text=True,
                env=one_thread(**shared, RANK=rank, LOCAL_RANK=rank),
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        for rank, process in zip(("0", "1"), processes, strict=True):
            _, stderr = process.communicate(timeout=300)
            assert process.returncode == 1, stderr
            errors = [line for line in stderr.splitlines() if line.startswith("mt: ")]
            assert "Traceback" not in stderr
            expected = "a fault of its own" if rank == failing else "another rank has ended"
            assert [expected in error for error in errors] == [True]


# Starts one rank of two, prints its process id, and is killed while the rank waits for the other.
LAUNCHER = """
import subprocess, sys, time
print(subprocess.Popen(sys.argv[1:]).pid, flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_rank_ends_when_its_launcher_is_killed_at_the_start(
    config_path: Path, tmp_path: Path, rank: str
) -> None:
    program = (
        "import mt.distributed as d; from pathlib import Path; join = d._join_ranks;"
        f"d._join_ranks = lambda b: (Path({str(tmp_path / 'waits')!r}).touch(), join(b));"
        "d.open_runtime('cpu')"
    )
    environment = one_thread(**shared_environment(), RANK=rank, LOCAL_RANK=rank)
    command = [sys.executable, "-c", LAUNCHER, sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as launcher:
        assert launcher.stdout is not None
        process_id = int(launcher.stdout.readline())
        try:
            wait_until((tmp_path / "waits").exists)
            launcher.kill()
            wait_until(lambda: not is_running(process_id))
        finally:
            launcher.kill()
            if is_running(process_id):
                os.kill(process_id, signal.SIGKILL)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(process_id: int) -> bool:
    """Return whether a process exists that is no zombie."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
