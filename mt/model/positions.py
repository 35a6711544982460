"""Where a word stands, as numbers that a network can read."""

import math

import torch
from torch import Tensor


def sinusoids(start: int, length: int, d_model: int, *, device: torch.device) -> Tensor:
    """Position encodings (length, d_model) for positions `start` and on (Vaswani et al. 2017, section 3.5).

    The sines stand in the first half of the channels and the cosines in the second.
    """
    positions = torch.arange(start, start + length, device=device, dtype=torch.float32)
    rates = torch.exp(torch.arange(d_model // 2, device=device) * (-math.log(10000.0) / (d_model // 2)))
    angles = positions[:, None] * rates[None, :]  # (length, d_model / 2)
    return torch.cat((angles.sin(), angles.cos()), dim=1)
