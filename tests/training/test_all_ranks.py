"""Work that ranks share: what ends it on one rank ends it on all. The exchange itself is faked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from copy_task import write_copy_task
from runs import CONFIG, configure

from mt.data.batch_plan import plan_batches
from mt.distributed import Runtime, merge_shares
from mt.errors import DeviceError
from mt.experiment import Experiment
from mt.storage.run_dir import RunDir
from mt.training.all_ranks import compute_on_all_ranks, never_interrupting
from mt.training.objective import Objective
from mt.training.signals import InterruptedBySignal, StopSignals
from mt.training.validator import Validator

CPU = torch.device("cpu")


def exchange_with(monkeypatch: pytest.MonkeyPatch, other_rank: Any) -> list[Any]:
    """Let `all_gather` return `other_rank` for rank 1; return the list of what rank 0 gave."""
    given: list[Any] = []

    def all_gather(runtime: Runtime, value: Any) -> list[Any]:
        given.append(value)
        return [value, other_rank]

    monkeypatch.setattr(Runtime, "all_gather", all_gather)
    return given


def compute(function: Callable[[], int]) -> list[int]:
    return compute_on_all_ranks(function, Runtime(CPU), interrupting=never_interrupting)


def test_results_are_in_the_order_of_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange_with(monkeypatch, ([7], None))
    assert compute(lambda: 5) == [5, 7]


@pytest.mark.parametrize("failure", [DeviceError("too little memory"), InterruptedBySignal()])
def test_failure_of_another_rank_is_raised_here(
    monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    exchange_with(monkeypatch, ([], failure))
    with pytest.raises(type(failure)):
        compute(lambda: 5)


def test_failure_of_this_rank_is_raised_after_the_exchange(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = exchange_with(monkeypatch, ([7], None))

    def fail() -> NoReturn:
        raise DeviceError("too little memory")

    with pytest.raises(DeviceError):
        compute(fail)
    ((results, failure),) = given
    assert results == []
    assert isinstance(failure, DeviceError)


def test_signal_interrupts_the_work_and_not_the_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    given = exchange_with(monkeypatch, ([7], None))
    signals = StopSignals(announce=False)
    signals.name = "SIGTERM"
    with pytest.raises(InterruptedBySignal):
        compute_on_all_ranks(lambda: 5, Runtime(CPU), interrupting=signals.interrupting)
    ((results, failure),) = given
    assert results == []
    assert isinstance(failure, InterruptedBySignal)


# Shares


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_shares_are_merged_in_the_first_order(world_size: int) -> None:
    items = list(range(7))
    runtimes = [Runtime(CPU, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [runtime.own_share(items) for runtime in runtimes]
    assert merge_shares(shares) == items
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("world_size", [2, 8])
def test_ranks_have_equal_shares_of_an_update(world_size: int) -> None:
    """The largest batch of an update has less than 2 % more positions than the mean, on average."""
    generator = np.random.default_rng(5)
    src_lengths = np.clip(generator.lognormal(3.0, 0.6, 20_000), 2, 128).astype(np.int64)
    tgt_lengths = np.clip(src_lengths * generator.normal(1.1, 0.2, 20_000), 2, 128).astype(np.int64)
    plan = plan_batches(
        src_lengths, tgt_lengths, batch_tokens=2048, seed=1, epoch=0, batching="pools"
    )
    positions = np.diff(plan.starts) * np.maximum(plan.src_lengths, plan.tgt_lengths)
    num_updates = plan.num_batches // world_size
    shares = positions[: num_updates * world_size].reshape(num_updates, world_size)
    assert (shares.max(axis=1) / shares.mean(axis=1)).mean() < 1.02


def test_validation_in_shares_equals_a_validation_in_one(tmp_path: Path) -> None:
    config = configure(write_copy_task(tmp_path, CONFIG), tmp_path / "run", "train.num_samples=3")
    experiment = Experiment(config, RunDir(tmp_path / "run"))
    experiment.train_tokenizers()
    objective = Objective(experiment.model(CPU), label_smoothing=0.1).eval()
    validators = [Validator(experiment, Runtime(CPU, rank=rank, world_size=2)) for rank in range(2)]
    shares = [validator._compute_share(objective) for validator in validators]
    assert [len(share.hypotheses_of_sets[0]) for share in shares] == [3, 3]
    combined = validators[0]._combine(shares)
    whole = Validator(experiment, Runtime(CPU))(objective)
    assert combined.loss == whole.loss
    assert combined.scores == whole.scores
    assert combined.samples == whole.samples
