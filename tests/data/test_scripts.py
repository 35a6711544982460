"""The scripts of a text and their shares."""

from __future__ import annotations

from collections import Counter

import pytest

from mt.data.scripts import ScriptShare, find_scripts


def test_scripts_of_a_text() -> None:
    text = "abcdef" * 33 + "\u0431" * 100 + "12.,!" * 50 + "\u4e00"
    scripts = find_scripts(Counter(text))
    assert [name for name, _ in scripts] == ["Latin", "Cyrillic"]  # CJK has less than 1 %
    assert scripts[0].share == pytest.approx(198 / 299)
    assert find_scripts(Counter("\u4e00\u4e01")) == (ScriptShare("CJK", 1.0),)
    assert find_scripts(Counter("12")) == ()
