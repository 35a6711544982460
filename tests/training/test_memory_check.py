"""Too little memory shows before the first update, and checking for it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from fake_data import FakeEpoch

from mt.config.schema import ModelConfig
from mt.data.batch_plan import BatchPlan, plan_batches
from mt.data.batching import Batch
from mt.distributed import Runtime
from mt.errors import DeviceError
from mt.model.transformer import Transformer
from mt.training.memory_check import check_memory, largest_batches, try_update
from mt.training.objective import Objective

RUNTIME = Runtime(torch.device("cpu"))
MODEL_SHAPE = {
    "d_model": 16,
    "d_ff": 32,
    "num_heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
}


def make_objective() -> Objective:
    torch.manual_seed(1)
    config = ModelConfig(**MODEL_SHAPE, dropout=0.3)
    model = Transformer(config, src_vocab_size=20, tgt_vocab_size=20, pad_id=0)
    return Objective(model, label_smoothing=0.1)


def make_batch(num_rows: int, length: int) -> Batch:
    generator = torch.Generator().manual_seed(num_rows)
    ids = torch.randint(3, 20, (num_rows, length), generator=generator)
    return Batch(ids, ids, ids, num_rows * length)


def make_epoch(shapes: Sequence[tuple[int, int]]) -> FakeEpoch:
    """Return an epoch with batches of these (rows, length)."""
    num_rows, lengths = np.array(shapes).T
    starts = np.cumsum([0, *num_rows])
    plan = BatchPlan(np.arange(starts[-1]), starts, lengths, lengths, np.array([0, 1]))
    return FakeEpoch(plan, lambda index: make_batch(*shapes[index]))


class ShapedDataset:
    """A data set whose batches have a shape that depends on their size."""

    def __init__(
        self, shapes: Callable[[int], Sequence[tuple[int, int]]], *, max_length: int = 1
    ) -> None:
        self.shapes = shapes
        self.max_length = max_length

    def epoch(self, number: int, *, batch_tokens: int) -> FakeEpoch:
        return make_epoch(self.shapes(batch_tokens))


def fail_above(objective: Objective, limit: int, error: Exception) -> None:
    """Raise `error` in batches of more than `limit` source positions."""
    original_forward = objective.forward

    def forward(batch: Batch) -> object:
        if batch.src.numel() > limit:
            raise error
        return original_forward(batch)

    objective.forward = forward  # type: ignore[method-assign, assignment]


def run_check(objective: Objective, dataset: ShapedDataset, batch_tokens: int) -> None:
    epoch = dataset.epoch(0, batch_tokens=batch_tokens)
    check_memory(objective, dataset, epoch, batch_tokens=batch_tokens, runtime=RUNTIME)  # type: ignore[arg-type]


def test_largest_batches_by_positions_and_by_attention() -> None:
    assert largest_batches(make_epoch([(2, 5), (20, 6), (3, 30), (1, 40)]).plan) == [1, 2]
    assert largest_batches(make_epoch([(2, 5), (9, 30)]).plan) == [1]


def test_largest_batches_of_a_real_plan_are_the_largest() -> None:
    generator = np.random.default_rng(4)
    src_lengths = generator.integers(1, 60, 500)
    tgt_lengths = generator.integers(1, 60, 500)
    plan = plan_batches(
        src_lengths, tgt_lengths, batch_tokens=300, seed=1, epoch=0, batching="pools"
    )
    num_positions = []
    map_sizes = []
    for index in range(plan.num_batches):
        rows = plan.indices(index, index + 1)
        src_length = src_lengths[rows].max()
        tgt_length = tgt_lengths[rows].max()
        assert plan.src_lengths[index] == src_length
        assert plan.tgt_lengths[index] == tgt_length
        num_positions.append(len(rows) * (src_length + tgt_length))
        map_sizes.append(len(rows) * max(src_length, tgt_length) ** 2)
    chosen = largest_batches(plan)
    assert max(num_positions) in [num_positions[index] for index in chosen]
    assert max(map_sizes) in [map_sizes[index] for index in chosen]


def test_try_update_restores_gradients_and_random_state() -> None:
    objective = make_objective()
    weights_before = {name: value.clone() for name, value in objective.state_dict().items()}
    torch.manual_seed(9)
    try_update(objective, [make_batch(3, 7)], RUNTIME)
    drawn = torch.rand(5)
    torch.manual_seed(9)
    assert torch.equal(drawn, torch.rand(5))
    for name, value in objective.state_dict().items():
        assert torch.equal(value, weights_before[name])
    assert all(parameter.grad is None for parameter in objective.parameters())


@pytest.mark.parametrize(("optimizer_has_state", "num_moments"), [(False, 2), (True, 0)])
def test_try_update_allocates_missing_moments(
    optimizer_has_state: bool, num_moments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = make_objective()
    sizes: list[int] = []
    monkeypatch.setattr(torch, "zeros_like", lambda weight: sizes.append(weight.numel()))
    try_update(objective, [], RUNTIME, optimizer_has_state=optimizer_has_state)
    num_weights = sum(weight.numel() for weight in objective.parameters())
    assert sum(sizes) == num_moments * num_weights


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("could not create a primitive. Run workload with environment variable ..."),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "onednn", "python"],
)
def test_check_memory_names_a_size_that_fits(error: Exception) -> None:
    objective = make_objective()
    fail_above(objective, 100, error)
    dataset = ShapedDataset(lambda batch_tokens: [(batch_tokens // 10, 10), (1, 10)])
    with pytest.raises(DeviceError) as caught:
        run_check(objective, dataset, 400)
    message = str(caught.value)
    assert "train.batch_tokens 400" in message
    assert "100 fits" in message
    assert "4 times train.gradient_accumulation" in message
    run_check(objective, dataset, 100)


def test_check_memory_says_when_no_size_fits() -> None:
    objective = make_objective()
    fail_above(objective, 0, MemoryError())
    dataset = ShapedDataset(lambda batch_tokens: [(1, 4)])
    with pytest.raises(DeviceError, match=r"for this model, even with train\.batch_tokens 3:"):
        run_check(objective, dataset, 400)


@pytest.mark.parametrize(("max_length", "smallest"), [(100, 100), (101, 200), (400, 400)])
def test_check_memory_does_not_try_sizes_that_a_config_refuses(
    max_length: int, smallest: int
) -> None:
    objective = make_objective()
    fail_above(objective, 99, MemoryError())
    tried = []

    def shapes(batch_tokens: int) -> list[tuple[int, int]]:
        tried.append(batch_tokens)
        return [(batch_tokens // 10, 10)]

    dataset = ShapedDataset(shapes, max_length=max_length)
    with pytest.raises(DeviceError, match=f"for this model, .* train.batch_tokens {smallest}:"):
        run_check(objective, dataset, 400)
    assert min(tried) == smallest


def test_check_memory_tries_the_batches_as_wide_as_they_may_become() -> None:
    class WideningEpoch(FakeEpoch):
        def batch_for_memory_check(self, index: int) -> Batch:
            return make_batch(4, 15)

    class WideningDataset:
        max_length = 40

        def epoch(self, number: int, *, batch_tokens: int) -> FakeEpoch:
            plan = make_epoch([(4, 10)]).plan
            return WideningEpoch(plan, lambda index: make_batch(4, 10))

    dataset: Any = WideningDataset()
    objective = make_objective()
    run_check(objective, dataset, 40)
    fail_above(objective, 50, MemoryError())
    with pytest.raises(DeviceError, match="too little memory"):
        run_check(objective, dataset, 40)


@pytest.mark.parametrize(
    "message",
    [
        "size mismatch",
        "could not create a primitive descriptor for the inner product forward propagation",
    ],
)
def test_other_errors_are_passed_on(message: str) -> None:
    objective = make_objective()
    fail_above(objective, 0, RuntimeError(message))
    with pytest.raises(RuntimeError, match=message):
        try_update(objective, [make_batch(2, 2)], RUNTIME)


@pytest.mark.gpu
def test_full_gpu_is_reported_and_stays_usable() -> None:
    objective = make_objective().cuda()
    runtime = Runtime(torch.device("cuda", 0))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    occupied = torch.empty(free - 2**28, dtype=torch.uint8, device="cuda")
    with pytest.raises(DeviceError, match="too little memory"):
        try_update(objective, [make_batch(4000, 200)], runtime)
    del occupied
    torch.cuda.empty_cache()
    try_update(objective, [make_batch(4, 20)], runtime)
