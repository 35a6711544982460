"""Dropout that does not hold up a CPU."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes each element with probability `p` in training and scales up the rest (Srivastava et al. 2014)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def rate(self) -> float:
        """The probability at this time: there is none in evaluation."""
        return self.p if self.training else 0.0

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0:
            return x
        if x.is_cuda:
            return F.dropout(x, self.p)
        kept, scale = draw_keep_mask(x.shape, self.p)
        return x * kept.to(x.dtype).mul_(scale)


def draw_keep_mask(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """Which elements of a CPU's tensor stay, int8 ones and zeros, and how much those that do are scaled up.

    PyTorch draws one float per element, on one CPU thread. Here a byte decides an element, so that the share left out
    in one call is a multiple of 1/256, 255 at most: the one below or the one above `p`, by a draw whose mean is `p`.
    The ones are int8, as bool takes ten times as long to convert.
    """
    words = np.random.SFC64(_Seed()).random_raw(shape.numel() // 8 + 2)  # type: ignore[arg-type]
    num_dropped = min(int(p * 256 + words[-1] * 2.0**-64), 255)  # of the 256 values of a byte
    kept = torch.from_numpy(words.view(np.int8))[: shape.numel()].view(shape).ge_(num_dropped - 128)
    return kept, 256 / (256 - num_dropped)


class _Seed(ISeedSequence):
    """Seeds from PyTorch's generator, so that no state but its own needs to be kept."""

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> NDArray[np.uint64]:
        return torch.randint(2**63 - 1, (n_words,)).numpy().view(np.uint64)
