"""Keys of a config: list them, compare two configs, and word the mistakes that pydantic finds."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mt.config.yaml_file import ConfigFile, KeyPath, show

# The expected value, for the pydantic error types that describe Python instead of YAML.
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

# The expected value of a required key, for when it is missing.
_WANTED_WHERE_MISSING = {
    "data": "a section with src_lang, tgt_lang, train and valid",
    "data.src_lang": "the source language, such as en",
    "data.tgt_lang": "the target language, such as de",
    "data.train": "the training text, such as corpus for corpus.<src_lang> and corpus.<tgt_lang>",
    "data.valid": "the validation text, such as valid for valid.<src_lang> and valid.<tgt_lang>",
    "train": "a section with an end to training: max_steps, max_epochs or max_minutes",
}


def walk_keys(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key of a section with its field, in the order of the schema.

    `N` stands for the number of a list's item, as in `data.train.N.weight`.
    """
    for name, field in section.model_fields.items():
        inner_section = _section_in(field.annotation)
        is_list = bool(get_args(field.annotation))
        if inner_section is None:
            yield prefix + name, field
        elif is_list:
            yield from walk_keys(inner_section, f"{prefix}{name}.N.")
        else:
            yield from walk_keys(inner_section, f"{prefix}{name}.")


class Difference(NamedTuple):
    """A key that has different values in two configs."""

    key: str
    old: str  # as JSON, or `absent`
    new: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def find_differences(old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    """Return the keys with different values, in the order of the schema."""
    old_values = dict(_leaves(old))
    new_values = dict(_leaves(new))
    differences = []
    for key in old_values | new_values:
        old_value = old_values.get(key, "absent")
        new_value = new_values.get(key, "absent")
        if old_value != new_value:
            differences.append(Difference(key, old_value, new_value))
    return differences


def first_mistake(
    errors: Sequence[ErrorDetails], file: ConfigFile, *, section: type[BaseModel]
) -> str:
    """Return one line about the first of pydantic's errors in `file`, checked as a `section`.

    Missing keys come last, because a key is often missing when another one is mistyped. Too short
    lists come last too: pydantic does not count an invalid item, so the error of the item is the
    real one.
    """
    missing_last = sorted(errors, key=lambda error: error["type"] in ("missing", "too_short"))
    error = missing_last[0]
    kind = error["type"]
    context = error.get("ctx", {})
    path = _path_in_file(error["loc"], file)
    if kind == "conflict":
        keys = [int(key) if key.isdecimal() else key for key in context["key"].split(".")]
        conflict_path = _path_in_file((*error["loc"], *keys), file)
        return f"{file.locate(conflict_path)}: {context['problem']}"
    if kind == "extra_forbidden":
        return f"{file.locate(path)}: unknown key ({_suggest_key(path, section)})"
    pydantic_wanted = error["msg"].removeprefix("Input should be ")
    wanted = _WANTED.get(kind, pydantic_wanted).format(**context)
    if kind == "missing":
        wanted = _WANTED_WHERE_MISSING.get(".".join(path), wanted)
        return f"{file.locate(path)}: wanted {wanted}, found nothing"
    return f"{file.locate(path)}: wanted {wanted}, found {show(error['input'])}"


def _path_in_file(path: Sequence[str | int], file: ConfigFile) -> KeyPath:
    """Return a path in the schema as the path in the file; an int is the number of a list's item.

    The file may have one item in place of a list: `data.valid.0.prefix` is `data.valid.prefix` in a
    file with `valid: {prefix: text}`.
    """
    own_path = []
    value: Any = file.values
    for part in path:
        if isinstance(part, int) and not isinstance(value, tuple):
            continue
        own_path.append(str(part))
        if isinstance(value, tuple) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif isinstance(value, dict):
            value = value.get(part)
        else:
            value = None
    return tuple(own_path)


def _suggest_key(path: KeyPath, root: type[BaseModel]) -> str:
    """Return a hint for an unknown key.

    That is the key of the same name in another section, else a similar one in this section, else
    all keys of this section.
    """
    section = _innermost_section(path[:-1], root)
    name = path[-1]
    for key, _ in walk_keys(root):
        parts = key.split(".")
        if parts[-1] == name and parts[0] != path[0]:
            return f"did you mean {key}?"
    similar = difflib.get_close_matches(name[:100], section.model_fields, n=1)
    if similar:
        return f"did you mean {similar[0]}?"
    return f"known here: {', '.join(section.model_fields)}"


def _innermost_section(path: KeyPath, root: type[BaseModel]) -> type[BaseModel]:
    section = root
    for part in path:
        if part in section.model_fields:  # otherwise it is the number of a list's item
            section = _section_in(section.model_fields[part].annotation) or section
    return section


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the shown value of each value that is not a section or a list."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _leaves(value, f"{prefix}{key}.")
    elif isinstance(values, tuple):
        for index, item in enumerate(values):
            yield from _leaves(item, f"{prefix}{index}.")
    else:
        yield prefix.removesuffix("."), show(values)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section in a field's type: the type itself, or that of a list's items."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
