"""Runtime of one process: device, precision, memory, random state and the other ranks.

Only this module uses `torch.distributed` and DistributedDataParallel.
"""

import base64
import os
import platform
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Self, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from mt.device import (
    DTYPES,
    find_device,
    find_dtype,
    keep_freed_memory,
    return_freed_memory,
)
from mt.errors import DeviceError, RankError

T = TypeVar("T")

# How long the first rank waits for the last one when a training starts.
START_TIMEOUT = timedelta(minutes=5)
# How long ranks wait for each other before the first update: rank 0 may prepare text for hours.
PREPARATION_TIMEOUT = timedelta(days=1)
# How long they wait for each other later. A rank that ends closes its connections, which the others
# notice at once; this is for a machine that is cut off. Writing a checkpoint must fit into it.
TRAINING_TIMEOUT = timedelta(minutes=30)
LAUNCHER_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Runtime:
    """Device, precision and rank of one process. Weights are float32 at any precision."""

    device: torch.device
    dtype: torch.dtype = torch.float32  # of matrix products
    rank: int = 0
    world_size: int = 1
    group: dist.ProcessGroup | None = None  # None: the group that all processes join at the start

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files and messages."""
        return self.rank == 0

    @property
    def precision(self) -> str:
        """The name of `dtype` in a config."""
        names = {dtype: name for name, dtype in DTYPES.items()}
        return names[self.dtype]

    def with_precision(self, precision: str) -> Self:
        """Return a copy with the precision that a config names.

        Raises DeviceError when the device lacks it.
        """
        # `auto` may measure something else on each rank: the result of rank 0 counts.
        dtype = self.broadcast(find_dtype(precision, self.device))
        return replace(self, dtype=dtype)

    def environment(self) -> dict[str, str]:
        """Return what the last bits of a sum depend on.

        A run resumes bit for bit only where these values are the same.
        """
        if self.device.type == "cuda":
            processor = torch.cuda.get_device_name(self.device)
        else:
            processor = torch.backends.cpu.get_cpu_capability()
        return {
            "torch": torch.__version__,
            "machine": f"{platform.machine()} {processor}",
            "threads": str(torch.get_num_threads()),
        }

    def scaler(self) -> torch.amp.GradScaler:
        """Return a loss scaler. It is enabled only in fp16, where small gradients become zero."""
        is_enabled = self.dtype is torch.float16
        return torch.amp.GradScaler(self.device.type, enabled=is_enabled)

    # Other ranks

    def with_timeout(self, timeout: timedelta) -> Self:
        """Return a copy that waits at most so long for the other ranks."""
        if self.world_size == 1:
            return self
        group = dist.new_group(timeout=timeout, backend=_backend(self.device))
        assert isinstance(group, dist.ProcessGroup)  # every rank is a member
        return replace(self, group=group)

    def wrap_in_ddp(self, module: nn.Module) -> nn.Module:
        """Return `module` with its gradients averaged over the ranks, if there are several."""
        if self.world_size == 1:
            return module
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=device_ids, process_group=self.group)

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which `backward` does not exchange gradients with other ranks.

        It is for all micro-batches of an update but the last.
        """
        if isinstance(module, DistributedDataParallel):
            return module.no_sync()
        return nullcontext()

    def own_share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this rank: each rank has every `world_size`-th one."""
        return items[self.rank :: self.world_size]

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over the ranks in place, and return it."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """Return the largest of each of some integers over the ranks.

        They are exchanged on the CPU, so that no rank waits for its GPU.
        """
        tensor = torch.tensor(values)
        if self.world_size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.group)
        return [int(value) for value in tensor.tolist()]

    def broadcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank. It is pickled: too slow for every update."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def compute_on_main(self, compute: Callable[[], T]) -> T:
        """Call `compute` on rank 0 only, and return its result on every rank."""
        value = self.broadcast(compute() if self.is_main else None)
        return cast(T, value)

    def all_gather(self, value: T) -> list[T]:
        """Return the `value` of each rank, ordered by rank, on every rank. It is pickled."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value, group=self.group)
        return values

    def barrier(self) -> None:
        """Wait until every rank has come to this call."""
        self.all_reduce_sum(torch.zeros(()))  # on the CPU: a GPU would be busy while it waits

    def close(self) -> None:
        """Wait for all ranks, because one may still be saving, and leave the process group."""
        self.barrier()
        if self.world_size > 1:
            dist.destroy_process_group()

    # Memory

    def peak_memory(self) -> int:
        """Return the most bytes in use so far: by tensors on a GPU, by the process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _peak_process_memory()

    def release_memory(self) -> None:
        """Free the memory of the GPU and of this process that is only kept for later tensors."""
        torch.cuda.empty_cache()  # does nothing when no GPU is in use
        return_freed_memory()

    # Random state

    def random_state(self) -> dict[str, str]:
        """Return the states of the random generators that dropout uses, as base64."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        encoded = {}
        for name, state in states.items():
            encoded[name] = base64.b64encode(state.numpy().tobytes()).decode("ascii")
        return encoded

    def set_random_state(self, states: dict[str, str]) -> None:
        """Set the generators to what `random_state` returned."""
        decoded = {}
        for name, text in states.items():
            decoded[name] = torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
        torch.set_rng_state(decoded["cpu"])
        if self.device.type == "cuda" and "cuda" in decoded:
            torch.cuda.set_rng_state(decoded["cuda"], self.device)


