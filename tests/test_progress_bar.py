"""The line of a progress bar: it fits every width, and redraws in place."""

from __future__ import annotations

import io
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm
from tqdm.utils import disp_len

from mt.progress_bar import (
    ASCII_BLOCKS,
    ProgressBar,
    ProgressText,
    format_duration,
    format_meter,
    format_progress,
)

TEXT = ProgressText(
    first=("1:02:03 left", "loss 12.345"),
    fraction=0.42,
    rest=("123,456 tok/s", "step 1,234,567/2,000,000", "epoch 12", "lr 7.00e-04"),
)


def test_line_fits_the_width_and_begins_with_the_first_fields() -> None:
    for width in range(60, 201):
        line = format_progress(TEXT, width=width)
        assert len(line) <= width
        fields = [field.strip() for field in line.split(" | ")]
        assert fields[:2] == list(TEXT.first)
        assert fields[2].endswith("42%")
        # No field is cut, and none is shown after one that is left out.
        assert tuple(fields[3:]) == TEXT.rest[: len(fields) - 3]


def test_wider_terminal_shows_more() -> None:
    num_fields = [len(format_progress(TEXT, width=width).split(" | ")) for width in range(10, 201)]
    assert num_fields[0] == 1
    assert num_fields[-1] == 7
    assert format_progress(TEXT, width=5) == ""


@given(
    st.lists(st.text(min_size=1, max_size=30), max_size=5),
    st.none() | st.floats(-1, 2),
    st.integers(0, 200),
)
def test_any_line_fits_the_width(fields: list[str], fraction: float | None, width: int) -> None:
    text = ProgressText(tuple(fields[:2]), fraction, tuple(fields[2:]))
    assert disp_len(format_progress(text, width=width)) <= width


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (-1.0, "             0%"),
        (0.0, "             0%"),
        (0.059, "▌            5%"),
        (0.5, "█████       50%"),
        (0.999, "█████████▉  99%"),
        (1.0, "██████████ 100%"),
        (7.0, "██████████ 100%"),
    ],
)
def test_format_meter(fraction: float, expected: str) -> None:
    assert format_meter(fraction, cells=10) == expected


def test_meter_of_a_terminal_without_unicode() -> None:
    assert format_meter(0.59, cells=10, blocks=ASCII_BLOCKS) == "#####       59%"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (9.6, "0:10"),
        (59.6, "1:00"),
        (75, "1:15"),
        (3599, "59:59"),
        (3599.6, "1:00:00"),
        (3700, "1:01:40"),
        (100 * 3600, "100:00:00"),
    ],
)
def test_format_duration(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


class FailingTerminal(io.StringIO):
    """A terminal that cannot be written."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError("broken")


def test_failing_terminal_does_not_block_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FailingTerminal())
    with ProgressBar() as bar:
        bar.show(TEXT, at_once=True)
        assert not bar.is_shown
    has_lock = threading.Event()

    def take_lock() -> None:
        with tqdm.get_lock():
            has_lock.set()

    threading.Thread(target=take_lock, daemon=True).start()
    assert has_lock.wait(60)
