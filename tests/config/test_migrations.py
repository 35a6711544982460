"""Configs of older formats: renamed keys, format versions and the values of missing keys."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mt.config import migrations
from mt.config.keys import walk_keys
from mt.config.load import dump_config, load_config, load_run_config
from mt.config.migrations import FORMAT_VERSION, RENAMED_KEYS
from mt.config.schema import Config
from mt.errors import ConfigError

DATA = """\
data:
  src_lang: en
  tgt_lang: de
  train:
    - prefix: train
    - prefix: more
  valid:
    name: valid
    prefix: valid
"""
TRAIN = "train:\n  max_steps: 100\n"
OLD_KEYS = """\
tokenizer:
  sampling: 0.1
train:
  max_steps: 100
  max_tokens: 500
  accumulate: 3
search:
  max_tokens: 900
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return path


class WarningList(logging.Handler):
    """Handler that keeps the warnings, without the folder of the config file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.WARNING)
        self.folder = folder
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage().replace(f"{self.folder}/", ""))


@pytest.fixture
def warnings(tmp_path: Path) -> Iterator[list[str]]:
    """The warnings of reading configs.

    Unlike pytest's caplog, this works after the command line has configured logging.
    """
    handler = WarningList(tmp_path)
    logger = logging.getLogger("mt.config.load")
    logger.addHandler(handler)
    yield handler.messages
    logger.removeHandler(handler)


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "x.yaml")


# Renamed keys


def test_new_names_exist_in_the_schema_and_old_ones_do_not() -> None:
    keys = {key for key, _ in walk_keys(Config)}
    assert set(RENAMED_KEYS.values()) <= keys
    assert not set(RENAMED_KEYS) & keys


def test_renamed_keys_stay_in_their_section() -> None:
    for old, new in RENAMED_KEYS.items():
        assert old.rpartition(".")[0] == new.rpartition(".")[0]


def test_old_keys_of_a_file_are_read_with_a_warning(tmp_path: Path, warnings: list[str]) -> None:
    config = load_config(write(tmp_path, DATA + OLD_KEYS))
    assert config.tokenizer.bpe_dropout == 0.1
    assert config.train.batch_tokens == 500
    assert config.train.gradient_accumulation == 3
    assert config.search.batch_tokens == 900
    assert sorted(warnings) == [
        "x.yaml:11: tokenizer.sampling is now called tokenizer.bpe_dropout",
        "x.yaml:14: train.max_tokens is now called train.batch_tokens",
        "x.yaml:15: train.accumulate is now called train.gradient_accumulation",
        "x.yaml:17: search.max_tokens is now called search.batch_tokens",
    ]


def test_present_keys_give_no_warning(tmp_path: Path, warnings: list[str]) -> None:
    load_config(write(tmp_path, DATA + TRAIN), ["train.batch_tokens=500"])
    assert warnings == []


def test_old_key_of_an_override_is_read_with_a_warning(tmp_path: Path, warnings: list[str]) -> None:
    config = load_config(write(tmp_path, DATA + TRAIN), ["train.max_tokens=500"])
    assert config.train.batch_tokens == 500
    assert warnings == [
        "--set train.max_tokens=500: train.max_tokens is now called train.batch_tokens"
    ]


def test_old_key_in_an_overridden_section_is_read(tmp_path: Path, warnings: list[str]) -> None:
    override = "train={max_steps: 5, accumulate: 2}"
    config = load_config(write(tmp_path, DATA + TRAIN), [override])
    assert config.train.gradient_accumulation == 2
    assert warnings == [
        f"--set {override}: train.accumulate is now called train.gradient_accumulation"
    ]


@pytest.mark.parametrize("file_key", ["max_tokens", "batch_tokens"])
@pytest.mark.parametrize("override_key", ["max_tokens", "batch_tokens"])
def test_override_replaces_the_key_of_a_file_by_either_name(
    tmp_path: Path, file_key: str, override_key: str
) -> None:
    path = write(tmp_path, f"{DATA}{TRAIN}  {file_key}: 500\n")
    assert load_config(path, [f"train.{override_key}=600"]).train.batch_tokens == 600


def test_old_and_new_key_together_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, f"{DATA}{TRAIN}  batch_tokens: 500\n  max_tokens: 500\n")
    message = error_of(path)
    assert message.startswith("x.yaml:13: train.max_tokens ")
    assert "train.batch_tokens" in message
    assert "x.yaml:12" in message


def test_old_and_new_key_together_in_an_override_are_refused(tmp_path: Path) -> None:
    override = "train={max_steps: 5, batch_tokens: 500, max_tokens: 500}"
    message = error_of(write(tmp_path, DATA + TRAIN), override)
    assert message.startswith(f"--set {override}: train.max_tokens ")
    assert "train.batch_tokens" in message


def test_wrong_value_of_an_old_key_is_reported_at_its_line(tmp_path: Path) -> None:
    message = error_of(write(tmp_path, f"{DATA}{TRAIN}  max_tokens: many\n"))
    assert message == 'x.yaml:12: train.batch_tokens: wanted a valid integer, found "many"'


def test_wrong_value_of_an_old_key_is_reported_with_its_override(tmp_path: Path) -> None:
    message = error_of(write(tmp_path, DATA + TRAIN), "train.max_tokens=many")
    assert message.startswith("--set train.max_tokens=many: train.batch_tokens: ")
    assert message.endswith('found "many"')


@pytest.mark.parametrize("train", ["train:\n", "train: 3\n", "train: [max_tokens]\n"])
def test_section_that_is_none_is_no_obstacle_to_renaming(tmp_path: Path, train: str) -> None:
    assert "x.yaml:10: train" in error_of(write(tmp_path, DATA + train))


def test_old_keys_of_a_run_are_read_without_a_warning(tmp_path: Path, warnings: list[str]) -> None:
    config = load_run_config(write(tmp_path, DATA + OLD_KEYS))
    assert config.train.batch_tokens == 500
    assert config.search.batch_tokens == 900
    assert warnings == []


# Format versions


def test_dumped_config_has_the_present_version(tmp_path: Path) -> None:
    text = dump_config(load_config(write(tmp_path, DATA + TRAIN)))
    assert text.startswith(f"format_version: {FORMAT_VERSION}\n")


def test_config_loads_with_and_without_the_present_version(tmp_path: Path) -> None:
    expected = load_config(write(tmp_path, DATA + TRAIN))
    path = write(tmp_path, f"format_version: {FORMAT_VERSION}\n{DATA}{TRAIN}")
    assert load_config(path) == expected
    assert load_run_config(path) == expected


def test_text_of_old_runs_is_not_normalized(tmp_path: Path) -> None:
    for version in ("", "format_version: 2\n", "format_version: 3\n"):
        data = load_run_config(write(tmp_path, version + DATA + TRAIN)).data
        assert data.normalization == "none"
        assert data.unseen_character_fraction == 0.0
    data = load_run_config(write(tmp_path, f"format_version: {FORMAT_VERSION}\n{DATA}{TRAIN}")).data
    assert data.normalization == "nfc"
    assert data.unseen_character_fraction > 0.0
    # A user's file without a version has the present defaults.
    assert load_config(write(tmp_path, DATA + TRAIN)).data == data


@pytest.mark.parametrize("load", [load_config, load_run_config])
def test_newer_version_is_refused_with_both_versions(tmp_path: Path, load: Any) -> None:
    path = write(tmp_path, f"format_version: {FORMAT_VERSION + 1}\n{DATA}{TRAIN}  new_key: 1\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:1: format_version: ")
    assert f"format version {FORMAT_VERSION + 1}" in message
    assert f"up to {FORMAT_VERSION}" in message
    assert "newer mt" in message
    assert "\n" not in message


@pytest.mark.parametrize("version", ["1", "0", "-3", "3.0", "true", "null", "'3'", "[3]", "{}"])
def test_wrong_version_is_refused(tmp_path: Path, version: str) -> None:
    message = error_of(write(tmp_path, f"{DATA}{TRAIN}format_version: {version}\n"))
    assert message.startswith("x.yaml:12: format_version: wanted a version from 2 to 7, found ")


def test_version_cannot_be_overridden(tmp_path: Path) -> None:
    message = error_of(write(tmp_path, DATA + TRAIN), "format_version=2")
    assert message.startswith("--set format_version=2: unknown key")


# Values of keys that an older format did not have


def set_old_defaults(monkeypatch: pytest.MonkeyPatch, defaults: dict[int, dict[str, Any]]) -> None:
    monkeypatch.setattr(migrations, "DEFAULTS_BY_FORMAT", defaults)


def test_key_that_a_run_lacks_has_the_value_of_its_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_old_defaults(monkeypatch, {2: {"model.dropout": 0.3, "search.beam_size": 2}})
    path = write(tmp_path, DATA + TRAIN + "search:\n  beam_size: 7\n")
    run_config = load_run_config(path)
    assert run_config.model.dropout == 0.3
    assert run_config.search.beam_size == 7
    assert load_config(path).model.dropout == 0.1  # a user's file has today's default


def test_old_default_applies_to_its_format_and_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "FORMAT_VERSION", 6)
    set_old_defaults(
        monkeypatch,
        {4: {"model.dropout": 0.4, "model.d_ff": 40}, 2: {"model.dropout": 0.2}},
    )

    def dropout_and_width(version: int) -> tuple[float, int]:
        text = f"format_version: {version}\n{DATA}{TRAIN}"
        model = load_run_config(write(tmp_path, text)).model
        return model.dropout, model.d_ff

    assert dropout_and_width(2) == (0.2, 40)
    assert dropout_and_width(3) == (0.4, 40)
    assert dropout_and_width(4) == (0.4, 40)
    assert dropout_and_width(5) == (0.1, 1024)


def test_old_default_of_a_list_item_is_set_in_each_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_old_defaults(monkeypatch, {2: {"data.train.N.weight": 2.0, "data.test.N.refs": ("r",)}})
    text = DATA.replace("- prefix: more", "- {prefix: more, weight: 3.0}") + TRAIN
    config = load_run_config(write(tmp_path, text))
    assert [corpus.weight for corpus in config.data.train] == [2.0, 3.0]
    assert config.data.test == ()


@pytest.mark.parametrize("section", ["model:\n", "model: {}\n", ""])
def test_old_default_is_set_in_an_empty_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    set_old_defaults(monkeypatch, {2: {"model.dropout": 0.3}})
    assert load_run_config(write(tmp_path, DATA + TRAIN + section)).model.dropout == 0.3


def test_old_default_leaves_a_damaged_section_to_the_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_old_defaults(monkeypatch, {2: {"model.dropout": 0.3}})
    with pytest.raises(ConfigError, match="model: wanted a section of keys, found 3"):
        load_run_config(write(tmp_path, DATA + TRAIN + "model: 3\n"))


def test_user_file_with_a_version_has_the_defaults_of_its_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a file is the config of a run, given to `mt train --config`."""
    set_old_defaults(monkeypatch, {2: {"model.dropout": 0.3}})
    text = "format_version: 2\n" + DATA + TRAIN
    assert load_config(write(tmp_path, text)).model.dropout == 0.3


def test_renaming_comes_before_old_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_old_defaults(monkeypatch, {2: {"train.batch_tokens": 300}})
    path = write(tmp_path, DATA + OLD_KEYS)
    assert load_run_config(path).train.batch_tokens == 500
