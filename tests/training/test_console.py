"""What a person sees while a run trains."""

from __future__ import annotations

import errno
import io
import os
import pty
import sys
import termios
from collections.abc import Callable
from dataclasses import replace

import pytest
from tqdm import tqdm

from mt.cli.logs import configure_logging
from mt.training.console import (
    Console,
    format_duration,
    format_final_score,
    format_validation,
    translation_bar,
)
from mt.training.metrics_log import FinalRecord, Sample, ScoreScope, Validation

SAMPLES = (Sample("A dog.", "Ein Hund.", "Eine Hund."), Sample("Two.", "Zwei.", ""))
STATUS = "loss 2.346 | 12,346 tok/s | lr 7.00e-04 | 1:15 left"


@pytest.fixture(autouse=True)
def logging_to_stderr(restore_logging: None) -> None:
    configure_logging()


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


def test_format_validation_has_scores_and_samples() -> None:
    scores = {"BLEU": 34.5678, "chrF": 61.2}
    validation = Validation(loss=1.25, scores=scores, signatures={}, samples=SAMPLES)
    assert format_validation(1500, validation, is_best=True).split("\n") == [
        "valid 1,500 | loss 1.250 | ppl 3.49 | BLEU 34.57 | chrF 61.20 | best",
        "    src A dog.",
        "    ref Ein Hund.",
        "    hyp Eine Hund.",
        "",
        "    src Two.",
        "    ref Zwei.",
        "    hyp",
    ]


def test_format_validation_says_best_only_of_the_best() -> None:
    validation = Validation(loss=1.25, scores={}, signatures={}, samples=())
    line = format_validation(7, validation, is_best=False)
    assert line == "valid 7 | loss 1.250 | ppl 3.49"


@pytest.mark.parametrize(
    ("scope", "text"),
    [
        (ScoreScope(500, 1791, beam_size=1), "500 of 1,791 lines, beam 1"),
        (ScoreScope(1791, 1791, beam_size=5), "1,791 lines, beam 5"),
    ],
)
def test_format_validation_says_which_lines_and_which_search(scope: ScoreScope, text: str) -> None:
    validation = Validation(loss=1.25, scores={"BLEU": 9}, signatures={}, samples=(), scope=scope)
    line = format_validation(7, validation, is_best=True)
    assert line == f"valid 7 | loss 1.250 | ppl 3.49 | BLEU 9.00 | {text} | best"


def test_final_score_says_which_lines_and_which_search() -> None:
    scope = ScoreScope(1791, 1791, beam_size=5)
    final = FinalRecord("step_00002300", {"BLEU": 33.125, "chrF": 55.0}, {}, scope)
    assert format_final_score(final) == (
        "final score of step_00002300 | BLEU 33.12 | chrF 55.00 | 1,791 lines, beam 5"
    )
    sampled = replace(final, scope=scope._replace(num_lines=600))
    assert "600 of 1,791 lines, beam 5" in format_final_score(sampled)
    assert "max_minutes" in format_final_score(sampled)


