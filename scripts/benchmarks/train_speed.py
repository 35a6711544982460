"""How fast does `mt` train? Measured beside a plain loop, on the same machine, in the same minutes, at the same work.

Our loop, in the number format that `mt train` would choose, races that of `plain_loop.py`, torch.nn.Transformer
in float32: same data, batches and model, each in a process of its own that has all the threads. They take turns, a
block of updates each while the other waits, so that both meet the same weather of a shared machine. The first updates
do not count. It prints, the ratio first:

- target tokens a second without padding: medians over blocks, and the median ratio of two blocks side by side
- the most memory that each process ever had (of a GPU: its tensors)
- the share of the machine's own peak: useful floating point operations a second, over those of a product of two square
  matrices, each block with the quickest of some products right after it. Useful are, for every real token, 6 for each
  weight that it meets in a matrix product (2 forward, 4 backward), and 12 * d_model * length in each attention (scores
  and mixing, forward and backward; also what a causal mask hides); nothing for padding.
- the validation nll of both, after the warm-up and at the end: speed is no selection_score if less is learned
- what an update of ours is made of: the gradient of the loss with respect to the logits counts as loss

With `--course` nobody is timed: both learn side by side, and their validation nll is printed after so many updates.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from tqdm import tqdm

from mt.cli.process import SETTINGS
from mt.config.load import load_config
from mt.config.schema import Config, ModelConfig
from mt.data.batching import Batch
from mt.data.dataset import Epoch
from mt.data.eval_set import load_eval_set, training_files
from mt.distributed import Runtime, open_runtime
from mt.experiment import (
    encode_training_set,
    encode_validation_set,
    load_tokenizers,
    make_tokenizers,
    open_epoch,
)
from mt.storage.run_dir import RunDir
from mt.training.objective import mean_nll
from mt.training.run import make_trainer
from scripts.benchmarks.plain_loop import PlainTrainer

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("data", "forward", "loss", "backward", "optimizer")
ENVIRONMENTS: dict[str, dict[str, str]] = {"ours": SETTINGS, "baseline": {}}


class Block(NamedTuple):
    """What a few updates came to, and the machine's peak right after them."""

    tokens: int  # target, without padding
    flops: float  # useful ones
    seconds: float
    peak: float  # floating point operations a second
    memory: int  # bytes, the most so far (of a GPU: in these updates)

    @property
    def speed(self) -> float:
        """Target tokens a second."""
        return self.tokens / self.seconds

    @property
    def share(self) -> float:
        """Of the peak."""
        return self.flops / self.seconds / self.peak


# What runs in the two processes


class Racer(Protocol):
    """A model that learns; both methods return when the device has done its work."""

    def update(self, epoch: Epoch, indices: range) -> None:
        """One update for each of the epoch's batches `indices`."""

    def nll(self, batches: list[Batch]) -> float:
        """Unsmoothed, in nats per target token."""


class Ours:
    """The loop of `mt train`, without validations and checkpoints."""

    def __init__(self, config: Config, run: RunDir, runtime: Runtime) -> None:
        self.trainer, self.runtime = make_trainer(config, run, runtime, has_begun=True), runtime

    def update(self, epoch: Epoch, indices: range) -> None:
        self.trainer.wrapped.train()
        for index in indices:
            self.trainer.update(epoch, range(index, index + 1))
        synchronize(self.runtime)

    def nll(self, batches: list[Batch]) -> float:
        self.trainer.model.eval()
        return mean_nll(self.trainer.model, batches, self.runtime)

    def time_parts(self, epoch: Epoch, num_updates: int) -> dict[str, float]:
        """Seconds that an update spends in each of PARTS, the median of some."""
        trainer, runtime = self.trainer, self.runtime
        watch = Stopwatch(runtime)
        trainer.wrapped.train()
        hook = trainer.model.transformer.register_forward_hook(lambda *_: watch.lap("forward"))
        for index in range(num_updates):
            watch.lap(None)
            batch = epoch.batch(index).to(runtime.device)
            watch.lap("data")
            with runtime.autocast():
                sums = trainer.model(batch)
            watch.lap("loss")
            trainer.scaler.scale(sums.loss / sums.num_tokens).backward()
            watch.lap("backward")
            trainer._step(sums.loss.detach(), sums.nll, sums.num_tokens)
            watch.lap("optimizer")
        hook.remove()
        return {part: statistics.median(watch.seconds[part]) for part in PARTS}


class Baseline:
    """The plain loop."""

    def __init__(self, config: Config, run: RunDir, runtime: Runtime) -> None:
        _, tgt = load_tokenizers(config, run)
        self.trainer = PlainTrainer(
            config, vocab_size=tgt.vocab_size, pad_id=tgt.pad_id, device=runtime.device
        )
        self.runtime = runtime

    def update(self, epoch: Epoch, indices: range) -> None:
        for index in indices:
            self.trainer.update(epoch.batch(index))
        synchronize(self.runtime)

    def nll(self, batches: list[Batch]) -> float:
        return self.trainer.mean_nll(batches)


