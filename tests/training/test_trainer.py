"""The training loop alone, on batches of random ids."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_data import FakeDataset, FakeEpoch, join_batches, random_batch
from runs import checkpoint_path, read_lines_without_timing
from torch import Tensor

from mt.config.schema import ModelConfig, TrainConfig
from mt.data.batching import Batch
from mt.distributed import Runtime, open_runtime
from mt.errors import CheckpointError, DataError, DiskError
from mt.model.transformer import Transformer
from mt.storage.checkpoint import (
    CheckpointStore,
    find_checkpoint,
    load_checkpoint,
    load_weights,
)
from mt.storage.run_dir import RunDir
from mt.training.all_ranks import Interrupting
from mt.training.console import Numbers, Position
from mt.training.metrics_log import Validation
from mt.training.objective import LossSums, Objective
from mt.training.trainer import Trainer, dropout_seed

CPU = Runtime(torch.device("cpu"))
MODEL_SHAPE = {
    "d_model": 16,
    "d_ff": 32,
    "num_heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
}
BATCHES = [random_batch(seed) for seed in range(4)]


class FakeValidate:
    """Returns validations with the given losses, and then with ever worse ones.

    Their BLEU scores are the given ones, and then 0.
    """

    def __init__(self, losses: Sequence[float], bleu: Sequence[float]) -> None:
        self.losses = [*losses, *(9.0 + number for number in range(100))]
        self.bleu = [*bleu, *[0.0] * 100]

    def __call__(self, objective: Objective, *, interrupting: Interrupting) -> Validation:
        scores = {"BLEU": self.bleu.pop(0)}
        return Validation(loss=self.losses.pop(0), scores=scores, signatures={}, samples=())


def make_trainer(
    run_dir: Path,
    batches: Sequence[Batch] = BATCHES,
    *,
    losses: Sequence[float] = (),
    bleu: Sequence[float] = (),
    dropout: float = 0.0,
    runtime: Runtime = CPU,
    **train_config: Any,
) -> Trainer:
    """Return a trainer with `batches` in every epoch, and validations of the given losses."""
    torch.manual_seed(3)
    model = Transformer(
        ModelConfig(**MODEL_SHAPE, dropout=dropout), src_vocab_size=20, tgt_vocab_size=20, pad_id=0
    )
    objective = Objective(model.to(runtime.device), label_smoothing=0.1)
    settings: dict[str, Any] = {
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "metric": "loss",
        "epsilon": 1e-3,
        **train_config,
    }
    run_dir.mkdir(exist_ok=True)
    return Trainer(
        objective,
        FakeDataset(batches),  # type: ignore[arg-type]
        FakeValidate(losses, bleu),
        valid_digest="",
        config=TrainConfig(**settings),
        run_dir=RunDir(run_dir),
        runtime=runtime,
    )


def copy_weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.objective.state_dict().items()}


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], *, atol: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        torch.testing.assert_close(value, expected[name], atol=atol, rtol=0.0)


def largest_change(weights: dict[str, Tensor], before: dict[str, Tensor]) -> float:
    return max((value - before[name]).abs().max().item() for name, value in weights.items())


# Updates


@pytest.mark.parametrize("gradient_accumulation", [2, 3, 4])
def test_accumulated_batches_equal_one_big_batch(
    tmp_path: Path, gradient_accumulation: int
) -> None:
    """To 1e-6, with clipping. The batches differ in length, so that means of means would not do."""
    batches = [random_batch(seed, num_pairs=2 + seed) for seed in range(gradient_accumulation)]
    accumulated = make_trainer(
        tmp_path / "accumulated",
        batches,
        gradient_accumulation=gradient_accumulation,
        max_steps=3,
    )
    big = make_trainer(tmp_path / "big", [join_batches(batches)], max_steps=3)
    initial_weights = copy_weights(accumulated)
    accumulated.fit()
    big.fit()
    assert_close(copy_weights(accumulated), copy_weights(big), atol=1e-6)
    assert largest_change(copy_weights(accumulated), initial_weights) > 1e-3
    num_tokens = 3 * sum(batch.num_tokens for batch in batches)
    assert accumulated.state.tokens_seen == num_tokens
    assert big.state.tokens_seen == num_tokens


@pytest.mark.parametrize("error", [DataError("no such pair"), MemoryError()])
def test_error_of_a_batch_ends_training_and_its_thread(tmp_path: Path, error: Exception) -> None:
    class BadBatch(FakeDataset):
        def epoch(self, number: int, *, batch_tokens: int) -> FakeEpoch:
            epoch = super().epoch(number, batch_tokens=batch_tokens)
            return replace(epoch, batch=self.make_batch)

        def make_batch(self, index: int) -> Batch:
            if index == 2:
                raise error
            return self.batches[index]

    threads_before = set(threading.enumerate())
    trainer = make_trainer(tmp_path, max_epochs=2)
    trainer.dataset = BadBatch(BATCHES)  # type: ignore[assignment]
    trainer.memory_checked = True
    with pytest.raises(type(error)) as caught:
        trainer.fit()
    assert caught.value is error
    assert trainer.state.step == 2
    assert set(threading.enumerate()) == threads_before


def test_last_update_of_an_epoch_takes_the_remaining_batches(tmp_path: Path) -> None:
    """Of 4 batches, an epoch has an update of 3 and one of 1."""
    trainer = make_trainer(tmp_path, gradient_accumulation=3, max_epochs=2)
    assert trainer.fit() == "max_epochs 2 reached"
    state = trainer.state
    assert (state.step, state.epoch, state.batch_index) == (4, 2, 0)
    assert state.tokens_seen == 2 * sum(batch.num_tokens for batch in BATCHES)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "fp32"),
        pytest.param("cuda", "fp32", marks=pytest.mark.gpu),
        pytest.param("cuda", "bf16", marks=pytest.mark.gpu),
        pytest.param("cuda", "fp16", marks=pytest.mark.gpu),
    ],
)
def test_update_with_non_finite_gradient_is_skipped_and_counted(
    tmp_path: Path, device: str, precision: str, factor: float, clip_norm: float
) -> None:
    runtime = open_runtime(device, precision)
    trainer = make_trainer(tmp_path, runtime=runtime, max_steps=9, clip_norm=clip_norm)
    epoch = trainer.dataset.epoch(0, batch_tokens=64)
    trainer.update(epoch, range(0, 1))
    weights_before = copy_weights(trainer)
    moments_before = copy_moments(trainer)
    parameter = next(trainer.objective.parameters())
    hook = parameter.register_hook(lambda gradient: gradient * factor)
    trainer.update(epoch, range(1, 2))
    hook.remove()
    assert_close(copy_weights(trainer), weights_before, atol=0.0)
    for index, moments in copy_moments(trainer).items():
        assert_close(moments, moments_before[index], atol=0.0)

    trainer.update(epoch, range(2, 3))
    trainer._log_updates()
    line, *incidents = read_lines_without_timing(tmp_path)
    assert line["num_skipped"] == 1
    assert trainer.state.num_skipped == 1
    assert all(math.isfinite(value) for key, value in line.items() if key != "kind")
    text = "1 update skipped: gradients were not finite"
    expected = {"kind": "incident", "step": 3, "text": text}
    # In fp16 the scaler skips updates to find its scale, which is no incident.
    assert incidents == ([] if precision == "fp16" else [expected])
    assert largest_change(copy_weights(trainer), weights_before) > 0.0


def copy_moments(trainer: Trainer) -> dict[int, dict[str, Tensor]]:
    state = trainer.optimizer.state_dict()["state"]
    return {
        index: {key: value.clone() for key, value in moments.items()}
        for index, moments in state.items()
    }


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # PyTorch calls it a prototype
@pytest.mark.parametrize("gradient_accumulation", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_update_on_gpu_does_not_synchronize(
    tmp_path: Path, precision: str, gradient_accumulation: int
) -> None:
    # Thousands of tokens in each batch.
    batches = [random_batch(seed, num_pairs=800) for seed in range(2 * gradient_accumulation)]
    trainer = make_trainer(
        tmp_path,
        batches,
        runtime=open_runtime("cuda", precision),
        dropout=0.1,
        gradient_accumulation=gradient_accumulation,
        max_steps=9,
    )
    epoch = trainer.dataset.epoch(0, batch_tokens=64)
    trainer.update(epoch, range(gradient_accumulation))  # allocates the optimizer's state
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.update(epoch, range(gradient_accumulation, 2 * gradient_accumulation))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_of_optimizer_is_not_reserved_twice_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer_has_state = []

    def check_memory(*_: object, **options: Any) -> None:
        optimizer_has_state.append(options["optimizer_has_state"])

    monkeypatch.setattr("mt.training.trainer.check_memory", check_memory)
    make_trainer(tmp_path, max_epochs=1).fit()
    make_trainer(tmp_path, max_epochs=2).fit()
    assert optimizer_has_state == [False, True]


# When training ends, and what is saved


def test_patience_ends_training_and_best_is_kept(tmp_path: Path) -> None:
    losses = [3.0, 2.0, 1.5, 1.75, 1.5]  # an equal score is no improvement
    trainer = make_trainer(
        tmp_path, losses=losses, patience=2, validate_every=2, max_steps=100, keep_checkpoints=1
    )
    assert trainer.fit() == "no improvement in 2 validations"
    assert trainer.state.step == 10
    assert trainer.state.best_score == -1.5
    assert checkpoint_path(tmp_path, "best").name == "step_00000006"
    assert checkpoint_path(tmp_path, "last").name == "step_00000010"
    validations = validation_lines(tmp_path)
    assert [line["is_best"] for line in validations] == [True, True, True, False, False]
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*"))
    assert kept == ["step_00000006", "step_00000010"]


@pytest.mark.parametrize(
    ("bleu", "losses", "is_best"),
    [
        ([], [9.0, 8.0, 7.0, 7.5, 7.0], [True, True, True, False, False]),
        ([0.0, 0.0, 2.5, 2.5, 2.5], [9.0, 8.0, 8.5, 8.6, 8.5], [True, True, True, False, False]),
        ([1.0, 0.0, 0.0], [9.0, 8.0, 7.0], [True, False, False]),
    ],
    ids=["BLEU stays 0", "BLEU rises", "BLEU falls"],
)
def test_lower_loss_decides_between_equal_scores(
    tmp_path: Path, bleu: list[float], losses: list[float], is_best: list[bool]
) -> None:
    trainer = make_trainer(
        tmp_path, losses=losses, bleu=bleu, metric="bleu", patience=2, validate_every=1, max_steps=9
    )
    assert trainer.fit() == "no improvement in 2 validations"
    assert [line["is_best"] for line in validation_lines(tmp_path)] == is_best
    best_step = len(is_best) - 2
    assert checkpoint_path(tmp_path, "best").name == f"step_{best_step:08d}"
    assert trainer.state.best_loss == losses[best_step - 1]


def test_resumed_run_still_knows_the_loss_of_its_best_validation(tmp_path: Path) -> None:
    options = {"metric": "bleu", "validate_every": 1}
    make_trainer(tmp_path, losses=[8.0], max_steps=1, **options).fit()
    make_trainer(tmp_path, losses=[8.5, 7.0], max_steps=3, **options).fit()
    lines = validation_lines(tmp_path)
    assert [(line["loss"], line["is_best"]) for line in lines] == [
        (8.0, True),
        (8.5, False),
        (7.0, True),
    ]


def validation_lines(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines_without_timing(run_dir) if line["kind"] == "valid"]


def test_end_of_training_is_validated_and_saved(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, losses=[1.0], max_epochs=3)
    assert trainer.fit() == "max_epochs 3 reached"
    assert checkpoint_path(tmp_path, "last").name == "step_00000012"
    assert checkpoint_path(tmp_path, "best").name == "step_00000012"
    assert [line["step"] for line in validation_lines(tmp_path)] == [12]


def refuse_to_save(monkeypatch: pytest.MonkeyPatch, *, num_times: int, step: int) -> None:
    """Let the disk refuse the checkpoint of `step` so many times."""
    original_save = CheckpointStore.save
    num_refused = 0

    def save(self: CheckpointStore, checkpoint: Any, *, step: int, is_best: bool) -> Path:
        nonlocal num_refused
        if step == refused_step and num_refused < num_times:
            num_refused += 1
            raise DiskError("no space left")
        return original_save(self, checkpoint, step=step, is_best=is_best)

    refused_step = step
    monkeypatch.setattr(CheckpointStore, "save", save)


def test_best_checkpoint_that_the_disk_refused_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of these losses is better than that of the checkpoint on the disk."""
    refuse_to_save(monkeypatch, num_times=1, step=3)
    trainer = make_trainer(
        tmp_path, losses=[3.0, 3.5, 1.0, 3.6], patience=2, validate_every=1, max_steps=100
    )
    assert trainer.fit() == "no improvement in 2 validations"
    state = trainer.state
    assert (state.step, state.epoch, state.batch_index) == (4, 1, 0)
    assert state.best_score == -3.0
    assert checkpoint_path(tmp_path, "best").name == "step_00000001"


