"""HTML pages from the Jinja templates in this directory.

A page is a single file: it needs no other file and makes no network request.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

TEMPLATE_DIR = Path(__file__).parent
CONFIG_KEY = re.compile(r"\b(?:data|tokenizer|model|train|search|evaluation)\.[a-z_]+\b")
CONTROL_PICTURES = {code: 0x2400 + code for code in range(32)} | {127: 0x2421}


def render(
    template: str, values: Mapping[str, object], *, template_dir: Path = TEMPLATE_DIR
) -> str:
    """Fill in a template of this directory, or of another one, and return the HTML.

    A template of another directory can extend those of this one.
    Text is escaped automatically. Templates insert data for scripts with the filter `tojson`, and
    text that may contain control characters with the filter `show_control_chars`.
    """
    environment = Environment(
        loader=FileSystemLoader((template_dir, TEMPLATE_DIR)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["show_control_chars"] = show_control_chars
    environment.filters["mark_config_keys"] = mark_config_keys
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.get_template(template).render(values)


def show_control_chars(text: str) -> str:
    """Replace control characters by their Unicode pictures, such as U+2400 for NUL.

    A browser would not show the characters themselves.
    """
    return text.translate(CONTROL_PICTURES)


def mark_config_keys(text: str) -> Markup:
    """Escape a text, and set its config keys, such as model.dropout, as code."""
    escaped = str(escape(show_control_chars(text)))
    return Markup(CONFIG_KEY.sub(r"<code>\g<0></code>", escaped))
