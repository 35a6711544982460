"""Device, compute dtype and memory of this process."""

import ctypes
import os
import timeit
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mt.errors import DeviceError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Parts of the messages of PyTorch's RuntimeErrors for a lack of memory. CUDA also has a class for
# it, OutOfMemoryError, which is a RuntimeError; the CPU allocator has only a message. The last one
# is oneDNN's, when it finds no memory for a kernel of a new shape. (A "primitive descriptor" that
# it cannot create is an operation that it does not have on this processor.)
OUT_OF_MEMORY_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "could not create a primitive",
)
UNSUPPORTED_MESSAGE = "could not create a primitive descriptor"

# Keys of glibc's mallopt().
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def find_device(name: str) -> torch.device:
    """Return the device for `cpu`, `cuda` or `auto`, which is CUDA if there is a CUDA device.

    Raises DeviceError when CUDA is named and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "device cuda: this machine has no CUDA device that PyTorch can use; try --device cpu"
        )
    return torch.device(name)


def find_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products for `fp32`, `bf16`, `fp16` or `auto` on `device`.

    `auto` is bf16 where that is fast. On a GPU without bf16 it is fp16, on a CPU without fast bf16
    it is fp32. Raises DeviceError for fp16 on a CPU.
    """
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("precision fp16 needs a CUDA device; on a CPU use auto, bf16 or fp32")
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    return torch.bfloat16 if _is_bf16_fast() else torch.float32


def has_onednn_bf16() -> bool | None:
    """Return whether oneDNN computes in bf16 on this processor, or None where that is not known.

    On x86, it needs AVX-512 or newer instructions. PyTorch's other products in bf16 work on any
    processor, but are slow. The operator is private, so a version of PyTorch without it must still
    work.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    if not hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported"):
        return None
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _is_bf16_fast() -> bool:
    """Return whether this CPU multiplies matrices more than 1.5 times as fast in bf16 as in fp32.

    If oneDNN has no bf16, the answer is known to be False, and a measurement would take seconds.
    Otherwise this function measures. The fastest of 16 runs counts. The two formats take turns, so
    that other work on the machine slows down both.
    """
    if has_onednn_bf16() is False:
        return False
    fp32_matrix = torch.ones(512, 512, dtype=torch.float32)
    bf16_matrix = torch.ones(512, 512, dtype=torch.bfloat16)
    fp32_times = []
    bf16_times = []
    for _ in range(16):
        fp32_times.append(timeit.timeit("a @ a", globals={"a": fp32_matrix}, number=1))
        bf16_times.append(timeit.timeit("a @ a", globals={"a": bf16_matrix}, number=1))
    return min(fp32_times) > 1.5 * min(bf16_times)


@contextmanager
def oom_as_device_error(purpose: str) -> Iterator[None]:
    """Raise a DeviceError, "too little memory " + `purpose`, when memory runs out inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise DeviceError(f"too little memory {purpose}") from None


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, MemoryError):
        return True
    if UNSUPPORTED_MESSAGE in str(error):
        return False
    return any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES)


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors for the next ones.

    By default it returns large blocks to the system and gets them back page by page. On systems
    without glibc this does nothing.
    """
    libc = _load_glibc()
    if libc is None:
        return
    libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the maximum; smaller blocks come from the heap
    libc.mallopt(M_TRIM_THRESHOLD, 2**30)  # up to a GiB of the heap may be unused


def return_freed_memory() -> None:
    """Return to the system what `keep_freed_memory` keeps.

    Otherwise a new tensor may find no memory, because no kept block has its size. On systems
    without glibc this does nothing.
    """
    libc = _load_glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _load_glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc."""
    if os.name != "posix":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