def open_runtime(device: str, precision: str = "fp32") -> Runtime:
    """Return the runtime for a device and a precision of a config, such as "auto" and "bf16".

    Joins the other ranks when torchrun started this process. Changes this process: glibc keeps up
    to a GiB of freed memory (`mt.device.keep_freed_memory`), and on a GPU PyTorch does not use
    cuDNN's attention any more. Raises DeviceError for a device or precision that this machine does
    not have.
    """
    keep_freed_memory()
    torch_device = find_device(device)
    rank = int(os.environ.get("RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if torch_device.type == "cuda":
        # cuDNN's attention makes a plan for each new shape, and its order of summation varies.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if world_size > 1:
        if torch_device.type == "cuda":
            torch_device = _claim_gpu(int(os.environ.get("LOCAL_RANK", "0")))
        with lost_rank_as_error(rank, world_size), _ending_with_launcher():
            _join_ranks(_backend(torch_device))
    runtime = Runtime(torch_device, rank=rank, world_size=world_size)
    return runtime.with_precision(precision)


@contextmanager
def lost_rank_as_error(rank: int, world_size: int) -> Iterator[None]:
    """Raise RankError when this rank finds that another one has ended.

    The other one has reported its error. Ours would hide it, and say nothing of the cause.
    """
    try:
        yield
    except RuntimeError as error:
        is_lost = isinstance(error, dist.DistError) or "gloo/transport" in str(error)
        if world_size == 1 or not is_lost:
            raise
        raise RankError(
            f"rank {rank}: another rank has ended or cannot be reached (see its own message)"
        ) from error


def merge_shares(shares: Sequence[Sequence[T]]) -> list[T]:
    """Undo `Runtime.own_share`: return the items of all ranks in their original order."""
    num_items = sum(len(share) for share in shares)
    return [shares[i % len(shares)][i // len(shares)] for i in range(num_items)]


def may_be_restarted() -> bool:
    """Return whether torchrun starts this command again when a rank fails."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def _backend(device: torch.device) -> str:
    """Return the backend for a device. Python objects and counts are exchanged on the CPU."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def _join_ranks(backend: str) -> None:
    """Wait for the other ranks, and make the process group."""
    store, rank, world_size = next(rendezvous("env://", timeout=START_TIMEOUT))
    # torchrun can keep the store when it restarts the ranks: what dead ones wrote must not be read.
    num_restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"restart_{num_restarts}", store)
    store.set_timeout(PREPARATION_TIMEOUT)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=PREPARATION_TIMEOUT
    )


@contextmanager
def _ending_with_launcher() -> Iterator[None]:
    """End this process when the one that started it ends inside the `with` block.

    A rank without its launcher waits for ranks that do not come, and would join the next training
    that is started with the same address.
    """
    launcher = os.getppid()
    is_joined = threading.Event()

    def watch() -> None:
        while not is_joined.wait(LAUNCHER_POLL_SECONDS):
            if os.getppid() != launcher:
                os._exit(1)

    threading.Thread(target=watch, name="mt-launcher", daemon=True).start()
    try:
        yield
    finally:
        is_joined.set()


def _claim_gpu(local_rank: int) -> torch.device:
    """Make the GPU of this rank the current one.

    Raises DeviceError when the machine has too few.
    """
    num_gpus = torch.cuda.device_count()
    if local_rank >= num_gpus:
        raise DeviceError(
            f"device cuda: rank {local_rank} has no GPU to itself: this machine has {num_gpus}"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _peak_process_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
