"""The tests of the model run twice: with the fast kernels of a CPU, and with their references."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def with_both_kernels(kernels: str) -> str:
    return kernels
