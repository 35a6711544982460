"""Device, compute dtype and memory of this process."""

import ctypes
import os
import timeit
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mt.errors import DeviceError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# How PyTorch says that there is no more: CUDA by a class of its own, a CPU's allocator in words.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def find_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "device cuda: this machine has no CUDA device that PyTorch can use; try --device cpu"
        )
    return torch.device(name)


@contextmanager
def oom_as_device_error(purpose: str) -> Iterator[None]:
    """A lack of memory within it is a DeviceError, "too little memory " + `purpose`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (
            isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
        ):
            raise
        raise DeviceError(f"too little memory {purpose}") from None


def find_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bf16 where the machine is fast at it: measured on a CPU, known of a GPU."""
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("precision fp16 needs a CUDA device; on a CPU use auto, bf16 or fp32")
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    return torch.bfloat16 if _bf16_is_quick() else torch.float32


def _bf16_is_quick() -> bool:
    """Does the CPU multiply matrices half as fast again in bf16 as in fp32? The quickest of many tries counts.

    They take turns, so that what else the machine does meets both.
    """
    squares = [torch.ones(512, 512, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    tries = (
        [timeit.timeit("a @ a", globals={"a": a}, number=1) for a in squares] for _ in range(16)
    )
    fp32, bf16 = (min(times) for times in zip(*tries, strict=True))
    return bool(fp32 > 1.5 * bf16)


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors: it would give large ones back, and get them anew page by page.

    Elsewhere than on Linux with glibc it does nothing.
    """
    if os.name == "posix" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(
            -3, 2**25
        )  # M_MMAP_THRESHOLD: blocks up to its largest value come from the heap
        libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: of which a GiB may lie unused
