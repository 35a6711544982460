"""Dropout with a mask that is drawn quickly on a CPU.

Why there is a fast version: PyTorch draws one float per element, on one CPU thread. Here numpy's
SFC64 generator draws one byte per element. On an AMD EPYC (Zen 5), 4 million elements take 4.6 ms;
random bits from PyTorch, compared as 16-bit integers, take 12 ms. Without this version, an update
takes 2 to 11 % more time (docs/log.md, "Kernels, one at a time").

Other kernels contain dropout as well. Each of them takes `dropout` as a rate, or as a mask that has
been drawn already: so a test can give the same mask to the fast version and to the reference.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray
from torch import Tensor

from mt.kernels.dispatch import use_fast_kernel

BYTE_VALUES = 256


class DropoutMask(NamedTuple):
    """A sampled dropout mask: which elements are kept, and the factor that they are multiplied by.

    The mask is int8 because converting bool to a floating-point type takes ten times as long.
    """

    keep: Tensor  # int8, 1 = keep, 0 = drop
    scale: float

    def factors(self, dtype: torch.dtype) -> Tensor:
        """Return what to multiply each element by: 0 or `scale`."""
        return self.keep.to(dtype).mul_(self.scale)


def apply_dropout(x: Tensor, dropout: float | DropoutMask) -> Tensor:
    """Zero elements of `x` with probability p and scale up the others by 1 / (1 - p).

    `dropout` is the rate p or a mask. See Srivastava et al. (2014).
    """
    if dropout == 0.0:
        return x
    if use_fast_kernel(x):
        return fast(x, dropout)
    return reference(x, dropout)


def reference(x: Tensor, dropout: float | DropoutMask) -> Tensor:
    """Apply dropout with plain PyTorch."""
    if isinstance(dropout, DropoutMask):
        return x * dropout.factors(x.dtype)
    return F.dropout(x, dropout)


def fast(x: Tensor, dropout: float | DropoutMask) -> Tensor:
    """Apply dropout with a mask from `draw_mask`."""
    mask = as_mask(dropout, x.shape)
    return x if mask is None else x * mask.factors(x.dtype)


def as_mask(dropout: float | DropoutMask, shape: torch.Size) -> DropoutMask | None:
    """Return a mask of this shape for a rate, None for the rate 0, and a mask unchanged."""
    if isinstance(dropout, DropoutMask):
        assert dropout.keep.shape == shape, (dropout.keep.shape, shape)
        return dropout
    return draw_mask(shape, dropout) if dropout > 0.0 else None


def draw_mask(shape: torch.Size, p: float) -> DropoutMask:
    """Draw on the CPU which elements to keep, from PyTorch's random state.

    One random byte decides whether one element is kept, so the dropout probability of one call is a
    multiple of 1/256, at most 255/256. It is one of the two multiples next to `p`, chosen at random
    such that its expected value is `p`.
    """
    num_elements = shape.numel()
    # The last 64-bit word is not part of the mask: it is the draw that rounds `p` up or down.
    num_words = num_elements // 8 + 2
    words = np.random.SFC64(_TorchSeed()).random_raw(num_words)  # type: ignore[arg-type]
    uniform = words[-1] * 2.0**-64
    num_dropped_values = min(int(p * BYTE_VALUES + uniform), BYTE_VALUES - 1)

    # The bytes are read as int8, so the values to drop are the lowest ones, from -128 up.
    random_bytes = torch.from_numpy(words.view(np.int8))[:num_elements].view(shape)
    keep = random_bytes.ge_(num_dropped_values - 128)
    return DropoutMask(keep, scale=BYTE_VALUES / (BYTE_VALUES - num_dropped_values))


class _TorchSeed(ISeedSequence):
    """Seed for numpy's generators, drawn from PyTorch's generator.

    So PyTorch's generator is the only random state that a checkpoint has to store.
    """

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> NDArray[np.uint64]:
        return torch.randint(2**63 - 1, (n_words,)).numpy().view(np.uint64)
