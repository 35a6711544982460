"""Read, check, compare and write configs."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from mt.config.keys import differing_keys, first_mistake
from mt.config.schema import Config
from mt.config.yaml_file import read_config_file, write_yaml
from mt.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply overrides such as `train.learning_rate=3e-4`, and check all of it.

    ConfigError names the place and key of the first mistake, what was found there and what was wanted.
    """
    file = read_config_file(Path(path))
    for text in overrides:
        file = file.override(text)
    try:
        return Config.model_validate(file.values)
    except ValidationError as error:
        raise ConfigError(first_mistake(error.errors(), file, section=Config)) from None


def dump_config(config: Config) -> str:
    """Write a config as YAML that `load_config` reads back to an equal one."""
    return write_yaml(config.model_dump())


def diff_configs(old: Config, new: Config) -> list[str]:
    """List the keys that differ, one line each: `train.learning_rate: 0.001 -> 0.002`."""
    return differing_keys(old.model_dump(), new.model_dump())
