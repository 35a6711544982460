"""One thread for PyTorch: quickest for small tensors, and the bits of a subprocess with one. GPU tests need a GPU."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def pytest_configure() -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def restore_logging() -> Iterator[None]:
    """Undo afterwards what a test does to the logger `mt`."""
    logger = logging.getLogger("mt")
    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own, of 1 MiB, to be filled; only root may make one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
    )
    if made.returncode != 0:
        pytest.skip("needs the right to mount a small filesystem")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
