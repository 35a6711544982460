"""The largest batches first: what memory is too small for should show in the first seconds, not after a day."""

from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np
import torch

from mt.data.batching import Batch, BatchPlan
from mt.data.dataset import Epoch
from mt.device import oom_as_device_error
from mt.distributed import Runtime
from mt.errors import DeviceError
from mt.training.objective import Objective

Reopen = Callable[[int], Epoch]  # batch_tokens -> the same epoch, with batches of that size


def largest_batches(plan: BatchPlan) -> list[int]:
    """Indices of the one or two batches that need most memory: by their positions, and by their attention maps."""
    rows, src, tgt = np.diff(plan.starts), plan.src_lengths, plan.tgt_lengths
    return sorted(
        {int(np.argmax(rows * (src + tgt))), int(np.argmax(rows * np.maximum(src, tgt) ** 2))}
    )


def check_memory(
    model: Objective,
    epoch: Epoch,
    runtime: Runtime,
    *,
    reopen: Reopen,
    batch_tokens: int,
    begun: bool = False,
) -> None:
    """Try the largest batches of an epoch; `reopen` gives it with batches of another `batch_tokens`.

    `begun` says that the optimizer remembers something already, and will need no more memory than it has. DeviceError
    when memory is too small, with a size that would do.
    """
    for parts in (2**power for power in range(8)):
        with suppress(DeviceError):
            rehearse(model, map(epoch.batch, largest_batches(epoch.plan)), runtime, begun=begun)
            break
        epoch = reopen(batch_tokens // (2 * parts))
    else:
        raise DeviceError(
            f"too little memory for this model, even with train.batch_tokens {batch_tokens // parts}"
        )
    if parts > 1:
        way_out = f"{batch_tokens // parts} fits, and with {parts} times train.gradient_accumulation the updates stay as large"
        raise DeviceError(f"too little memory for train.batch_tokens {batch_tokens}; {way_out}")


@oom_as_device_error("for an update")
def rehearse(
    model: Objective, batches: Iterable[Batch], runtime: Runtime, *, begun: bool = False
) -> None:
    """All of an update on each of `batches` but the step; gradients and random states are afterwards as before."""
    before = runtime.random_state()
    model.train()
    try:
        # Adam remembers two numbers for each weight, from the first update on.
        _moments = [
            torch.zeros_like(weight)
            for weight in model.parameters()
            for _ in range(0 if begun else 2)
        ]
        for batch in batches:
            with runtime.autocast():
                loss = model(batch.to(runtime.device)).loss
            loss.backward()
    finally:
        model.zero_grad()
        runtime.set_random_state(before)
