"""Training in two processes gives the result of one process with larger updates."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from copy_task import write_copy_task
from forked import ForkedProcess, run_mt
from runs import (
    CONFIG,
    assert_same_run,
    checkpoint_path,
    configure,
    one_thread,
    read_lines_without_timing,
    train,
    train_command,
    train_until,
)
from safetensors.torch import load_file
from torch.testing import assert_close

import mt.distributed
from mt.distributed import open_runtime
from mt.errors import DeviceError, RunDirError
from mt.kernels.dispatch import use_reference
from mt.training.run import run_training
from mt.training.trainer import Trainer

# The program of one rank of torchrun. Rank KILLED_RANK kills itself before update 5, but not when
# torchrun has restarted it. Under the name of its process id, each process leaves a file in
# PROCESSES.
RANK_PROGRAM = """
import os, signal
from pathlib import Path
from mt.cli.process import run
from mt.training.trainer import Trainer

original_update = Trainer.update
is_first_start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
is_killed = is_first_start and os.environ["RANK"] == os.environ.get("KILLED_RANK")

def update(trainer, epoch, indices):
    if is_killed and trainer.state.step + 1 == 5:
        signal.raise_signal(signal.SIGKILL)
    original_update(trainer, epoch, indices)

Trainer.update = update
Path(os.environ["PROCESSES"], str(os.getpid())).touch()
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


TIMEOUT = 300  # seconds that a process may take; then the test fails and all of them are killed


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def rank_environment(rank: str, *, port: str) -> dict[str, str]:
    """Return the environment that torchrun gives to one of two ranks."""
    return one_thread(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
        WORLD_SIZE="2",
        RANK=rank,
        LOCAL_RANK=rank,
        GLOO_SOCKET_IFNAME="lo",
    )


@contextmanager
def start_two_ranks(
    arguments: Sequence[str], directory: Path, *, prepare: Callable[[int], None] = lambda rank: None
) -> Iterator[list[ForkedProcess]]:
    """Start `mt` on two ranks as torchrun does, and kill them at the end of the `with` block.

    Each rank first calls `prepare` with its number, and prints to a file in `directory`.
    """
    port = free_port()
    with ExitStack() as stack:
        processes = []
        for rank in (0, 1):
            start = partial(run_rank, rank, arguments, port=port, prepare=prepare)
            process = ForkedProcess(start, output=directory / f"rank_{rank}.log")
            stack.callback(process.kill)
            processes.append(process)
        yield processes


def run_rank(
    rank: int, arguments: Sequence[str], *, port: str, prepare: Callable[[int], None]
) -> None:
    """Run the command `mt` as one of two ranks. It is for a process of its own."""
    prepare(rank)
    run_mt(arguments, variables=rank_environment(str(rank), port=port))


def send_signal_before_update(step: int, number: signal.Signals) -> None:
    """Make this process send itself a signal before an update."""
    original_update = Trainer.update

    def update(trainer: Trainer, epoch: Any, indices: range) -> None:
        if trainer.state.step + 1 == step:
            signal.raise_signal(number)
        original_update(trainer, epoch, indices)

    Trainer.update = update  # type: ignore[method-assign]


def use_reference_kernels(rank: int) -> None:
    use_reference().__enter__()


def train_arguments(config_path: Path, run_dir: Path, *overrides: str) -> list[str]:
    """Return the command line of `mt train` from its word `train` on."""
    command = train_command(config_path, run_dir, *overrides)
    return command[command.index("train") :]


def errors_in(stderr: str) -> list[str]:
    """Return the lines that tell the user of an error."""
    return [line for line in stderr.splitlines() if line.startswith("mt: ")]


