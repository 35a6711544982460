"""A config file as plain values that know their place: reads YAML as YAML 1.2 would, applies overrides, writes YAML.

YAML comes as dicts, tuples and scalars. `no`, `on`, `12:30` are text, `010` is ten, `1e-4` is a number, and a key given
twice is an error. Aliases and tags are refused: a config is read by people.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mt.errors import ConfigError

KeyPath = tuple[str, ...]  # ("data", "train", "0", "weight")
Place = Callable[[int], str]  # the number of a line, from 0 -> how to name it

MAX_SIZE = 500_000  # bytes; a config of a thousand corpora is smaller, and PyYAML is busy for seconds with as many
MAX_DEPTH = 20  # of sections and lists in each other; a config has 5

# The core schema of YAML 1.2.2, section 10.3.2. PyYAML's own is that of YAML 1.1. An integer of more than 100 digits is
# a float: Python converts no more than 4,300 to an int, and no key takes so many.
_CORE_SCHEMA: tuple[tuple[re.Pattern[str], Callable[[str], object]], ...] = (
    (re.compile(r"null|Null|NULL|~|"), lambda text: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?[0-9]{1,100}"), int),
    (re.compile(r"0o[0-7]{1,100}"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]{1,100}"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (
        re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
        lambda text: float(text.replace(".", "")),
    ),
)

# Ends of line, what a terminal would obey, and halves of characters, which no file can hold.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# PyYAML's words for the commonest slip help nobody.
_PLAIN_WORDS = {
    "mapping values are not allowed here": "found a ':' too many (does the line above lack one, or a text its quotes?)"
}


class Override(NamedTuple):
    """One change of a config from the command line: `--set KEY=VALUE`."""

    path: KeyPath
    value: Any
    place: str  # how an error names it


@dataclass(frozen=True)
class ConfigFile:
    """Plain values, and for each key path the place to name in an error: `FILE:LINE` or `--set KEY=VALUE`."""

    values: Any
    places: Mapping[KeyPath, str]

    def locate(self, path: KeyPath) -> str:
        """Name the place and the key of `path`, or the place of the nearest section around it."""
        place = self.place_of(path)
        dotted = _on_one_line(".".join(path), 200)
        return place if not dotted or place.startswith(f"--set {dotted}=") else f"{place}: {dotted}"

    def place_of(self, path: KeyPath) -> str:
        """Return the place of `path`, or of the nearest section around it."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.places:
                return self.places[path[:depth]]
        return self.places[()]

    def override(self, override: Override) -> "ConfigFile":
        """Return a copy with one override applied."""
        path = override.path
        values = _replaced(self.values, path, value=override.value, place=override.place)
        places = {
            known_path: place
            for known_path, place in self.places.items()
            if known_path[: len(path)] != path
        }
        for depth in range(1, len(path) + 1):
            places.setdefault(path[:depth], override.place)
        return ConfigFile(values, places)


def read_config_file(path: Path) -> ConfigFile:
    """Read a YAML file; ConfigError names the file and the line of what cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
        if len(content) > MAX_SIZE:
            raise ConfigError(f"{path}: wanted a config of at most {MAX_SIZE:,} bytes, found more")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a config: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: not UTF-8: found byte 0x{content[error.start]:02x}"
        ) from None
    found = _parse(text, lambda line: f"{path}:{line + 1}")
    if found.values is None:
        raise ConfigError(f"{path}: is empty (wanted sections such as data: and train:)")
    if not isinstance(found.values, dict):
        raise ConfigError(
            f"{path}:1: wanted sections such as data: and train:, found {show(found.values)}"
        )
    return ConfigFile(found.values, {**found.places, (): str(path)})


def parse_override(text: str) -> Override:
    """Parse `KEY=VALUE`: a dotted key, in which a number stands for a list's item, and YAML."""
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    place = f"--set {_on_one_line(text, 500)}"
    if not equals or "" in path or len(path) > MAX_DEPTH:
        raise ConfigError(f"{place}: wanted KEY=VALUE, such as train.learning_rate=3e-4")
    return Override(path, _parse(value, lambda line: place).values, place)


