"""Tests of making batches ahead of their use."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext

import pytest
from fake_data import random_batch

from mt.data.batching import Batch
from mt.data.prefetch import Prefetcher

BATCHES = [random_batch(seed) for seed in range(20)]


class RecordingSource:
    """Makes BATCHES, and remembers which and in which thread."""

    def __init__(self, *, delay: float = 0.0, failing: int | None = None) -> None:
        self.delay = delay
        self.failing = failing
        self.made: list[int] = []
        self.threads: set[int] = set()

    def batch(self, index: int) -> Batch:
        time.sleep(self.delay)
        self.made.append(index)
        self.threads.add(threading.get_ident())
        if index == self.failing:
            raise ValueError(f"batch {index} is bad")
        return BATCHES[index]

    def cancel(self) -> None:
        self.delay = 0.0


def wait_until_made(source: RecordingSource, num_batches: int) -> None:
    deadline = time.monotonic() + 10
    while len(source.made) < num_batches:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("num_ahead", [1, 3, 100])
@pytest.mark.parametrize("delay", [0.0, 0.002])
def test_batches_are_those_of_the_source_in_order(num_ahead: int, delay: float) -> None:
    source = RecordingSource(delay=delay)
    indices = range(3, 20, 2)
    with Prefetcher(source, indices, num_ahead=num_ahead) as prefetcher:
        batches = [prefetcher.batch(index) for index in indices]
    assert all(batch is BATCHES[index] for batch, index in zip(batches, indices, strict=True))
    assert source.made == list(indices)


def test_batches_are_made_ahead_in_one_thread_and_not_further() -> None:
    source = RecordingSource()
    with Prefetcher(source, range(20), num_ahead=5) as prefetcher:
        wait_until_made(source, 5)
        prefetcher.batch(0)
        prefetcher.batch(1)
        wait_until_made(source, 7)
        time.sleep(0.05)
        assert source.made == list(range(7))
    (thread,) = source.threads
    assert thread != threading.get_ident()


def test_error_of_a_batch_is_raised_where_it_is_used() -> None:
    source = RecordingSource(failing=2)
    with Prefetcher(source, range(20), num_ahead=5) as prefetcher:
        wait_until_made(source, 5)
        prefetcher.batch(0)
        prefetcher.batch(1)
        with pytest.raises(ValueError, match="batch 2 is bad"):
            prefetcher.batch(2)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_thread_ends_with_the_block(error: type[BaseException] | None) -> None:
    threads_before = set(threading.enumerate())
    source = RecordingSource(delay=0.01)
    with (
        nullcontext() if error is None else pytest.raises(error),
        Prefetcher(source, range(20), num_ahead=20) as prefetcher,
    ):
        prefetcher.batch(0)
        assert set(threading.enumerate()) > threads_before
        if error is not None:
            raise error
    assert set(threading.enumerate()) == threads_before
    assert len(source.made) < 10


class SlowSource:
    """Makes a batch only when it is cancelled, or after 20 seconds."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.cancelled = threading.Event()
        self.was_cancelled: list[bool] = []

    def batch(self, index: int) -> Batch:
        self.has_begun.set()
        self.was_cancelled.append(self.cancelled.wait(20))
        return BATCHES[index]

    def cancel(self) -> None:
        self.cancelled.set()


def test_second_ctrl_c_does_not_wait_for_a_slow_source() -> None:
    source = SlowSource()
    with pytest.raises(KeyboardInterrupt), Prefetcher(source, range(20)):  # noqa: PT012
        assert source.has_begun.wait(20)
        raise KeyboardInterrupt
    assert source.was_cancelled == [True]


def test_other_order_of_use_is_a_bug() -> None:
    with (
        Prefetcher(RecordingSource(), range(4)) as prefetcher,
        pytest.raises(AssertionError, match=r"\(1, 0\)"),
    ):
        prefetcher.batch(1)
