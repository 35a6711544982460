"""Print the table of all config keys, as the code has them, or write it into docs/configuration.md.

python -m scripts.docs.config_table [--write]
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from mt.config.keys import walk_keys
from mt.config.schema import Config
from mt.config.yaml_file import show
from scripts.docs.page import replace_between

PAGE = Path("docs/configuration.md")  # relative to the top of the project, where the command is run
NAME = "keys"  # of the comments around the table
WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}


def table() -> Iterator[str]:
    """Yield the lines of a Markdown table: key, type of value, default, meaning."""
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key, field in walk_keys(Config):
        default = "required" if field.is_required() else f"`{show(field.default)}`"
        yield f"| `{key}` | {in_words(field.annotation)} | {default} | {field.description} |"


def in_words(annotation: Any) -> str:
    """Return the type of value that a key takes."""
    origin = get_origin(annotation)
    args = get_args(annotation)
    if origin is Literal:
        return " or ".join(args)
    if origin is tuple:
        return f"list of {in_words(args[0])}"
    if origin is Annotated:
        return in_words(args[0])
    return " or ".join(map(in_words, args)) if args else WORDS[annotation]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        replace_between(PAGE, NAME, table())
    else:
        print("\n".join(table()))
