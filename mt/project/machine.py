"""Measures how fast this machine trains, with real updates on made-up sentences."""

import statistics
import time

import torch

from mt.config.schema import ModelConfig, TrainConfig
from mt.data.batching import Batch
from mt.data.tokenizer import PAD_ID
from mt.data.tokenizer_training import NUM_FIXED_PIECES
from mt.device import oom_as_device_error
from mt.distributed import Runtime
from mt.model.transformer import Transformer
from mt.project.settings import ModelSize
from mt.training.objective import Objective
from mt.training.optimizer import build_optimizer, clip_gradients

# The first updates are slower than the others: memory is allocated, and kernels are chosen.
NUM_WARM_UP_UPDATES = 2
MIN_SECONDS = 2.0
MIN_TIMED_UPDATES = 3


@oom_as_device_error("for this model: choose a smaller one")
def measure_update(
    size: ModelSize,
    runtime: Runtime,
    *,
    vocab_size: int,
    batch_tokens: int,
    tokens_per_pair: float,
) -> float:
    """Return the seconds that an update takes: the median over some seconds of updates.

    Sentences of one length and without padding stand for the text. Raises DeviceError when memory
    is too small.
    """
    model_config = ModelConfig(
        d_model=size.d_model,
        d_ff=size.d_ff,
        num_heads=size.num_heads,
        num_encoder_layers=size.num_layers,
        num_decoder_layers=size.num_layers,
    )
    train_config = TrainConfig(max_steps=1)
    model = Transformer(
        model_config, src_vocab_size=vocab_size, tgt_vocab_size=vocab_size, pad_id=PAD_ID
    ).to(runtime.device)
    model.compute_dtype = runtime.dtype
    objective = Objective(model, label_smoothing=train_config.label_smoothing)
    optimizer = build_optimizer(objective, train_config)
    batch = random_batch(
        vocab_size=vocab_size, batch_tokens=batch_tokens, tokens_per_pair=tokens_per_pair
    ).to(runtime.device)

    def update() -> None:
        loss = objective(batch).loss / batch.num_tokens
        loss.backward()
        clip_gradients(objective, train_config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(NUM_WARM_UP_UPDATES):
        update()
    update_seconds: list[float] = []
    while sum(update_seconds) < MIN_SECONDS or len(update_seconds) < MIN_TIMED_UPDATES:
        start_time = synchronized_time(runtime)
        update()
        update_seconds.append(synchronized_time(runtime) - start_time)
    return statistics.median(update_seconds)


def random_batch(*, vocab_size: int, batch_tokens: int, tokens_per_pair: float) -> Batch:
    """Return a batch of random tokens: `batch_tokens` on each side, in sentences of one length."""
    length = max(2, min(round(tokens_per_pair), batch_tokens))
    shape = (max(1, batch_tokens // length), length)
    generator = torch.Generator().manual_seed(1)
    src, tgt_in, tgt_out = (
        torch.randint(NUM_FIXED_PIECES, vocab_size, shape, generator=generator) for _ in range(3)
    )
    return Batch(src, tgt_in, tgt_out, num_tokens=tgt_out.numel())


def synchronized_time(runtime: Runtime) -> float:
    """Wait until the device has done all its work, and return the time of a monotonic clock."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    return time.monotonic()