def test_last_checkpoint_is_saved_as_the_best_at_the_second_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_save(monkeypatch, num_times=1, step=4)
    trainer = make_trainer(tmp_path, losses=[3.0, 2.0], validate_every=2, max_steps=4)
    trainer.fit()
    assert checkpoint_path(tmp_path, "best").name == "step_00000004"
    checkpoint = load_checkpoint(checkpoint_path(tmp_path, "best"))
    assert checkpoint.meta["state"]["best_score"] == -2.0
    assert checkpoint.meta["state"]["validations_without_improvement"] == 0


def test_validation_and_translation_use_the_averages(tmp_path: Path) -> None:
    """The run goes on with the weights themselves."""
    trainer = make_trainer(tmp_path, ema_decay=0.9, max_steps=6, validate_every=3)
    validated: list[dict[str, Tensor]] = []

    def validate(objective: Objective, *, interrupting: Interrupting) -> Validation:
        validated.append(copy_weights(trainer))
        return Validation(loss=1.0, scores={"BLEU": 0.0}, signatures={}, samples=())

    trainer.validate = validate
    trainer.fit()
    assert trainer.ema is not None
    averages = trainer.ema.averages
    assert largest_change(trainer.objective.transformer.state_dict(), averages) > 1e-5
    model = make_trainer(tmp_path / "other", max_steps=1).objective.transformer
    load_weights(model, find_checkpoint(tmp_path / "checkpoints", "last"))
    for name, average in averages.items():
        assert torch.equal(validated[-1][f"transformer.{name}"], average)
        assert torch.equal(model.state_dict()[name], average)


