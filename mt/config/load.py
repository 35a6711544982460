"""Read, check, compare and write configs."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mt.config.keys import Difference, find_differences, first_mistake
from mt.config.migrations import (
    FIRST_FORMAT_VERSION,
    FORMAT_VERSION,
    RenamedKey,
    fill_missing_keys,
    rename_keys,
    rename_override,
    take_format_version,
)
from mt.config.schema import Config
from mt.config.yaml_file import (
    ConfigFile,
    parse_override,
    plain_config,
    read_config_file,
    write_yaml,
)
from mt.errors import ConfigError

logger = logging.getLogger(__name__)

# The keys that name the files of a corpus or an evaluation set. Two of them exclude each other, so
# they are never mixed with those of another config.
FILE_KEYS = {"prefix", "src", "tgt", "refs", "tsv", "columns", "tmx"}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a user's YAML file, apply overrides such as `train.learning_rate=3e-4`, and check all.

    A missing key has today's default. A key by its old name is read, with a warning. ConfigError
    names the place and key of the first mistake, the value found and the value expected.
    """
    if isinstance(overrides, str):
        raise TypeError("load_config takes a list of overrides, not a single str")
    return _check_user_config(read_config_file(Path(path)), overrides)


def config_from_values(values: Mapping[str, Any]) -> Config:
    """Check a config that a program gives as nested dicts and lists, as `load_config` does.

    A path may be a `Path`. ConfigError names the key of the first mistake, the value found and the
    value expected.
    """
    return _check_user_config(plain_config(values), [])


def _check_user_config(file: ConfigFile, overrides: Sequence[str]) -> Config:
    """Return a user's config. A missing key has today's default."""
    file, version = take_format_version(file)
    file, renamed = rename_keys(file)
    if version is not None:
        file = fill_missing_keys(file, version)
    _warn_of_renamed_keys(renamed)
    for text in overrides:
        override, renamed = rename_override(parse_override(text))
        _warn_of_renamed_keys(renamed)
        file = file.override(override)
    return _validate(file)


def load_run_config(path: str | Path) -> Config:
    """Read the config.yaml that mt wrote into a run directory.

    A key that was added after this config was written gets the value that matches the behavior of
    mt at that time, not today's default. Raises ConfigError when the file is damaged, or was
    written by a newer mt.
    """
    file, version = take_format_version(read_config_file(Path(path)))
    file, _ = rename_keys(file)
    file = fill_missing_keys(file, FIRST_FORMAT_VERSION if version is None else version)
    return _validate(file)


def dump_config(config: Config) -> str:
    """Write a config as YAML that `load_config` and `load_run_config` read back to an equal one."""
    return write_yaml({"format_version": FORMAT_VERSION, **config.model_dump()})


def diff_configs(old: Config, new: Config) -> list[Difference]:
    """Return the keys that have different values in two configs."""
    return find_differences(old.model_dump(), new.model_dump())


def fill_unset_keys(config: Config, run_config: Config) -> Config:
    """Return `config` with the values of `run_config` for all keys that the user did not set.

    So a run resumes with the settings that it began with when a default has changed since. The
    items of two lists are matched by index when the lists have the same length. A corpus or an
    evaluation set keeps the files that the user gave it. Raises ConfigError when the user's
    values and those of the run cannot work together.
    """
    values = _filled_values(config, run_config)
    tags = run_config.data.tags
    if config.data.tags is None and tags is not None:
        values["data"]["tags"] = (*tags, *config.data.missing_tags(tags))
    place = "the config, completed with that of the run"
    return _validate(ConfigFile(values, {(): place}))


def inherit_model(config: Config, parent: Config) -> Config:
    """Return `config` with the values of `parent` for keys of the model that the user did not set.

    These are the keys of `model`, those of `tokenizer` unless the tokenizer is new, and
    `data.normalization`. Raises ConfigError when the values cannot work together.
    """
    values = config.model_dump()
    values["model"] = _filled_values(config.model, parent.model)
    if config.train.init_tokenizer == "parent":
        values["tokenizer"] = _filled_values(config.tokenizer, parent.tokenizer)
    if "normalization" not in config.data.model_fields_set:
        values["data"]["normalization"] = parent.data.normalization
    return _validate(ConfigFile(values, {(): "the config, completed with that of train.init_from"}))


def _validate(file: ConfigFile) -> Config:
    try:
        return Config.model_validate(file.values)
    except ValidationError as error:
        raise ConfigError(first_mistake(error.errors(), file, section=Config)) from None


def _warn_of_renamed_keys(renamed: Sequence[RenamedKey]) -> None:
    for key in renamed:
        logger.warning(f"{key.place}: {key.old} is now called {key.new}")


def _filled_values(section: BaseModel, run_section: BaseModel) -> dict[str, Any]:
    """Return the values of a section: those that the user set, and those of the run for the rest.

    A value that comes from the run as a whole may be a section or a list of sections.
    """
    values: dict[str, Any] = {}
    for key in type(section).model_fields:
        value = getattr(section, key)
        run_value = getattr(run_section, key)
        if key not in section.model_fields_set and key not in FILE_KEYS:
            values[key] = run_value
        elif isinstance(value, BaseModel):
            values[key] = _filled_values(value, run_value)
        elif _is_list_of_sections(value) and len(value) == len(run_value):
            pairs = zip(value, run_value, strict=True)
            values[key] = tuple(_filled_values(item, run_item) for item, run_item in pairs)
        else:
            values[key] = value
    return values


def _is_list_of_sections(value: object) -> bool:
    return isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value)
