"""Prefetching: a thread makes the next batches while the trainer computes.

Encoding with BPE-dropout takes several milliseconds a batch. A thread can do this beside PyTorch,
because PyTorch releases Python's global lock while it computes.
"""

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from mt.data.batching import Batch
from mt.data.dataset import Epoch

NUM_AHEAD = 64  # batches; enough training time to sample the next group of batches (BPE-dropout)


class Prefetcher:
    """Makes the batches `indices` of an epoch in a thread, in this order and ahead of their use.

    The timing does not change the batches. The thread runs only inside the `with` block, and there
    nothing else may use the epoch. The end of the block cancels the epoch, so that it does not wait
    long. The epoch cannot be used again.
    """

    def __init__(self, epoch: Epoch, indices: Iterable[int], *, num_ahead: int = NUM_AHEAD) -> None:
        assert num_ahead >= 1, num_ahead
        self._epoch = epoch
        self._indices = iter(indices)
        self._num_ahead = num_ahead
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mt-prefetch")
        self._futures: deque[tuple[int, Future[Batch]]] = deque()

    def __enter__(self) -> Self:
        for _ in range(self._num_ahead):
            self._start_next()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._epoch.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def batch(self, index: int) -> Batch:
        """Return the next batch, which must be number `index`.

        Raises what the epoch raised when it made this batch.
        """
        next_index, future = self._futures.popleft()
        assert index == next_index, (index, next_index)
        self._start_next()
        return future.result()

    def _start_next(self) -> None:
        """Queue the next batch for the thread, if there is one."""
        index = next(self._indices, None)
        if index is not None:
            self._futures.append((index, self._executor.submit(self._epoch.batch, index)))
