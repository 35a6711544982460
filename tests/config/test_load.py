"""Configs are completed from the config of a run, for resuming."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mt.config.load import (
    diff_configs,
    dump_config,
    fill_unset_keys,
    inherit_model,
    load_config,
    load_run_config,
)
from mt.config.schema import Config
from mt.errors import ConfigError

MINIMAL = """\
data:
  src_lang: en
  tgt_lang: de
  train:
    - prefix: /train
    - prefix: /more
  valid:
    name: valid
    prefix: /valid
train:
  max_steps: 100
"""


def load(tmp_path: Path, *overrides: str) -> Config:
    path = tmp_path / "x.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return load_config(path, overrides)


def load_as_run(tmp_path: Path, *overrides: str) -> Config:
    """Return a config as it is read from the directory of a run."""
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(load(tmp_path, *overrides)), encoding="utf-8")
    return load_run_config(path)


def test_unset_keys_take_the_values_of_the_run(tmp_path: Path) -> None:
    run_config = load_as_run(
        tmp_path, "model.dropout=0.3", "train.betas=[0.8, 0.9]", "tokenizer.vocab_size=500"
    )
    assert fill_unset_keys(load(tmp_path), run_config) == run_config


def test_set_keys_keep_their_values(tmp_path: Path) -> None:
    run_config = load_as_run(tmp_path, "model.dropout=0.3", "model.d_ff=64", "train.patience=3")
    config = load(tmp_path, "model.dropout=0.2", "train.patience=null", "train.max_steps=200")
    filled = fill_unset_keys(config, run_config)
    assert [str(difference) for difference in diff_configs(run_config, filled)] == [
        "model.dropout: 0.3 -> 0.2",
        "train.max_steps: 100 -> 200",
        "train.patience: 3 -> null",
    ]


def test_key_set_to_its_default_counts_as_set(tmp_path: Path) -> None:
    run_config = load_as_run(tmp_path, "model.dropout=0.3")
    config = load(tmp_path, "model.dropout=0.1")
    assert fill_unset_keys(config, run_config).model.dropout == 0.1


def test_empty_section_takes_the_values_of_the_run(tmp_path: Path) -> None:
    run_config = load_as_run(tmp_path, "model.dropout=0.3")
    assert fill_unset_keys(load(tmp_path, "model=null"), run_config) == run_config


def test_list_items_are_matched_by_index(tmp_path: Path) -> None:
    run_config = load_as_run(tmp_path, "data.train.0.weight=2", "data.train.1.weight=3")
    filled = fill_unset_keys(load(tmp_path, "data.train.0.weight=5"), run_config)
    assert [corpus.weight for corpus in filled.data.train] == [5.0, 3.0]


def test_other_tags_are_a_difference_and_no_conflict(tmp_path: Path) -> None:
    run_config = load_as_run(tmp_path, "data.train.1.tag=bt", "data.tags=[bt]")
    filled = fill_unset_keys(load(tmp_path, "data.train.1.tag=other"), run_config)
    changes = [str(difference) for difference in diff_configs(run_config, filled)]
    assert changes == ['data.train.1.tag: "bt" -> "other"', 'data.tags.1: absent -> "other"']
    assert fill_unset_keys(load(tmp_path, "data.train.1.tag=bt"), run_config) == run_config


def test_tags_that_the_user_set_are_kept(tmp_path: Path) -> None:
    run_config = load_as_run(tmp_path, "data.train.1.tag=bt", "data.tags=[bt]")
    config = load(tmp_path, "data.train.1.tag=bt", "data.tags=[other, bt]")
    assert fill_unset_keys(config, run_config).data.tags == ("other", "bt")


def test_languages_that_only_the_tags_of_the_run_name_stay_known(tmp_path: Path) -> None:
    """A child of a model of several languages is trained and resumed for one of them."""
    run_config = load_as_run(
        tmp_path, "data.tags=[2de, 2fr, bt]", "data.train.1.tag=bt", "data.valid.tgt_lang=fr"
    )
    filled = fill_unset_keys(load(tmp_path, "data.train.1.tag=other"), run_config)
    assert filled.data.tags == ("2de", "2fr", "bt", "other")
    assert filled.data.valid[0].tgt_lang == "fr"


def test_tie_embeddings_that_will_be_inherited_are_no_conflict(tmp_path: Path) -> None:
    child = ("train.init_from=run", "train.init_tokenizer=new", "tokenizer.joint=false")
    config = load(tmp_path, *child)
    parent = load_as_run(tmp_path, "tokenizer.joint=false", "model.tie_embeddings=decoder")
    assert inherit_model(config, parent).model.tie_embeddings == "decoder"
    with pytest.raises(ConfigError, match=r"that of train\.init_from: model\.tie_embeddings: all"):
        inherit_model(config, load_as_run(tmp_path))
    with pytest.raises(ConfigError, match="tie_embeddings=all: all shares one matrix"):
        load(tmp_path, *child, "model.tie_embeddings=all")


def test_list_of_another_length_is_kept(tmp_path: Path) -> None:
    run_config = load_as_run(tmp_path, "data.train.0.weight=2", "data.train.1.weight=3")
    config = load(tmp_path, "data.train=[{prefix: /train}]")
    assert fill_unset_keys(config, run_config).data.train == config.data.train


def test_unset_list_takes_the_items_of_the_run(tmp_path: Path) -> None:
    run_config = load_as_run(tmp_path, "data.test=[{name: t, prefix: /t}]")
    assert fill_unset_keys(load(tmp_path), run_config).data.test == run_config.data.test


def test_files_of_a_set_are_not_mixed_with_those_of_the_run(tmp_path: Path) -> None:
    run_config = load_as_run(tmp_path, "data.test=[{name: t, prefix: /t}]")
    config = load(tmp_path, "data.test=[{name: t, src: /s, refs: [/r]}]")
    assert fill_unset_keys(config, run_config).data.test == config.data.test


def test_values_that_cannot_work_with_those_of_the_run_are_refused(tmp_path: Path) -> None:
    run_config = load_as_run(tmp_path, "data.max_length=50", "train.batch_tokens=50")
    config = load(tmp_path, "data.max_length=80")
    with pytest.raises(
        ConfigError, match=r"train\.batch_tokens: wanted data\.max_length"
    ) as caught:
        fill_unset_keys(config, run_config)
    assert "\n" not in str(caught.value)


def test_set_keys_are_known_in_another_process(tmp_path: Path) -> None:
    """The ranks of a training receive the config of rank 0 pickled."""
    run_config = load_as_run(tmp_path, "model.dropout=0.3", "train.patience=3")
    config = load(tmp_path, "train.patience=null")
    received = pickle.loads(pickle.dumps(config))
    assert fill_unset_keys(received, run_config) == fill_unset_keys(config, run_config)


def test_inputs_are_not_changed(tmp_path: Path) -> None:
    run_config = load_as_run(tmp_path, "model.dropout=0.3")
    config = load(tmp_path, "train.patience=2")
    before = config.model_copy(deep=True)
    fill_unset_keys(config, run_config)
    assert config == before
    assert run_config == load_as_run(tmp_path, "model.dropout=0.3")


def test_a_single_override_must_be_in_a_list(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="list of overrides"):
        load_config(tmp_path / "config.yaml", "train.max_steps=3")
