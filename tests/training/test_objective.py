"""Tests of the training objective: sums over the real target tokens of a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fake_data import FakeDataset
from runs import read_lines_without_timing
from torch import Tensor

from mt.config.schema import ModelConfig, TrainConfig
from mt.data.batching import Batch
from mt.distributed import Runtime
from mt.kernels.chunked_loss import CHUNK_LOGITS
from mt.model.layers import Dropout
from mt.model.transformer import Transformer
from mt.storage.checkpoint import find_checkpoint, load_meta, weights_digest
from mt.storage.run_dir import RunDir
from mt.training.metrics_log import Validation
from mt.training.objective import (
    DistillationObjective,
    Objective,
    RDropObjective,
    mean_token_loss,
    states_and_targets,
    token_losses,
)
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


def mean_nll(model: Objective, batches: list[Batch]) -> float:
    """Return the unsmoothed negative log-likelihood in nats per target token."""
    return mean_token_loss(token_losses(model, batches, CPU))


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


def logits_and_targets(transformer: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return float32 logits (num_tokens, vocab_size) of the real tokens, and their targets."""
    states, targets = states_and_targets(transformer, batch)
    return transformer.logits(states).float(), targets


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
    assert mean_nll(model, batches) == pytest.approx(total_nll / num_tokens, rel=1e-5)


def test_mean_nll_does_not_depend_on_label_smoothing() -> None:
    batches = [make_batch([(3, 5), (6, 2)])]
    smoothed_nll = mean_nll(make_model(label_smoothing=0.5), batches)
    assert smoothed_nll == mean_nll(make_model(label_smoothing=0.0), batches)


def test_mean_nll_computes_no_gradients() -> None:
    model = make_model()
    mean_nll(model, [make_batch([(3, 5), (6, 2)])])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_mean_nll_refuses_training_mode() -> None:
    with pytest.raises(AssertionError, match="dropout"):
        mean_nll(make_model().train(), [make_batch([(3, 5)])])


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


# Real tokens


def test_logits_and_targets_are_those_of_the_real_tokens() -> None:
    model = make_model()
    batch = make_batch(LENGTHS, extra_padding=2)
    logits, targets = logits_and_targets(model.transformer, batch)
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
    logits, targets = logits_and_targets(model.transformer, batch.repeat(2))
    first, second = logits.chunk(2)
    torch.testing.assert_close(first, second)  # without dropout
    assert torch.equal(*targets.chunk(2))
    model.train()
    first, second = logits_and_targets(model.transformer, batch.repeat(2))[0].chunk(2)
    assert (first - second).abs().max() > 0.01


# R-Drop

ALPHA = 5.0
EVERY_DTYPE = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str
)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks of at most three tokens, so that a batch of LENGTHS has several."""
    monkeypatch.setitem(CHUNK_LOGITS, "cpu", 2 * 3 * VOCAB_SIZE)


def make_r_drop(*, alpha: float = ALPHA) -> RDropObjective:
    return RDropObjective(make_model().transformer, label_smoothing=0.1, alpha=alpha)


def assert_same_gradients(
    loss: Tensor, expected_loss: Tensor, model: Objective, *, tolerance: float
) -> None:
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    expected_gradients = torch.autograd.grad(expected_loss, parameters)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        largest = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(gradient, expected, rtol=0, atol=tolerance * largest)


@EVERY_DTYPE
@pytest.mark.usefixtures("small_chunks")
def test_r_drop_is_half_of_the_loss_of_its_paper(dtype: torch.dtype, tolerance: float) -> None:
    """Liang et al. (2021), equations 1 to 3, with label smoothing as in the authors' program."""
    objective = make_r_drop().train()
    objective.transformer.compute_dtype = dtype
    batch = make_batch(LENGTHS, extra_padding=2)
    torch.manual_seed(7)
    sums = objective(batch)

    torch.manual_seed(7)  # the same dropout
    logits, targets = logits_and_targets(objective.transformer, batch.repeat(2))
    first, second = logits.log_softmax(dim=-1).chunk(2)
    both_cross_entropies = F.cross_entropy(logits, targets, label_smoothing=0.1, reduction="sum")
    kl_first = F.kl_div(second, first, log_target=True, reduction="sum")  # KL(first || second)
    kl_second = F.kl_div(first, second, log_target=True, reduction="sum")
    loss_of_the_paper = both_cross_entropies + ALPHA * (kl_first + kl_second) / 2

    assert sums.sums.keys() == set(objective.sum_names)
    torch.testing.assert_close(2 * sums.loss, loss_of_the_paper, rtol=1e-5, atol=0)
    torch.testing.assert_close(sums.sums["kl"], (kl_first + kl_second) / 2, rtol=1e-4, atol=0)
    nll = F.cross_entropy(logits, targets, reduction="sum") / 2
    torch.testing.assert_close(sums.nll, nll, rtol=1e-5, atol=0)
    assert sums.num_tokens == batch.num_tokens
    assert sums.sums["kl"] > 0.01
    assert_same_gradients(2 * sums.loss, loss_of_the_paper, objective, tolerance=tolerance)


