"""The README's table of config keys, as the code has them: paste it there when a test says that they differ."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from mt.config.keys import walk_keys
from mt.config.schema import Config
from mt.config.yaml_file import show

WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}


def table() -> Iterator[str]:
    """The lines of a Markdown table: key, what it takes, default, meaning."""
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    for key, field in walk_keys(Config):
        default = "required" if field.is_required() else f"`{show(field.default)}`"
        yield f"| `{key}` | {in_words(field.annotation)} | {default} | {field.description} |"


def in_words(annotation: Any) -> str:
    """What type of value a key takes."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(args)
    if origin is tuple:
        return f"list of {in_words(args[0])}"
    if origin is Annotated:
        return in_words(args[0])
    return " or ".join(map(in_words, args)) if args else WORDS[annotation]


if __name__ == "__main__":
    print("\n".join(table()))
