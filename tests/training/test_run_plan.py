"""The plan of a run while it trains: limits of time by a fake clock, revisions, and resuming."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_data import FakeDataset, random_batch
from runs import read_lines_without_timing

from mt.config.schema import ModelConfig, TrainConfig
from mt.data.prefetch import Prefetcher
from mt.distributed import Runtime
from mt.model.transformer import Transformer
from mt.storage.run_dir import RunDir
from mt.training.all_ranks import Interrupting
from mt.training.metrics_log import FinalRecord, MetricsLine, ScoreScope, Validation
from mt.training.objective import Objective
from mt.training.trainer import Trainer

MODEL = ModelConfig(d_model=4, d_ff=4, num_heads=1, num_encoder_layers=1, num_decoder_layers=1)
PEAK = 1e-3


class Killed(BaseException):
    """Ends a run at once, as `kill -9` does."""


class TimedTrainer(Trainer):
    """A trainer with a fake clock: updates and validations take the seconds that a test says.

    An update computes nothing, unless the test asks for it.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        update_seconds: Callable[[int], float] = lambda step: 0.5,
        validation_seconds: float = 2.0,
        startup_seconds: float = 0.0,
        computes: bool = False,
        **train_config: Any,
    ) -> None:
        torch.manual_seed(3)
        self.seconds = startup_seconds
        self.update_seconds = update_seconds
        self.validation_seconds = validation_seconds
        self.rates: list[float] = []
        self.kill_at: int | None = None
        self.computes = computes
        run_dir.mkdir(exist_ok=True)
        settings = {"learning_rate": PEAK, "validate_every": 150, "metric": "loss", **train_config}
        model = Transformer(MODEL, src_vocab_size=20, tgt_vocab_size=20, pad_id=0)
        super().__init__(
            Objective(model, label_smoothing=0.1),
            FakeDataset([random_batch(seed) for seed in range(4)]),  # type: ignore[arg-type]
            self.validate_slowly,
            valid_digest="",
            config=TrainConfig(**settings),
            run_dir=RunDir(run_dir),
            runtime=Runtime(torch.device("cpu")),
            start_time=0.0,
            clock=lambda: self.seconds,
        )

    def update(self, source: Prefetcher, indices: range) -> None:
        if self.computes:
            super().update(source, indices)
        else:
            self.state.step += 1
        self.rates.append(self.learning_rate)
        self.seconds += self.update_seconds(self.state.step)
        if self.state.step == self.kill_at:
            raise Killed

    def validate_slowly(self, objective: Objective, *, interrupting: Interrupting) -> Validation:
        self.seconds += self.validation_seconds
        return Validation(loss=1.0, scores={}, signatures={}, samples=())


class SlowFinalScoring:
    """A final scoring of 17 seconds by the clock of a trainer."""

    def __init__(self, trainer: TimedTrainer) -> None:
        self.trainer = trainer
        self.is_done = False

    def reserved_seconds(self, seconds_per_line: float | None) -> float:
        return 17.0

    def score(
        self,
        lines: Iterable[MetricsLine],
        *,
        seconds_per_line: float | None,
        interrupting: Interrupting,
    ) -> FinalRecord:
        self.trainer.seconds += 17.0
        self.is_done = True
        scope = ScoreScope(num_lines=1, num_lines_in_set=1, beam_size=1)
        return FinalRecord("step_00000001", {"BLEU": 1.0}, {"BLEU": "none"}, scope)


def plan_lines(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines_without_timing(run_dir) if line["kind"] == "plan"]


def uneven(step: int) -> float:
    """Return about half a second; some updates take twice as long as others."""
    return random.Random(step).uniform(0.33, 0.67)


def getting_slower(step: int) -> float:
    return uneven(step) * (1.0 if step < 200 else 1.5)


def getting_faster(step: int) -> float:
    return uneven(step) * (1.0 if step < 200 else 0.7)


# Limits