def test_r_drop_of_two_equal_passes_is_the_cross_entropy() -> None:
    """In a model without dropout, one pass is like the other."""
    config = ModelConfig(d_model=D_MODEL, d_ff=32, num_heads=2, dropout=0.0)
    transformer = Transformer(
        config, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, pad_id=PAD_ID
    )
    batch = make_batch(LENGTHS)
    expected = Objective(transformer, label_smoothing=0.1).train()(batch)
    sums = RDropObjective(transformer, label_smoothing=0.1, alpha=ALPHA).train()(batch)
    torch.testing.assert_close(sums.loss, expected.loss)
    torch.testing.assert_close(sums.nll, expected.nll)
    assert sums.sums["kl"] == pytest.approx(0.0, abs=1e-5)
    assert sums.num_tokens == expected.num_tokens


class ScaledSecondPass(torch.nn.Module):
    """Stands for dropout: changes the second half of the rows, always in the same way."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2)
        return torch.cat([first, 0.8 * second])


@pytest.mark.usefixtures("small_chunks")
def test_r_drop_of_batches_is_that_of_one_big_batch() -> None:
    objective = make_r_drop().train()
    for module in objective.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    objective.transformer.dropout = ScaledSecondPass()  # type: ignore[assignment]
    whole = objective(make_batch([*LENGTHS, (4, 9), (2, 3)]))
    parts = [objective(make_batch(LENGTHS)), objective(make_batch([(4, 9), (2, 3)]))]
    assert whole.sums["kl"] > 0.01
    for name in objective.sum_names:
        torch.testing.assert_close(parts[0].sums[name] + parts[1].sums[name], whole.sums[name])
    assert parts[0].num_tokens + parts[1].num_tokens == whole.num_tokens
    parts_loss = parts[0].loss + parts[1].loss
    assert_same_gradients(parts_loss, whole.loss, objective, tolerance=1e-5)


def test_r_drop_trains_and_logs_its_term(tmp_path: Path) -> None:
    objective = make_r_drop()
    trainer = Trainer(
        objective,
        FakeDataset([make_batch(LENGTHS), make_batch([(4, 9), (2, 3)])]),  # type: ignore[arg-type]
        lambda _, interrupting: Validation(loss=1.0, scores={}, signatures={}, samples=()),
        valid_digest="",
        config=TrainConfig(learning_rate=1e-2, warmup_steps=0, max_steps=30, metric="loss"),
        run_dir=RunDir(tmp_path),
        runtime=Runtime(CPU),
    )
    trainer.fit()
    trainer._log_updates()
    (line,) = [line for line in read_lines_without_timing(tmp_path) if line["kind"] == "train"]
    assert line["loss"] > line["nll"] > 0.0
    assert line["kl"] > 0.0
    assert line["tokens_seen"] == 15 * (8 + 12)  # each target token counts once
    first_loss = make_r_drop().eval()(make_batch(LENGTHS)).loss
    assert objective.eval()(make_batch(LENGTHS)).loss < 0.8 * first_loss
    window = load_meta(find_checkpoint(tmp_path / "checkpoints", "last"))["ranks"][0]["window"]
    assert "kl" in window


# Distillation

TEACHER_WEIGHT = 0.3


def make_teachers() -> list[Transformer]:
    """Return two models of different size with the vocabulary of the student."""
    teachers = []
    for seed, d_model in ((2, 8), (3, 24)):
        torch.manual_seed(seed)
        config = ModelConfig(d_model=d_model, d_ff=32, num_heads=2, dropout=0.3)
        teacher = Transformer(
            config, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, pad_id=PAD_ID
        )
        teachers.append(teacher.eval().requires_grad_(False))
    return teachers


def make_distillation(
    teachers: list[Transformer], *, weight: float = TEACHER_WEIGHT
) -> DistillationObjective:
    return DistillationObjective(
        make_model().transformer, teachers, label_smoothing=0.1, weight=weight
    )


@EVERY_DTYPE
@pytest.mark.usefixtures("small_chunks")
def test_distillation_learns_from_the_mean_of_the_teachers(
    dtype: torch.dtype, tolerance: float
) -> None:
    teachers = make_teachers()
    objective = make_distillation(teachers).train()
    for model in (objective.transformer, *teachers):
        model.compute_dtype = dtype
    batch = make_batch(LENGTHS, extra_padding=2)
    torch.manual_seed(7)
    sums = objective(batch)

    torch.manual_seed(7)  # the same dropout
    logits, targets = logits_and_targets(objective.transformer, batch)
    teacher_logits = [logits_and_targets(teacher, batch)[0] for teacher in teachers]
    mean_probs = (teacher_logits[0].softmax(-1) + teacher_logits[1].softmax(-1)) / 2
    cross_entropy = F.cross_entropy(logits, targets, label_smoothing=0.1, reduction="sum")
    kl = (mean_probs * (mean_probs.log() - logits.log_softmax(-1))).sum()
    expected_loss = (1 - TEACHER_WEIGHT) * cross_entropy + TEACHER_WEIGHT * kl

    assert sums.sums.keys() == set(objective.sum_names)
    torch.testing.assert_close(sums.loss, expected_loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(sums.sums["kl"], kl, rtol=1e-4, atol=0)
    torch.testing.assert_close(sums.nll, F.cross_entropy(logits, targets, reduction="sum"))
    assert sums.num_tokens == batch.num_tokens
    assert_same_gradients(sums.loss, expected_loss, objective, tolerance=tolerance)


def test_model_has_nothing_to_learn_from_itself() -> None:
    objective = make_distillation([make_model().transformer], weight=1.0).train()
    for module in objective.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    sums = objective(make_batch(LENGTHS))
    assert sums.loss.item() == pytest.approx(0.0, abs=1e-5)
    assert all(
        gradient.abs().max() < 1e-5
        for gradient in torch.autograd.grad(sums.loss, list(objective.parameters()))
    )


@pytest.mark.usefixtures("small_chunks")
def test_distillation_of_batches_is_that_of_one_big_batch() -> None:
    objective = make_distillation(make_teachers()).train()
    for module in objective.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    whole = objective(make_batch([*LENGTHS, (4, 9), (2, 3)]))
    parts = [objective(make_batch(LENGTHS)), objective(make_batch([(4, 9), (2, 3)]))]
    for name in objective.sum_names:
        torch.testing.assert_close(parts[0].sums[name] + parts[1].sums[name], whole.sums[name])
    parts_loss = parts[0].loss + parts[1].loss
    assert_same_gradients(parts_loss, whole.loss, objective, tolerance=1e-5)


def test_teachers_are_no_part_of_the_model() -> None:
    teachers = make_teachers()
    weights_before = [weights_digest(teacher) for teacher in teachers]
    objective = make_distillation(teachers).train()
    plain = make_model()
    assert objective.state_dict().keys() == plain.state_dict().keys()
    assert len(list(objective.parameters())) == len(list(plain.parameters()))
    objective(make_batch(LENGTHS)).loss.backward()
    for teacher in teachers:
        assert not teacher.training
        assert all(parameter.grad is None for parameter in teacher.parameters())
    assert list(objective.teacher_digests) == weights_before


@pytest.mark.parametrize("name", ["r_drop", "distillation"])
def test_evaluation_gives_the_plain_cross_entropy(name: str) -> None:
    objective = make_r_drop() if name == "r_drop" else make_distillation(make_teachers())
    batch = make_batch(LENGTHS)
    expected = make_model()(batch)
    sums = objective.eval()(batch)
    assert sums.sums.keys() == {"loss", "nll"}
    assert torch.equal(sums.loss, expected.loss)
    assert torch.equal(sums.nll, expected.nll)
    assert mean_nll(objective, [batch]) == mean_nll(make_model(), [batch])
