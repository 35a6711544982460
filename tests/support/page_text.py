"""The text of an HTML page as a browser would show it."""

from __future__ import annotations

from html.parser import HTMLParser

HIDDEN_TAGS = ("style", "script", "title")
SEPARATED_TAGS = ("td", "th", "div", "dt", "dd")  # a browser shows space before them


class PageText(HTMLParser):
    """Parses a page into its visible text, its tags and its tooltips."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: set[str] = set()
        self.tooltips: list[str] = []  # title attributes and <title> elements
        self._hidden_tag = ""  # the tag of HIDDEN_TAGS that is open
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in SEPARATED_TAGS:
            self.text += " "
        self._hidden_tag = tag if tag in HIDDEN_TAGS else ""
        self.tooltips += [value or "" for name, value in attrs if name == "title"]

    def handle_endtag(self, tag: str) -> None:
        self._hidden_tag = ""

    def handle_data(self, data: str) -> None:
        if self._hidden_tag == "title":
            self.tooltips.append(data)
        elif not self._hidden_tag:
            self.text += data
