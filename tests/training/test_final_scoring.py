"""The final score: the best checkpoint of a run, translated as `mt evaluate` does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from copy_task import write_copy_task
from runs import (
    CONFIG,
    FULL_VALIDATION,
    assert_same_run,
    checkpoint_path,
    configure,
    read_lines_without_timing,
    train,
)

from mt.config.schema import Config
from mt.decoding.translator import Translator
from mt.distributed import open_runtime
from mt.evaluation.evaluate import evaluate
from mt.experiment import Experiment
from mt.storage.run_dir import RunDir
from mt.training.final_scoring import (
    FEWEST_LINES,
    SAMPLE_UNIT,
    FinalScoring,
    affordable_lines,
    beam_cost,
    scoring_budget,
)
from mt.training.metrics_log import read_metrics_log
from mt.training.pace import Pace
from mt.training.run import run_training
from mt.training.run_plan import RunPlan
from mt.training.trainer import Trainer
from mt.training.validator import Validator

CHEAP_VALIDATION = ("train.validation_lines=4", "train.metric=chrf")


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture(scope="module")
def finished(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that validated with another search than that of `mt evaluate`."""
    return train(make_config(config_path, tmp_path_factory.mktemp("finished")))


def make_config(config_path: Path, run_dir: Path, *overrides: str) -> Config:
    return configure(config_path, run_dir, *CHEAP_VALIDATION, *overrides)


def read_final_scores(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines_without_timing(run_dir) if line["kind"] == "final"]


def refuse_translation(patch: pytest.MonkeyPatch) -> None:
    """Let the final scoring fail when it translates."""

    def translator(*_: object, **__: object) -> Translator:
        raise AssertionError("the score is known")

    patch.setattr(Experiment, "translator", translator)


# The score


def test_final_score_is_that_of_evaluate_and_sacrebleu(finished: Path) -> None:
    (final,) = read_final_scores(finished)
    assert (final["num_lines"], final["num_lines_in_set"], final["beam_size"]) == (6, 6, 2)
    assert final["checkpoint"] == checkpoint_path(finished, "best").name
    (result,) = evaluate(finished, device="cpu")
    for score in result.scores[:2]:
        assert final[score.name] == score.value
        assert final["signatures"][score.name] == score.signature

    valid = Experiment.open(finished).validation_sets[0]
    hypotheses = Translator.load(finished, device="cpu").translate(valid.src)
    assert final["chrF"] == sacrebleu.corpus_chrf(hypotheses, valid.refs).score
    assert final["chrF"] > 0


def test_final_score_is_the_last_line(finished: Path) -> None:
    assert [line["kind"] for line in read_lines_without_timing(finished)][-2:] == ["valid", "final"]


