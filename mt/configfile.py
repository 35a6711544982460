"""A config file as plain values that know their place: reads YAML as YAML 1.2 would, applies overrides, writes YAML.

YAML comes as dicts, tuples and scalars. `no`, `on`, `12:30` are text, `010` is ten, `1e-4` is a number, and a key given
twice is an error. Aliases and tags are refused: a config is read by people.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mt.errors import ConfigError

KeyPath = tuple[str, ...]  # ("data", "train", "0", "weight")

# The core schema of YAML 1.2.2, section 10.3.2. PyYAML's own is that of YAML 1.1.
_CORE_SCHEMA: tuple[tuple[re.Pattern[str], Callable[[str], object]], ...] = (
    (re.compile(r"null|Null|NULL|~|"), lambda text: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)

# PyYAML's words for the two commonest slips help nobody.
_PLAIN_WORDS = {
    "mapping values are not allowed here": "found a ':' too many (does the line above lack one, or a text its quotes?)",
    "but found another document": "found a second document",
}


@dataclass(frozen=True)
class ConfigFile:
    """Plain values, and for each key path the place to name in an error: `FILE:LINE` or `--set KEY=VALUE`."""

    values: Any
    places: Mapping[KeyPath, str]

    def locate(self, path: KeyPath) -> str:
        """Name the place and the key of `path`, or the place of the nearest section around it."""
        place = next(self.places[path[:depth]] for depth in range(len(path), -1, -1) if path[:depth] in self.places)
        dotted = ".".join(path)
        return place if not dotted or place.startswith(f"--set {dotted}=") else f"{place}: {dotted}"

    def override(self, text: str) -> "ConfigFile":
        """Return a copy with one `KEY=VALUE` applied: a dotted key, a number for a list's item, the value in YAML."""
        key, equals, value = text.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or "" in path:
            raise ConfigError(f"--set {text}: wanted KEY=VALUE, such as train.learning_rate=3e-4")
        place = f"--set {text}"
        values = _replaced(self.values, path, value=_parse(value, lambda line: place).values, place=place)
        places = {known: where for known, where in self.places.items() if known[: len(path)] != path}
        for depth in range(1, len(path) + 1):
            places.setdefault(path[:depth], place)
        return ConfigFile(values, places)


def read_config_file(path: Path) -> ConfigFile:
    """Read a YAML file; ConfigError names the file and the line of what cannot be read."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a config: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: found byte 0x{content[error.start]:02x}") from None
    file = _parse(text, lambda line: f"{path}:{line}")
    if file.values is None:
        raise ConfigError(f"{path}: is empty (wanted sections such as data: and train:)")
    if not isinstance(file.values, dict):
        raise ConfigError(f"{path}:1: wanted sections such as data: and train:, found {show(file.values)}")
    return ConfigFile(file.values, {**file.places, (): str(path)})


def write_yaml(values: Mapping[str, Any]) -> str:
    """Write plain values as YAML that `read_config_file` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def show(value: object) -> str:
    """Show a value on one line, shortened: text always in quotes, so that "4" is told from 4."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _parse(text: str, place: Callable[[int], str]) -> ConfigFile:
    """Parse YAML; `place` names the place of a line, counted from 1."""
    places: dict[KeyPath, str] = {}
    try:
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ConfigError(f"{place(line)}: wanted plain values, found an alias (*) or a tag (!)")
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark, problem = _mark(error), _PLAIN_WORDS.get(error.problem or "", error.problem)
        raise ConfigError(f"{place(mark.line + 1)}: not YAML: {problem} (column {mark.column + 1})") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{place(line)}: not YAML: found the control character U+{error.character:04X}") from None
    return ConfigFile(root and _build(root, (), place=place, places=places), places)


def _mark(error: yaml.MarkedYAMLError) -> yaml.Mark:
    """Choose where to point: the start of an open quote or bracket tells more than its end, that of a section less."""
    is_open = error.context is not None and ("scanning" in error.context or "flow" in error.context)
    mark = (error.context_mark if is_open else None) or error.problem_mark
    assert isinstance(mark, yaml.Mark), error
    return mark


def _build(node: yaml.Node, path: KeyPath, *, place: Callable[[int], str], places: dict[KeyPath, str]) -> Any:
    """Turn a YAML node into plain values, and note in `places` where each key and item stands."""
    if isinstance(node, yaml.SequenceNode):
        items = [((*path, str(index)), item) for index, item in enumerate(node.value)]
        places.update({here: place(item.start_mark.line + 1) for here, item in items})
        return tuple(_build(item, here, place=place, places=places) for here, item in items)
    if isinstance(node, yaml.MappingNode):
        values = {}
        for key, value in node.value:
            here = place(key.start_mark.line + 1)
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{here}: wanted a word as key, found a list or a section")
            if key.value in values:
                dotted = ".".join((*path, key.value))
                raise ConfigError(f"{here}: {dotted}: given twice (first at {places[*path, key.value]})")
            places[*path, key.value] = here
            values[key.value] = _build(value, (*path, key.value), place=place, places=places)
        return values
    assert isinstance(node, yaml.ScalarNode), node
    return _plain_scalar(node.value) if node.style is None else node.value


def _plain_scalar(text: str) -> object:
    """Say what unquoted text stands for."""
    return next((convert(text) for pattern, convert in _CORE_SCHEMA if pattern.fullmatch(text)), text)


def _replaced(tree: Any, path: KeyPath, *, value: Any, place: str) -> Any:
    """Copy a tree with the value at `path` replaced; sections on the way are made if need be."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(tree, tuple):
        if not key.isdecimal() or int(key) >= len(tree):
            raise ConfigError(f"{place}: wanted the number of an item, below {len(tree)}, found {key}")
        index = int(key)
        return (*tree[:index], _replaced(tree[index], rest, value=value, place=place), *tree[index + 1 :])
    if isinstance(tree, dict) or tree is None:
        section = tree or {}
        return {**section, key: _replaced(section.get(key), rest, value=value, place=place)}
    raise ConfigError(f"{place}: {key}: unknown key (it would stand inside the value {show(tree)})")


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but quoting what this reader, not PyYAML's, would take for something else than text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _plain_scalar(text) == text else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
