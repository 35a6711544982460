"""Tests of the chunked cross-entropy: sums and gradients equal those of F.cross_entropy."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mt.kernels.cross_entropy import CHUNK_LOGITS, PIECE_LOGITS, smoothed_cross_entropy

NUM_TOKENS = 21
D_MODEL = 16
VOCAB_SIZE = 50

EVERY_SMOOTHING = pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
# Logits in a chunk and in each of its pieces.
EVERY_CHUNK_SIZE = pytest.mark.parametrize(
    ("chunk_logits", "piece_logits"),
    [
        pytest.param(1, 1, id="less-than-one-token"),
        pytest.param(VOCAB_SIZE, 2**20, id="one-token"),
        pytest.param(5 * VOCAB_SIZE + 3, 2 * VOCAB_SIZE, id="five-tokens-last-chunk-smaller"),
        pytest.param(7 * VOCAB_SIZE, 4 * VOCAB_SIZE + 1, id="seven-tokens-in-two-pieces"),
        pytest.param(2**20, 1, id="all-tokens-in-pieces-of-one"),
        pytest.param(2**20, 2**20, id="all-tokens-at-once"),
    ],
)


def make_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Return states and weight, which require gradients, and targets."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(NUM_TOKENS, D_MODEL, generator=generator).requires_grad_()
    weight = torch.randn(VOCAB_SIZE, D_MODEL, generator=generator).requires_grad_()
    targets = torch.randint(VOCAB_SIZE, (NUM_TOKENS,), generator=generator)
    return states, weight, targets


def set_chunk_size(monkeypatch: pytest.MonkeyPatch, chunk_logits: int, piece_logits: int) -> None:
    monkeypatch.setitem(CHUNK_LOGITS, "cpu", chunk_logits)
    monkeypatch.setitem(PIECE_LOGITS, "cpu", piece_logits)


@EVERY_SMOOTHING
@EVERY_CHUNK_SIZE
def test_equals_pytorch(
    smoothing: float, chunk_logits: int, piece_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk_size(monkeypatch, chunk_logits, piece_logits)
    states, weight, targets = make_inputs()
    loss, nll = smoothed_cross_entropy(
        states, weight, targets, smoothing=smoothing, dtype=torch.float32
    )
    logits = states @ weight.t()
    expected_loss = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    expected_nll = F.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nll, expected_nll, rtol=1e-5, atol=1e-5)

    gradients = torch.autograd.grad(loss, (states, weight))
    expected_gradients = torch.autograd.grad(expected_loss, (states, weight))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


@EVERY_SMOOTHING
def test_uniform_model_costs_log_of_vocab_size_per_token(smoothing: float) -> None:
    states, _, targets = make_inputs()
    weight = torch.zeros(VOCAB_SIZE, D_MODEL)
    loss, nll = smoothed_cross_entropy(
        states, weight, targets, smoothing=smoothing, dtype=torch.float32
    )
    expected = NUM_TOKENS * math.log(VOCAB_SIZE)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert nll.item() == pytest.approx(expected, rel=1e-5)


def test_smoothing_changes_the_loss_but_not_the_nll() -> None:
    loss, nll = smoothed_cross_entropy(*make_inputs(), smoothing=0.0, dtype=torch.float32)
    smoothed_loss, smoothed_nll = smoothed_cross_entropy(
        *make_inputs(), smoothing=0.1, dtype=torch.float32
    )
    assert nll.item() == smoothed_nll.item() == pytest.approx(loss.item())
    assert smoothed_loss.item() != pytest.approx(loss.item(), rel=1e-3)


def test_nll_has_no_gradient() -> None:
    loss, nll = smoothed_cross_entropy(*make_inputs(), smoothing=0.1, dtype=torch.float32)
    assert loss.requires_grad
    assert not nll.requires_grad


@pytest.mark.parametrize("factor", [0.01, 1.0, 2.0**16])
def test_factor_on_the_loss_scales_the_gradients(factor: float) -> None:
    states, weight, targets = make_inputs()
    loss, _ = smoothed_cross_entropy(states, weight, targets, smoothing=0.1, dtype=torch.float32)
    gradients = torch.autograd.grad(loss, (states, weight), retain_graph=True)
    scaled_gradients = torch.autograd.grad(factor * loss, (states, weight))
    for gradient, scaled_gradient in zip(gradients, scaled_gradients, strict=True):
        torch.testing.assert_close(scaled_gradient, factor * gradient)


def test_states_may_be_a_view_of_a_larger_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    set_chunk_size(monkeypatch, 4 * VOCAB_SIZE, 3 * VOCAB_SIZE)
    states, weight, targets = make_inputs()
    larger = torch.cat((torch.zeros(3, D_MODEL), states.detach())).requires_grad_()
    for tensor in (states, larger):
        loss, _ = smoothed_cross_entropy(
            tensor[-NUM_TOKENS:], weight, targets, smoothing=0.1, dtype=torch.float32
        )
        loss.backward()
    assert states.grad is not None
    assert larger.grad is not None
    torch.testing.assert_close(larger.grad[3:], states.grad)


def test_weight_has_a_gradient_when_states_have_none() -> None:
    states, weight, targets = make_inputs()
    states = states.detach()
    loss, _ = smoothed_cross_entropy(states, weight, targets, smoothing=0.1, dtype=torch.float32)
    expected_loss = F.cross_entropy(
        states @ weight.t(), targets, label_smoothing=0.1, reduction="sum"
    )
    (gradient,) = torch.autograd.grad(loss, weight)
    (expected_gradient,) = torch.autograd.grad(expected_loss, weight)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


def test_inference_computes_one_product_instead_of_three() -> None:
    """The two others are for the gradients of the states and of the weight."""
    states, weight, targets = make_inputs()
    flops = []
    for context in (torch.enable_grad(), torch.inference_mode()):
        with context, FlopCounterMode(display=False) as counter:
            smoothed_cross_entropy(states, weight, targets, smoothing=0.1, dtype=torch.float32)
        flops.append(counter.get_total_flops())
    training_flops, inference_flops = flops
    assert inference_flops == 2 * NUM_TOKENS * D_MODEL * VOCAB_SIZE
    assert training_flops == 3 * inference_flops


def test_no_tokens_give_zero() -> None:
    states, weight, targets = make_inputs()
    loss, nll = smoothed_cross_entropy(
        states[:0], weight, targets[:0], smoothing=0.1, dtype=torch.float32
    )
    loss.backward()
    assert loss.item() == nll.item() == 0.0
    assert weight.grad is not None
    assert not weight.grad.any()


@EVERY_CHUNK_SIZE
def test_bf16_stays_close_and_returns_float32(
    chunk_logits: int, piece_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk_size(monkeypatch, chunk_logits, piece_logits)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        states, weight, targets = make_inputs()
        loss, nll = smoothed_cross_entropy(states, weight, targets, smoothing=0.1, dtype=dtype)
        loss.backward()
        results.append([loss.detach(), nll, states.grad, weight.grad])
    for exact, bf16 in zip(*results, strict=True):
        assert exact is not None
        assert bf16 is not None
        assert bf16.dtype is torch.float32
        assert float((bf16 - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("logit_gap", [80, 200])
def test_very_unlikely_target_has_the_right_nll(logit_gap: int, dtype: torch.dtype) -> None:
    """Its probability is e^-80, which fp16 rounds to zero, or e^-200, which every dtype does."""
    states = torch.full((1, 1), 8.0)
    weight = torch.tensor([[logit_gap / 8], [0.0]])
    targets = torch.tensor([1])
    _, nll = smoothed_cross_entropy(states, weight, targets, smoothing=0.1, dtype=dtype)
    assert nll.item() == pytest.approx(logit_gap, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_confident_model_still_has_a_gradient(dtype: torch.dtype) -> None:
    """bf16 rounds a probability of 0.9997 to one, so softmax has to be float32."""
    results = []
    for product_dtype in (torch.float32, dtype):
        states = torch.full((1, 1), 8.0, requires_grad=True)
        weight = torch.tensor([[1.0], [0.0]])
        targets = torch.tensor([0])
        loss, nll = smoothed_cross_entropy(
            states, weight, targets, smoothing=0.0, dtype=product_dtype
        )
        results.append([nll, *torch.autograd.grad(loss, states)])
    for exact, low_precision in zip(*results, strict=True):
        torch.testing.assert_close(low_precision, exact, rtol=0.01, atol=0)
