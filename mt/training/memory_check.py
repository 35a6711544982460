"""A trial of the largest batches, so that a lack of memory shows before training."""

import gc
from collections.abc import Iterable

import numpy as np
import torch

from mt.data.batch_plan import BatchPlan
from mt.data.batching import Batch
from mt.data.dataset import Dataset, Epoch
from mt.device import oom_as_device_error
from mt.distributed import Runtime
from mt.errors import DeviceError
from mt.training.objective import Objective

MAX_HALVINGS = 7  # how often a smaller batch is tried, to suggest a size that fits


def check_memory(
    objective: Objective,
    dataset: Dataset,
    epoch: Epoch,
    *,
    batch_tokens: int,
    runtime: Runtime,
    optimizer_has_state: bool = False,
) -> None:
    """Run forward and backward on the largest batches of `epoch`, with more padding than usual.

    `optimizer_has_state` says that the optimizer's memory is allocated already. Raises DeviceError
    when memory is too small; it names a `train.batch_tokens` that fits, if there is one that a
    config may have.
    """
    sizes = sizes_to_try(batch_tokens, max_length=dataset.max_length)
    for size in sizes:
        if size < batch_tokens:
            gc.collect()  # the tensors of the failed attempt
            runtime.release_memory()
            epoch = dataset.epoch(epoch.number, batch_tokens=size)
        batches = map(epoch.batch_for_memory_check, largest_batches(epoch.plan))
        try:
            try_update(objective, batches, runtime, optimizer_has_state=optimizer_has_state)
        except DeviceError:
            continue
        if size == batch_tokens:
            return
        raise DeviceError(
            f"too little memory for train.batch_tokens {batch_tokens}; "
            f"{size} fits, and with {batch_tokens // size} times "
            "train.gradient_accumulation the updates stay as large"
        )
    raise DeviceError(
        f"too little memory for this model, even with train.batch_tokens {sizes[-1]}: use a "
        "smaller model or a smaller data.max_length"
    )


def sizes_to_try(batch_tokens: int, *, max_length: int) -> list[int]:
    """Return `batch_tokens` and its halves, without those that a config may not have.

    A config refuses a `train.batch_tokens` below `data.max_length`.
    """
    sizes = [batch_tokens // 2**halvings for halvings in range(MAX_HALVINGS + 1)]
    return [size for size in sizes if size == batch_tokens or size >= max_length]


def largest_batches(plan: BatchPlan) -> list[int]:
    """Return the indices of the one or two batches that need most memory.

    One has the most positions, the other the largest attention maps.
    """
    num_rows = np.diff(plan.starts)
    num_positions = num_rows * (plan.src_lengths + plan.tgt_lengths)
    map_sizes = num_rows * np.maximum(plan.src_lengths, plan.tgt_lengths) ** 2
    return sorted({int(np.argmax(num_positions)), int(np.argmax(map_sizes))})


@oom_as_device_error("for an update")
def try_update(
    objective: Objective,
    batches: Iterable[Batch],
    runtime: Runtime,
    *,
    optimizer_has_state: bool = False,
) -> None:
    """Run forward and backward of each batch, with memory for Adam's moments.

    Afterwards there are no gradients, and the random states are as before. Raises DeviceError when
    memory is too small.
    """
    random_state = runtime.random_state()
    objective.train()
    try:
        # Adam keeps two numbers for each weight from the first update on.
        num_moments = 0 if optimizer_has_state else 2
        _moments = [
            torch.zeros_like(weight)
            for weight in objective.parameters()
            if weight.requires_grad
            for _ in range(num_moments)
        ]
        for batch in batches:
            loss = objective(batch.to(runtime.device)).loss
            loss.backward()
    finally:
        objective.zero_grad()
        runtime.set_random_state(random_state)
