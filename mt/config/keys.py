"""The keys of a config in words: what each is for, where two configs differ, what a mistake was meant to be."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mt.config.yaml_file import ConfigFile, KeyPath, show

# What a kind of error wanted, where pydantic's own message speaks of Python and not of YAML.
_WANTED = {
    "bool_type": "true or false",
    "less_than_equal": "at most {le}",
    "missing": "a value",
    "model_type": "a section of keys",
    "string_pattern_mismatch": "a name of letters, digits, '_', '.' and '-'",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "text that is not empty",
    "string_type": "text (in quotes if it looks like a number)",
    "too_long": "no more than {max_length} items",
    "too_short": "{min_length} or more items",
    "tuple_type": "a list",
}


def walk_keys(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key, dotted, and its field in the order of the file; `N` stands for the number of a list's item."""
    for name, field in section.model_fields.items():
        if inner := _section_in(field.annotation):
            item = "N." if get_args(field.annotation) else ""
            yield from walk_keys(inner, f"{prefix}{name}.{item}")
        else:
            yield prefix + name, field


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """List the keys whose values differ, one line each: `train.learning_rate: 0.001 -> 0.002`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in dict.fromkeys((*before, *after))
        if before.get(key) != after.get(key)
    ]


def first_mistake(
    errors: Sequence[ErrorDetails], file: ConfigFile, *, section: type[BaseModel]
) -> str:
    """Word the first mistake as one line.

    A missing key comes last, for it is often missing because another is mistyped.
    """
    error = min(errors, key=lambda error: error["type"] == "missing")
    path, context = tuple(map(str, error["loc"])), error.get("ctx", {})
    if error["type"] == "conflict":
        return f"{file.locate((*path, *context['key'].split('.')))}: {context['problem']}"
    if error["type"] == "extra_forbidden":
        return f"{file.locate(path)}: unknown key ({_suggestion(path, section)})"
    wanted = _WANTED.get(error["type"], error["msg"].removeprefix("Input should be ")).format(
        **context
    )
    found = "nothing" if error["type"] == "missing" else show(error["input"])
    return f"{file.locate(path)}: wanted {wanted}, found {found}"


def _suggestion(path: KeyPath, root: type[BaseModel]) -> str:
    """Name the key that was meant: the same in another section, else a like one in this, else all of this."""
    section = root
    for part in path[:-1]:
        if part in section.model_fields:  # otherwise it is the number of a list's item
            section = _section_in(section.model_fields[part].annotation) or section
    name = path[-1]
    keys = (key.split(".") for key, _ in walk_keys(root))
    elsewhere = [".".join(key) for key in keys if key[-1] == name and key[0] != path[0]]
    close = elsewhere or difflib.get_close_matches(name[:100], section.model_fields, n=1)
    return (
        f"did you mean {close[0]}?" if close else f"known here: {', '.join(section.model_fields)}"
    )


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the shown value of each leaf."""
    if isinstance(values, dict | tuple):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _leaves(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], show(values)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Find the section that a key holds, alone or as the items of a list."""
    candidates = (annotation, *get_args(annotation))
    return next(
        (kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)),
        None,
    )
