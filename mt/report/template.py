"""HTML pages from the Jinja templates in this directory.

A page is a single file: it needs no other file and makes no network request.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mt.report.text_language import text_attributes
from mt.storage.atomic import atomic_file

TEMPLATE_DIR = Path(__file__).parent
CONFIG_KEY = re.compile(r"\b(?:data|tokenizer|model|train|search|evaluation)\.[a-z_]+\b")
CONTROL_PICTURES = {code: 0x2400 + code for code in range(32)} | {127: 0x2421}


def render(
    template: str, values: Mapping[str, object], *, template_dir: Path = TEMPLATE_DIR
) -> str:
    """Fill in a template and return the HTML.

    The template is in `template_dir`. It can extend and include those of this directory, such as
    `page.html`, which has the colors and basic styles of all pages (`base.css`).

    Text is escaped automatically. Templates insert data for scripts with the filter `tojson`, and
    text that may contain control characters with the filter `show_control_chars`. An element with
    text of a language has the attributes of `text_attributes`.
    """
    environment = Environment(
        loader=FileSystemLoader([template_dir, TEMPLATE_DIR]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["show_control_chars"] = show_control_chars
    environment.filters["mark_config_keys"] = mark_config_keys
    environment.globals["text_attributes"] = text_attributes
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.get_template(template).render(values)


def write_page(page: str, output: Path) -> None:
    """Write a page to a file. Raises DiskError."""
    with atomic_file(output) as file:
        # The name of a run may have bytes that are not UTF-8.
        file.write(page.encode(errors="backslashreplace"))


class PageLink(NamedTuple):
    """A link to another page about the same run."""

    text: str
    address: str


def link_below(page: Path, target: Path, *, text: str) -> PageLink | None:
    """Return a link from a page to a file, or None if there is none that stays right.

    The file must exist, in the directory of the page or below: both move together, and the address
    shows nothing of the other directories of this machine.
    """
    folder = page.resolve().parent
    file = target.resolve()
    if not file.is_file() or not file.is_relative_to(folder) or file == page.resolve():
        return None
    return PageLink(text, quote(os.fsencode(file.relative_to(folder))))


def show_control_chars(text: str) -> str:
    """Replace control characters by their Unicode pictures, such as U+2400 for NUL.

    A browser would not show the characters themselves.
    """
    return text.translate(CONTROL_PICTURES)


def mark_config_keys(text: str) -> Markup:
    """Escape a text, and set its config keys, such as model.dropout, as code."""
    escaped = str(escape(show_control_chars(text)))
    return Markup(CONFIG_KEY.sub(r"<code>\g<0></code>", escaped))
