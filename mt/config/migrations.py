"""Old configs: keys that were renamed, and the values of keys that an older format did not have.

The format version of a config is the number in its key `format_version`. mt writes it into the
config of each run. A run's config without it has format 2. A user's file may leave it out.

- Format 2: no `format_version`.
- Format 3: keys were renamed (the first four of `RENAMED_KEYS`).
- Format 4: text is normalized, and `train.batching` is new.
- Format 5: how long a training may take decides its schedule and its validation.
- Format 6: target languages have tags, and a tokenizer is trained on a sample of a large text.
- Format 7: keys that hold a fraction say so (the other keys of `RENAMED_KEYS`).
"""

from typing import Any, NamedTuple

from mt.config.yaml_file import ConfigFile, KeyPath, Override, show
from mt.errors import ConfigError

FORMAT_VERSION = 7
FIRST_FORMAT_VERSION = 2  # the oldest that is read, and that of a run's config without a version

# The dotted old name and new name of each renamed key. Both are in the same section.
RENAMED_KEYS = {
    "tokenizer.sampling": "tokenizer.bpe_dropout",
    "train.max_tokens": "train.batch_tokens",
    "train.accumulate": "train.gradient_accumulation",
    "search.max_tokens": "search.batch_tokens",
    "train.max_warmup": "train.max_warmup_fraction",
    "train.cooldown": "train.cooldown_fraction",
    "data.unseen_characters": "data.unseen_character_fraction",
}

# Format version -> dotted key -> the value that describes what programs of that format and of
# earlier ones did, before they had the key. `N` stands for each item of a list, as in
# `data.train.N.weight`. When a key with a new default is added, its old behavior is recorded here.
DEFAULTS_BY_FORMAT: dict[int, dict[str, Any]] = {
    3: {
        "data.normalization": "none",
        "data.unseen_character_fraction": 0.0,
        "train.batching": "sorted",
    },
    4: {
        "train.max_warmup_fraction": None,
        "train.cooldown_fraction": 0.0,
        "train.validation_lines": None,
        "train.validation_beam_size": None,
        "train.validation_length_limit": "search",
    },
    5: {
        "data.tags": (),
        "tokenizer.max_sentences": None,
    },
}


class RenamedKey(NamedTuple):
    """A key that was read by its old name."""

    place: str  # `FILE:LINE` or `--set KEY=VALUE`
    old: str
    new: str


def rename_keys(file: ConfigFile) -> tuple[ConfigFile, list[RenamedKey]]:
    """Return a copy of `file` with the present names of its keys, and the keys that were renamed.

    Raises ConfigError when a key is given by both names.
    """
    renamed = []
    for old, new in RENAMED_KEYS.items():
        old_path = tuple(old.split("."))
        new_path = tuple(new.split("."))
        if not _has_key(file.values, old_path):
            continue
        place = file.place_of(old_path)
        if _has_key(file.values, new_path):
            raise ConfigError(
                f"{place}: {old} is now called {new}, which is also given "
                f"({file.place_of(new_path)}): wanted only {new}"
            )
        file = _move_key(file, old_path, new_path)
        renamed.append(RenamedKey(place, old, new))
    return file, renamed


def rename_override(override: Override) -> tuple[Override, list[RenamedKey]]:
    """Do for one `--set KEY=VALUE` what `rename_keys` does for a file.

    An override of `train.batch_tokens` replaces a `train.max_tokens` of the file, and the other way
    round, so the keys of an override are renamed apart from those of the file.
    """
    key = ".".join(override.path)
    if key in RENAMED_KEYS:
        new = RENAMED_KEYS[key]
        renamed_key = RenamedKey(override.place, key, new)
        return override._replace(path=tuple(new.split("."))), [renamed_key]
    # The value may be a section that has old keys in it, as in `--set train={max_tokens: 100}`.
    values = override.value
    for part in reversed(override.path):
        values = {part: values}
    file, renamed = rename_keys(ConfigFile(values, {(): override.place}))
    value = file.values
    for part in override.path:
        value = value[part]
    return override._replace(value=value), renamed


def take_format_version(file: ConfigFile) -> tuple[ConfigFile, int | None]:
    """Return a copy of `file` without its format version, and the version; None if it has none.

    Raises ConfigError for a version that this program does not read.
    """
    if "format_version" not in file.values:
        return file, None
    values = dict(file.values)
    version = values.pop("format_version")
    place = file.locate(("format_version",))
    if type(version) is not int or version < FIRST_FORMAT_VERSION:
        raise ConfigError(
            f"{place}: wanted a version from {FIRST_FORMAT_VERSION} to {FORMAT_VERSION}, "
            f"found {show(version)}"
        )
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"{place}: this config has format version {show(version)}, but this mt reads versions "
            f"up to {FORMAT_VERSION}; install a newer mt"
        )
    return ConfigFile(values, file.places), version


def fill_missing_keys(file: ConfigFile, version: int) -> ConfigFile:
    """Return a copy of `file`, of format `version`, in which each later key has its old value."""
    values = file.values
    # The same key may have had several defaults: that of the format closest to `version` is set
    # first, and is then no longer missing.
    for format_version in sorted(DEFAULTS_BY_FORMAT):
        if format_version >= version:
            for key, value in DEFAULTS_BY_FORMAT[format_version].items():
                values = _with_default(values, tuple(key.split(".")), value)
    return ConfigFile(values, file.places)


def _has_key(values: Any, path: KeyPath) -> bool:
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _move_key(file: ConfigFile, old: KeyPath, new: KeyPath) -> ConfigFile:
    """Return a copy of `file` in which the key at `old` is at `new`, in the same section."""
    assert old[:-1] == new[:-1], f"{old} and {new} are in different sections"
    values = dict(file.values)
    section = values
    for key in old[:-1]:
        section[key] = dict(section[key])
        section = section[key]
    section[new[-1]] = section.pop(old[-1])
    places = {}
    for path, place in file.places.items():
        is_moved = path[: len(old)] == old
        places[new + path[len(old) :] if is_moved else path] = place
    return ConfigFile(values, places)


def _with_default(values: Any, path: KeyPath, default: Any) -> Any:
    """Return a copy of `values` in which a missing key at `path` has the value `default`."""
    key, *rest = path
    if isinstance(values, tuple) and key == "N":
        return tuple(_with_default(item, tuple(rest), default) for item in values)
    if values is None:  # a section that is a bare heading
        values = {}
    if not isinstance(values, dict):
        return values  # not what the schema wants, which checks it later
    if not rest:
        return {key: default} | values
    if key not in values and "N" in rest:
        return values  # a list that is not there has no items
    return {**values, key: _with_default(values.get(key), tuple(rest), default)}
