"""Tests of training that starts from another run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from copy_task import write_copy_task
from forked import forking_subprocess
from runs import CONFIG, assert_same_run, checkpoint_path, configure, train, train_until
from safetensors.torch import load_file
from torch import Tensor

from mt.config.load import load_run_config
from mt.data.tokenizer import Tokenizer
from mt.distributed import open_runtime
from mt.errors import ConfigError, RunDirError
from mt.preflight import kill_test
from mt.preflight.run_checks import check_training
from mt.storage.run_dir import RunDir
from mt.training.run import prepare_run
from mt.training.trainer import Trainer

NEW_TOKENIZER = ("train.init_tokenizer=new", "tokenizer.vocab_size=324")
FREEZE = "train.freeze=[encoder_layers, embeddings]"


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture(scope="module")
def parent(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 updates with a wider model than CONFIG has."""
    run_dir = tmp_path_factory.mktemp("parent")
    overrides = ["model.d_ff=48", "data.normalization=nfkc", "train.max_steps=6"]
    return train(configure(config_path, run_dir, *overrides))


def child_config_path(config_path: Path, *, without: tuple[str, ...] = ("d_ff",)) -> Path:
    """Write CONFIG without some keys, so that they come from the parent."""
    lines = config_path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.strip().partition(":")[0] not in without]
    path = config_path.with_name(f"without_{'_'.join(without)}.yaml")
    path.write_text("\n".join(kept), encoding="utf-8")
    return path


def load_averages(run_dir: Path, pointer: str = "best") -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(checkpoint_path(run_dir, pointer) / "ema.safetensors")
    return tensors


