"""Tests of the sinusoidal position encodings."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from mt.model.positions import sinusoids


def test_sinusoids_follow_the_paper() -> None:
    """PE(pos, 2i) = sin(pos / 10000^(2i / d_model)), and PE(pos, 2i + 1) is its cosine.

    Here the sines are the first half of the channels and the cosines are the second half.
    """
    d_model = 8
    encodings = sinusoids(torch.arange(50), d_model)
    assert encodings.shape == (50, d_model)
    for position, i in product(range(50), range(d_model // 2)):
        angle = position / 10000 ** (2 * i / d_model)
        sine = float(encodings[position, i])
        cosine = float(encodings[position, d_model // 2 + i])
        assert sine == pytest.approx(math.sin(angle), abs=1e-5)
        assert cosine == pytest.approx(math.cos(angle), abs=1e-5)


def test_positions_may_be_in_any_order() -> None:
    positions = torch.tensor([7, 0, 3, 3, 19])
    assert torch.equal(sinusoids(positions, 16), sinusoids(torch.arange(20), 16)[positions])
