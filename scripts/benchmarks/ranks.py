"""Compare the training speed of two processes of one thread with that of one, at equal work.

    python -m scripts.benchmarks.ranks --config configs/toy.yaml

Two processes that torchrun starts share the batches of each update; the one process computes all of
them. They take turns, so that both suffer the same from what else a shared machine does. Printed
are updates and target tokens per second, from metrics.jsonl: those of the first updates, and of
validations, do not count. The ratios of neighboring turns come last, with their median.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mt.config.load import load_config
from mt.storage.run_dir import RunDir
from mt.training.metrics_log import read_metrics_log

ROOT = Path(__file__).resolve().parents[2]
LOG_EVERY = 10
STOP_SECONDS = 60.0  # a training that was asked to stop must end within this time


class Speed(NamedTuple):
    """The speed of one training."""

    updates_per_second: float
    tokens_per_second: float  # target tokens


def launcher(num_ranks: int) -> list[str]:
    """Return the start of a command that runs a module in `num_ranks` processes."""
    if num_ranks == 1:
        return [sys.executable]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    command = [sys.executable, "-m", "torch.distributed.run", *address]
    return [*command, f"--nproc-per-node={num_ranks}"]


def train_command(
    config_path: Path, run_dir: RunDir, overrides: Sequence[str], *, num_ranks: int, last: int
) -> list[str]:
    """Return the command of a training in which an update has the batches of two ranks."""
    accumulation = load_config(config_path, overrides).train.gradient_accumulation
    settings = [
        *overrides,
        f"train.gradient_accumulation={2 * accumulation // num_ranks}",
        f"train.max_steps={2 * last}",  # it is stopped before
        "train.max_minutes=null",
        "train.max_epochs=null",
        f"train.validate_every={2 * last}",
        f"train.log_every={LOG_EVERY}",
        "train.device=cpu",
    ]
    command = [*launcher(num_ranks), "-m", "mt", "train", str(config_path), "--quiet"]
    command += ["--run-dir", str(run_dir.path)]
    for setting in settings:
        command += ["--set", setting]
    return command


def measure_speed(command: Sequence[str], run_dir: RunDir, *, first: int, last: int) -> Speed:
    """Run a training until update `last`, and return its speed after update `first`."""
    environment = {"GLOO_SOCKET_IFNAME": "lo", **os.environ, "OMP_NUM_THREADS": "1"}
    messages_path = run_dir.path.with_suffix(".stderr")
    with messages_path.open("wb") as messages:
        process = subprocess.Popen(command, env=environment, stderr=messages)
    try:
        while True:
            lines = {line["step"]: line for line in read_metrics_log(run_dir.metrics_path).train}
            if last in lines:
                break
            if process.poll() is not None:
                sys.exit(f"{messages_path.read_text(errors='replace')}the training ended too early")
            time.sleep(0.2)
        process.terminate()
        process.wait(timeout=STOP_SECONDS)
    finally:
        process.kill()
        process.wait()
    start, end = lines[first], lines[last]
    seconds = end["timing"]["elapsed_seconds"] - start["timing"]["elapsed_seconds"]
    num_tokens = end["tokens_seen"] - start["tokens_seen"]
    return Speed((last - first) / seconds, num_tokens / seconds)


def compare(
    config_path: Path, overrides: Sequence[str], *, turns: int, first: int, last: int
) -> None:
    """Print the speeds of all turns, and their ratios."""
    ratios = []
    for _ in range(turns):
        speeds = {}
        for num_ranks in (1, 2):
            with tempfile.TemporaryDirectory() as directory:
                run_dir = RunDir(Path(directory) / "run")
                command = train_command(
                    config_path, run_dir, overrides, num_ranks=num_ranks, last=last
                )
                speed = measure_speed(command, run_dir, first=first, last=last)
            speeds[num_ranks] = speed
            print(
                f"{num_ranks} x 1 thread: {speed.updates_per_second:.2f} updates/s, "
                f"{speed.tokens_per_second:,.0f} target tokens/s",
                flush=True,
            )
        ratios.append(speeds[2].tokens_per_second / speeds[1].tokens_per_second)
    listed = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"2 / 1: {listed}; median {statistics.median(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "toy.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--turns", type=int, default=3, help="[default: 3]")
    parser.add_argument(
        "--warm-up", type=int, default=20, help="updates that do not count  [default: 20]"
    )
    parser.add_argument("--updates", type=int, default=100, help="updates that do  [default: 100]")
    options = parser.parse_args()
    for number in (options.warm_up, options.updates):
        if number < LOG_EVERY or number % LOG_EVERY != 0:
            parser.error(f"--warm-up and --updates: found {number}; wanted a multiple of 10")
    last = options.warm_up + options.updates
    compare(options.config, options.set, turns=options.turns, first=options.warm_up, last=last)


if __name__ == "__main__":
    main()