@dataclass
class Stopwatch:
    """Where the time goes."""

    runtime: Runtime
    seconds: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    began: float = 0.0

    def lap(self, part: str | None) -> None:
        """What was since the last lap was `part`."""
        synchronize(self.runtime)
        now = time.perf_counter()
        if part is not None:
            self.seconds[part].append(now - self.began)
        self.began = now


def synchronize(runtime: Runtime) -> None:
    """Wait until the device has done all that it was given."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()


def forget_peak_memory(runtime: Runtime) -> None:
    """Count a GPU's anew; that of a process cannot be."""
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def race(
    connection: Connection, name: str, config: Config, run: RunDir, threads: int | None
) -> None:
    """The life of a child: answers ("update", n), ("nll", 0) and ("parts", n); None is the end."""
    if threads is not None:
        torch.set_num_threads(threads)
    runtime = open_runtime(
        config.train.device, config.train.precision if name == "ours" else "fp32"
    )
    racer = Ours(config, run, runtime) if name == "ours" else Baseline(config, run, runtime)
    src, tgt = load_tokenizers(config, run)
    corpus = encode_training_set(config, run, training_files(config.data), src, tgt)
    valid = encode_validation_set(
        load_eval_set(config.data.valid, config.data), src, tgt, config=config
    )
    batch_tokens, number, at = config.train.batch_tokens, 0, 0
    epoch, whole = (
        open_epoch(0, config, pairs, src, tgt, batch_tokens=batch_tokens)
        for pairs in (corpus, valid)
    )
    num_parameters = sum(parameter.numel() for parameter in racer.trainer.model.parameters())
    connection.send(f"{num_parameters:,} parameters, {runtime.device.type}, {runtime.precision}")
    while (order := connection.recv()) is not None:
        word, num_updates = order
        if word == "nll":
            connection.send(
                racer.nll([whole.batch(index) for index in range(whole.plan.num_batches)])
            )
        elif word == "parts":
            assert isinstance(racer, Ours), name
            connection.send({} if config.train.compile else racer.time_parts(epoch, num_updates))
        else:
            assert num_updates <= epoch.plan.num_batches, "a block is longer than an epoch"
            if at + num_updates > epoch.plan.num_batches:  # the last few are left out
                number, at = number + 1, 0
                epoch = open_epoch(number, config, corpus, src, tgt, batch_tokens=batch_tokens)
            indices = range(at, at + num_updates)
            forget_peak_memory(runtime)
            began = time.perf_counter()
            racer.update(epoch, indices)
            seconds = time.perf_counter() - began
            batches = [epoch.batch(index) for index in indices]
            flops = sum(
                useful_flops(config.model, each, src.pad_id, tgt.vocab_size) for each in batches
            )
            memory = runtime.peak_memory()  # before the matrices of the peak
            tokens = sum(each.num_tokens for each in batches)
            connection.send(Block(tokens, flops, seconds, matmul_peak(runtime), memory))
            at = indices.stop


def useful_flops(model: ModelConfig, batch: Batch, pad_id: int, vocab_size: int) -> float:
    """Floating point operations that a batch asks for, forward and backward, without padding (see above)."""
    src, tgt = (
        (ids != pad_id).sum(1).double() for ids in (batch.src, batch.tgt_out)
    )  # (batch,): lengths
    width, square, inner = model.d_model, model.d_model**2, 2 * model.d_model * model.d_ff
    encoder = 6 * (4 * square + inner) * src + 12 * width * src * src
    decoder = 6 * ((6 * square + inner) * tgt + 2 * square * src) + 12 * width * (
        tgt * tgt + tgt * src
    )
    output = 6 * width * vocab_size * tgt
    return float(
        (model.num_encoder_layers * encoder + model.num_decoder_layers * decoder + output).sum()
    )


def matmul_peak(runtime: Runtime, *, num_tries: int = 3) -> float:
    """Floating point operations a second in a product of two square matrices, the quickest of some."""
    size = 8192 if runtime.device.type == "cuda" else 2048
    generator = torch.Generator(runtime.device)  # not that of dropout
    # All alike, a GPU would multiply them at less power, and so faster, than it ever does in earnest.
    squares = (
        torch.randn(size, size, generator=generator, device=runtime.device) for _ in range(2)
    )
    a, b = (square.to(runtime.dtype) for square in squares)
    watch = Stopwatch(runtime)
    for _ in range(num_tries):
        watch.lap(None)
        torch.mm(a, b)
        watch.lap(PARTS[0])
    return 2 * size**3 / min(watch.seconds[PARTS[0]])


# What asks them


class Child:
    """A racer in a process of its own."""

    def __init__(self, name: str, config: Config, run: RunDir, threads: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=race, args=(theirs, name, config, run, threads), daemon=True
        )
        before = dict(os.environ)
        os.environ.update(ENVIRONMENTS[name])
        self.process.start()
        os.environ.clear()
        os.environ.update(before)
        theirs.close()
        print(f"{name}: {self.connection.recv()}", flush=True)

    def __call__(self, word: str, number: int = 0) -> Any:
        """Order, and wait for the answer."""
        self.order(word, number)
        return self.connection.recv()

    def order(self, word: str, number: int) -> None:
        """The answer is still to be received."""
        self.connection.send((word, number))

    def end(self) -> None:
        self.connection.send(None)
        self.process.join()


