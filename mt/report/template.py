"""Pages to look at: one HTML file each, which needs nothing beside it and asks the network for nothing."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, values: Mapping[str, object]) -> str:
    """Fill in a template of this folder. Text is escaped; data for scripts is put in with the filter `tojson`."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.get_template(template).render(values)
