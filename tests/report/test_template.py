"""HTML pages from templates: all share colors, and a template may be in another directory."""

from __future__ import annotations

import re
from pathlib import Path

from mt.report.plots import PALETTE
from mt.report.template import TEMPLATE_DIR, PageLink, link_below, render

COLOR = re.compile(r"--(\w+): (#\w{6})")


def schemes() -> tuple[dict[str, str], dict[str, str]]:
    """Return the colors of the light and of the dark scheme."""
    css = (TEMPLATE_DIR / "base.css").read_text(encoding="utf-8")
    light, dark = css.split("@media screen and (prefers-color-scheme: dark)")
    return dict(COLOR.findall(light)), dict(COLOR.findall(dark.split("@media print")[0]))


def test_plots_have_the_colors_of_the_pages() -> None:
    light, _ = schemes()
    assert {name: light[name] for name in PALETTE} == PALETTE


def test_both_schemes_have_the_same_colors() -> None:
    light, dark = schemes()
    assert light.keys() == dark.keys()
    assert light["second"] == light["accent"]
    assert dark["second"] == dark["accent"]


def test_no_other_file_of_the_pages_defines_a_color() -> None:
    for path in TEMPLATE_DIR.glob("*.html"):
        assert COLOR.search(path.read_text(encoding="utf-8")) is None, path


def test_template_of_another_directory_extends_the_page(tmp_path: Path) -> None:
    template = '{% extends "page.html" %}{% block body %}<p>{{ text }}</p>{% endblock %}'
    (tmp_path / "other.html").write_text(template, encoding="utf-8")
    html = render("other.html", {"text": "a < b"}, template_dir=tmp_path)
    assert "<p>a &lt; b</p>" in html
    assert "--accent: " in html


def test_pages_link_only_to_files_that_move_with_them(tmp_path: Path) -> None:
    page = tmp_path / "run" / "report.html"
    page.parent.mkdir()
    target = tmp_path / "run" / "a b&.html"
    assert link_below(page, target, text="x") is None
    target.write_text("", encoding="utf-8")
    assert link_below(page, target, text="x") == PageLink("x", "a%20b%26.html")
    assert link_below(tmp_path / "compare.html", target, text="x") == PageLink(
        "x", "run/a%20b%26.html"
    )
    (tmp_path / "other.html").write_text("", encoding="utf-8")
    assert link_below(page, tmp_path / "other.html", text="x") is None
