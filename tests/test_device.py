"""A device, precision or memory that the machine lacks is a clear error; `auto` finds what it
has.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import timeit
from typing import get_args

import pytest
import torch
from torch import Tensor

from mt import device
from mt.config.schema import TrainConfig
from mt.device import DTYPES, find_device, find_dtype, has_onednn_bf16, oom_as_device_error
from mt.errors import DeviceError

CPU = torch.device("cpu")


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# Devices


@pytest.mark.usefixtures("no_cuda")
def test_cuda_without_a_gpu_is_refused_with_advice() -> None:
    with pytest.raises(DeviceError, match=r"device cuda: .*try --device cpu") as caught:
        find_device("cuda")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_auto_device_without_a_gpu_is_the_cpu(name: str) -> None:
    assert find_device(name) == CPU


@pytest.mark.gpu
def test_auto_device_with_a_gpu_is_cuda() -> None:
    assert find_device("auto").type == "cuda"


# Precisions


def test_config_precisions_are_known() -> None:
    precisions = get_args(TrainConfig.model_fields["precision"].annotation)
    assert set(precisions) == {"auto", *DTYPES}


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(DeviceError, match="precision fp16 needs a CUDA device"):
        find_dtype("fp16", CPU)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_named_precision_is_used(precision: str) -> None:
    assert find_dtype(precision, CPU) is DTYPES[precision]


@pytest.mark.gpu
def test_auto_precision_on_a_gpu_is_half() -> None:
    assert find_dtype("auto", torch.device("cuda")) in {torch.bfloat16, torch.float16}


@pytest.mark.parametrize("changes_at", [0, 16, 32])
@pytest.mark.parametrize("factor", [1 / 3, 3])
def test_auto_precision_tolerates_a_change_of_speed(
    changes_at: int, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine becomes three times as slow or fast during the 32 runs, 16 for each format."""
    seconds = {torch.float32: 1.0, torch.bfloat16: 1.0}
    run_numbers = itertools.count()

    def fake_timeit(statement: str, *, globals: dict[str, Tensor], number: int) -> float:
        is_changed = next(run_numbers) >= changes_at
        return seconds[globals["a"].dtype] * (factor if is_changed else 1)

    monkeypatch.setattr(device, "has_onednn_bf16", lambda: True)
    monkeypatch.setattr(timeit, "timeit", fake_timeit)
    assert find_dtype("auto", CPU) is torch.float32
    seconds[torch.bfloat16] = 0.5
    run_numbers = itertools.count()
    assert find_dtype("auto", CPU) is torch.bfloat16
    assert next(run_numbers) == 32


def test_bf16_of_onednn_is_not_known_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert has_onednn_bf16() is None


def test_processor_without_bf16_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of the measurement takes 0.2 seconds there, and each command would wait for 16."""

    def fail(*args: object, **options: object) -> float:
        raise AssertionError("measured")

    monkeypatch.setattr(timeit, "timeit", fail)
    monkeypatch.setattr(device, "has_onednn_bf16", lambda: False)
    assert find_dtype("auto", CPU) is torch.float32
    monkeypatch.setattr(device, "has_onednn_bf16", lambda: None)
    with pytest.raises(AssertionError, match="measured"):
        find_dtype("auto", CPU)


# Memory


def test_lack_of_memory_is_a_device_error() -> None:
    """Messages of PyTorch, and errors that are no lack of memory, are in test_memory_check.py."""
    with (
        pytest.raises(DeviceError, match=r"^too little memory to think$"),
        oom_as_device_error("to think"),
    ):
        raise MemoryError


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_freed_memory_is_kept_until_it_is_returned() -> None:
    """In another process, because the settings of the allocator last as long as it."""
    script = """
import torch
from mt.device import keep_freed_memory, return_freed_memory

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

keep_freed_memory()
before = resident_mb()
tensors = [torch.ones(2**20) for _ in range(50)]  # 200 MB in blocks of 4 MB
del tensors
kept = resident_mb() - before
return_freed_memory()
print(kept, resident_mb() - before)
"""
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    kept, returned = map(int, output.split())
    assert kept > 150
    assert returned < 50
