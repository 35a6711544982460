"""The processes that train_speed.py compares: one trains with `mt`, one with plain_loop.py."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from mt.config.schema import Config, ModelConfig
from mt.data.batching import Batch
from mt.data.dataset import Dataset, Epoch
from mt.distributed import Runtime, open_runtime
from mt.experiment import Experiment, Tokenizers
from mt.storage.run_dir import RunDir
from mt.training.objective import mean_token_loss, token_losses
from mt.training.trainer import Trainer
from mt.training.validator import encode_eval_set
from scripts.benchmarks.plain_loop import PlainTrainer

MT = "mt"
PLAIN_LOOP = "plain loop"
PARTS = ("data", "forward", "loss", "backward", "optimizer")  # of an update


class Block(NamedTuple):
    """Measurements of a block of updates, and the machine's peak speed right after it."""

    num_tokens: int  # target tokens, without padding
    flops: float  # useful floating point operations, see useful_flops
    seconds: float
    peak_flops: float  # floating point operations per second, see matmul_peak
    peak_bytes: int  # the most memory of the process so far; on a GPU, of its tensors in this block

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def share_of_peak(self) -> float:
        """Useful operations per second as a share of the machine's peak."""
        return self.flops / self.seconds / self.peak_flops


# Data


class Data(NamedTuple):
    """The training and validation pairs, encoded with the run's tokenizers."""

    tokenizers: Tokenizers
    training: Dataset
    validation: Dataset


def prepare_run(config: Config, run: RunDir) -> None:
    """Train the tokenizers and encode the text, so that both processes only load the results."""
    experiment = Experiment(config, run)
    experiment.train_tokenizers()
    _ = experiment.training_data  # writes the cache


def load_data(config: Config, run: RunDir) -> Data:
    experiment = Experiment(config, run)
    tokenizers = experiment.tokenizers
    pairs = encode_eval_set(experiment.validation_sets[0], tokenizers, config.data.normalization)
    validation = Dataset(
        pairs,
        tokenizers.src,
        tokenizers.tgt,
        max_length=config.data.max_length,
        seed=config.train.seed,
        batching=config.train.batching,
    )
    return Data(tokenizers, experiment.training_data, validation)


def all_batches(epoch: Epoch) -> list[Batch]:
    return [epoch.batch(index) for index in range(epoch.plan.num_batches)]


class BlockReader:
    """Reads an endless training set in blocks of consecutive batches."""

    def __init__(self, dataset: Dataset, batch_tokens: int) -> None:
        self.dataset = dataset
        self.batch_tokens = batch_tokens
        self.number = 0
        self.epoch = dataset.epoch(0, batch_tokens=batch_tokens)
        self.position = 0

    def next(self, num_updates: int) -> tuple[Epoch, range]:
        """Return an epoch and the numbers of its next batches.

        The last batches of an epoch, which do not fill a block, are left out.
        """
        assert num_updates <= self.epoch.plan.num_batches, "a block is longer than an epoch"
        if self.position + num_updates > self.epoch.plan.num_batches:
            self.number += 1
            self.epoch = self.dataset.epoch(self.number, batch_tokens=self.batch_tokens)
            self.position = 0
        indices = range(self.position, self.position + num_updates)
        self.position = indices.stop
        return self.epoch, indices


# The two training loops


class Contestant(Protocol):
    """A training loop. Its methods return after the device has finished its work."""

    @property
    def model(self) -> nn.Module: ...

    def train(self, epoch: Epoch, indices: range) -> None:
        """Make one update with each of the epoch's batches `indices`."""

    def nll(self, batches: list[Batch]) -> float:
        """Return the negative log-likelihood without label smoothing, in nats per target token."""


