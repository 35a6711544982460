"""Tests of the training objective: sums over the real target tokens of a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fake_data import FakeDataset
from runs import read_lines_without_timing

from mt.config.schema import ModelConfig, TrainConfig
from mt.data.batching import Batch
from mt.distributed import Runtime
from mt.model.transformer import Transformer
from mt.storage.checkpoint import find_checkpoint, load_meta
from mt.storage.run_dir import RunDir
from mt.training.metrics_log import Validation
from mt.training.objective import LossSums, Objective, mean_nll
from mt.training.trainer import Trainer

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


# An objective with another term


class RDropObjective(Objective):
    """Cross-entropy, and the distance of the predictions of two passes with other dropout."""

    sum_names = ("loss", "nll", "distance")

    def forward(self, batch: Batch) -> LossSums:
        logits, targets = self.logits_and_targets(batch.repeat(2))
        cross_entropy = F.cross_entropy(
            logits, targets, label_smoothing=self.label_smoothing, reduction="sum"
        )
        nll = F.cross_entropy(logits.detach(), targets, reduction="sum")
        first, second = logits.log_softmax(dim=-1).chunk(2)
        distance = ((first.exp() - second.exp()) * (first - second)).sum() / 2
        loss = cross_entropy / 2 + 5.0 * distance
        sums = {"loss": loss, "nll": nll / 2, "distance": distance}
        return LossSums(sums, batch.num_tokens)


def test_logits_and_targets_are_those_of_the_real_tokens() -> None:
    model = make_model()
    batch = make_batch(LENGTHS, extra_padding=2)
    logits, targets = model.logits_and_targets(batch)
    is_token = batch.tgt_out != PAD_ID
    states = model.transformer(batch.src, batch.tgt_in)
    torch.testing.assert_close(logits, model.transformer.logits(states)[is_token])
    assert torch.equal(targets, batch.tgt_out[is_token])
    assert logits.dtype is torch.float32
    nll = F.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(model(batch).nll, nll)


def test_repeated_batch_gives_the_logits_of_both_passes() -> None:
    model = make_model()
    batch = make_batch(LENGTHS)
    logits, targets = model.logits_and_targets(batch.repeat(2))
    first, second = logits.chunk(2)
    torch.testing.assert_close(first, second)  # without dropout
    assert torch.equal(*targets.chunk(2))
    model.train()
    first, second = model.logits_and_targets(batch.repeat(2))[0].chunk(2)
    assert (first - second).abs().max() > 0.01


def test_objective_with_another_term_trains_and_logs_it(tmp_path: Path) -> None:
    transformer = make_model().transformer
    objective = RDropObjective(transformer, label_smoothing=0.1)
    trainer = Trainer(
        objective,
        FakeDataset([make_batch(LENGTHS), make_batch([(4, 9), (2, 3)])]),  # type: ignore[arg-type]
        lambda _: Validation(loss=1.0, scores={}, signatures={}, samples=()),
        valid_digest="",
        config=TrainConfig(learning_rate=1e-2, warmup_steps=0, max_steps=30, metric="loss"),
        run_dir=RunDir(tmp_path),
        runtime=Runtime(CPU),
    )
    trainer.fit()
    trainer._log_window()
    (line,) = [line for line in read_lines_without_timing(tmp_path) if line["kind"] == "train"]
    assert line["loss"] > line["nll"] > 0.0
    assert line["distance"] > 0.0
    first_loss = RDropObjective(make_model().transformer, label_smoothing=0.1)(
        make_batch(LENGTHS)
    ).loss
    assert objective.eval()(make_batch(LENGTHS)).loss < 0.8 * first_loss
    window = load_meta(find_checkpoint(tmp_path / "checkpoints", "last"))["ranks"][0]["window"]
    assert "distance" in window
