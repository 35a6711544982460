"""Random lengths of sentence pairs."""

from __future__ import annotations

import numpy as np


def random_lengths(num_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    src = generator.integers(1, 40, num_pairs)
    tgt = np.maximum(1, src + generator.integers(-3, 4, num_pairs))
    return src, tgt