def test_skipped_update_does_not_count_in_the_averages(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, ema_decay=0.9, max_steps=1)
    assert trainer.ema is not None
    epoch = trainer.dataset.epoch(0, batch_tokens=64)
    trainer.update(epoch, range(1))
    before = {name: value.clone() for name, value in trainer.ema.averages.items()}
    weight = next(trainer.objective.parameters())
    handle = weight.register_hook(lambda gradient: gradient * math.nan)
    trainer.update(epoch, range(1))
    handle.remove()
    for name, value in before.items():
        assert torch.equal(trainer.ema.averages[name], value)
    assert int(trainer.ema.num_updates) == 1


def test_save_that_is_requested_before_the_first_update_waits(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.save_requested = True
    trainer._save_if_requested()
    assert trainer.save_requested
    assert not (tmp_path / "checkpoints").exists()
    trainer.update(trainer.dataset.epoch(0, batch_tokens=64), range(1))
    trainer._save_if_requested()
    assert not trainer.save_requested
    assert find_checkpoint(tmp_path / "checkpoints", "last").name == "step_00000001"


def test_max_minutes_ends_training_after_the_update(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_minutes=1e-6, max_steps=50)
    assert trainer.fit() == "max_minutes 1e-06 reached"
    assert trainer.state.step == 1


def test_max_minutes_counts_time_before_a_resume(tmp_path: Path) -> None:
    first = make_trainer(tmp_path, max_steps=3)
    first.start_time -= 61.0
    first.fit()
    resumed = make_trainer(tmp_path, max_minutes=1.0)
    assert resumed.fit() == "max_minutes 1 reached"
    assert resumed.state.step == 3


def test_save_every_saves_between_validations(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, max_steps=6, save_every=2, validate_every=5, keep_checkpoints=9
    )
    trainer.fit()
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*"))
    assert names == ["step_00000002", "step_00000004", "step_00000005", "step_00000006"]


def test_dropout_is_active_in_training_only(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, dropout=0.5, max_steps=2, validate_every=1)
    trainer.memory_checked = True
    objective = trainer.objective
    original_validate = trainer.validate
    original_forward = objective.forward
    calls = []

    def validate(objective: Objective, *, interrupting: Interrupting) -> Validation:
        calls.append(("validate", objective.training))
        return original_validate(objective, interrupting=interrupting)

    def forward(batch: Batch) -> LossSums:
        calls.append(("train", objective.training))
        return original_forward(batch)

    trainer.validate = validate
    objective.forward = forward  # type: ignore[method-assign]
    trainer.fit()
    assert calls == [("train", True), ("validate", False)] * 2


def test_training_speed_excludes_validation_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, max_steps=4, validate_every=2, log_every=4)
    original_validate = trainer.validate

    def slow_validate(objective: Objective, *, interrupting: Interrupting) -> Validation:
        time.sleep(1.0)
        return original_validate(objective, interrupting=interrupting)

    trainer.validate = slow_validate
    shown: list[Numbers] = []
    monkeypatch.setattr(
        trainer.log.console, "show_numbers", lambda _, numbers: shown.append(numbers)
    )
    trainer.fit()
    num_tokens = sum(batch.num_tokens for batch in BATCHES[2:])
    assert shown[0].tokens_per_second > num_tokens / 1.0


