"""Config files as plain values with their places: read YAML 1.2, apply overrides, write YAML.

Values are dicts, tuples and scalars. As in YAML 1.2, `no`, `on` and `12:30` are text, `010` is ten
and `1e-4` is a number. A key that is given twice is an error. Aliases and tags are refused, because
people should be able to read a config.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mt.errors import ConfigError

KeyPath = tuple[str, ...]  # ("data", "train", "0", "weight")
NamePlace = Callable[[int], str]  # from the number of a line, counted from 0, to `FILE:LINE`

MAX_SIZE = 500_000  # bytes; a thousand corpora need fewer, and PyYAML takes seconds for these
MAX_DEPTH = 20  # of sections and lists in each other; a config has 5

# Unquoted text and what it means: the core schema of YAML 1.2.2, section 10.3.2. PyYAML knows only
# that of YAML 1.1. An integer of more than 100 digits becomes a float: Python converts at most
# 4,300 digits to an int, and no key allows so many.
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

# Line ends, control characters that a terminal would obey, and surrogates, which UTF-8 cannot hold.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")

# Clearer words for the most frequent syntax error than PyYAML has.
_CLEARER_PROBLEMS = {
    "mapping values are not allowed here": (
        "found a ':' too many (does the line above lack one, or a text its quotes?)"
    )
}


class Override(NamedTuple):
    """One change of a config from the command line: `--set KEY=VALUE`."""

    path: KeyPath
    value: Any
    place: str  # its name in errors


@dataclass(frozen=True)
class ConfigFile:
    """Plain values, and for key paths the place in errors: `FILE:LINE` or `--set KEY=VALUE`."""

    values: Any
    places: Mapping[KeyPath, str]  # of the empty path: the file

    def place_of(self, path: KeyPath) -> str:
        """Return the place of `path`, or of the nearest section around it."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.places:
                return self.places[path[:depth]]
        return self.places[()]

    def locate(self, path: KeyPath) -> str:
        """Return the place of `path` and its key, as an error begins: `FILE:LINE: model.d_model`.

        The key is left out where the place names it already.
        """
        place = self.place_of(path)
        key = _on_one_line(".".join(path), max_length=200)
        if not key or place.startswith(f"--set {key}="):
            return place
        return f"{place}: {key}"

    def override(self, override: Override) -> "ConfigFile":
        """Return a copy with one value replaced. Missing sections on its path are added.

        Raises ConfigError for the number of an item that a list does not have, and for a key in a
        value that is not a section.
        """
        path = override.path
        values = _replace_value(self.values, path, override.value, place=override.place)
        places = {}
        for known_path, place in self.places.items():
            is_replaced = known_path[: len(path)] == path
            if not is_replaced:
                places[known_path] = place
        for depth in range(1, len(path) + 1):
            places.setdefault(path[:depth], override.place)
        return ConfigFile(values, places)


def read_config_file(path: Path) -> ConfigFile:
    """Read a YAML file. ConfigError names the file and the line of what cannot be read."""
    text = _read_text(path)
    file = _parse(text, lambda line: f"{path}:{line + 1}")
    if file.values is None:
        raise ConfigError(f"{path}: is empty (wanted sections such as data: and train:)")
    if not isinstance(file.values, dict):
        raise ConfigError(
            f"{path}:1: wanted sections such as data: and train:, found {show(file.values)}"
        )
    return ConfigFile(file.values, {**file.places, (): str(path)})


def plain_config(values: Mapping[str, Any]) -> ConfigFile:
    """Return the values of a program's nested mappings and lists as those of a file.

    Raises ConfigError for a value that no config file can hold.
    """
    place = "the config"
    return ConfigFile(_plain_value(values, (), place=place), {(): place})


