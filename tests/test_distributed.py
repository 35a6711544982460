"""The machine is what was asked for or a clear error, and every device and precision computes the same."""

from __future__ import annotations

import itertools
import json
import timeit
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch import Tensor

from mt.config.schema import ModelConfig, TrainConfig
from mt.data.batching import Batch
from mt.device import DTYPES, find_device, find_dtype, oom_as_device_error
from mt.distributed import Runtime, open_runtime
from mt.errors import DeviceError
from mt.model.transformer import Transformer
from mt.training.objective import Objective, mean_nll
from mt.training.optimizer import build_optimizer

CPU = torch.device("cpu")
VOCAB_SIZE, PAD_ID = 40, 0


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# What was asked for


@pytest.mark.usefixtures("no_cuda")
def test_cuda_without_a_cuda_device_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(
        DeviceError, match=r"device cuda: this machine has no CUDA device.*try --device cpu"
    ) as caught:
        open_runtime("cuda", "fp32")
    assert "\n" not in str(caught.value)


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        DeviceError, match=r"^device cuda: rank 1 has no GPU to itself: this machine has 1$"
    ):
        open_runtime("auto")


def test_a_lack_of_memory_is_an_error_that_says_for_what() -> None:
    """How PyTorch and Python say it, and what is no lack of it: see test_rehearsal.py."""
    with (
        pytest.raises(DeviceError, match=r"^too little memory to think$"),
        oom_as_device_error("to think"),
    ):
        raise MemoryError


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_without_a_cuda_device_auto_is_the_cpu(name: str) -> None:
    assert find_device(name) == CPU


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_fp16_on_a_cpu_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match="precision fp16 needs a CUDA device"):
        open_runtime(device, "fp16")


def test_the_cpu_is_used_where_it_is_asked_for() -> None:
    assert open_runtime("cpu", "fp32").device == CPU


def test_auto_precision_on_a_cpu_is_fp32_or_bf16() -> None:
    assert open_runtime("cpu", "auto").precision in {"fp32", "bf16"}


