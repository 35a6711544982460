"""Dropout that does not hold up a CPU."""

import numpy as np
import torch
import torch.nn.functional as F
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
        kept, scale = draw_kept(x.shape, self.p)
        return x * kept.to(x.dtype).mul_(scale)


def draw_kept(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """Which elements of a CPU's tensor stay, int8 ones and zeros, and how much those that do are scaled up.

    PyTorch draws one float per element, on one CPU thread. Here a byte decides an element, so that the share left out
    in one call is a multiple of 1/256, 255 at most: the one below or the one above `p`, by a draw whose mean is `p`.
    The ones are int8, as bool takes ten times as long to convert.
    """
    num_dropped = min(int(p * 256 + torch.rand(())), 255)  # of the 256 values of a byte
    # Quicker by far than PyTorch's generator, whose state it depends on, so that no other needs to be kept.
    words = np.random.SFC64(int(torch.randint(2**63 - 1, ()))).random_raw((shape.numel() + 7) // 8)
    kept = torch.from_numpy(words.view(np.int8))[: shape.numel()].view(shape).ge_(num_dropped - 128)
    return kept, 256 / (256 - num_dropped)