@pytest.mark.parametrize(
    "limits",
    [
        {"max_steps": 500},
        {"max_epochs": 250, "gradient_accumulation": 3},  # two updates in each
        {"max_minutes": 5},
        {"max_minutes": 5, "schedule": "linear"},
        {"max_steps": 10**6, "max_minutes": 5},
        {"max_steps": 500, "max_epochs": 10**6, "max_minutes": 10**6},
    ],
)
def test_run_lands_whatever_ends_it(tmp_path: Path, limits: dict[str, Any]) -> None:
    trainer = TimedTrainer(tmp_path, update_seconds=uneven, **limits)
    trainer.fit()
    num_updates = trainer.state.step
    assert 490 <= num_updates <= 600
    peak_step = trainer.rates.index(max(trainer.rates)) + 1
    assert peak_step <= 0.105 * num_updates
    assert max(trainer.rates) > 0.95 * PEAK
    assert trainer.rates[-1] < 0.02 * PEAK
    assert trainer.planner.plan.total_steps == num_updates
    assert plan_lines(tmp_path)[-1]["total_steps"] == num_updates


@pytest.mark.parametrize("update_seconds", [uneven, getting_slower, getting_faster])
@pytest.mark.parametrize("validation_seconds", [0.1, 8.0])
def test_run_ends_in_the_minutes_asked(
    tmp_path: Path, update_seconds: Callable[[int], float], validation_seconds: float
) -> None:
    """Start-up, validations and the final scoring are included."""
    trainer = TimedTrainer(
        tmp_path,
        update_seconds=update_seconds,
        validation_seconds=validation_seconds,
        startup_seconds=11.0,
        max_minutes=5.0,
    )
    scoring = SlowFinalScoring(trainer)
    trainer.final_scoring = scoring  # type: ignore[assignment]
    assert trainer.fit() == "max_minutes 5 reached"
    assert scoring.is_done
    assert trainer.seconds == pytest.approx(300.0, rel=0.05)
    assert trainer.state.elapsed_seconds == pytest.approx(trainer.seconds)
    assert trainer.rates[-1] < 0.02 * PEAK


def test_learning_rate_does_not_jump_when_the_plan_is_revised(tmp_path: Path) -> None:
    trainer = TimedTrainer(
        tmp_path, update_seconds=getting_slower, schedule="linear", max_minutes=5.0
    )
    trainer.fit()
    assert len(plan_lines(tmp_path)) > 3
    falling = trainer.rates[trainer.rates.index(max(trainer.rates)) :]
    assert falling == sorted(falling, reverse=True)
    drops = [before - after for before, after in pairwise(falling)]
    assert max(drops) < 3 * PEAK / len(falling)


def test_run_ends_in_time_after_a_long_pause_of_the_machine(tmp_path: Path) -> None:
    trainer = TimedTrainer(
        tmp_path, update_seconds=lambda step: 80.0 if step == 50 else 0.5, max_minutes=1.5
    )
    trainer.fit()
    assert trainer.state.step == 50


@pytest.mark.parametrize("paused_step", [20, 100, 300])
def test_run_uses_the_time_after_a_pause_of_the_machine(tmp_path: Path, paused_step: int) -> None:
    """Ctrl-Z stops a process, for example. The updates after it are as fast as those before."""
    trainer = TimedTrainer(
        tmp_path, update_seconds=lambda step: 100.0 if step == paused_step else 0.5, max_minutes=5.0
    )
    trainer.fit()
    assert trainer.seconds == pytest.approx(300.0, rel=0.05)
    assert trainer.rates[-1] < 0.02 * PEAK


def test_first_plan_does_not_wait_for_a_line_of_the_log(tmp_path: Path) -> None:
    TimedTrainer(tmp_path, max_minutes=1.0, log_every=10**6).fit()
    first = plan_lines(tmp_path)[0]
    assert first["step"] <= 5
    assert first["warmup_steps"] == first["total_steps"] // 10


# Resuming


def test_resumed_run_follows_the_same_plan(tmp_path: Path) -> None:
    """Killed between two checkpoints. The clock of the second process continues at the saved one.

    The weights and metrics.jsonl are the same, byte for byte.
    """
    settings: dict[str, Any] = {
        "max_minutes": 1.0,
        "save_every": 10,
        "update_seconds": lambda step: 1.0,
        "computes": True,
    }
    whole = TimedTrainer(tmp_path / "whole", **settings)
    whole.fit()
    killed = TimedTrainer(tmp_path / "killed", **settings)
    killed.kill_at = 27
    with pytest.raises(Killed):
        killed.fit()
    resumed = TimedTrainer(tmp_path / "killed", **settings)
    resumed.fit()
    assert resumed.rates == whole.rates[20:]
    lines = read_lines_without_timing(tmp_path / "killed")
    assert lines == read_lines_without_timing(tmp_path / "whole")
    weights = resumed.objective.state_dict()
    for name, value in whole.objective.state_dict().items():
        assert torch.equal(weights[name], value), name


