"""The parts of an experiment, assembled from a config and a run directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from copy_task import write_copy_task
from runs import CONFIG, configure, train

import mt.data.eval_set as eval_set_module
from mt.data.eval_set import warn_of_unnormalized_references
from mt.errors import DataError, RunDirError, TokenizerError
from mt.experiment import Experiment
from mt.storage.run_dir import RunDir
from mt.training.validator import encode_eval_set

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture(scope="module")
def trained(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained")
    return train(configure(config_path, run_dir, "train.max_steps=3"))


def make_experiment(config_path: Path, run_dir: Path, *overrides: str) -> Experiment:
    return Experiment(configure(config_path, run_dir, *overrides), RunDir(run_dir))


def test_open_reads_the_runs_own_config(trained: Path) -> None:
    experiment = Experiment.open(trained)
    assert experiment.config.train.max_steps == 3
    assert experiment.run_dir.path == trained


def test_open_refuses_a_missing_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no such run directory"):
        Experiment.open(tmp_path / "missing")


def test_tokenizers_must_be_trained_first(config_path: Path, tmp_path: Path) -> None:
    experiment = make_experiment(config_path, tmp_path)
    with pytest.raises(TokenizerError):
        _ = experiment.tokenizers
    experiment.train_tokenizers()
    assert experiment.tokenizers.src.vocab_size == 330


def test_separate_tokenizers_are_two_models(config_path: Path, tmp_path: Path) -> None:
    overrides = (
        "tokenizer.joint=false",
        "model.tie_embeddings=decoder",
        "tokenizer.vocab_size=300",
    )
    experiment = make_experiment(config_path, tmp_path, *overrides)
    experiment.train_tokenizers()
    assert (tmp_path / "tokenizer.src.model").is_file()
    assert (tmp_path / "tokenizer.tgt.model").is_file()
    assert experiment.tokenizers.src is not experiment.tokenizers.tgt


def test_existing_tokenizer_is_copied(config_path: Path, trained: Path, tmp_path: Path) -> None:
    existing = trained / "tokenizer.model"
    experiment = make_experiment(
        config_path, tmp_path, f"tokenizer.model={existing}", "tokenizer.vocab_size=8000"
    )
    experiment.train_tokenizers()
    assert (tmp_path / "tokenizer.model").read_bytes() == existing.read_bytes()


def test_training_data_is_a_function_of_the_epoch_number(trained: Path) -> None:
    dataset = Experiment.open(trained).training_data
    first = dataset.epoch(0, batch_tokens=128)
    again = dataset.epoch(0, batch_tokens=128)
    second = dataset.epoch(1, batch_tokens=128)
    assert first.plan.order.tolist() == again.plan.order.tolist()
    assert first.plan.order.tolist() != second.plan.order.tolist()
    assert torch.equal(first.batch(0).src, again.batch(0).src)


def test_model_depends_on_the_seed_only(config_path: Path, trained: Path) -> None:
    models = {
        seed: make_experiment(config_path, trained, f"train.seed={seed}").model(CPU)
        for seed in (1, 2)
    }
    same = make_experiment(config_path, trained, "train.seed=1").model(CPU)
    for name, weight in same.state_dict().items():
        assert torch.equal(weight, models[1].state_dict()[name])
    assert not torch.equal(next(models[1].parameters()), next(models[2].parameters()))


def test_translator_of_a_trained_run_translates(trained: Path) -> None:
    translator = Experiment.open(trained).translator("last", device="cpu")
    assert len(translator.translate(["balo deru", ""])) == 2


def test_evaluation_sets_are_the_test_sets_or_the_validation_set(
    config_path: Path, trained: Path
) -> None:
    (only_set,) = make_experiment(config_path, trained).evaluation_sets
    assert only_set.name == "valid"
    prefix = config_path.parent / "valid"
    test = f"data.test=[{{name: other, prefix: {prefix}}}]"
    (test_set,) = make_experiment(config_path, trained, test).evaluation_sets
    assert test_set.name == "other"


def test_training_text_and_validation_set_are_normalized(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "changed"
    directory.mkdir()
    for path in config_path.parent.glob("*.??"):
        text = path.read_text(encoding="utf-8")
        changed = text.replace(" ", "\u00a0 ").replace("a", "a\u200b")
        (directory / path.name).write_text(changed, encoding="utf-8")
    overrides = (f"data.train.0.prefix={directory}/train", f"data.valid.prefix={directory}/valid")
    changed_run = make_experiment(config_path, tmp_path / "changed_run", *overrides)
    plain_run = make_experiment(config_path, tmp_path / "plain_run")
    warnings: list[str] = []
    monkeypatch.setattr(eval_set_module.logger, "warning", warnings.append)
    for experiment in (changed_run, plain_run):
        experiment.run_dir.path.mkdir()
        experiment.train_tokenizers()
    changed = changed_run.training_data.corpus
    plain = plain_run.training_data.corpus
    assert changed_run.tokenizers.src.digest == plain_run.tokenizers.src.digest
    assert changed.src.ids.tolist() == plain.src.ids.tolist()
    assert changed.tgt.ids.tolist() == plain.tgt.ids.tolist()

    # References are kept as they are, with one warning.
    assert plain_run.validation_sets[0].refs != changed_run.validation_sets[0].refs
    warn_of_unnormalized_references(plain_run.validation_sets[0], "nfc")
    warn_of_unnormalized_references(changed_run.validation_sets[0], "none")
    assert warnings == []
    warn_of_unnormalized_references(changed_run.validation_sets[0], "nfc")
    (warning,) = warnings
    assert warning.startswith("valid: ")
    pairs = [
        encode_eval_set(experiment.validation_sets[0], experiment.tokenizers, "nfc")
        for experiment in (changed_run, plain_run)
    ]
    assert pairs[0].src.ids.tolist() == pairs[1].src.ids.tolist()
    assert pairs[0].tgt.ids.tolist() == pairs[1].tgt.ids.tolist()


def test_missing_validation_file_is_named(config_path: Path, tmp_path: Path) -> None:
    experiment = make_experiment(config_path, tmp_path, f"data.valid.prefix={tmp_path / 'none'}")
    with pytest.raises(DataError, match=r"none\.aa: no such file"):
        _ = experiment.validation_sets