def _plain_value(value: Any, path: KeyPath, *, place: str) -> Any:
    """Return a value with dicts for mappings, tuples for lists and text for paths."""
    key = _on_one_line(".".join(path), max_length=200)
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"{place}: {key}: wanted at most {MAX_DEPTH} sections in each other")
    if isinstance(value, Mapping):
        section = {}
        for name, item in value.items():
            if not isinstance(name, str):
                raise ConfigError(f"{place}: {key}: wanted text as a key, found {name!r:.80}")
            section[name] = _plain_value(item, (*path, name), place=place)
        return section
    if isinstance(value, list | tuple):
        items = enumerate(value)
        return tuple(_plain_value(item, (*path, str(i)), place=place) for i, item in items)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ConfigError(f"{place}: {key}: wanted a plain value, found a {type(value).__name__}")


def parse_override(text: str) -> Override:
    """Parse `KEY=VALUE`: a dotted key, in which a number stands for a list's item, and YAML."""
    key, equals_sign, value = text.partition("=")
    path = tuple(key.strip().split("."))
    place = f"--set {_on_one_line(text, max_length=500)}"
    if not equals_sign or "" in path or len(path) > MAX_DEPTH:
        raise ConfigError(f"{place}: wanted KEY=VALUE, such as train.learning_rate=3e-4")
    return Override(path, _parse(value, lambda line: place).values, place)


def write_yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML that `read_config_file` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def show(value: object) -> str:
    """Return a value on one line of at most 80 characters; text is in quotes: "4" is not 4."""
    return _on_one_line(json.dumps(value, ensure_ascii=False), max_length=80)


def _on_one_line(text: str, *, max_length: int) -> str:
    """Escape what would break the line or control the terminal, and shorten the text."""
    text = text[: max_length + 1]  # enough to tell that it is longer
    text = _CONTROL_CHARACTERS.sub(
        lambda match: match[0].encode("unicode_escape").decode("ascii"), text
    )
    if len(text) > max_length:
        return text[: max_length - 3] + "..."
    return text


