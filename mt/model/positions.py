"""Sinusoidal position encodings."""

import math

import torch
from torch import Tensor


def sinusoids(positions: Tensor, d_model: int) -> Tensor:
    """Return the encodings (..., d_model), float32, of `positions` (...).

    See Vaswani et al. (2017), section 3.5. Here the first half of the channels are the sines and
    the second half are the cosines; the paper alternates them.
    """
    exponents = torch.arange(d_model // 2, device=positions.device)
    frequencies = torch.exp(exponents * (-math.log(10000.0) / (d_model // 2)))
    angles = positions[..., None].float() * frequencies  # (..., d_model / 2)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
