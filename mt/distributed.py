"""Where the numbers are crunched: device, memory, precision and the company of other processes.

The only module that knows `torch.distributed` and DistributedDataParallel, and that turns `autocast` on.
"""

import base64
import os
import platform
import resource
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mt.device import DTYPES, find_device, find_dtype, keep_freed_memory
from mt.errors import DeviceError

T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """One process's view of the machine; `dtype` is that of the matrix products, weights stay float32."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and speaks to the user."""
        return self.rank == 0

    @property
    def precision(self) -> str:
        """The config's word for `dtype`."""
        return next(name for name, dtype in DTYPES.items() if dtype is self.dtype)

    def with_precision(self, precision: str) -> Self:
        """The same company at the precision that a config names; DeviceError when the device lacks it."""
        # A measurement may fall out differently on each rank: the first one's counts.
        return replace(self, dtype=self.broadcast(find_dtype(precision, self.device)))

    def environment(self) -> dict[str, str]:
        """What the last bits of a sum depend on: equal here, equal there; nothing is promised where it differs."""
        on_cuda = self.device.type == "cuda"
        kind = (
            torch.cuda.get_device_name(self.device)
            if on_cuda
            else torch.backends.cpu.get_cpu_capability()
        )
        threads = torch.get_num_threads()
        return {
            "torch": torch.__version__,
            "machine": f"{platform.machine()} {kind}",
            "threads": str(threads),
        }

    def autocast(self) -> AbstractContextManager[object]:
        """The same call serves CPU bf16 and CUDA bf16 or fp16; in fp32 it changes nothing."""
        return torch.autocast(
            self.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32
        )

    def scaler(self) -> torch.amp.GradScaler:
        """A loss scaler that acts in fp16 alone, where small gradients would vanish."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with its gradients averaged over the ranks; itself when there is but one."""
        if self.world_size == 1:
            return module
        return DistributedDataParallel(
            module, device_ids=[self.device.index] if self.device.type == "cuda" else None
        )

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Within it, backward keeps gradients to this rank (all but the last micro-batch of an update)."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def all_sum(self, tensor: Tensor) -> Tensor:
        """`tensor` summed over the ranks."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, value: T) -> T:
        """Rank 0's `value`, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, in the order of ranks, on every rank."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def peak_memory(self) -> int:
        """The most bytes that were ever in use: by tensors on a GPU, by the whole process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        with suppress(OSError), open("/proc/self/status", encoding="ascii") as lines:  # Linux
            for line in lines:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )

    def release_memory(self) -> None:
        """Give back what PyTorch keeps of a GPU's memory for tensors to come."""
        torch.cuda.empty_cache()  # does nothing where no GPU is in use

    def random_state(self) -> dict[str, str]:
        """The states of the generators that dropout draws from, as text."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            name: base64.b64encode(state.numpy().tobytes()).decode("ascii")
            for name, state in states.items()
        }

    def set_random_state(self, states: dict[str, str]) -> None:
        """Draw again what was drawn after `random_state` was taken."""
        decoded = {
            name: torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
            for name, text in states.items()
        }
        torch.set_rng_state(decoded["cpu"])
        if self.device.type == "cuda" and "cuda" in decoded:
            torch.cuda.set_rng_state(decoded["cuda"], self.device)

    def close(self) -> None:
        """Leave the company of the other ranks, all at once: one may still be saving."""
        if self.world_size > 1:
            dist.barrier()
            dist.destroy_process_group()


def open_runtime(device: str, precision: str = "fp32") -> Runtime:
    """The runtime for config words like ("auto", "bf16"); joins the other ranks when torchrun started us.

    Raises DeviceError for a device or precision that this machine does not have.
    """
    keep_freed_memory()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    where = find_device(device)
    if (
        where.type == "cuda"
    ):  # cuDNN's attention makes a plan for each new shape, and sums in an order that varies
        torch.backends.cuda.enable_cudnn_sdp(False)
    if world_size > 1:
        if where.type == "cuda":
            where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            if where.index >= (count := torch.cuda.device_count()):
                raise DeviceError(
                    f"device cuda: rank {where.index} has no GPU to itself: this machine has {count}"
                )
            torch.cuda.set_device(where)
        # What ranks tell each other in Python's objects goes by gloo: no GPU is waited for.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo", timeout=timedelta(days=1)
        )
    return Runtime(
        where, torch.float32, int(os.environ.get("RANK", "0")), world_size
    ).with_precision(precision)