def _read_text(path: Path) -> str:
    """Read UTF-8 text, with or without a byte order mark.

    Raises ConfigError when it is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a config: {error.strerror}") from None
    if len(content) > MAX_SIZE:
        raise ConfigError(f"{path}: wanted a config of at most {MAX_SIZE:,} bytes, found more")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise ConfigError(f"{path}:{line}: not UTF-8: found byte 0x{byte:02x}") from None


def _parse(text: str, name_place: NamePlace) -> ConfigFile:
    """Parse one YAML document. ConfigError names the place of the first mistake."""
    try:
        parser = _Parser(text, name_place)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise ConfigError(
            f"{name_place(line)}: not YAML: found the control character U+{error.character:04X}"
        ) from None
    try:
        return parser.parse_document()
    except yaml.MarkedYAMLError as error:
        mark = _error_mark(error)
        problem = error.problem or ""
        problem = _CLEARER_PROBLEMS.get(problem, problem)
        raise ConfigError(
            f"{name_place(mark.line)}: not YAML: {problem} (column {mark.column + 1})"
        ) from None
    except (ValueError, OverflowError):  # PyYAML does not check "\UFFFFFFFF" and %YAML 9999...
        line = parser.current_line
        raise ConfigError(
            f"{name_place(line)}: not YAML: found a number that is too large"
        ) from None


def _error_mark(error: yaml.MarkedYAMLError) -> yaml.Mark:
    """Return the most helpful position of a syntax error.

    For an open quote or bracket that is its start, for all else where the parser stopped.
    """
    is_unclosed = error.context is not None and (
        "scanning" in error.context or "flow" in error.context
    )
    mark = error.problem_mark
    if is_unclosed and error.context_mark is not None:
        mark = error.context_mark
    assert isinstance(mark, yaml.Mark), error
    return mark


class _Parser:
    """Builds plain values from PyYAML's events, and notes where each key and item stands.

    PyYAML's own constructors would lose the lines, follow aliases and apply YAML 1.1. The type of
    an event is Any because PyYAML's stubs know neither its tag nor that it has a mark.
    """

    def __init__(self, text: str, name_place: NamePlace) -> None:
        self._loader = yaml.BaseLoader(text)
        self._name_place = name_place
        self._places: dict[KeyPath, str] = {}

    @property
    def current_line(self) -> int:
        """The line, counted from 0, up to which the text has been read."""
        line: int = self._loader.line
        return line

    def parse_document(self) -> ConfigFile:
        """Parse the only document of the text; its values are None when it is empty."""
        values = None
        while (event := self._next_event()) is not None:
            if isinstance(event, yaml.NodeEvent):
                values = self._parse_node(event, ())
            elif isinstance(event, yaml.DocumentStartEvent) and values is not None:
                place = self._place(event)
                raise ConfigError(f"{place}: not YAML: found a second document (column 1)")
        return ConfigFile(values, self._places)

    def _parse_node(self, event: Any, path: KeyPath) -> Any:
        """Return the value of the node that begins with `event`, and read its other events."""
        if len(path) > MAX_DEPTH:
            raise ConfigError(
                f"{self._place(event)}: wanted at most {MAX_DEPTH} sections and lists in each "
                f"other, found more"
            )
        if isinstance(event, yaml.SequenceStartEvent):
            return self._parse_list(path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._parse_section(path)
        assert isinstance(event, yaml.ScalarEvent), event
        is_quoted = event.style is not None
        return event.value if is_quoted else _plain_scalar(event.value)

    def _parse_list(self, path: KeyPath) -> tuple[Any, ...]:
        items: list[Any] = []
        while not isinstance(event := self._next_event(), yaml.SequenceEndEvent):
            item_path = (*path, str(len(items)))
            self._places[item_path] = self._place(event)
            items.append(self._parse_node(event, item_path))
        return tuple(items)

    def _parse_section(self, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := self._next_event(), yaml.MappingEndEvent):
            place = self._place(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise ConfigError(f"{place}: wanted a word as key, found a list or a section")
            key_path = (*path, event.value)
            if key_path in self._places:
                key = _on_one_line(".".join(key_path), max_length=200)
                first_place = self._places[key_path]
                raise ConfigError(f"{place}: {key}: given twice (first at {first_place})")
            self._places[key_path] = place
            values[event.value] = self._parse_node(self._next_event(), key_path)
        return values

    def _next_event(self) -> Any:
        """Return the next event, or None at the end.

        Raises ConfigError when it is not a plain value.
        """
        event: Any = self._loader.get_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise ConfigError(
                f"{self._place(event)}: wanted plain values, found an alias (*) or a tag (!)"
            )
        if isinstance(event, yaml.ScalarEvent) and _SURROGATES.search(event.value):
            raise ConfigError(
                f"{self._place(event)}: wanted text, found half a character (\\uD800 to \\uDFFF)"
            )
        return event

    def _place(self, event: Any) -> str:
        return self._name_place(event.start_mark.line)


def _plain_scalar(text: str) -> object:
    """Return the value that unquoted text stands for: itself, if it is nothing else."""
    for pattern, convert in _CORE_SCHEMA:
        if pattern.fullmatch(text):
            return convert(text)
    return text


def _replace_value(tree: Any, path: KeyPath, value: Any, *, place: str) -> Any:
    """Return a copy of a tree of values in which `value` is at `path`."""
    if not path:
        return value
    key, *rest = path
    shown_key = _on_one_line(key, max_length=80)
    if isinstance(tree, tuple):
        # An index of more than 9 digits is too large; Python may refuse to convert it.
        if not key.isdecimal() or len(key) > 9 or int(key) >= len(tree):
            raise ConfigError(
                f"{place}: wanted the number of an item, below {len(tree)}, found {shown_key}"
            )
        items = list(tree)
        items[int(key)] = _replace_value(items[int(key)], tuple(rest), value, place=place)
        return tuple(items)
    if isinstance(tree, dict) or tree is None:
        section = dict(tree or {})
        section[key] = _replace_value(section.get(key), tuple(rest), value, place=place)
        return section
    raise ConfigError(
        f"{place}: {shown_key}: unknown key (it would stand inside the value {show(tree)})"
    )


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, with quotes around text that this module would not read back as text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    needs_quotes = _plain_scalar(text) != text or not text.isprintable()
    style = '"' if needs_quotes else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
