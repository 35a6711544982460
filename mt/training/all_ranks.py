"""Work shared by ranks between two updates: a signal or an error of one rank ends it on all."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from mt.distributed import Runtime
from mt.errors import MtError
from mt.training.signals import InterruptedBySignal

T = TypeVar("T")

# Returns a context in which a signal raises InterruptedBySignal (see `StopSignals.interrupting`).
Interrupting = Callable[[], AbstractContextManager[None]]


def never_interrupting() -> AbstractContextManager[None]:
    """Return a context in which no signal interrupts."""
    return nullcontext()


def compute_on_all_ranks(
    compute: Callable[[], T], runtime: Runtime, *, interrupting: Interrupting
) -> list[T]:
    """Return what `compute` returns on each rank, ordered by rank.

    `compute` runs in the context that `interrupting` returns, the exchange of the results outside
    of it: no rank may leave an exchange for which the others wait. Raises InterruptedBySignal or
    MtError on all ranks when `compute` raises it on one.
    """
    results: list[T] = []
    failure: InterruptedBySignal | MtError | None = None
    try:
        with interrupting():
            results.append(compute())
    except (InterruptedBySignal, MtError) as error:
        failure = error
    gathered = runtime.all_gather((results, failure))
    for _, failure_of_rank in gathered:
        if failure_of_rank is not None:
            raise failure_of_rank
    return [result for results_of_rank, _ in gathered for result in results_of_rank]
