"""Print the table of config keys for the documentation, from the code.

    python -m scripts.docs.config_table

A test compares the documentation with it; paste the output there when they differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from mt.config.keys import walk_keys
from mt.config.schema import Config
from mt.config.yaml_file import show

TYPE_NAMES = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


def table() -> Iterator[str]:
    """Yield the lines of a Markdown table: key, type of its value, default, description."""
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    for key, field in walk_keys(Config):
        default = "required" if field.is_required() else f"`{show(field.default)}`"
        yield f"| `{key}` | {describe_type(field.annotation)} | {default} | {field.description} |"


def describe_type(annotation: Any) -> str:
    """Return in words which values a type annotation allows."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Literal:
        return " or ".join(arguments)
    if origin is tuple:
        return f"list of {describe_type(arguments[0])}"
    if origin is Annotated:
        return describe_type(arguments[0])
    if arguments:  # a union
        return " or ".join(describe_type(argument) for argument in arguments)
    return TYPE_NAMES[annotation]


if __name__ == "__main__":
    print("\n".join(table()))