class MtContestant:
    """The loop of `mt train`, without validation and checkpoints."""

    def __init__(self, config: Config, run: RunDir, runtime: Runtime) -> None:
        self.runtime = runtime
        self.trainer = Trainer.from_experiment(Experiment(config, run), runtime)

    @property
    def model(self) -> nn.Module:
        return self.trainer.objective

    def train(self, epoch: Epoch, indices: range) -> None:
        self.trainer.wrapped_objective.train()
        for index in indices:
            self.trainer.update(epoch, range(index, index + 1))
        synchronize(self.runtime)

    def nll(self, batches: list[Batch]) -> float:
        self.trainer.objective.eval()
        losses = token_losses(self.trainer.objective, batches, self.runtime.device)
        return mean_token_loss(losses)

    def time_parts(self, epoch: Epoch, num_updates: int) -> dict[str, float]:
        """Return the median seconds that an update spends in each of PARTS.

        The gradient of the loss with respect to the logits is computed with the loss, and counts as
        loss.
        """
        trainer = self.trainer
        stopwatch = Stopwatch(self.runtime)
        trainer.wrapped_objective.train()
        hook = trainer.objective.transformer.register_forward_hook(
            lambda *_: stopwatch.lap("forward")
        )
        for index in range(num_updates):
            stopwatch.restart()
            batch = epoch.batch(index).to(self.runtime.device)
            stopwatch.lap("data")
            sums = trainer.objective(batch)  # the hook ends the lap "forward"
            stopwatch.lap("loss")
            trainer.scaler.scale(sums.loss / sums.num_tokens).backward()
            stopwatch.lap("backward")
            trainer._optimizer_step()
            stopwatch.lap("optimizer")
        hook.remove()
        return {part: statistics.median(stopwatch.laps[part]) for part in PARTS}


class PlainContestant:
    """The plain loop."""

    def __init__(self, config: Config, data: Data, runtime: Runtime) -> None:
        tokenizer = data.tokenizers.tgt
        self.runtime = runtime
        self.trainer = PlainTrainer(
            config,
            vocab_size=tokenizer.vocab_size,
            pad_id=tokenizer.pad_id,
            device=runtime.device,
        )

    @property
    def model(self) -> nn.Module:
        return self.trainer.model

    def train(self, epoch: Epoch, indices: range) -> None:
        for index in indices:
            self.trainer.update(epoch.batch(index))
        synchronize(self.runtime)

    def nll(self, batches: list[Batch]) -> float:
        return self.trainer.mean_nll(batches)


# Measuring


@dataclass
class Stopwatch:
    """Measures the time between two points of a program, after the device has finished its work."""

    runtime: Runtime
    laps: dict[str, list[float]] = field(default_factory=dict)
    started: float = 0.0

    def restart(self) -> None:
        synchronize(self.runtime)
        self.started = time.perf_counter()

    def lap(self, name: str) -> None:
        """Record the time since the last call as a lap of this name."""
        synchronize(self.runtime)
        now = time.perf_counter()
        self.laps.setdefault(name, []).append(now - self.started)
        self.started = now


