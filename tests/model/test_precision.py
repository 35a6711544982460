"""The dtype that a model computes in, and equal results with fast kernels and their references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.kernels.dispatch import use_reference
from mt.model.attention import Attention
from mt.model.feed_forward import FeedForward, GatedFeedForward
from mt.model.layers import RMSNorm
from mt.model.recording import recorded_calls
from mt.model.transformer import Transformer

PAD_ID = 0
VOCAB_SIZE = 19
MAX_LENGTH = 8
SHAPE = {
    "d_model": 16,
    "d_ff": 24,
    "num_heads": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
}
EVERY_VARIANT = pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="pre-norm"),
        pytest.param({"norm": "post"}, id="post-norm"),
        pytest.param({"activation": "gelu"}, id="gelu"),
        pytest.param({"activation": "swiglu"}, id="swiglu"),
        pytest.param({"norm_kind": "rms_norm"}, id="rms_norm"),
        pytest.param({"self_attention": "additive", "cross_attention": "additive"}, id="additive"),
        pytest.param(
            {"self_attention": "dense_synthesizer", "max_length": MAX_LENGTH}, id="synthesizer"
        ),
    ],
)
LOW_PRECISIONS = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(autouse=True)
def with_both_kernels() -> None:
    """Replace the fixture of the other tests: here each test says which kernels it needs."""


def make_model(*, dtype: torch.dtype = torch.float32, **settings: Any) -> Transformer:
    """Return a model that computes in `dtype`, with random biases and norms too."""
    torch.manual_seed(1)
    config = ModelConfig(**{**SHAPE, **settings})
    model = Transformer(config, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, pad_id=PAD_ID)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if dtype is torch.float64:
        model.double()
    model.compute_dtype = dtype
    return model.eval()


def make_batch() -> tuple[Tensor, Tensor]:
    """Return src and tgt_in of three sentences, one of them with padding."""
    src, tgt_in = torch.randint(
        1, VOCAB_SIZE, (2, 3, 7), generator=torch.Generator().manual_seed(2)
    )
    src[1, 4:] = PAD_ID
    tgt_in[1, 5:] = PAD_ID
    return src, tgt_in


def states_and_gradients(model: Transformer) -> list[Tensor]:
    """Return the states of one batch, and the gradients of all parameters."""
    src, tgt_in = make_batch()
    states = model(src, tgt_in)
    states.float().square().sum().backward()
    gradients = []
    for parameter in model.parameters():
        assert parameter.grad is not None
        gradients.append(parameter.grad)
    return [states.detach(), *gradients]


def relative_error(tensors: list[Tensor], exact_tensors: list[Tensor]) -> float:
    """Return the relative error of all tensors as one vector."""
    vector = torch.cat([tensor.flatten().double() for tensor in tensors])
    exact_vector = torch.cat([tensor.flatten().double() for tensor in exact_tensors])
    return float((vector - exact_vector).norm() / exact_vector.norm())


@EVERY_VARIANT
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 5e-3)],
    ids=str,
)
def test_fast_kernels_equal_references(
    settings: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    """Outputs and gradients of a whole model.

    In float64, the square of the states is computed in float32.
    """
    fast = states_and_gradients(make_model(dtype=dtype, **settings))
    with use_reference():
        reference = states_and_gradients(make_model(dtype=dtype, **settings))
    assert relative_error(fast[:1], reference[:1]) < tolerance
    assert relative_error(fast[1:], reference[1:]) < tolerance


@pytest.mark.usefixtures("kernels")
@EVERY_VARIANT
@LOW_PRECISIONS
def test_low_precision_is_close_to_float32(settings: dict[str, Any], dtype: torch.dtype) -> None:
    exact = states_and_gradients(make_model(**settings))
    low = states_and_gradients(make_model(dtype=dtype, **settings))
    assert relative_error(low[:1], exact[:1]) < 0.02
    assert relative_error(low[1:], exact[1:]) < 0.05
    assert all(tensor.dtype is torch.float32 for tensor in low)


@pytest.mark.usefixtures("kernels")
@EVERY_VARIANT
@LOW_PRECISIONS
def test_sublayers_compute_in_compute_dtype_and_norms_in_float32(
    settings: dict[str, Any], dtype: torch.dtype
) -> None:
    model = make_model(dtype=dtype, **settings)
    sublayer_types = (Attention, FeedForward, GatedFeedForward)
    sublayers = [module for module in model.modules() if isinstance(module, sublayer_types)]
    norm_types = (nn.LayerNorm, RMSNorm)
    norms = [module for module in model.modules() if isinstance(module, norm_types)]
    src, tgt_in = make_batch()
    with recorded_calls(sublayers) as sublayer_calls, recorded_calls(norms) as norm_calls:
        memory = model.encode(src)
        states = model(src, tgt_in)
    assert len(sublayers) == 10
    assert len(norms) == (10 if settings.get("norm") == "post" else 12)
    assert all(arguments[0].dtype is dtype for calls in sublayer_calls for arguments in calls)
    assert all(arguments[0].dtype is torch.float32 for calls in norm_calls for arguments in calls)
    assert memory.states.dtype is dtype
    assert states.dtype is torch.float32
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


def test_model_computes_in_float32_by_default() -> None:
    config = ModelConfig(**SHAPE)  # type: ignore[arg-type]
    model = Transformer(config, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, pad_id=PAD_ID)
    assert model.compute_dtype is torch.float32
    assert model.encode(make_batch()[0]).states.dtype is torch.float32


@pytest.mark.usefixtures("kernels")
def test_another_dtype_can_be_used_for_a_while() -> None:
    model = make_model(dtype=torch.bfloat16)
    src, tgt_in = make_batch()
    exact = make_model()(src, tgt_in)
    before = model(src, tgt_in)
    with model.computing_in(torch.float32):
        assert torch.equal(model(src, tgt_in), exact)
    assert model.compute_dtype is torch.bfloat16
    assert torch.equal(model(src, tgt_in), before)
    assert not torch.equal(before, exact)