def write_yaml(values: Mapping[str, Any]) -> str:
    """Write plain values as YAML that `read_config_file` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def show(value: object) -> str:
    """Show a value on one line, shortened: text always in quotes, so that "4" is told from 4."""
    return _on_one_line(json.dumps(value, ensure_ascii=False), 80)


def _on_one_line(text: str, length: int) -> str:
    """Escape what would break the line or the terminal, and shorten the text."""
    text = _CONTROLS.sub(
        lambda found: found[0].encode("unicode_escape").decode(), text[: length + 1]
    )
    return text if len(text) <= length else text[: length - 3] + "..."


def _parse(text: str, place: Place) -> ConfigFile:
    """Parse YAML."""
    values, places = None, dict[KeyPath, str]()
    try:
        loader = yaml.BaseLoader(text)
        events = _plain_events(loader, place)
        for event in events:
            line: int = event.start_mark.line
            if isinstance(event, yaml.NodeEvent):
                values = _build(event, events, (), place=place, places=places)
            elif isinstance(event, yaml.DocumentStartEvent) and values is not None:
                raise ConfigError(f"{place(line)}: not YAML: found a second document (column 1)")
    except yaml.MarkedYAMLError as error:
        mark, problem = _mark(error), _PLAIN_WORDS.get(error.problem or "", error.problem)
        raise ConfigError(
            f"{place(mark.line)}: not YAML: {problem} (column {mark.column + 1})"
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise ConfigError(
            f"{place(line)}: not YAML: found the control character U+{error.character:04X}"
        ) from None
    except (ValueError, OverflowError):  # PyYAML converts "\UFFFFFFFF" and %YAML 9999... unchecked
        raise ConfigError(
            f"{place(loader.line)}: not YAML: found a number that is too large"
        ) from None
    return ConfigFile(values, places)


def _plain_events(loader: yaml.BaseLoader, place: Place) -> Iterator[Any]:
    """Yield the parser's events; ConfigError for what is not plain values and whole characters.

    Their type is Any because PyYAML's stubs know neither a node's tag nor that each event has its mark.
    """
    event: Any
    for event in iter(loader.get_event, None):
        here = place(event.start_mark.line)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise ConfigError(f"{here}: wanted plain values, found an alias (*) or a tag (!)")
        if isinstance(event, yaml.ScalarEvent) and re.search(r"[\ud800-\udfff]", event.value):
            raise ConfigError(f"{here}: wanted text, found half a character (\\uD800 to \\uDFFF)")
        yield event


def _mark(error: yaml.MarkedYAMLError) -> yaml.Mark:
    """Choose where to point: the start of an open quote or bracket tells more than its end, that of a section less."""
    is_open = error.context is not None and ("scanning" in error.context or "flow" in error.context)
    mark = (error.context_mark if is_open else None) or error.problem_mark
    assert isinstance(mark, yaml.Mark), error
    return mark


def _build(
    event: Any, rest: Iterator[Any], path: KeyPath, *, place: Place, places: dict[KeyPath, str]
) -> Any:
    """Turn a YAML node, of which `event` is the first event and `rest` brings the others, into plain values.

    Notes in `places` where each key and item stands.
    """
    if len(path) > MAX_DEPTH:
        here = place(event.start_mark.line)
        raise ConfigError(
            f"{here}: wanted at most {MAX_DEPTH} sections and lists in each other, found more"
        )
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        for item in takewhile(lambda event: not isinstance(event, yaml.SequenceEndEvent), rest):
            inner = (*path, str(len(items)))
            places[inner] = place(item.start_mark.line)
            items.append(_build(item, rest, inner, place=place, places=places))
        return tuple(items)
    if isinstance(event, yaml.MappingStartEvent):
        values: dict[str, Any] = {}
        for key in takewhile(lambda event: not isinstance(event, yaml.MappingEndEvent), rest):
            here = place(key.start_mark.line)
            if not isinstance(key, yaml.ScalarEvent):
                raise ConfigError(f"{here}: wanted a word as key, found a list or a section")
            inner = (*path, key.value)
            if inner in places:
                dotted = _on_one_line(".".join(inner), 200)
                raise ConfigError(f"{here}: {dotted}: given twice (first at {places[inner]})")
            places[inner] = here
            values[key.value] = _build(next(rest), rest, inner, place=place, places=places)
        return values
    assert isinstance(event, yaml.ScalarEvent), event
    return _plain_scalar(event.value) if event.style is None else event.value


def _plain_scalar(text: str) -> object:
    """Say what unquoted text stands for."""
    return next(
        (convert(text) for pattern, convert in _CORE_SCHEMA if pattern.fullmatch(text)), text
    )


def _replaced(tree: Any, path: KeyPath, *, value: Any, place: str) -> Any:
    """Copy a tree with the value at `path` replaced; sections on the way are made if need be."""
    if not path:
        return value
    key, rest, shown = path[0], path[1:], _on_one_line(path[0], 80)
    if isinstance(tree, tuple):
        if not key.isdecimal() or len(key) > 9 or int(key) >= len(tree):
            raise ConfigError(
                f"{place}: wanted the number of an item, below {len(tree)}, found {shown}"
            )
        index = int(key)
        return (
            *tree[:index],
            _replaced(tree[index], rest, value=value, place=place),
            *tree[index + 1 :],
        )
    if isinstance(tree, dict) or tree is None:
        section = tree or {}
        return {**section, key: _replaced(section.get(key), rest, value=value, place=place)}
    raise ConfigError(
        f"{place}: {shown}: unknown key (it would stand inside the value {show(tree)})"
    )


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but quoting what this reader, not PyYAML's, would take for something else than text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _plain_scalar(text) == text and text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
