"""Compare the training speed of `mt` with that of a plain loop, at the same work.

`mt`, in the number format that `mt train` would choose, is compared with plain_loop.py, which
trains torch.nn.Transformer in float32. Both have the same data, the same batches and the same
model. Each runs in a process of its own and may use all threads. They take turns: one trains for a
block of updates while the other waits, so that both suffer the same from what else a shared machine
does. The first updates do not count. Printed are, the ratio first:

- target tokens per second without padding: medians over the blocks, and the median ratio of
  neighboring blocks
- the most memory that each process ever had (on a GPU: its tensors)
- the share of the machine's peak: useful floating point operations per second, divided by those of
  a product of two square matrices, measured right after each block. Useful operations are those of
  real tokens, see useful_flops in train_worker.py.
- the validation nll of both, after the warm-up and at the end: speed is worth nothing if less is
  learned
- the time that `mt` spends in each part of an update; the gradient of the loss with respect to the
  logits counts as loss

With --nll-after nothing is timed: both train at the same time, and their validation nll is printed
after the given numbers of updates.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mt.cli.process import SETTINGS
from mt.config.load import load_config
from mt.config.schema import Config
from mt.model.feed_forward import ACTIVATIONS
from mt.storage.run_dir import RunDir
from scripts.benchmarks.train_worker import MT, PLAIN_LOOP, Block, prepare_run, serve

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS: dict[str, dict[str, str]] = {MT: SETTINGS, PLAIN_LOOP: {}}


class Worker:
    """A contestant in a process of its own."""

    def __init__(self, name: str, config: Config, run: RunDir, num_threads: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, worker_end = context.Pipe()
        self.process = context.Process(
            target=serve, args=(worker_end, name, config, run, num_threads), daemon=True
        )
        with environment(ENVIRONMENTS[name]):
            self.process.start()
        worker_end.close()
        print(f"{name}: {self.receive()}", flush=True)

    def send(self, command: str, num_updates: int = 0) -> None:
        self.connection.send((command, num_updates))

    def receive(self) -> Any:
        return self.connection.recv()

    def request(self, command: str, num_updates: int = 0) -> Any:
        """Send a request and wait for its answer."""
        self.send(command, num_updates)
        return self.receive()

    def stop(self) -> None:
        self.connection.send(None)
        self.process.join()


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def require_equal_work(config: Config) -> None:
    """Exit with a message if the config asks for something that the plain loop does not have."""
    model = config.model
    train = config.train
    embedding_dropout = model.embedding_dropout or model.dropout
    plain_activation = model.activation if model.activation in ACTIVATIONS else "relu"
    values = {  # key: (value in the config, value in the plain loop)
        "tokenizer.joint": (config.tokenizer.joint, True),
        "model.norm": (model.norm, "pre"),
        "model.norm_kind": (model.norm_kind, "layer_norm"),
        "model.activation": (model.activation, plain_activation),
        "model.tie_embeddings": (model.tie_embeddings, "all"),
        "model.self_attention": (model.self_attention, "dot_product"),
        "model.cross_attention": (model.cross_attention, "dot_product"),
        "model.attention_dropout": (model.attention_dropout, model.dropout),
        "model.activation_dropout": (model.activation_dropout, model.dropout),
        "model.embedding_dropout": (embedding_dropout, model.dropout),
        "model.token_dropout": (model.token_dropout, 0.0),
        "train.r_drop": (train.r_drop, 0.0),
        "train.teacher": (train.teacher, ()),
        "train.optimizer": (train.optimizer, "adam"),
        "train.weight_decay": (train.weight_decay, 0.0),
        "train.gradient_accumulation": (train.gradient_accumulation, 1),
    }
    for key, (found, wanted) in values.items():
        if found != wanted:
            sys.exit(f"{key}: found {found}, but the plain loop has {wanted}")


# Printing


def print_nll(num_updates: int, workers: dict[str, Worker]) -> None:
    """Print the validation nll of all workers, in nats per target token."""
    values = [f"{name} {worker.request('nll'):.3f}" for name, worker in workers.items()]
    print(f"nll after {num_updates:,} updates: {', '.join(values)}", flush=True)


def print_speed(blocks: dict[str, list[Block]]) -> None:
    """Print the ratio of both speeds, and a row for each contestant."""
    ratios = []
    for ours, plain in zip(blocks[MT], blocks[PLAIN_LOOP], strict=True):
        ratios.append(ours.tokens_per_second / plain.tokens_per_second)
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print(
        f"{MT} / {PLAIN_LOOP}, target tokens/s: {median:.2f} "
        f"(half of the blocks {low:.2f} to {high:.2f})"
    )
    print(f"{'':<10} {'tokens/s':>9} {'peak GB':>8} {'of matmul peak':>15} {'peak TFLOP/s':>13}")
    for name, measured in blocks.items():
        speed = statistics.median(block.tokens_per_second for block in measured)
        share = statistics.median(block.share_of_peak for block in measured)
        gigabytes = max(block.peak_bytes for block in measured) / 1e9
        teraflops = max(block.peak_flops for block in measured) / 1e12
        print(
            f"{name:<10} {speed:>9,.0f} {gigabytes:>8.2f} {share:>15.1%} {teraflops:>13.2f}",
            flush=True,
        )


def print_parts(parts: dict[str, float]) -> None:
    """Print how long `mt` spends in each part of an update, given in seconds."""
    if not parts:
        print(f"an update of {MT} cannot be divided into parts when it is compiled")
        return
    total = sum(parts.values())
    listed = [
        f"{part} {1000 * seconds:.0f} ms ({seconds / total:.0%})" for part, seconds in parts.items()
    ]
    print(f"an update of {MT}: {', '.join(listed)}")


# The two measurements


def block_starts(num_updates: int, block_size: int) -> Iterator[int]:
    """Yield the first update of each block, with a progress bar on a terminal."""
    starts = range(0, num_updates, block_size)
    yield from tqdm(starts, unit="block", dynamic_ncols=True, disable=None)


def compare_speed(
    workers: dict[str, Worker], *, warm_up: int, updates: int, block_size: int
) -> None:
    """Let the workers train in turns, one block each, and print what was measured."""
    blocks: dict[str, list[Block]] = {name: [] for name in workers}
    for start in block_starts(warm_up + updates, block_size):
        if start == warm_up:
            print_nll(start, workers)
        for name, worker in workers.items():
            block = worker.request("train", block_size)
            if start >= warm_up:
                blocks[name].append(block)
    print_nll(warm_up + updates, workers)
    print_speed(blocks)
    print_parts(workers[MT].request("time_parts", block_size))


def compare_nll(workers: dict[str, Worker], *, nll_after: list[int], block_size: int) -> None:
    """Let the workers train at the same time, and print their nll after some numbers of updates."""
    for start in block_starts(max(nll_after), block_size):
        for worker in workers.values():
            worker.send("train", block_size)
        for worker in workers.values():
            worker.receive()
        if start + block_size in nll_after:
            print_nll(start + block_size, workers)


# The command line


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py train`."""
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "benchmark.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--warm-up", type=int, default=300, help="updates that do not count  [default: 300]"
    )
    parser.add_argument("--updates", type=int, default=300, help="updates that do  [default: 300]")
    parser.add_argument("--block", type=int, default=10, help="updates in a block  [default: 10]")
    parser.add_argument(
        "--nll-after",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="do not measure time; print the validation nll after N updates",
    )
    parser.add_argument("--threads", type=int, help="[default: PyTorch's own]")


def main(options: argparse.Namespace) -> None:
    """Run `benchmark.py train`."""
    config = load_config(options.config, options.set)
    require_equal_work(config)
    for number in (options.warm_up, options.updates, *options.nll_after):
        if number % options.block != 0:
            sys.exit(
                f"--warm-up, --updates and --nll-after: found {number}; "
                f"wanted a multiple of --block, {options.block}"
            )
    if options.updates < 2 * options.block:
        sys.exit(f"--updates: found {options.updates}; wanted at least two blocks")

    with tempfile.TemporaryDirectory() as directory:
        run = RunDir(Path(directory))
        prepare_run(config, run)
        workers = {name: Worker(name, config, run, options.threads) for name in ENVIRONMENTS}
        if options.nll_after:
            compare_nll(workers, nll_after=options.nll_after, block_size=options.block)
        else:
            compare_speed(
                workers,
                warm_up=options.warm_up,
                updates=options.updates,
                block_size=options.block,
            )
        for worker in workers.values():
            worker.stop()