def synchronize(runtime: Runtime) -> None:
    """Wait until the device has finished its work."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()


def reset_peak_memory(runtime: Runtime) -> None:
    """Reset the peak memory of a GPU. The peak of a process cannot be reset."""
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def useful_flops(model: ModelConfig, batch: Batch, *, pad_id: int, vocab_size: int) -> float:
    """Return the floating point operations of a batch, forward and backward, without padding.

    For each token: 6 for each weight of each matrix product that it takes part in (2 forward, 4
    backward), and 12 * d_model * length in each attention (scores and weighted sums, forward and
    backward, including what a causal mask hides).
    """
    src_lengths = (batch.src != pad_id).sum(1).double()  # (batch,)
    tgt_lengths = (batch.tgt_out != pad_id).sum(1).double()  # (batch,)
    width = model.d_model
    square = width**2  # weights of a query, key, value or output projection
    feed_forward = model.num_feed_forward_weights

    encoder_products = 6 * (4 * square + feed_forward) * src_lengths
    encoder_attention = 12 * width * src_lengths**2
    encoder_layer = encoder_products + encoder_attention

    # Keys and values of the attention to the source are computed from source tokens.
    decoder_products = 6 * ((6 * square + feed_forward) * tgt_lengths + 2 * square * src_lengths)
    decoder_attention = 12 * width * (tgt_lengths**2 + tgt_lengths * src_lengths)
    decoder_layer = decoder_products + decoder_attention

    output = 6 * width * vocab_size * tgt_lengths
    per_sentence = (
        model.num_encoder_layers * encoder_layer + model.num_decoder_layers * decoder_layer + output
    )
    return float(per_sentence.sum())


def matmul_peak(runtime: Runtime, *, num_tries: int = 3) -> float:
    """Return floating point operations per second in a product of two square matrices.

    The fastest of some tries counts.
    """
    size = 8192 if runtime.device.type == "cuda" else 2048
    generator = torch.Generator(runtime.device)  # leaves dropout's generator alone
    # Random numbers, because a GPU multiplies equal ones with less power, and so faster than it
    # ever does in training.
    left = torch.randn(size, size, generator=generator, device=runtime.device).to(runtime.dtype)
    right = torch.randn(size, size, generator=generator, device=runtime.device).to(runtime.dtype)
    stopwatch = Stopwatch(runtime)
    for _ in range(num_tries):
        stopwatch.restart()
        torch.mm(left, right)
        stopwatch.lap("product")
    return 2 * size**3 / min(stopwatch.laps["product"])


def measure_block(
    contestant: Contestant,
    epoch: Epoch,
    indices: range,
    *,
    config: Config,
    data: Data,
    runtime: Runtime,
) -> Block:
    """Train on the epoch's batches `indices`, and return the measurements."""
    reset_peak_memory(runtime)
    started = time.perf_counter()
    contestant.train(epoch, indices)
    seconds = time.perf_counter() - started

    flops = 0.0
    num_tokens = 0
    for index in indices:
        batch = epoch.batch(index)
        num_tokens += batch.num_tokens
        flops += useful_flops(
            config.model,
            batch,
            pad_id=data.tokenizers.src.pad_id,
            vocab_size=data.tokenizers.tgt.vocab_size,
        )
    peak_bytes = runtime.peak_memory()  # before the matrices of matmul_peak are allocated
    return Block(num_tokens, flops, seconds, matmul_peak(runtime), peak_bytes)


# The process


def make_runtime(config: Config, name: str) -> Runtime:
    """Return the device and number format of a contestant; the plain loop has float32."""
    precision = config.train.precision if name == MT else "fp32"
    return open_runtime(config.train.device, precision)


def make_contestant(
    name: str, config: Config, run: RunDir, data: Data, runtime: Runtime
) -> MtContestant | PlainContestant:
    if name == MT:
        return MtContestant(config, run, runtime)
    return PlainContestant(config, data, runtime)


def serve(
    connection: Connection, name: str, config: Config, run: RunDir, num_threads: int | None
) -> None:
    """Answer requests until None comes. The first message sent is a description of the contestant.

    Requests are pairs of a command and a number of updates: ("train", n) is answered by a Block,
    ("nll", 0) by the validation nll, and ("time_parts", n) by the seconds of each part of an update
    (empty if the model is compiled).
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    runtime = make_runtime(config, name)
    data = load_data(config, run)
    contestant = make_contestant(name, config, run, data, runtime)
    batch_tokens = config.train.batch_tokens
    blocks = BlockReader(data.training, batch_tokens)
    validation_epoch = data.validation.epoch(0, batch_tokens=batch_tokens)
    num_parameters = sum(parameter.numel() for parameter in contestant.model.parameters())
    connection.send(f"{num_parameters:,} parameters, {runtime.device.type}, {runtime.precision}")

    while True:
        request = connection.recv()
        if request is None:
            return
        command, num_updates = request
        answer: Any
        if command == "train":
            epoch, indices = blocks.next(num_updates)
            answer = measure_block(
                contestant, epoch, indices, config=config, data=data, runtime=runtime
            )
        elif command == "nll":
            answer = contestant.nll(all_batches(validation_epoch))
        elif command == "time_parts" and config.train.compile:
            answer = {}
        else:
            assert command == "time_parts", command
            assert isinstance(contestant, MtContestant), name
            answer = contestant.time_parts(blocks.epoch, num_updates)
        connection.send(answer)
