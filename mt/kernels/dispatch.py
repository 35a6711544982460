"""The choice between the fast version of a kernel and its reference."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_only_references = False


def use_fast_kernel(x: Tensor) -> bool:
    """Return whether an operation on `x` takes its fast version, which is made for a CPU.

    Under torch.compile it does not: the compiler gets plain PyTorch.
    """
    return x.is_cpu and not torch.compiler.is_compiling() and not _only_references


@contextmanager
def use_reference() -> Iterator[None]:
    """Take the references on a CPU too, so that a test there runs what a GPU runs."""
    global _only_references
    before = _only_references
    _only_references = True
    try:
        yield
    finally:
        _only_references = before