def train_on_two_ranks(
    config_path: Path,
    run_dir: Path,
    *,
    signal_rank: int | None = None,
    prepare: Callable[[int], None] = lambda rank: None,
    overrides: Sequence[str] = OVERRIDES,
    options: Sequence[str] = (),
) -> None:
    """Train on two ranks. Only `signal_rank` gets SIGTERM, before update 5.

    Each rank first calls `prepare`. `options` are more options of `mt train`.
    """

    def prepare_rank(rank: int) -> None:
        prepare(rank)
        if rank == signal_rank:
            send_signal_before_update(5, signal.SIGTERM)

    expected_code = 0 if signal_rank is None else 128 + signal.SIGTERM
    arguments = [*train_arguments(config_path, run_dir, *overrides), *options]
    with start_two_ranks(arguments, run_dir.parent, prepare=prepare_rank) as processes:
        for process in processes:
            assert process.wait(TIMEOUT) == expected_code, process.output()


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture(scope="module")
def stopped(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on two ranks that was stopped between two logged lines.

    Rank 1 got the signal, and both stopped.
    """
    run_dir = tmp_path_factory.mktemp("stopped")
    train_on_two_ranks(config_path, run_dir, signal_rank=1)
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
    assert len(logged_scores(two_ranks)) == 3
    assert logged_scores(two_ranks) == logged_scores(one_rank)


def test_two_ranks_equal_one_rank_with_reference_kernels(config_path: Path, tmp_path: Path) -> None:
    """The kernels of a GPU in DistributedDataParallel."""
    two_ranks = tmp_path / "two_ranks"
    train_on_two_ranks(config_path, two_ranks, prepare=use_reference_kernels)
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


def logged_scores(run_dir: Path) -> list[tuple[float, float]]:
    """Return BLEU and chrF of the validations and of the end of the run."""
    lines = read_lines_without_timing(run_dir)
    return [(line["BLEU"], line["chrF"]) for line in lines if "BLEU" in line]


def test_run_of_two_ranks_resumes_on_one(
    config_path: Path, stopped: Path, two_ranks: Path, tmp_path: Path
) -> None:
    """It was stopped between two logged lines, so rank 0 must take over the losses of rank 1."""
    run_dir = Path(shutil.copytree(stopped, tmp_path / "run"))
    train(configure(config_path, run_dir, *OVERRIDES))
    assert_equal_runs(run_dir, two_ranks)
    assert "on 1 rank after 2" in (run_dir / "metrics.jsonl").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("failing", [0, 1])
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
    config_path: Path, tmp_path: Path, failing: int, function: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise DeviceError("this rank has a fault of its own")

    def make_function_fail(rank: int) -> None:
        if rank == failing:
            module, _, name = function.rpartition(".")
            setattr(import_module(module), name, fail)

    arguments = [*train_arguments(config_path, tmp_path / "run", *OVERRIDES), "--quiet"]
    with start_two_ranks(arguments, tmp_path, prepare=make_function_fail) as processes:
        for rank, process in enumerate(processes):
            assert process.wait(TIMEOUT) == 1, process.output()
            assert "Traceback" not in process.output()
            expected = "a fault of its own" if rank == failing else "another rank has ended"
            assert [expected in error for error in errors_in(process.output())] == [True]


@pytest.mark.parametrize("killed", [0, 1])
def test_rank_that_is_killed_ends_the_other_with_one_line(
    config_path: Path, tmp_path: Path, killed: int
) -> None:
    """Nothing is left to wait for: the other one ends long before a timeout."""

    def prepare(rank: int) -> None:
        if rank == killed:
            send_signal_before_update(3, signal.SIGKILL)

    arguments = [*train_arguments(config_path, tmp_path / "run", *OVERRIDES), "--quiet"]
    with start_two_ranks(arguments, tmp_path, prepare=prepare) as processes:
        other = processes[1 - killed]
        assert other.wait(TIMEOUT) == 1
        assert ["another rank has ended" in error for error in errors_in(other.output())] == [True]
        assert "Traceback" not in other.output()
        assert processes[killed].wait(TIMEOUT) == -signal.SIGKILL


# torchrun


class Ended(NamedTuple):
    """A torchrun that has ended."""

    code: int
    stderr: str


def run_torchruns(
    options_of_torchruns: Sequence[Sequence[str]],
    arguments: Sequence[str],
    *,
    directory: Path,
    variables: Mapping[str, str],
) -> list[Ended]:
    """Run a torchrun for each list of options, all at the same time and for one training.

    Each rank leaves a file in `directory`/processes. When this function returns or raises, no rank
    runs any more.
    """
    program = directory / "rank.py"
    program.write_text(RANK_PROGRAM, encoding="utf-8")
    (directory / "processes").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run"]
    command += ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    environment = one_thread(
        GLOO_SOCKET_IFNAME="lo", PROCESSES=str(directory / "processes"), **variables
    )
    with ExitStack() as stack:
        stack.callback(kill_ranks, program)
        torchruns = []
        for options in options_of_torchruns:
            process = subprocess.Popen(
                [*command, *options, str(program), *arguments],
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            torchruns.append(process)
        ended = []
        for process in torchruns:
            _, stderr = process.communicate(timeout=TIMEOUT)
            ended.append(Ended(process.returncode, stderr))
        assert running_ranks(program) == [], "torchrun has ended, and its ranks have not"
    return ended


def running_ranks(program: Path) -> list[int]:
    """Return the ids of the processes that have `program` in their command line."""
    running = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            if os.fsencode(program) in path.read_bytes().split(b"\0"):
                running.append(int(path.parent.name))
    return running


def kill_ranks(program: Path) -> None:
    """Kill the ranks that run `program`, which outlive a torchrun that is killed."""
    for process_id in running_ranks(program):
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)


def test_restarted_ranks_resume_after_one_was_killed(
    config_path: Path, two_ranks: Path, tmp_path: Path
) -> None:
    """Rank 1 is killed in update 5. The restarted ranks resume from update 4."""
    run_dir = tmp_path / "run"
    options = ["--nproc-per-node=2", "--max-restarts=1"]
    arguments = train_arguments(config_path, run_dir, *OVERRIDES, "train.save_every=2")
    variables = {"KILLED_RANK": "1"}
    (ended,) = run_torchruns([options], arguments, directory=tmp_path, variables=variables)
    # torchrun tells of the killed rank, and may end rank 0 before that has shown its own line.
    errors = errors_in(ended.stderr)
    assert len(errors) <= 1
    assert all("another rank has ended" in error for error in errors), ended.stderr
    assert ended.code == 0, ended.stderr
    assert "resuming from update 4 " in ended.stderr
    assert_same_run(run_dir, two_ranks)
    assert len(list((tmp_path / "processes").iterdir())) == 4


def test_two_machines_equal_one(config_path: Path, two_ranks: Path, tmp_path: Path) -> None:
    """Each "machine" is a torchrun of its own with one process."""
    run_dir = tmp_path / "run"
    options = ["--nnodes=2", "--nproc-per-node=1"]
    machines = run_torchruns(
        [[*options, "--node-rank=0"], [*options, "--node-rank=1"]],
        train_arguments(config_path, run_dir, *OVERRIDES),
        directory=tmp_path,
        variables={},
    )
    for machine in machines:
        assert machine.code == 0, machine.stderr
    assert_same_run(run_dir, two_ranks)


def test_fresh_is_refused_where_torchrun_restarts(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each restart would begin again."""
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    with pytest.raises(RunDirError, match="--max-restarts"):
        run_training(configure(config_path, tmp_path / "run"), fresh=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_rank_ends_when_its_launcher_is_killed_at_the_start(tmp_path: Path, rank: str) -> None:
    """The launcher starts one rank of two, and is killed while that rank waits for the other."""
    output = tmp_path / "log"
    id_path = tmp_path / "process_id"
    environment = rank_environment(rank, port=free_port())
    join_ranks = mt.distributed._join_ranks

    def write_id_and_join(backend: str) -> None:
        written = output.with_name("written")
        written.write_text(str(os.getpid()), encoding="utf-8")
        written.rename(id_path)
        join_ranks(backend)

    def run_rank() -> None:
        os.environ.update(environment)
        mt.distributed._join_ranks = write_id_and_join
        open_runtime("cpu")

    def launch() -> None:
        ForkedProcess(run_rank, output=output).wait()

    launcher = ForkedProcess(launch, output=output)
    try:
        wait_until(id_path.exists)
    finally:
        launcher.kill()
    process_id = int(id_path.read_text(encoding="utf-8"))
    try:
        wait_until(lambda: not is_running(process_id))
    finally:
        with suppress(ProcessLookupError):
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