def test_resumed_run_knows_its_speed(tmp_path: Path) -> None:
    TimedTrainer(tmp_path, max_steps=60, validate_every=20).fit()
    resumed = TimedTrainer(tmp_path, max_steps=60, validate_every=20)
    resumed.checkpointer.restore_newest()
    assert resumed.planner.pace.update_seconds == pytest.approx(0.5)
    assert resumed.planner.pace.validation_seconds == 2.0


def test_time_of_all_processes_counts(tmp_path: Path) -> None:
    settings = {"max_minutes": 1.0, "save_every": 10, "validate_every": 30}
    killed = TimedTrainer(tmp_path, **settings)
    killed.kill_at = 50
    with pytest.raises(Killed):
        killed.fit()
    resumed = TimedTrainer(tmp_path, startup_seconds=15.0, **settings)
    resumed.fit()
    seconds_saved = 40 * 0.5 + 2.0
    assert seconds_saved + resumed.seconds == pytest.approx(60.0, rel=0.05)
    assert resumed.rates[-1] < 0.02 * PEAK


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"max_steps": 40}, {"max_steps": 80}),
        ({"max_epochs": 10}, {"max_epochs": 20}),
        ({"max_minutes": 0.5}, {"max_minutes": 1.0}),
        ({"max_minutes": 0.5}, {"max_steps": 100}),
    ],
)
def test_run_that_is_extended_lands_again(
    tmp_path: Path, first: dict[str, float], second: dict[str, float]
) -> None:
    TimedTrainer(tmp_path, schedule="cosine", **first).fit()
    num_lines = len(plan_lines(tmp_path))
    extended = TimedTrainer(tmp_path, schedule="cosine", **second)
    extended.fit()
    assert max(extended.rates) > 0.2 * PEAK
    assert extended.rates[-1] < 0.02 * PEAK
    assert len(plan_lines(tmp_path)) > num_lines


# Several ranks


def test_other_ranks_take_the_plan_of_rank_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their clocks differ: by this one the time would be over."""
    trainer = TimedTrainer(tmp_path, max_minutes=1.0)
    trainer.state.step = 10
    trainer.state.elapsed_seconds = 70.0
    monkeypatch.setattr(Runtime, "all_reduce_max", lambda self, values: [0, 0, 90])
    assert trainer._agree_on_stop_reason() is None
    assert trainer.planner.plan.total_steps == 90


@pytest.mark.parametrize("signal_of_this_rank", [None, "SIGTERM"])
def test_signal_of_any_rank_stops_the_final_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_of_this_rank: str | None
) -> None:
    """All ranks take part in the exchange, whatever signal each of them has."""
    trainer = TimedTrainer(tmp_path, max_steps=10)
    trainer.signals.name = signal_of_this_rank
    exchanged = []

    def all_reduce_max(runtime: Runtime, values: Sequence[int]) -> list[int]:
        exchanged.append(values[0])
        return [signal.SIGTERM, 0, 0]

    monkeypatch.setattr(Runtime, "all_reduce_max", all_reduce_max)
    trainer._score_best()
    assert exchanged == [signal.SIGTERM if signal_of_this_rank else 0]
    assert trainer.stop_signal == trainer.signals.name == "SIGTERM"
    assert not (tmp_path / "metrics.jsonl").exists()


# What the console shows


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    trainer = TimedTrainer(tmp_path, max_steps=80, validate_every=40)
    assert trainer.planner.progress(trainer.state) == (0.0, None)
    found = []
    trainer.log.console.advance = lambda step: found.append(trainer.planner.progress(trainer.state))  # type: ignore[method-assign]
    trainer.fit()
    assert [fraction for fraction, _ in found] == [step / 80 for step in range(1, 81)]
    assert found[49].seconds_left == pytest.approx(30 * 0.5 + 2.0)
    assert found[-1].fraction == 1.0
