"""A config without the paths of one machine: its file name replaces each absolute path."""

from pathlib import Path
from typing import Any

from mt.config.migrations import FORMAT_VERSION
from mt.config.schema import Config
from mt.config.yaml_file import write_yaml

# By section, the keys with paths of files that the export contains.
OWN_PATHS = {"tokenizer": ("model", "src_model", "tgt_model"), "train": ("run_dir",)}


def portable_values(config: Config) -> dict[str, Any]:
    """Return the values of a config. Absolute paths become file names, OWN_PATHS become None."""
    values = config.model_dump(mode="json")
    for section, keys in OWN_PATHS.items():
        for key in keys:
            values[section][key] = None
    shortened: dict[str, Any] = _shorten_paths(values)
    return shortened


def dump_portable_config(config: Config) -> str:
    """Return such a config as YAML that `load_run_config` reads."""
    return write_yaml({"format_version": FORMAT_VERSION, **portable_values(config)})


def _shorten_paths(value: Any) -> Any:
    """Return a value with the last name of each absolute path in it."""
    if isinstance(value, dict):
        return {key: _shorten_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorten_paths(item) for item in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value
