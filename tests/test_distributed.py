"""The runtime of a process, and equal results on every device and precision, compiled or not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mt.config.schema import ModelConfig, TrainConfig
from mt.data.batching import Batch
from mt.device import DTYPES
from mt.distributed import Runtime, open_runtime
from mt.errors import DeviceError
from mt.model.transformer import Transformer
from mt.training.objective import Objective, mean_token_loss, token_losses
from mt.training.optimizer import build_optimizer

VOCAB_SIZE = 40
PAD_ID = 0


# Opening a runtime


def test_runtime_on_the_cpu() -> None:
    assert open_runtime("cpu", "fp32").device == torch.device("cpu")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_missing_device_or_precision_is_refused(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"needs a CUDA device|no CUDA device"):
        open_runtime(device, "fp16")


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(DeviceError, match=r"device cuda: rank 1 .* this machine has 1$"):
        open_runtime("auto")


def test_auto_precision_on_the_cpu_is_fp32_or_bf16() -> None:
    assert open_runtime("cpu", "auto").precision in {"fp32", "bf16"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_named_precision_is_used(precision: str) -> None:
    runtime = open_runtime("cpu", precision)
    assert runtime.dtype is DTYPES[precision]
    assert runtime.precision == precision


@pytest.mark.gpu
def test_auto_runtime_with_a_gpu_uses_it_in_half_precision() -> None:
    runtime = open_runtime("auto", "auto")
    assert runtime.device.type == "cuda"
    assert runtime.precision in {"bf16", "fp16"}


# One process


def test_loss_scaler_is_enabled_only_in_fp16() -> None:
    for precision, dtype in DTYPES.items():
        scaler = Runtime(torch.device("cpu"), dtype).scaler()
        assert scaler.is_enabled() == (precision == "fp16")


def test_single_process_is_main_and_exchanges_nothing() -> None:
    runtime = open_runtime("cpu", "fp32")
    assert runtime.is_main
    assert runtime.rank == 0
    assert runtime.world_size == 1
    module = nn.Linear(2, 2)
    assert runtime.wrap_in_ddp(module) is module
    with runtime.no_sync(module):
        assert torch.equal(
            runtime.all_reduce_sum(torch.tensor([1.0, 2.0])), torch.tensor([1.0, 2.0])
        )
    value = {"a": 1}
    assert runtime.broadcast(value) is value
    assert runtime.compute_on_main(lambda: value) is value
    assert runtime.all_gather(value) == [value]
    runtime.close()


def test_rank_0_alone_computes_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "broadcast", lambda _, value: value)
    main = Runtime(torch.device("cpu"), rank=0, world_size=2)
    other = Runtime(torch.device("cpu"), rank=1, world_size=2)
    assert main.compute_on_main(lambda: 7) == 7
    other.compute_on_main(lambda: pytest.fail("computed on another rank"))


def test_random_state_is_restored_on_the_cpu() -> None:
    check_random_state(open_runtime("cpu", "fp32"))


@pytest.mark.gpu
def test_random_state_is_restored_on_a_gpu() -> None:
    check_random_state(open_runtime("cuda", "fp32"))


def check_random_state(runtime: Runtime) -> None:
    """Check that a random state that went through JSON gives the same numbers again."""
    torch.manual_seed(3)
    torch.rand(5, device=runtime.device)
    states = json.loads(json.dumps(runtime.random_state()))
    device_numbers = torch.rand(100, device=runtime.device)
    cpu_numbers = torch.rand(100)
    torch.manual_seed(4)
    runtime.set_random_state(states)
    assert torch.equal(torch.rand(100, device=runtime.device), device_numbers)
    assert torch.equal(torch.rand(100), cpu_numbers)


# Models on each device and precision


def make_model(
    dtype: torch.dtype = torch.float32, *, norm: str = "pre", num_layers: int = 2
) -> Objective:
    config = ModelConfig.model_validate(
        {
            "d_model": 32,
            "d_ff": 64,
            "num_heads": 2,
            "num_encoder_layers": num_layers,
            "num_decoder_layers": num_layers,
            "norm": norm,
        }
    )
    torch.manual_seed(1)
    transformer = Transformer(
        config, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, pad_id=PAD_ID
    )
    transformer.compute_dtype = dtype
    return Objective(transformer, label_smoothing=0.1).eval()


def make_batch() -> Batch:
    """Return 6 pairs of at most 9 tokens a side; some rows end with padding."""
    generator = torch.Generator().manual_seed(2)
    src, tgt_in, tgt_out = torch.randint(1, VOCAB_SIZE, (3, 6, 9), generator=generator)
    src[1, 4:] = PAD_ID
    src[3, 1:] = PAD_ID
    for row, length in ((0, 5), (4, 2)):
        tgt_in[row, length:] = PAD_ID
        tgt_out[row, length:] = PAD_ID
    return Batch(src, tgt_in, tgt_out, int((tgt_out != PAD_ID).sum()))


def losses_and_gradients(runtime: Runtime, *, norm: str) -> tuple[list[Tensor], list[Tensor]]:
    """Return loss and nll of one batch, and the gradients, on the CPU."""
    model = make_model(runtime.dtype, norm=norm).to(runtime.device)
    sums = model(make_batch().to(runtime.device))
    sums.loss.backward()
    losses = [sums.loss.detach().cpu(), sums.nll.detach().cpu()]
    gradients = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
    return losses, gradients


def relative_error(tensors: list[Tensor], exact_tensors: list[Tensor]) -> float:
    """Return the relative error of all tensors as one vector.

    So those that are nearly zero do not count as wrong.
    """
    vector = torch.cat([tensor.flatten() for tensor in tensors])
    exact_vector = torch.cat([tensor.flatten() for tensor in exact_tensors])
    return float((vector - exact_vector).norm() / exact_vector.norm())


def check_close(
    runtime: Runtime,
    exact_runtime: Runtime,
    *,
    norm: str,
    loss_tolerance: float,
    gradient_tolerance: float,
) -> None:
    """Check that two runtimes compute about the same losses and gradients, in float32."""
    losses, gradients = losses_and_gradients(runtime, norm=norm)
    exact_losses, exact_gradients = losses_and_gradients(exact_runtime, norm=norm)
    assert all(tensor.dtype is torch.float32 for tensor in losses + gradients)
    assert relative_error(losses, exact_losses) < loss_tolerance
    assert relative_error(gradients, exact_gradients) < gradient_tolerance


def test_bf16_on_the_cpu_is_close_to_fp32() -> None:
    check_close(
        open_runtime("cpu", "bf16"),
        open_runtime("cpu", "fp32"),
        norm="pre",
        loss_tolerance=0.01,
        gradient_tolerance=0.05,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gpu_computes_what_the_cpu_does(norm: str) -> None:
    check_close(
        open_runtime("cuda", "fp32"),
        open_runtime("cpu", "fp32"),
        norm=norm,
        loss_tolerance=1e-4,
        gradient_tolerance=1e-3,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_gpu_is_close_to_fp32(precision: str, norm: str) -> None:
    check_close(
        open_runtime("cuda", precision),
        open_runtime("cuda", "fp32"),
        norm=norm,
        loss_tolerance=0.01,
        gradient_tolerance=0.05,
    )


@pytest.mark.gpu
def test_validation_loss_on_a_gpu_is_that_on_the_cpu() -> None:
    cpu = open_runtime("cpu", "fp32")
    gpu = open_runtime("cuda", "fp32")
    cpu_nll = mean_token_loss(token_losses(make_model(), [make_batch()], cpu.device))
    gpu_model = make_model().to(gpu.device)
    gpu_nll = mean_token_loss(token_losses(gpu_model, [make_batch()], gpu.device))
    assert gpu_nll == pytest.approx(cpu_nll, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("overflows", [False, True])
def test_fp16_update_that_overflows_is_skipped(overflows: bool) -> None:
    runtime = open_runtime("cuda", "fp16")
    model = make_model(runtime.dtype).to(runtime.device)
    scaler = runtime.scaler()
    optimizer = build_optimizer(model, TrainConfig(max_steps=10))
    weights_before = [parameter.detach().clone() for parameter in model.parameters()]
    sums = model(make_batch().to(runtime.device))
    factor = float("inf") if overflows else 1.0
    scaler.scale(sums.loss / sums.num_tokens * factor).backward()
    scale_before = scaler.get_scale()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    for parameter, weight_before in zip(model.parameters(), weights_before, strict=True):
        assert torch.equal(parameter, weight_before) == overflows
    assert scaler.get_scale() == (scale_before / 2 if overflows else scale_before)


# Compiled models


def compiled_and_plain_gradients(
    device: str, backend: str
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield the gradients of a compiled and a plain model, for batches of different shapes."""
    plain = make_model(num_layers=1).to(device)
    compiled = make_model(num_layers=1).to(device)
    compiled.transformer.compile(dynamic=True, fullgraph=True, backend=backend)
    whole_batch = make_batch()
    for num_rows, length in ((6, 9), (5, 7), (3, 8)):
        src, tgt_in, tgt_out = (
            tensor[-num_rows:, :length].contiguous() for tensor in whole_batch[:3]
        )
        num_tokens = int((tgt_out != PAD_ID).sum())
        batch = Batch(src, tgt_in, tgt_out, num_tokens).to(torch.device(device))
        yield gradients_of(compiled, batch), gradients_of(plain, batch)


def gradients_of(model: Objective, batch: Batch) -> list[Tensor]:
    model.zero_grad()
    model(batch).loss.backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_compiled_model_is_one_graph_for_all_shapes() -> None:
    """Checks the tracing that torch.compile does on a GPU too, but not the code it generates."""
    torch._dynamo.utils.counters.clear()
    for compiled, plain in compiled_and_plain_gradients("cpu", "aot_eager"):
        assert relative_error(compiled, plain) < 1e-6
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # advice of the compiler
def test_compiled_model_on_a_gpu_computes_the_same() -> None:
    for compiled, plain in compiled_and_plain_gradients("cuda", "inductor"):
        assert relative_error(compiled, plain) < 1e-3
