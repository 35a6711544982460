"""Dropout that does not hold up a CPU."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes each element with probability `p` in training and scales up the rest (Srivastava et al. 2014).

    PyTorch draws one float per element, on one CPU thread. Here a byte decides an element, so that the share left out
    in one call is a multiple of 1/256, 255 at most: the one below or the one above `p`, by a draw whose mean is `p`.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if x.is_cuda:
            return F.dropout(x, self.p)
        num_dropped = min(int(self.p * 256 + torch.rand(())), 255)  # of the 256 values of a byte
        # Quicker by far than PyTorch's generator, whose state it depends on, so that no other needs to be kept.
        words = np.random.SFC64(int(torch.randint(2**63 - 1, ()))).random_raw((x.numel() + 7) // 8)
        keep = torch.from_numpy(words.view(np.int8))[: x.numel()].view(x.shape).ge_(num_dropped - 128)
        # Not as bool, which takes ten times as long to convert.
        return x * keep.to(x.dtype).mul_(256 / (256 - num_dropped))
