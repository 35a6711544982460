"""Positions are the sinusoids of the paper."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from mt.model.positions import sinusoids

CPU = torch.device("cpu")


def test_positions_are_the_sinusoids_of_the_paper() -> None:
    """PE(pos, 2i) = sin(pos / 10000^(2i / d_model)) and PE(pos, 2i + 1) its cosine: sines first here, then cosines."""
    d_model = 8
    table = sinusoids(0, 50, d_model, device=CPU)
    assert table.shape == (50, d_model)
    for position, i in product(range(50), range(d_model // 2)):
        angle = position / 10000 ** (2 * i / d_model)
        assert float(table[position, i]) == pytest.approx(math.sin(angle), abs=1e-5)
        assert float(table[position, d_model // 2 + i]) == pytest.approx(math.cos(angle), abs=1e-5)


@pytest.mark.parametrize("start", [0, 1, 17])
def test_positions_that_start_later_are_the_later_positions(start: int) -> None:
    assert torch.equal(sinusoids(start, 5, 16, device=CPU), sinusoids(0, start + 5, 16, device=CPU)[start:])