def require_equal_work(config: Config) -> None:
    """Leave for a config that the plain loop cannot follow."""
    model, training = config.model, config.train
    followed = {
        "tokenizer.joint": (config.tokenizer.joint, True),
        "model.norm": (model.norm, "pre"),
        "model.tie_embeddings": (model.tie_embeddings, "all"),
        "model.self_attention": (model.self_attention, "dot_product"),
        "model.cross_attention": (model.cross_attention, "dot_product"),
        "model.attention_dropout": (model.attention_dropout, model.dropout),
        "model.activation_dropout": (model.activation_dropout, model.dropout),
        "model.embedding_dropout": (model.embedding_dropout or model.dropout, model.dropout),
        "train.optimizer": (training.optimizer, "adam"),
        "train.weight_decay": (training.weight_decay, 0.0),
        "train.gradient_accumulation": (training.gradient_accumulation, 1),
    }
    for key, (found, wanted) in followed.items():
        if found != wanted:
            sys.exit(f"{key}: the plain loop has {wanted}, found {found}")


def report(blocks: dict[str, list[Block]]) -> None:
    """The ratio, and what stands behind it."""
    ratios = [ours.speed / plain.speed for ours, plain in zip(*blocks.values(), strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"ours over plain, target tokens a second: {middle:.2f} (half of the blocks {low:.2f} to {high:.2f})"
    )
    print(f"{'':<10} {'tokens/s':>9} {'peak GB':>8} {'of matmul peak':>15} {'peak TFLOP/s':>13}")
    for name, each in blocks.items():
        speed, share = (
            statistics.median(getattr(block, key) for block in each) for key in ("speed", "share")
        )
        memory, peak = (
            max(block.memory for block in each) / 1e9,
            max(block.peak for block in each) / 1e12,
        )
        print(f"{name:<10} {speed:>9,.0f} {memory:>8.2f} {share:>15.1%} {peak:>13.2f}", flush=True)


def show_nll(num_updates: int, children: dict[str, Child]) -> None:
    """Of the validation set, in nats per target token."""
    found = {name: round(child("nll"), 3) for name, child in children.items()}
    print(f"nll after {num_updates:,} updates: {found}", flush=True)


def run_race(children: dict[str, Child], *, warm_up: int, updates: int, block_size: int) -> None:
    """In turn, a block each; then what came of it."""
    blocks: dict[str, list[Block]] = {name: [] for name in children}
    for start in tqdm(
        range(0, warm_up + updates, block_size), unit="block", dynamic_ncols=True, disable=None
    ):
        if start == warm_up:
            show_nll(start, children)
        for name, child in children.items():
            block = child("update", block_size)
            if start >= warm_up:
                blocks[name].append(block)
    show_nll(warm_up + updates, children)
    report(blocks)
    parts = children["ours"]("parts", block_size)
    total = sum(parts.values())
    listed = ", ".join(
        f"{part} {1000 * parts[part]:.0f} ms ({parts[part] / total:.0%})" for part in parts
    )
    print(f"an update of ours: {listed or 'cannot be taken apart once it is compiled'}")


def run_course(children: dict[str, Child], *, marks: list[int], block_size: int) -> None:
    """Side by side, untimed."""
    for start in tqdm(
        range(0, marks[-1], block_size), unit="block", dynamic_ncols=True, disable=None
    ):
        for child in children.values():
            child.order("update", block_size)
        for child in children.values():
            child.connection.recv()
        if start + block_size in marks:
            show_nll(start + block_size, children)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What may be asked on the command line; `main` answers it."""
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "benchmark.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--warm-up", type=int, default=300, help="updates that do not count  [default: 300]"
    )
    parser.add_argument("--updates", type=int, default=300, help="updates that do  [default: 300]")
    parser.add_argument(
        "--block", type=int, default=10, help="updates of one side in turn  [default: 10]"
    )
    parser.add_argument(
        "--course",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="untimed: nll after N updates",
    )
    parser.add_argument("--threads", type=int, help="[default: PyTorch's own]")


def main(options: argparse.Namespace) -> None:
    """Race, or run the course, and print what came of it."""
    config = load_config(options.config, options.set)
    require_equal_work(config)
    if any(count % options.block for count in (options.warm_up, options.updates, *options.course)):
        sys.exit("--warm-up, --updates and --course are counted in whole blocks")
    if options.updates < 2 * options.block:
        sys.exit("--updates: wanted two blocks at least")
    with tempfile.TemporaryDirectory() as directory:
        run, files = RunDir(Path(directory)), training_files(config.data)
        make_tokenizers(config, run, files)
        encode_training_set(config, run, files, *load_tokenizers(config, run))
        children = {name: Child(name, config, run, options.threads) for name in ENVIRONMENTS}
        if options.course:
            run_course(children, marks=sorted(options.course), block_size=options.block)
        else:
            run_race(
                children, warm_up=options.warm_up, updates=options.updates, block_size=options.block
            )
        for child in children.values():
            child.end()