@pytest.mark.parametrize("changes_at", [0, 16, 32])
@pytest.mark.parametrize("factor", [1 / 3, 3])
def test_auto_is_not_misled_by_a_machine_that_changes_its_pace(
    changes_at: int, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halfway through 32 tries, 16 for each format, it is three times as slow, or as quick."""
    pace = {torch.float32: 1.0, torch.bfloat16: 1.0}
    tries = itertools.count()

    def timed(statement: str, *, globals: dict[str, Tensor], number: int) -> float:
        return pace[globals["a"].dtype] * (factor if next(tries) >= changes_at else 1)

    monkeypatch.setattr(timeit, "timeit", timed)
    assert find_dtype("auto", CPU) is torch.float32
    pace[torch.bfloat16], tries = 0.5, itertools.count()
    assert find_dtype("auto", CPU) is torch.bfloat16
    assert next(tries) == 32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_was_named_is_taken_at_its_word(precision: str) -> None:
    runtime = open_runtime("cpu", precision)
    assert runtime.dtype is DTYPES[precision] is find_dtype(precision, CPU)
    assert runtime.precision == precision


def test_every_precision_that_a_config_may_name_is_known() -> None:
    assert set(get_args(TrainConfig.model_fields["precision"].annotation)) == {"auto", *DTYPES}


# One process alone


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_autocast_puts_matrix_products_alone_in_the_precision(precision: str) -> None:
    runtime = open_runtime("cpu", precision)
    a = torch.ones(3, 3)
    with runtime.autocast():
        assert (a @ a).dtype is runtime.dtype
        assert (a + a).dtype is torch.float32
    assert (a @ a).dtype is torch.float32


def test_the_scaler_scales_in_fp16_alone() -> None:
    for precision, dtype in DTYPES.items():
        assert Runtime(torch.device("cpu"), dtype).scaler().is_enabled() == (precision == "fp16")


def test_a_process_alone_is_the_main_one_and_exchanges_nothing() -> None:
    runtime = open_runtime("cpu", "fp32")
    module, tensor, value = torch.nn.Linear(2, 2), torch.tensor([1.0, 2.0]), {"a": 1}
    assert (runtime.is_main, runtime.rank, runtime.world_size) == (True, 0, 1)
    assert runtime.wrap(module) is module
    with runtime.no_sync(module):
        assert torch.equal(runtime.all_sum(tensor), torch.tensor([1.0, 2.0]))
    assert runtime.broadcast(value) is value
    assert runtime.gather(value) == [value]
    runtime.close()


def check_that_random_states_repeat(runtime: Runtime) -> None:
    torch.manual_seed(3)
    torch.rand(5, device=runtime.device)
    states = json.loads(json.dumps(runtime.random_state()))
    first = torch.rand(100, device=runtime.device), torch.rand(100)
    torch.manual_seed(4)
    runtime.set_random_state(states)
    for one, other in zip(
        first, (torch.rand(100, device=runtime.device), torch.rand(100)), strict=True
    ):
        assert torch.equal(one, other)


def test_a_random_state_survives_json_and_repeats_what_followed_it() -> None:
    check_that_random_states_repeat(open_runtime("cpu", "fp32"))


# Compiled


def compiled_and_plain(
    device: str, backend: str
) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """Loss and gradients of the two, batch after batch, each of another shape."""
    plain, compiled = (make_model(depth=1).to(device) for _ in range(2))
    compiled.transformer.compile(dynamic=True, fullgraph=True, backend=backend)
    whole = make_batch()
    for rows, length in ((6, 9), (5, 7), (3, 8)):
        tensors = [tensor[-rows:, :length].contiguous() for tensor in whole[:3]]
        batch = Batch(*tensors, int((tensors[2] != PAD_ID).sum())).to(torch.device(device))
        for model in (compiled, plain):
            model.zero_grad()
            model(batch).loss.backward()
        yield tuple([weight.grad for weight in model.parameters()] for model in (compiled, plain))  # type: ignore[misc]


def test_one_graph_without_a_break_serves_all_shapes_and_says_the_same() -> None:
    """What torch.compile would take apart on a GPU is looked at here; the code that it would write is not."""
    torch._dynamo.utils.counters.clear()
    for compiled, plain in compiled_and_plain("cpu", "aot_eager"):
        assert relative_error(compiled, plain) < 1e-6
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # the compiler's advice
def test_a_compiled_model_on_a_gpu_says_the_same() -> None:
    for compiled, plain in compiled_and_plain("cuda", "inductor"):
        assert relative_error(compiled, plain) < 1e-3


# On a GPU


def make_model(
    dtype: torch.dtype = torch.float32, *, norm: str = "pre", depth: int = 2
) -> Objective:
    layers = {"num_encoder_layers": depth, "num_decoder_layers": depth}
    config = ModelConfig(d_model=32, d_ff=64, num_heads=2, norm=norm, **layers)
    torch.manual_seed(1)
    transformer = Transformer(
        config, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, pad_id=PAD_ID
    )
    return Objective(transformer, label_smoothing=0.1, dtype=dtype).eval()


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    src, tgt_in, tgt_out = torch.randint(1, VOCAB_SIZE, (3, 6, 9), generator=generator)
    src[1, 4:] = src[3, 1:] = PAD_ID
    for row, end in ((0, 5), (4, 2)):
        tgt_in[row, end:] = tgt_out[row, end:] = PAD_ID
    return Batch(src, tgt_in, tgt_out, int((tgt_out != PAD_ID).sum()))


def loss_and_gradients(runtime: Runtime, *, norm: str) -> list[torch.Tensor]:
    """Loss, nll and all gradients of one batch, brought to the CPU."""
    model = make_model(runtime.dtype, norm=norm).to(runtime.device)
    with runtime.autocast():
        sums = model(make_batch().to(runtime.device))
    sums.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [
        tensor.detach().cpu() for tensor in (sums.loss, sums.nll, *gradients) if tensor is not None
    ]


def relative_error(tensors: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Of all gradients as one vector, so that those near zero do not count as wrong."""
    one, other = (torch.cat([tensor.flatten() for tensor in side]) for side in (tensors, exact))
    return float((one - other).norm() / other.norm())


def test_bf16_on_a_cpu_is_close_to_fp32() -> None:
    exact, coarse = (
        loss_and_gradients(open_runtime("cpu", word), norm="pre") for word in ("fp32", "bf16")
    )
    assert all(tensor.dtype is torch.float32 for tensor in coarse)
    assert relative_error(coarse[:2], exact[:2]) < 0.01
    assert relative_error(coarse[2:], exact[2:]) < 0.05


@pytest.mark.gpu
def test_auto_is_the_gpu_where_there_is_one() -> None:
    runtime = open_runtime("auto", "auto")
    assert runtime.device.type == "cuda"
    assert runtime.precision in {"bf16", "fp16"}


@pytest.mark.gpu
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_loss_and_gradients_on_a_gpu_are_those_on_the_cpu(norm: str) -> None:
    cpu, gpu = (
        loss_and_gradients(open_runtime(device, "fp32"), norm=norm) for device in ("cpu", "cuda")
    )
    assert relative_error(gpu[:2], cpu[:2]) < 1e-4
    assert relative_error(gpu[2:], cpu[2:]) < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_gpu_is_close_to_fp32(precision: str, norm: str) -> None:
    exact, coarse = (
        loss_and_gradients(open_runtime("cuda", word), norm=norm) for word in ("fp32", precision)
    )
    assert all(tensor.dtype is torch.float32 for tensor in coarse)
    assert relative_error(coarse[:2], exact[:2]) < 0.01
    assert relative_error(coarse[2:], exact[2:]) < 0.05


@pytest.mark.gpu
def test_validation_on_a_gpu_is_validation_on_the_cpu() -> None:
    values = [
        mean_nll(make_model().to(runtime.device), [make_batch()], runtime)
        for runtime in (open_runtime("cpu", "fp32"), open_runtime("cuda", "fp32"))
    ]
    assert values[1] == pytest.approx(values[0], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("overflow", [False, True])
def test_an_fp16_update_that_overflows_is_skipped_and_the_scale_halved(overflow: bool) -> None:
    runtime = open_runtime("cuda", "fp16")
    model, scaler = make_model(runtime.dtype).to(runtime.device), runtime.scaler()
    optimizer = build_optimizer(model, TrainConfig(max_steps=10))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with runtime.autocast():
        sums = model(make_batch().to(runtime.device))
    scaler.scale(sums.loss / sums.num_tokens * (float("inf") if overflow else 1.0)).backward()
    scale = scaler.get_scale()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    same = [
        torch.equal(parameter, old)
        for parameter, old in zip(model.parameters(), before, strict=True)
    ]
    assert all(same) == any(same) == overflow
    assert scaler.get_scale() == (scale / 2 if overflow else scale)


@pytest.mark.gpu
def test_a_random_state_of_a_gpu_repeats_what_followed_it() -> None:
    check_that_random_states_repeat(open_runtime("cuda", "fp32"))