def test_numbers_between_logged_lines_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainer(tmp_path / "plain", max_steps=8, log_every=4).fit()
    trainer = make_trainer(tmp_path / "shown", max_steps=8, log_every=4)
    shown: list[tuple[Position, Numbers]] = []
    monkeypatch.setattr(trainer.log.console, "numbers_are_due", lambda: True)
    monkeypatch.setattr(trainer.log.console, "show_numbers", lambda *values: shown.append(values))
    trainer.fit()
    positions = [position for position, _ in shown]
    assert [position.step for position in positions] == list(range(1, 9))
    assert [position.fraction for position in positions] == [step / 8 for step in range(1, 9)]
    assert {position.total_steps for position in positions} == {8}
    assert all(math.isfinite(numbers.loss) for _, numbers in shown)
    logged = read_lines_without_timing(tmp_path / "shown")
    assert logged == read_lines_without_timing(tmp_path / "plain")
    losses = [line["loss"] for line in logged if line["kind"] == "train"]
    assert [shown[3][1].loss, shown[7][1].loss] == losses


@pytest.mark.parametrize("limits", [{"max_epochs": 2}, {"max_minutes": 60.0, "max_steps": 5}])
def test_bar_measures_the_limit_that_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, float]
) -> None:
    trainer = make_trainer(tmp_path, **{"max_steps": None, **limits})
    positions: list[Position] = []
    monkeypatch.setattr(trainer.log.console, "advance", positions.append)
    trainer.fit()
    fractions = [position.fraction for position in positions]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.5
    assert fractions[-1] == 1.0
    assert positions[-1].seconds_left == pytest.approx(0.0, abs=1.0)


def test_checkpoint_beyond_the_epochs_end_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, max_steps=3).fit()
    fewer_batches = make_trainer(tmp_path, BATCHES[:2], max_steps=5)
    with pytest.raises(CheckpointError, match="at batch 3 of epoch 0, which has 2"):
        fewer_batches.fit()


def test_dropout_of_every_seed_and_rank_is_its_own() -> None:
    seeds = [dropout_seed(seed, rank) for seed in range(20) for rank in range(8)]
    assert len(set(seeds)) == len(seeds)
    assert [dropout_seed(seed, 0) for seed in range(20)] == list(range(1, 21))
