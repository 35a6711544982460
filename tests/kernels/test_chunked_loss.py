"""Tests of losses in chunks: sums and gradients equal those of all logits at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mt.kernels.chunked_loss import CHUNK_LOGITS, chunked_sums, cross_entropy_sums

NUM_PASSES = 2
NUM_TOKENS = 21
D_MODEL = 16
VOCAB_SIZE = 50

EVERY_CHUNK_SIZE = pytest.mark.parametrize(
    "chunk_size", [1, 5, NUM_TOKENS - 1, NUM_TOKENS, 10 * NUM_TOKENS]
)
EVERY_DTYPE = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str
)


def set_chunk_size(monkeypatch: pytest.MonkeyPatch, chunk_size: int) -> None:
    """Set the number of tokens in a chunk."""
    monkeypatch.setitem(CHUNK_LOGITS, "cpu", chunk_size * NUM_PASSES * VOCAB_SIZE)


def make_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Return states and weight, which require gradients, and a factor for each token."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(NUM_PASSES, NUM_TOKENS, D_MODEL, generator=generator).requires_grad_()
    weight = torch.randn(VOCAB_SIZE, D_MODEL, generator=generator).requires_grad_()
    factors = torch.rand(NUM_TOKENS, generator=generator)
    return states, weight, factors


def sums_of_logits(logits: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Return two sums; the first one mixes the passes and depends on the token."""
    first, second = logits.log_softmax(dim=-1)
    return (factors[:, None] * first.exp() * second).sum(), logits.detach().square().sum()


@EVERY_CHUNK_SIZE
@EVERY_DTYPE
def test_sums_and_gradients_are_those_of_all_logits(
    chunk_size: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk_size(monkeypatch, chunk_size)
    states, weight, factors = make_inputs()
    loss, other = chunked_sums(
        states,
        weight,
        lambda logits, chunk: sums_of_logits(logits, factors[chunk]),
        dtype=dtype,
    )
    logits = F.linear(states.to(dtype), weight.to(dtype)).float()
    expected_loss, expected_other = sums_of_logits(logits, factors)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other, expected_other, rtol=1e-5, atol=1e-5)
    assert loss.dtype is torch.float32

    gradients = torch.autograd.grad(3.0 * loss, (states, weight))
    expected_gradients = torch.autograd.grad(3.0 * expected_loss, (states, weight))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype is torch.float32
        largest = expected_gradient.abs().max().item()
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_logits_of_all_tokens_never_exist_at_once(
    chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk_size(monkeypatch, chunk_size)
    states, weight, _ = make_inputs()
    chunk_lengths = []

    def sums_of_chunk(logits: Tensor, chunk: slice) -> tuple[Tensor]:
        assert logits.shape == (NUM_PASSES, len(range(NUM_TOKENS)[chunk]), VOCAB_SIZE)
        chunk_lengths.append(logits.size(1))
        return (logits.sum(),)

    chunked_sums(states, weight, sums_of_chunk, dtype=torch.float32)[0].backward()
    assert max(chunk_lengths) == chunk_size
    assert sum(chunk_lengths) == NUM_TOKENS


def test_only_the_first_sum_has_a_gradient() -> None:
    states, weight, factors = make_inputs()
    loss, other = chunked_sums(
        states, weight, lambda logits, _: sums_of_logits(logits, factors), dtype=torch.float32
    )
    assert loss.requires_grad
    assert not other.requires_grad


def test_inference_computes_one_product_instead_of_three() -> None:
    states, weight, factors = make_inputs()
    flops = []
    for context in (torch.enable_grad(), torch.inference_mode()):
        with context, FlopCounterMode(display=False) as counter:
            chunked_sums(
                states,
                weight,
                lambda logits, _: sums_of_logits(logits, factors),
                dtype=torch.float32,
            )
        flops.append(counter.get_total_flops())
    training_flops, inference_flops = flops
    assert inference_flops == 2 * NUM_PASSES * NUM_TOKENS * D_MODEL * VOCAB_SIZE
    assert training_flops == 3 * inference_flops


def test_no_tokens_give_zero() -> None:
    states = torch.zeros(NUM_PASSES, 0, D_MODEL, requires_grad=True)
    _, weight, _ = make_inputs()
    loss, other = chunked_sums(
        states,
        weight,
        lambda logits, _: sums_of_logits(logits, torch.zeros(0)),
        dtype=torch.float32,
    )
    loss.backward()
    assert loss.item() == other.item() == 0.0
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_sums_are_those_of_pytorch(smoothing: float) -> None:
    states, weight, _ = make_inputs()
    logits = states.detach() @ weight.detach().t()  # (num_passes, num_tokens, vocab_size)
    targets = torch.randint(VOCAB_SIZE, (NUM_TOKENS,))
    loss, nll = cross_entropy_sums(logits.log_softmax(dim=-1), targets, smoothing=smoothing)
    every_logit = logits.flatten(0, 1)
    every_target = targets.repeat(NUM_PASSES)
    expected_loss = F.cross_entropy(
        every_logit, every_target, label_smoothing=smoothing, reduction="sum"
    )
    expected_nll = F.cross_entropy(every_logit, every_target, reduction="sum")
    torch.testing.assert_close(loss, expected_loss / NUM_PASSES)
    torch.testing.assert_close(nll, expected_nll / NUM_PASSES)
