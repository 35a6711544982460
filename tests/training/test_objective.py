"""Tests of the training objective: sums over the real target tokens of a batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mt.config.schema import ModelConfig
from mt.data.batching import Batch
from mt.model.transformer import Transformer
from mt.training.objective import Objective, mean_nll

D_MODEL = 16
VOCAB_SIZE = 50
PAD_ID = 0
BOS_ID = 2
CPU = torch.device("cpu")
LENGTHS = [(3, 5), (6, 2), (1, 1)]  # (src_length, tgt_length) of each sentence pair


def make_model(*, label_smoothing: float = 0.1) -> Objective:
    config = ModelConfig(
        d_model=D_MODEL,
        d_ff=32,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        dropout=0.3,
    )
    torch.manual_seed(1)
    transformer = Transformer(
        config, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, pad_id=PAD_ID
    )
    return Objective(transformer, label_smoothing=label_smoothing).eval()


def make_batch(lengths: list[tuple[int, int]], *, extra_padding: int = 0) -> Batch:
    """Return a batch with a row for each (src_length, tgt_length).

    The tokens of a row depend on its lengths only, so they are the same in every batch.
    """
    src_width = max(src_length for src_length, _ in lengths) + extra_padding
    tgt_width = max(tgt_length for _, tgt_length in lengths) + extra_padding
    src = torch.full((len(lengths), src_width), PAD_ID)
    tgt_in = torch.full((len(lengths), tgt_width), PAD_ID)
    tgt_out = torch.full((len(lengths), tgt_width), PAD_ID)
    for row, (src_length, tgt_length) in enumerate(lengths):
        generator = torch.Generator().manual_seed(100 * src_length + tgt_length)
        src[row, :src_length] = torch.randint(3, VOCAB_SIZE, (src_length,), generator=generator)
        tgt_out[row, :tgt_length] = torch.randint(3, VOCAB_SIZE, (tgt_length,), generator=generator)
        tgt_in[row, 0] = BOS_ID
        tgt_in[row, 1:tgt_length] = tgt_out[row, : tgt_length - 1]
    num_tokens = sum(tgt_length for _, tgt_length in lengths)
    return Batch(src, tgt_in, tgt_out, num_tokens)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_sums_are_over_real_target_tokens(smoothing: float) -> None:
    model = make_model(label_smoothing=smoothing)
    batch = make_batch(LENGTHS)
    sums = model(batch)
    states = model.transformer(batch.src, batch.tgt_in)
    logits = model.transformer.logits(states).flatten(0, 1)
    targets = batch.tgt_out.flatten()
    # PyTorch also spreads the smoothing over the whole vocabulary, for tokens that are not ignored.
    expected_loss = F.cross_entropy(
        logits, targets, label_smoothing=smoothing, ignore_index=PAD_ID, reduction="sum"
    )
    expected_nll = F.cross_entropy(logits, targets, ignore_index=PAD_ID, reduction="sum")
    torch.testing.assert_close(sums.loss, expected_loss)
    torch.testing.assert_close(sums.nll, expected_nll)
    assert sums.num_tokens == 8


def test_padding_changes_neither_sums_nor_gradients() -> None:
    model = make_model()
    results = []
    for extra_padding in (0, 4):
        sums = model(make_batch(LENGTHS, extra_padding=extra_padding))
        gradients = torch.autograd.grad(sums.loss, list(model.parameters()))
        results.append((sums.loss, sums.nll, torch.tensor(sums.num_tokens), *gradients))
    for without_padding, with_padding in zip(*results, strict=True):
        torch.testing.assert_close(with_padding, without_padding, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "batching",
    [[[0, 1, 2, 3, 4]], [[4, 0], [3, 1, 2]], [[0], [1], [2], [3], [4]], [[3], [2, 1, 0, 4]]],
)
def test_mean_nll_does_not_depend_on_batching(batching: list[list[int]]) -> None:
    lengths = [(3, 5), (6, 2), (1, 1), (4, 9), (2, 3)]
    model = make_model()
    sums_by_pair = [model(make_batch([pair])) for pair in lengths]
    total_nll = sum(float(sums.nll) for sums in sums_by_pair)
    num_tokens = sum(sums.num_tokens for sums in sums_by_pair)
    batches = [make_batch([lengths[index] for index in indices]) for indices in batching]
    assert mean_nll(model, batches, CPU) == pytest.approx(total_nll / num_tokens, rel=1e-5)


def test_mean_nll_does_not_depend_on_label_smoothing() -> None:
    batches = [make_batch([(3, 5), (6, 2)])]
    smoothed_nll = mean_nll(make_model(label_smoothing=0.5), batches, CPU)
    assert smoothed_nll == mean_nll(make_model(label_smoothing=0.0), batches, CPU)


def test_mean_nll_computes_no_gradients() -> None:
    model = make_model()
    mean_nll(model, [make_batch([(3, 5), (6, 2)])], CPU)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_mean_nll_refuses_training_mode() -> None:
    with pytest.raises(AssertionError, match="dropout"):
        mean_nll(make_model().train(), [make_batch([(3, 5)])], CPU)


def test_bf16_sums_stay_close_and_float32() -> None:
    batch = make_batch(LENGTHS)
    exact = make_model()(batch)
    bf16_model = make_model()
    bf16_model.transformer.compute_dtype = torch.bfloat16
    bf16 = bf16_model(batch)
    assert bf16.loss.dtype is torch.float32
    assert bf16.nll.dtype is torch.float32
    assert bf16.loss.item() == pytest.approx(exact.loss.item(), rel=0.02)
    assert bf16.nll.item() == pytest.approx(exact.nll.item(), rel=0.02)
