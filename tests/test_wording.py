"""Words of messages that depend on numbers."""

from __future__ import annotations

from mt.wording import count_of


def test_only_one_has_a_singular() -> None:
    texts = [count_of(number, "line") for number in (0, 1, 2, 1234)]
    assert texts == ["0 lines", "1 line", "2 lines", "1,234 lines"]