def test_validation_like_evaluate_is_not_repeated(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_translation(monkeypatch)
    config = configure(config_path, tmp_path, *FULL_VALIDATION, "train.metric=chrf")
    run_dir = train(config)
    lines = read_lines_without_timing(run_dir)
    best = [line for line in lines if line["kind"] == "valid" and line["is_best"]][-1]
    final = lines[-1]
    assert final["kind"] == "final"
    assert final["checkpoint"] == f"step_{best['step']:08d}"
    for key in ("BLEU", "chrF", "signatures", "num_lines", "beam_size"):
        assert final[key] == best[key]


def test_final_score_is_shown(
    config_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mt")
    (final,) = read_final_scores(train(make_config(config_path, tmp_path)))
    (shown,) = [text for text in caplog.messages if text.startswith("final score of step_")]
    assert f"chrF {final['chrF']:.2f}" in shown
    assert "6 lines, beam 2" in shown


def test_run_without_a_best_checkpoint_ends_without_a_final_score(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is trained all the same."""
    monkeypatch.setattr("mt.training.final_scoring.BEST", "missing")
    run_dir = train(make_config(config_path, tmp_path))
    assert read_final_scores(run_dir) == []
    incident = read_lines_without_timing(run_dir)[-1]
    assert incident["kind"] == "incident"
    assert "no final score" in incident["text"]


# Interruption


def interrupt_translation(patch: pytest.MonkeyPatch) -> None:
    """Let a signal arrive while the final scoring translates."""
    original = Experiment.translator

    def translator(*arguments: Any, **options: Any) -> Translator:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    patch.setattr(Experiment, "translator", translator)


def test_run_that_is_stopped_in_its_final_scoring_does_it_when_it_resumes(
    config_path: Path, finished: Path, tmp_path: Path
) -> None:
    config = make_config(config_path, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_translation(patch)
        assert run_training(config).stop_signal == "SIGTERM"
    assert read_final_scores(tmp_path) == []
    assert run_training(config).stop_signal is None
    assert_same_run(tmp_path, finished)


def test_finished_run_keeps_its_score_when_it_is_started_again(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(config_path, tmp_path)
    scores = read_final_scores(train(config))
    refuse_translation(monkeypatch)
    train(config)
    assert read_final_scores(tmp_path) == scores


def test_run_that_is_continued_has_the_score_of_its_end(
    config_path: Path, finished: Path, tmp_path: Path
) -> None:
    constant = "train.schedule=constant", "train.cooldown_fraction=0"
    train(make_config(config_path, tmp_path / "run", *constant, "train.max_steps=6"))
    train(make_config(config_path, tmp_path / "run", *constant))
    whole = train(make_config(config_path, tmp_path / "whole", *constant))
    assert len(read_final_scores(tmp_path / "run")) == 1
    assert read_final_scores(tmp_path / "run") == read_final_scores(whole)


def test_complete_run_of_minutes_does_not_go_on_with_time_that_is_left(
    config_path: Path, tmp_path: Path
) -> None:
    """Its final scoring may take less time than was reserved for it."""
    run_dir = train(make_config(config_path, tmp_path, "train.max_minutes=60"))
    config = make_config(config_path, run_dir, "train.max_steps=null", "train.max_minutes=60")
    trainer = Trainer.from_experiment(Experiment(config, RunDir(run_dir)), open_runtime("cpu"))
    trainer.state.step = 12
    trainer.planner.plan = RunPlan.of_new_run(12, config.train)
    trainer.planner.pace = Pace(seconds=1.0, num_updates=100.0)
    trainer._examine_plan()
    assert trainer.planner.plan.total_steps == 12
    trainer.state.step = 11
    trainer._examine_plan()
    assert trainer.planner.plan.total_steps > 1000


# Time


@pytest.mark.parametrize(
    ("num_lines", "seconds_per_line", "expected"),
    [
        (1000, 0.06, 1000),  # exactly the budget
        (1791, 0.06, 1000),
        (1791, 0.0601, 900),
        (1791, 1.0, FEWEST_LINES),
        (150, 1.0, 150),
        (1791, 0.0, 1791),
    ],
)
def test_lines_that_fit_into_the_budget(
    num_lines: int, seconds_per_line: float, expected: int
) -> None:
    found = affordable_lines(num_lines, seconds_per_line=seconds_per_line, budget_seconds=60.0)
    assert found == expected
    assert found == num_lines or found % SAMPLE_UNIT == 0


def test_budget_is_a_tenth_of_the_minutes() -> None:
    assert scoring_budget(10.0) == pytest.approx(60.0)
    assert scoring_budget(None) is None


def make_scoring(run_dir: Path) -> FinalScoring:
    experiment = Experiment.open(run_dir)
    return FinalScoring(experiment, Validator(experiment, open_runtime("cpu")))


def test_time_is_reserved_for_the_whole_set_or_a_tenth(finished: Path) -> None:
    scoring = make_scoring(finished)
    assert scoring.reserved_seconds(0.01) == 0.0  # there is no max_minutes
    scoring.budget_seconds = 60.0
    assert scoring.reserved_seconds(None) == 60.0
    # 6 lines, by beam search after a greedy validation.
    assert scoring.reserved_seconds(0.01) == pytest.approx(6 * 0.01 * beam_cost(2))


def test_nothing_is_reserved_after_validations_like_evaluate(
    config_path: Path, tmp_path: Path
) -> None:
    run_dir = train(configure(config_path, tmp_path, *FULL_VALIDATION, "train.max_steps=3"))
    scoring = make_scoring(run_dir)
    scoring.budget_seconds = 60.0
    assert scoring.reserved_seconds(0.01) == 0.0


def test_score_of_a_validation_has_the_scope_of_that_validation(
    config_path: Path, tmp_path: Path
) -> None:
    """The whole set was scored, although a translation of it would not fit into the budget."""
    run_dir = train(configure(config_path, tmp_path, *FULL_VALIDATION, "train.max_steps=3"))
    scoring = make_scoring(run_dir)
    scoring.budget_seconds = 0.1
    lines = read_metrics_log(run_dir / "metrics.jsonl").valid
    assert scoring.score(lines, seconds_per_line=1.0).scope == scoring.validator.scope


def test_set_that_does_not_fit_is_sampled(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mt.training.final_scoring.FEWEST_LINES", 1)
    monkeypatch.setattr("mt.training.final_scoring.SAMPLE_UNIT", 1)
    scoring = make_scoring(finished)
    scoring.budget_seconds = 3.5
    final = scoring.score([], seconds_per_line=1.0 / beam_cost(2))
    assert final.scope == (3, 6, 2)
    sample = Experiment.open(finished).validation_sets[0].sample(3)
    hypotheses = Translator.load(finished, device="cpu").translate(sample.src)
    assert final.scores["chrF"] == sacrebleu.corpus_chrf(hypotheses, sample.refs).score
