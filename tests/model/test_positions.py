"""Positions are the sinusoids of the paper."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from mt.model.positions import sinusoids


def test_positions_are_the_sinusoids_of_the_paper() -> None:
    """PE(pos, 2i) = sin(pos / 10000^(2i / d_model)) and PE(pos, 2i + 1) its cosine: sines first here, then cosines."""
    d_model = 8
    table = sinusoids(torch.arange(50), d_model)
    assert table.shape == (50, d_model)
    for position, i in product(range(50), range(d_model // 2)):
        angle = position / 10000 ** (2 * i / d_model)
        assert float(table[position, i]) == pytest.approx(math.sin(angle), abs=1e-5)
        assert float(table[position, d_model // 2 + i]) == pytest.approx(math.cos(angle), abs=1e-5)


def test_positions_may_stand_in_any_order() -> None:
    order = torch.tensor([7, 0, 3, 3, 19])
    assert torch.equal(sinusoids(order, 16), sinusoids(torch.arange(20), 16)[order])
