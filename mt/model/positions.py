"""Where a word stands, as numbers that a network can read."""

import math

import torch
from torch import Tensor


def sinusoids(positions: Tensor, d_model: int) -> Tensor:
    """Encodings (..., d_model), float32, of `positions` (...) (Vaswani et al. 2017, section 3.5).

    The sines stand in the first half of the channels and the cosines in the second.
    """
    rates = torch.exp(
        torch.arange(d_model // 2, device=positions.device) * (-math.log(10000.0) / (d_model // 2))
    )
    angles = positions[..., None].float() * rates  # (..., d_model / 2)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
