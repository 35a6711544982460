"""What a person sees while a run trains."""

from __future__ import annotations

import errno
import io
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from copy_task import write_copy_task
from runs import CONFIG
from terminal import longest_line, mt_process, screen_lines, terminal
from tqdm import tqdm

from mt.cli.logs import configure_logging
from mt.decoding.translation import TranslationProgress
from mt.progress_bar import ProgressText
from mt.training.console import (
    Console,
    Numbers,
    Position,
    format_bar,
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


POSITION = Position(1002, total_steps=2000, epoch=3.26, fraction=0.501, seconds_left=75.0)
NUMBERS = Numbers(loss=2.34567, lr=7e-4, tokens_per_second=12345.6)


def show_some_progress(*, enabled: bool = True, position: Position = POSITION) -> None:
    console = Console(enabled=enabled)
    with console.progress_bar():
        console.show_activity("trying the largest batches")
        for step in range(1001, 1003):
            console.advance(replace(position, step=step))
        console.show_numbers(position, NUMBERS)
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


def test_unknown_total_and_time_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_some_progress(position=replace(POSITION, total_steps=None, seconds_left=None))
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("step 1,002 | loss 2.346 | ")
    assert line.endswith(" | -:-- left")


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
    monkeypatch: pytest.MonkeyPatch, *, enabled: bool = True, columns: int = 100
) -> str:
    """Return what the console sends to a terminal."""
    return sent_to_terminal(
        monkeypatch, lambda: show_some_progress(enabled=enabled), columns=columns
    )


def sent_to_terminal(
    monkeypatch: pytest.MonkeyPatch, show: Callable[[], None], *, columns: int = 100
) -> str:
    """Return what a function sends to stderr if that is a terminal."""
    with (
        terminal(columns=columns) as screen,
        monkeypatch.context() as patch,
        open(screen.descriptor, "w", encoding="utf-8", closefd=False) as stderr,
    ):
        patch.setattr(sys, "stderr", stderr)
        show()
        print("end", file=stderr, flush=True)
        screen.wait_for("end\r\n")
        return screen.received.removesuffix("end\r\n")


def test_terminal_has_one_bar_below_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    *lines, bar, after = screen_lines(run_on_terminal(monkeypatch))
    assert lines == ["valid 1,002 | best", "warning: 1 update skipped"]
    assert after == ""
    assert bar.startswith("1:15 left | loss 2.346 | ")
    assert bar.endswith(" 50% | 12,346 tok/s | step 1,002/2,000 | epoch 3.3")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_bar_never_fills_the_last_column(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    sent = run_on_terminal(monkeypatch, columns=columns)
    assert "trying the largest batches" in sent
    assert longest_line(sent) < columns
    *_, bar, _ = screen_lines(sent)
    assert bar.startswith("1:15 left | loss 2.346 | ")
    assert ("lr 7.00e-04" in bar) == (columns == 200)


def test_bar_follows_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        terminal(columns=150) as screen,
        open(screen.descriptor, "w", encoding="utf-8", closefd=False) as stderr,
    ):
        monkeypatch.setattr(sys, "stderr", stderr)
        console = Console(enabled=True)
        with console.progress_bar():
            console.show_numbers(POSITION, NUMBERS)
            screen.wait_for("lr 7.00e-04")
            screen.resize(60)
            console.info("a line")
        print("end", file=stderr, flush=True)
        screen.wait_for("end\r\n")
    _, after_resizing = screen.received.split("a line\r\n")
    assert "1:15 left | loss 2.346" in after_resizing
    assert longest_line(after_resizing) < 60


def test_bar_before_the_first_update_says_what_happens() -> None:
    assert format_bar(None, None, activity="planning") == ProgressText(("planning",))
    validating = format_bar(POSITION, NUMBERS, activity="validating")
    assert validating.first == ("validating", "loss 2.346")
    assert format_bar(POSITION, None).first == ("1:15 left",)


class FakeTime:
    """A clock that tests set."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_first_line_comes_within_seconds_and_the_others_when_they_are_due(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeTime()
    monkeypatch.setattr("mt.training.console.time", clock)
    console = Console(enabled=True)
    assert not console.numbers_are_due()
    due = []
    with console.progress_bar():
        for _ in range(20):
            clock.now += 1.0
            console.advance(POSITION)
            due.append(console.numbers_are_due())
            if due[-1]:
                console.show_numbers(POSITION, NUMBERS)
    assert due == [False] * 4 + [True] + [False] * 15
    assert capsys.readouterr().err.count("\n") == 1


def test_numbers_on_a_terminal_are_never_old(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime()
    monkeypatch.setattr("mt.training.console.time", clock)
    with terminal() as screen, open(screen.descriptor, "w", closefd=False) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        console = Console(enabled=True)
        due = []
        with console.progress_bar():
            for _ in range(6):
                clock.now += 1.0
                console.advance(POSITION)
                due.append(console.numbers_are_due())
                if due[-1]:
                    console.show_numbers(POSITION, NUMBERS)
    assert due == [True, False, True, False, True, False]


def test_training_on_a_terminal_shows_each_stage_and_a_signal_on_its_own_line(
    tmp_path: Path,
) -> None:
    config_path = write_copy_task(tmp_path, CONFIG)
    options = ("--run-dir", tmp_path / "run", "--set", "train.max_steps=null")
    limits = ("--set", "train.max_minutes=60", "--set", "train.validate_every=100000")
    with (
        terminal(columns=60) as screen,
        mt_process(
            "train",
            "-c",
            config_path,
            *options,
            *limits,
            stdin=subprocess.DEVNULL,
            stdout=screen.descriptor,
            stderr=screen.descriptor,
        ) as process,
    ):
        screen.wait_for("planning an epoch")
        screen.wait_for("trying the largest batches")
        screen.wait_for(" left | loss ")
        process.send_signal(signal.SIGINT)
        assert screen.wait_for_end(process) == 130
        screen.type("end\n")
        screen.wait_for("end\r\n")
    lines = screen_lines(screen.received)
    assert any(line.startswith("SIGINT: saving after this update") for line in lines)
    bars = [line for line in lines if " left | loss " in line]
    assert bars, "the last state of the bar stays"
    assert max(len(bar) for bar in bars) < 60


def test_disabled_console_asks_for_no_numbers() -> None:
    console = Console(enabled=False)
    console.advance(POSITION)
    assert not console.numbers_are_due()


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
    with console.progress_bar():
        for step in range(1, 10):
            console.show_activity("validating")
            console.advance(replace(POSITION, step=step))
            console.show_numbers(POSITION, NUMBERS)
            console.warning("something happened")
            steps.append(step)
    assert steps == list(range(1, 10))
    assert terminal.num_writes_left == 0
    assert "Traceback" not in terminal.getvalue()


def translate_some_lines() -> None:
    with translation_bar("validating 8 lines", enabled=True) as progress:
        progress(TranslationProgress(2, 8, 0.5))
        progress(TranslationProgress(8, 8, 1.0))


def test_validation_is_announced_with_a_bar_that_disappears(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    sent = sent_to_terminal(monkeypatch, translate_some_lines)
    shown = sent.split("\r")
    drawn = [text for text in shown if text.startswith("validating 8 lines | ")]
    assert "   0%" in drawn[0]
    assert "100%" in drawn[-1]
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