def test_samples_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The first one would set the clipboard."""
    sample = Sample("\x1b]52;c;cm0gLXJm\x07", "a\r\u2028b", "\x9b31mschön \ud7ff")
    validation = Validation(loss=1.0, scores={}, signatures={}, samples=[sample])
    Console(enabled=True).show_validation(1, validation, is_best=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split("\n")[1:] == [
        r"    src \x1b]52;c;cm0gLXJm\x07",
        r"    ref a\r\u2028b",
        "    hyp \\x9b31mschön \ud7ff",
        "",
    ]


def show_some_progress(*, enabled: bool = True, total: int | None = 2000) -> None:
    console = Console(enabled=enabled)
    with console.progress_bar(total, step=1000):
        for step in range(1001, 1003):
            console.advance(step)
        console.show_progress(
            1002, loss=2.34567, lr=7e-4, tokens_per_second=12345.6, seconds_left=75.0
        )
        console.info("valid 1,002 | best")
        console.warning("1 update skipped")


def test_without_terminal_progress_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show_some_progress()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"step 1,002/2,000 | {STATUS}",
        "valid 1,002 | best",
        "warning: 1 update skipped",
    ]


def test_unknown_total_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_some_progress(total=None)
    assert capsys.readouterr().err.splitlines()[0] == f"step 1,002 | {STATUS}"


@pytest.mark.parametrize("on_terminal", [False, True])
def test_disabled_console_is_silent(
    on_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_terminal:
        assert run_on_terminal(monkeypatch, enabled=False) == ""
    else:
        show_some_progress(enabled=False)
        assert capsys.readouterr() == ("", "")


def test_quiet_logging_hides_progress_but_not_warnings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging(quiet=True)
    show_some_progress()
    assert capsys.readouterr().err == "warning: 1 update skipped\n"
    assert screen_lines(run_on_terminal(monkeypatch)) == ["warning: 1 update skipped", ""]


def run_on_terminal(
    monkeypatch: pytest.MonkeyPatch, *, enabled: bool = True, total: int | None = 2000
) -> str:
    """Return what the console sends to a terminal of 100 columns."""
    return sent_to_terminal(monkeypatch, lambda: show_some_progress(enabled=enabled, total=total))


def sent_to_terminal(monkeypatch: pytest.MonkeyPatch, show: Callable[[], None]) -> str:
    """Return what a function sends to stderr if that is a terminal of 100 columns."""
    controller, terminal_descriptor = pty.openpty()
    termios.tcsetwinsize(terminal_descriptor, (24, 100))
    received = b""
    with (
        monkeypatch.context() as patch,
        open(terminal_descriptor, "w", encoding="utf-8") as terminal,
    ):
        patch.setattr(sys, "stderr", terminal)
        show()
        print("end", file=terminal, flush=True)
        while not received.endswith(b"end\r\n"):
            received += os.read(controller, 4096)
    os.close(controller)
    return received.decode("utf-8").removesuffix("end\r\n")


def screen_lines(sent: str) -> list[str]:
    """Return the lines that remain visible: text after a carriage return overwrites the line."""
    lines = []
    for line in sent.split("\n"):
        shown = ""
        for text in line.split("\r"):
            shown = text + shown[len(text) :]
        lines.append(shown.rstrip())
    return lines


def test_terminal_has_one_bar_below_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    *lines, bar, after = screen_lines(run_on_terminal(monkeypatch))
    assert lines == ["valid 1,002 | best", "warning: 1 update skipped"]
    assert after == ""
    for part in ("50%", "1002/2000", "loss 2.346", "12,346 tok/s", "lr 7.00e-04", "1:15 left"):
        assert part in bar


def test_terminal_bar_without_total(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, bar, _ = screen_lines(run_on_terminal(monkeypatch, total=None))
    assert bar.startswith("1002step")
    assert "%" not in bar


class FailingTerminal(io.StringIO):
    """A terminal that can be written only at first."""

    num_writes_left = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.num_writes_left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.num_writes_left -= 1
        return super().write(text)


@pytest.mark.parametrize("num_writes", [0, 1, 2, 3, 10])
def test_progress_that_cannot_be_shown_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, num_writes: int
) -> None:
    terminal = FailingTerminal()
    terminal.num_writes_left = num_writes
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # no thread that redraws the bar
    console = Console(enabled=True)
    steps = []
    with console.progress_bar(9, step=0):
        for step in range(1, 10):
            console.advance(step)
            console.show_progress(step, loss=2.0, lr=0.1, tokens_per_second=9, seconds_left=1)
            console.warning("something happened")
            steps.append(step)
    assert steps == list(range(1, 10))
    assert terminal.num_writes_left == 0
    assert "Traceback" not in terminal.getvalue()


def translate_some_lines() -> None:
    with translation_bar("validating 8 lines") as progress:
        progress(2, 8)
        progress(8, 8)


def test_validation_is_announced_with_a_bar_that_disappears(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    sent = sent_to_terminal(monkeypatch, translate_some_lines)
    shown = sent.split("\r")
    assert any(text.startswith("validating 8 lines:   0%") for text in shown)
    assert any(text.startswith("validating 8 lines: 100%") for text in shown)
    assert "".join(screen_lines(sent)).strip() == ""


def test_validation_shows_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    translate_some_lines()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("num_writes", [0, 1, 2, 3])
def test_bar_of_a_validation_that_cannot_be_shown_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, num_writes: int
) -> None:
    terminal = FailingTerminal()
    terminal.num_writes_left = num_writes
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    translate_some_lines()
    assert "Traceback" not in terminal.getvalue()
