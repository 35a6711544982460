"""Dropout that does not hold up a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes each element with probability `p` in training and scales up the rest (Srivastava et al. 2014).

    PyTorch draws one float per element, on one CPU thread. Here 64 random bits decide four elements, compared as 16-bit
    integers, so that `p` is rounded to a multiple of 1/65536.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if x.is_cuda:
            return F.dropout(x, self.p)
        threshold = min(round(self.p * 65536), 65535)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.int16)[: x.numel()].view(x.shape) >= threshold - 32768
        return x * keep.to(x.dtype).mul_(65536 / (65536 - threshold))
