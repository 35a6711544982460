"""Too little memory shows before the first update, and trying it leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from fake_data import FakeEpoch

from mt.config.schema import ModelConfig
from mt.data.batching import Batch, BatchPlan, plan_batches
from mt.distributed import Runtime
from mt.errors import DeviceError
from mt.model.transformer import Transformer
from mt.training.memory_check import check_memory, largest_batches, rehearse
from mt.training.objective import Objective

RUNTIME = Runtime(torch.device("cpu"))
SHAPE = {
    "d_model": 16,
    "d_ff": 32,
    "num_heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
}


def make_model() -> Objective:
    torch.manual_seed(1)
    transformer = Transformer(
        ModelConfig(**SHAPE, dropout=0.3), src_vocab_size=20, tgt_vocab_size=20, pad_id=0
    )
    return Objective(transformer, label_smoothing=0.1, dtype=torch.float32)


def make_batch(rows: int, length: int) -> Batch:
    ids = torch.randint(3, 20, (rows, length), generator=torch.Generator().manual_seed(rows))
    return Batch(ids, ids, ids, rows * length)


def make_epoch(shapes: Sequence[tuple[int, int]]) -> FakeEpoch:
    """Batches of these (rows, length)."""
    rows, lengths = np.array(shapes).T
    plan = BatchPlan(np.arange(rows.sum()), np.cumsum([0, *rows]), rows * lengths, lengths, lengths)
    return FakeEpoch(plan, lambda index: make_batch(*shapes[index]))


def fail_above(model: Objective, limit: int, error: Exception) -> None:
    """Let the model lack memory for more than `limit` source positions."""
    forward = model.forward

    def limited(batch: Batch) -> object:
        if batch.src.numel() > limit:
            raise error
        return forward(batch)

    model.forward = limited  # type: ignore[method-assign, assignment]


def test_the_largest_batches_are_those_of_most_positions_and_of_most_attention() -> None:
    assert largest_batches(make_epoch([(2, 5), (20, 6), (3, 30), (1, 40)]).plan) == [1, 2]
    assert largest_batches(make_epoch([(2, 5), (9, 30)]).plan) == [1]


def test_the_largest_batches_of_a_real_plan_are_as_large_as_any() -> None:
    generator = np.random.default_rng(4)
    src, tgt = (generator.integers(1, 60, 500) for _ in range(2))
    plan = plan_batches(src, tgt, batch_tokens=300, seed=1, epoch=0)
    sizes, maps = [], []
    for index in range(plan.num_batches):
        rows = plan.indices(index)
        longest = (src[rows].max(), tgt[rows].max())
        assert (plan.src_lengths[index], plan.tgt_lengths[index]) == longest
        sizes.append(len(rows) * sum(longest))
        maps.append(len(rows) * max(longest) ** 2)
    found = largest_batches(plan)
    assert max(sizes) in [sizes[index] for index in found]
    assert max(maps) in [maps[index] for index in found]


def test_a_rehearsal_leaves_weights_gradients_and_random_numbers_as_they_were() -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(9)
    rehearse(model, [make_batch(3, 7)], RUNTIME)
    drawn = torch.rand(5)
    torch.manual_seed(9)
    assert torch.equal(drawn, torch.rand(5))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("begun", "num_moments"), [(False, 2), (True, 0)])
def test_room_is_made_for_the_moments_that_the_optimizer_lacks(
    begun: bool, num_moments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sizes = make_model(), []
    monkeypatch.setattr(torch, "zeros_like", lambda weight: sizes.append(weight.numel()))
    rehearse(model, [], RUNTIME, begun=begun)
    assert sum(sizes) == num_moments * sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:126] DefaultCPUAllocator: can't allocate memory: you tried ..."
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_a_size_that_fits_is_named_when_memory_is_too_small(error: Exception) -> None:
    model = make_model()
    fail_above(model, 100, error)

    def reopen(batch_tokens: int) -> FakeEpoch:
        return make_epoch([(batch_tokens // 10, 10), (1, 10)])

    with pytest.raises(DeviceError) as caught:
        check_memory(model, reopen(400), RUNTIME, reopen=reopen, batch_tokens=400)
    assert str(caught.value) == (
        "too little memory for train.batch_tokens 400; 100 fits, "
        "and with 4 times train.gradient_accumulation the updates stay as large"
    )
    check_memory(model, reopen(100), RUNTIME, reopen=reopen, batch_tokens=100)


def test_a_model_that_no_size_helps_is_said_to_be_too_large() -> None:
    model = make_model()
    fail_above(model, 0, MemoryError())
    with pytest.raises(
        DeviceError, match=r"too little memory for this model, even with train\.batch_tokens 3$"
    ):
        check_memory(
            model,
            make_epoch([(4, 4)]),
            RUNTIME,
            reopen=lambda _: make_epoch([(1, 4)]),
            batch_tokens=400,
        )


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    model = make_model()
    fail_above(model, 0, RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        rehearse(model, [make_batch(2, 2)], RUNTIME)


@pytest.mark.gpu
def test_a_gpu_that_is_too_small_is_told_so_and_stays_usable() -> None:
    model = make_model().cuda()
    runtime = Runtime(torch.device("cuda", 0))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(free - 2**28, dtype=torch.uint8, device="cuda")
    with pytest.raises(DeviceError, match="too little memory"):
        rehearse(model, [make_batch(4000, 200)], runtime)
    del hog
    torch.cuda.empty_cache()
    rehearse(model, [make_batch(4, 20)], runtime)
