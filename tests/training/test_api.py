"""`mt.train` inside a Python program: what it takes, what it reports and how it ends."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from copy_task import write_copy_task
from runs import CONFIG, assert_same_run, configure, read_lines_without_timing

import mt
from mt.errors import ConfigError
from mt.experiment import Experiment
from mt.training.metrics_log import read_metrics_log


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture
def values(config_path: Path) -> dict[str, Any]:
    """Return the config as nested dicts and lists, as a program would write it."""
    values: dict[str, Any] = yaml.safe_load(config_path.read_text(encoding="utf-8"))
    values["train"]["learning_rate"] = 5e-3  # YAML 1.1 reads 5e-3 as text
    return values


@pytest.fixture(scope="module")
def events() -> list[mt.TrainingEvent]:
    return []


@pytest.fixture(scope="module")
def result(
    config_path: Path, tmp_path_factory: pytest.TempPathFactory, events: list[mt.TrainingEvent]
) -> mt.TrainingResult:
    config = configure(config_path, tmp_path_factory.mktemp("run") / "run")
    return mt.train(config, on_event=events.append)


def test_events_are_the_lines_of_the_metrics_log(
    result: mt.TrainingResult, events: list[mt.TrainingEvent]
) -> None:
    lines = read_metrics_log(result.run_dir / "metrics.jsonl").lines
    assert [(event.step, event.record.kind) for event in events] == [
        (line["step"], line["kind"]) for line in lines
    ]
    assert [dict(event.timing) for event in events] == [line["timing"] for line in lines]
    assert isinstance(events[0].record, mt.StartRecord)
    train_records = [event.record for event in events if isinstance(event.record, mt.TrainRecord)]
    train_lines = [line for line in lines if line["kind"] == "train"]
    assert [record.losses["loss"] for record in train_records] == [
        line["loss"] for line in train_lines
    ]
    assert len(train_records) == 6


def test_result_describes_the_best_checkpoint(
    result: mt.TrainingResult, events: list[mt.TrainingEvent]
) -> None:
    best = best_validation(events)
    final = events[-1].record
    assert isinstance(final, mt.FinalRecord)
    assert result.best_step == best.step
    assert result.best_loss == best.record.validation.loss
    assert final.checkpoint.endswith(f"{best.step:08}")
    assert result.best_scores == final.scores
    assert set(result.best_scores) == {"BLEU", "chrF"}
    assert result.best_signatures == final.signatures
    assert result.best_scope == final.scope
    assert "12" in result.stop_reason
    assert result.stop_signal is None


class BestValidation(NamedTuple):
    """The validation with the best checkpoint."""

    step: int
    record: mt.ValidationRecord


def best_validation(events: Sequence[mt.TrainingEvent]) -> BestValidation:
    """Return the last validation that was the best so far."""
    best = [
        BestValidation(event.step, event.record)
        for event in events
        if isinstance(event.record, mt.ValidationRecord) and event.record.is_best
    ]
    return best[-1]


def test_translator_of_a_result_is_that_of_its_run(result: mt.TrainingResult) -> None:
    texts = ["balo deru", "gona"]
    best = mt.Translator.load(result.run_dir, device="cpu")
    last = mt.Translator.load(result.run_dir, checkpoint="last", device="cpu")
    assert result.translator(device="cpu").translate(texts) == best.translate(texts)
    assert result.translator("last", device="cpu").translate(texts) == last.translate(texts)


def test_validation_loss_is_the_mean_score_of_the_references(result: mt.TrainingResult) -> None:
    experiment = Experiment.open(result.run_dir)
    valid = experiment.validation_sets[0]
    scores = result.translator(device="cpu").score(valid.src, valid.refs[0])
    num_tokens = sum(len(score.tokens) for score in scores)
    mean_log_prob = sum(score.log_prob for score in scores) / num_tokens
    assert result.best_loss == pytest.approx(-mean_log_prob, rel=1e-5)


def test_dict_file_and_config_train_the_same_run(
    result: mt.TrainingResult, values: dict[str, Any], config_path: Path, tmp_path: Path
) -> None:
    values["train"]["run_dir"] = tmp_path / "from_dict"
    assert_same_run(mt.train(values).run_dir, result.run_dir)
    values["train"]["run_dir"] = str(tmp_path / "from_file")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values).replace("0.005", "5e-3"), encoding="utf-8")
    for given in (path, str(path)):
        trained = mt.train(given)
        assert trained.run_dir == tmp_path / "from_file"
        assert_same_run(trained.run_dir, result.run_dir)


def test_a_file_without_a_run_directory_has_one_of_its_name(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = config_path.read_text(encoding="utf-8").replace("max_steps: 12", "max_steps: 1")
    Path("small.yaml").write_text(text, encoding="utf-8")
    assert mt.train("small.yaml").run_dir == tmp_path / "runs/small"


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("train", "lr", 1e-3, ["train.lr", "unknown key"]),
        ("train", "max_steps", "12", ["train.max_steps", '"12"']),
        ("model", "d_model", {8}, ["model.d_model", "set"]),
        ("model", 7, 8, ["model", "7"]),
        ("data", "train", [{"prefix": "a", 3: 4}], ["data.train.0", "3"]),
        ("train", "run_dir", None, ["train.run_dir"]),
    ],
)
def test_mistakes_in_a_dict_are_named(
    values: dict[str, Any], section: str, key: Any, value: object, words: list[str]
) -> None:
    changed = copy.deepcopy(values)
    changed[section][key] = value
    with pytest.raises(ConfigError) as raised:
        mt.train(changed)
    assert all(word in str(raised.value) for word in words)


def test_a_dict_that_contains_itself_is_refused(values: dict[str, Any]) -> None:
    values["model"]["d_model"] = values
    with pytest.raises(ConfigError, match="at most 20"):
        mt.train(values)


@pytest.mark.parametrize("kind", ["start", "train", "valid"])
def test_an_exception_of_on_event_reaches_the_caller_and_the_run_resumes(
    result: mt.TrainingResult, config_path: Path, tmp_path: Path, kind: str
) -> None:
    config = configure(config_path, tmp_path / "run")
    num_events = 0

    def fail_at_second(event: mt.TrainingEvent) -> None:
        nonlocal num_events
        num_events += event.record.kind == kind
        if num_events == (1 if kind == "start" else 2):
            raise ZeroDivisionError("the caller's own mistake")

    with pytest.raises(ZeroDivisionError, match="own mistake"):
        mt.train(config, on_event=fail_at_second)
    assert_same_run(mt.train(config).run_dir, result.run_dir)


def test_training_in_another_thread_is_the_same_and_leaves_signals_alone(
    result: mt.TrainingResult, config_path: Path, tmp_path: Path
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    config = configure(config_path, tmp_path / "run")
    threads = set()

    def remember(event: mt.TrainingEvent) -> None:
        threads.add(threading.current_thread())
        assert {number: signal.getsignal(number) for number in handlers} == handlers

    with ThreadPoolExecutor(max_workers=1) as pool:
        trained = pool.submit(mt.train, config, on_event=remember).result()
    assert threading.main_thread() not in threads
    assert_same_run(trained.run_dir, result.run_dir)


def test_an_interrupt_in_the_main_thread_saves_and_returns(
    result: mt.TrainingResult,
    events: list[mt.TrainingEvent],
    config_path: Path,
    tmp_path: Path,
) -> None:
    """A notebook interrupts its kernel with SIGINT."""
    handler = signal.getsignal(signal.SIGINT)
    config = configure(config_path, tmp_path / "run")

    def interrupt(event: mt.TrainingEvent) -> None:
        if event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = mt.train(config, on_event=interrupt)
    assert stopped.stop_signal == "SIGINT"
    assert stopped.best_step == 3
    validation = events[[event.step for event in events].index(3)].record
    assert isinstance(validation, mt.ValidationRecord)
    assert stopped.best_scores == validation.validation.scores
    assert stopped.best_scope == validation.validation.scope
    assert signal.getsignal(signal.SIGINT) is handler
    steps = [line["step"] for line in read_lines_without_timing(stopped.run_dir)]
    assert max(steps) < 12
    assert_same_run(mt.train(config).run_dir, result.run_dir)


def test_a_handler_that_is_not_pythons_stays(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python cannot restore the handler of a program that embeds it."""
    changed = []
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: changed.append(number))
    mt.train(configure(config_path, tmp_path / "run", "train.max_steps=1"))
    assert changed == []


def test_a_run_without_a_validation_has_no_best(config_path: Path, tmp_path: Path) -> None:
    config = configure(config_path, tmp_path / "run")

    def interrupt(event: mt.TrainingEvent) -> None:
        if event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = mt.train(config, on_event=interrupt)
    assert (stopped.best_step, stopped.best_loss, stopped.best_scores) == (None, None, {})
