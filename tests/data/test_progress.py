"""Tests of the bars that are shown while text is read and prepared."""

from __future__ import annotations

import errno
import io
import logging
import sys
import time
from pathlib import Path

import pytest
from tqdm import tqdm

import mt.data.progress
import mt.progress_bar
from mt.data.progress import bytes_bar, elapsed_time
from mt.progress_bar import ERASE_REST_OF_LINE


class Terminal(io.StringIO):
    """A terminal that fails after some writes, as one that was closed."""

    def __init__(self, num_writes: int = 10**9) -> None:
        super().__init__()
        self.num_writes_left = num_writes

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.num_writes_left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.num_writes_left -= 1
        return super().write(text)


@pytest.fixture(autouse=True)
def _show_information(restore_logging: None, monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("mt").setLevel(logging.INFO)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # no thread that redraws the bar


def test_bar_on_a_terminal_is_removed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(mt.progress_bar, "REDRAW_SECONDS", 0.0)
    path = tmp_path / "text"
    path.write_bytes(b"x" * 1000)
    with bytes_bar("reading", [path, path, tmp_path / "missing"]) as on_bytes:
        on_bytes(500)
        on_bytes(1000)
        *_, last = terminal.getvalue().split("\r")
        assert last.startswith("reading | ")
        assert " 75% | 0:0" in last
    assert terminal.getvalue().endswith(f"\r{ERASE_REST_OF_LINE}\r")


def test_elapsed_time_is_shown_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(mt.data.progress, "REFRESH_SECONDS", 0.001)
    monkeypatch.setattr(mt.progress_bar, "REDRAW_SECONDS", 0.0)
    with elapsed_time("tokenizer"):
        start = time.monotonic()
        while terminal.getvalue().count("tokenizer | 0:") < 3 and time.monotonic() < start + 60:
            time.sleep(0.001)
    assert terminal.getvalue().count("tokenizer | 0:") >= 3


def test_nothing_is_shown_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bytes_bar("reading", [tmp_path]) as on_bytes, elapsed_time("tokenizer"):
        on_bytes(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("num_writes", range(5))
def test_closed_terminal_does_not_stop_the_work(
    monkeypatch: pytest.MonkeyPatch, num_writes: int
) -> None:
    terminal = Terminal(num_writes)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(mt.progress_bar, "REDRAW_SECONDS", 0.0)
    with bytes_bar("reading", []) as on_bytes, elapsed_time("tokenizer"):
        for _ in range(10):
            on_bytes(10**9)
    assert terminal.num_writes_left == 0
