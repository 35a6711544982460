"""Generated parts of pages: the lines between `<!-- NAME -->` and `<!-- /NAME -->`."""

from collections.abc import Iterable
from pathlib import Path


def replace_between(page: Path, name: str, lines: Iterable[str]) -> None:
    """Replace the lines between the two comments, which are on the page once."""
    start = f"<!-- {name} -->\n"
    end = f"<!-- /{name} -->\n"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(start)
    _, after = rest.split(end)
    content = "".join(f"{line}\n" for line in lines)
    page.write_text(before + start + content + end + after, encoding="utf-8")