def test_child_begins_with_the_parents_averages_tokenizer_and_shape(
    config_path: Path, parent: Path, tmp_path: Path
) -> None:
    config = configure(
        child_config_path(config_path), tmp_path, f"train.init_from={parent}", "model.dropout=0.3"
    )
    run_dir = RunDir(tmp_path)
    experiment, runtime = prepare_run(config, run_dir, open_runtime("cpu"))
    trainer = Trainer.from_experiment(experiment, runtime)

    assert experiment.config.model.d_ff == 48
    assert experiment.config.model.dropout == 0.3
    assert experiment.config.data.normalization == "nfkc"
    name = "tokenizer.model"
    assert (tmp_path / name).read_bytes() == (parent / name).read_bytes()
    expected = load_averages(parent)
    weights = trainer.objective.transformer.state_dict()
    assert weights.keys() == expected.keys()
    for key, weight in weights.items():
        assert torch.equal(weight, expected[key])
    assert trainer.state.step == 0
    assert not trainer.optimizer.state


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.d_ff=32", "model.d_ff"),
        ("model.norm=post", "model.norm"),
        ("tokenizer.vocab_size=340", "tokenizer.vocab_size"),
        ("data.normalization=nfc", "data.normalization"),
    ],
)
def test_another_model_is_refused_by_key(
    config_path: Path, parent: Path, tmp_path: Path, override: str, key: str
) -> None:
    path = child_config_path(config_path)
    config = configure(path, tmp_path / "run", f"train.init_from={parent}", override)
    with pytest.raises(ConfigError, match=f"remove or correct:\n  {key}: "):
        train(config)
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("overrides", [(), NEW_TOKENIZER])
def test_separate_tokenizers_for_a_shared_embedding_matrix_are_refused(
    config_path: Path, parent: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    path = child_config_path(config_path)
    overrides = (f"train.init_from={parent}", *overrides, "tokenizer.joint=false")
    config = configure(path, tmp_path / "run", *overrides)
    with pytest.raises(ConfigError, match=r"^tokenizer\.joint: .*shares one embedding matrix"):
        train(config)


def test_missing_run_is_named(config_path: Path, tmp_path: Path) -> None:
    config = configure(config_path, tmp_path / "run", f"train.init_from={tmp_path}/nowhere")
    with pytest.raises(RunDirError, match=r"^train\.init_from: .*nowhere: no such run directory"):
        train(config)


def test_frozen_weights_do_not_change_and_resume_is_exact(
    config_path: Path, parent: Path, tmp_path: Path
) -> None:
    path = child_config_path(config_path)
    overrides = (f"train.init_from={parent}", FREEZE, "model.dropout=0.1")
    whole = train(configure(path, tmp_path / "whole", *overrides))

    initial = load_averages(parent)
    last = load_file(checkpoint_path(whole) / "model.safetensors")
    frozen = {name for name in last if name.startswith(("encoder_layers.", "embeddings."))}
    changed = {name for name in last if not torch.equal(last[name], initial[name])}
    assert len(frozen) > 10
    assert changed == last.keys() - frozen
    optimizer = load_file(checkpoint_path(whole) / "optimizer.safetensors")
    assert {key.rpartition("/")[0] for key in optimizer} == changed

    # The run resumes without the parent: its weights are in its own checkpoint.
    moved = tmp_path / "moved"
    shutil.copytree(parent, moved)
    overrides = (f"train.init_from={moved}", FREEZE, "model.dropout=0.1")
    train_until(6, configure(path, tmp_path / "half", *overrides))
    shutil.rmtree(moved)
    resumed = train(configure(path, tmp_path / "half", *overrides))
    assert_same_run(whole, resumed)
    assert load_run_config(resumed / "config.yaml").train.freeze == ("encoder_layers", "embeddings")


@pytest.mark.parametrize(
    ("freeze", "problem"),
    [
        ("[encoder_layer]", "no weights are called encoder_layer: wanted one of decoder_layers,"),
        (
            "[embeddings, encoder_layers, encoder_norm, decoder_layers, decoder_norm]",
            "no weight is left to train",
        ),
    ],
)
def test_impossible_freeze_is_refused(
    config_path: Path, parent: Path, tmp_path: Path, freeze: str, problem: str
) -> None:
    path = child_config_path(config_path)
    overrides = (f"train.init_from={parent}", f"train.freeze={freeze}")
    with pytest.raises(ConfigError, match=problem):
        train(configure(path, tmp_path, *overrides))


def test_freezing_random_weights_is_refused(config_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wanted init_from"):
        configure(config_path, tmp_path, FREEZE)


@pytest.fixture
def forked_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `mt check --resume` fork its trainings: its own tests start processes as it does."""
    monkeypatch.setattr(kill_test, "subprocess", forking_subprocess)


@pytest.mark.parametrize("tokenizer", ["parent", "new"])
def test_check_of_a_resumable_run_does_not_need_the_other_run(
    config_path: Path, parent: Path, tmp_path: Path, forked_trainings: None, tokenizer: str
) -> None:
    """Neither does its training, as the test above of frozen weights shows."""
    path = child_config_path(config_path)
    moved = tmp_path / "moved"
    shutil.copytree(parent, moved)
    overrides = [f"train.init_from={moved}", FREEZE]
    if tokenizer == "new":
        overrides += [*NEW_TOKENIZER, "train.init_new_tokens=random"]
    config = configure(path, tmp_path / "child", *overrides)
    train(configure(path, tmp_path / "child", *overrides, "train.max_steps=6"))
    shutil.rmtree(moved)
    findings = list(check_training(config, open_runtime("cpu"), resume=True))
    assert [finding.text for finding in findings if finding.level == "error"] == []
    assert {"memory", "resume"} <= {finding.topic for finding in findings}


def test_check_of_a_new_child_resumes_it(
    config_path: Path, parent: Path, tmp_path: Path, forked_trainings: None
) -> None:
    path = child_config_path(config_path)
    config = configure(path, tmp_path / "child", f"train.init_from={parent}", FREEZE)
    findings = list(check_training(config, open_runtime("cpu"), resume=True))
    assert [finding.text for finding in findings if finding.level == "error"] == []
    assert "resume" in {finding.topic for finding in findings}


def test_checkpoint_of_no_run_is_refused(config_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="init_checkpoint"):
        configure(config_path, tmp_path, "train.init_checkpoint=last")


# A new tokenizer


def start_child(config_path: Path, run_dir: Path, *overrides: str) -> Trainer:
    """Return the trainer of a child before its first update."""
    config = configure(child_config_path(config_path), run_dir, *overrides)
    experiment, runtime = prepare_run(config, RunDir(run_dir), open_runtime("cpu"))
    return Trainer.from_experiment(experiment, runtime)


def test_tokens_of_both_tokenizers_keep_their_embeddings(
    config_path: Path, parent: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = (config_path.parent / "train.aa").read_text(encoding="utf-8")
    for language in ("aa", "bb"):  # other words, in part
        other = text.replace("balo", "balozo").replace("deru", "xeru")
        (tmp_path / f"other.{language}").write_text(other, encoding="utf-8")
    overrides = (f"train.init_from={parent}", f"data.train.0.prefix={tmp_path}/other")
    with caplog.at_level("INFO", logger="mt"):
        trainer = start_child(config_path, tmp_path / "mean", *overrides, *NEW_TOKENIZER)
    weights = trainer.objective.transformer.state_dict()
    expected = load_averages(parent)
    (name,) = (key for key in weights if key.startswith("embeddings."))
    for key in weights.keys() - {name}:
        assert torch.equal(weights[key], expected[key])

    tokenizer = Tokenizer.load(tmp_path / "mean" / "tokenizer.model")
    parent_tokenizer = Tokenizer.load(parent / "tokenizer.model")
    num_shared = 0
    num_split = 0
    for token_id in range(tokenizer.vocab_size):
        piece = tokenizer.piece(token_id)
        parent_id = parent_tokenizer.find_piece(piece)
        row = weights[name][token_id]
        if parent_id is not None:
            num_shared += 1
            assert torch.equal(row, expected[name][parent_id])
            continue
        num_split += 1
        parts = parent_tokenizer.split_piece(piece)
        assert parts
        torch.testing.assert_close(row, expected[name][parts].mean(dim=0))
    assert tokenizer.tag_ids == parent_tokenizer.tag_ids
    assert num_shared > 280
    assert num_split > 0
    assert f"init_from: {num_shared:,} of {tokenizer.vocab_size:,} tokens" in caplog.text

    random = start_child(
        config_path, tmp_path / "random", *overrides, *NEW_TOKENIZER, "train.init_new_tokens=random"
    )
    random_rows = random.objective.transformer.state_dict()[name]
    is_equal = (random_rows == weights[name]).all(dim=1)
    assert int(is_equal.sum()) == num_shared


def test_child_with_a_new_tokenizer_resumes_exactly(
    config_path: Path, parent: Path, tmp_path: Path
) -> None:
    path = child_config_path(config_path)
    overrides = (f"train.init_from={parent}", *NEW_TOKENIZER)
    whole = train(configure(path, tmp_path / "whole", *overrides))
    train_until(6, configure(path, tmp_path / "half", *overrides))
    resumed = train(configure(path, tmp_path / "half", *overrides))
    assert_same_run(whole, resumed)


def test_new_tokenizer_without_a_parent_is_refused(config_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wanted init_from"):
        configure(config_path, tmp_path, "train.init_tokenizer=new")
