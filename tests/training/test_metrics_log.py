"""What a person sees while it runs, and what metrics.jsonl keeps of it."""

from __future__ import annotations

import errno
import json
import math
import os
import pty
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mt.errors import DiskError
from mt.training.metrics_log import (
    Display,
    MetricsFile,
    Sample,
    Validation,
    clock,
    describe_validation,
)

SCORES = {"BLEU": 34.5678, "chrF": 61.2, "TER": 48.0}
SIGNATURES = {"BLEU": "nrefs:1|case:mixed", "chrF": "nrefs:1|nc:6", "TER": "nrefs:1|norm:no"}


def make_validation(**changes: Any) -> Validation:
    samples = [Sample("A dog.", "Ein Hund.", "Eine Hund."), Sample("Two.", "Zwei.", "")]
    found = Validation(loss=1.25, scores=SCORES, signatures=SIGNATURES, samples=samples)
    return found._replace(**changes)


# Time


@pytest.mark.parametrize(
    ("seconds", "shown"),
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
def test_a_clock_shows_whole_seconds_minutes_and_hours(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


# Validations


def test_a_validation_is_one_line_and_its_samples_below() -> None:
    lines = describe_validation(1500, make_validation(), is_best=True).split("\n")
    assert lines == [
        "valid 1,500 | loss 1.250 | ppl 3.49 | BLEU 34.57 | chrF 61.20 | TER 48.00 | best",
        "    src A dog.",
        "    ref Ein Hund.",
        "    hyp Eine Hund.",
        "",
        "    src Two.",
        "    ref Zwei.",
        "    hyp",
    ]


def test_a_validation_that_is_not_the_best_does_not_say_so() -> None:
    line = describe_validation(7, make_validation(samples=[], scores={}), is_best=False)
    assert line == "valid 7 | loss 1.250 | ppl 3.49"


def test_perplexity_is_exp_of_the_loss_and_infinite_where_no_float_is_large_enough() -> None:
    assert make_validation(loss=2.0).perplexity == math.exp(2.0)
    assert make_validation(loss=1e6).perplexity == math.inf
    assert make_validation(loss=math.nan).perplexity == math.inf


@pytest.mark.parametrize(
    ("metric", "selection_score"), [("bleu", 34.5678), ("chrf", 61.2), ("loss", -1.25)]
)
def test_more_merit_is_better_whatever_the_metric(metric: str, selection_score: float) -> None:
    assert make_validation().selection_score(metric) == selection_score


def test_no_score_is_written_without_its_signature() -> None:
    values = make_validation().as_json()
    assert {name: values[name] for name in SCORES} == SCORES
    assert values["signatures"] == SIGNATURES
    assert values["samples"][0] == {"src": "A dog.", "ref": "Ein Hund.", "hyp": "Eine Hund."}
    assert json.loads(json.dumps(values)) == values


# metrics.jsonl


def test_what_is_appended_can_be_read_back_with_every_digit(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(3):
        metrics.append(
            "train",
            step,
            {"loss": math.pi / (step + 1), "text": "grün\u2028 \n"},
            {"elapsed_seconds": 0.1},
        )
    lines = metrics.path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == [
        {
            "kind": "train",
            "step": step,
            "loss": math.pi / (step + 1),
            "text": "grün\u2028 \n",
            "timing": {"elapsed_seconds": 0.1},
        }
        for step in range(3)
    ]


def test_truncating_forgets_what_came_after_and_no_more(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.truncate(0)
    assert not metrics.path.exists()
    metrics.append("train", 1, {"text": "ü"}, {})
    size, content = metrics.sync(), metrics.path.read_bytes()
    assert size == len(content)
    metrics.append("train", 2, {}, {})
    metrics.truncate(size + 1000)
    assert metrics.sync() > size
    metrics.truncate(size)
    assert metrics.path.read_bytes() == content
    metrics.append("train", 2, {}, {})
    assert [
        json.loads(line)["step"] for line in metrics.path.read_text(encoding="utf-8").splitlines()
    ] == [1, 2]


def test_a_number_that_is_not_finite_is_null_for_json_knows_no_other(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append("valid", 1, {"loss": math.nan, "perplexity": math.inf, "BLEU": 1.5}, {})
    line = json.loads(metrics.path.read_text(), parse_constant=pytest.fail)
    assert (line["loss"], line["perplexity"], line["BLEU"]) == (None, None, 1.5)


def test_what_the_disk_refuses_only_in_the_end_is_a_disk_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append("train", 1, {}, {})
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskError, match=r"metrics\.jsonl: cannot write: Disk quota exceeded$"):
        metrics.sync()


def test_lines_that_do_not_fit_wait_and_the_file_never_has_half_of_one(full_disk: Path) -> None:
    metrics = MetricsFile(full_disk / "metrics.jsonl")
    metrics.append("train", 1, {}, {})
    fill = full_disk / "fill"
    with suppress(OSError), fill.open("wb", buffering=0) as file:
        while file.write(bytes(1000)):
            pass
    for step in (2, 3):
        metrics.append("train", step, {"text": "x" * 10_000}, {})
        lines = metrics.path.read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1]
    with pytest.raises(DiskError, match=r"metrics\.jsonl: cannot write: No space left on device"):
        metrics.sync()
    fill.unlink()
    metrics.append("train", 4, {}, {})
    assert [json.loads(line)["step"] for line in metrics.path.read_text().splitlines()] == [
        1,
        2,
        3,
        4,
    ]


def test_incidents_are_told_with_their_update_and_nothing_else_is(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    assert metrics.incidents() == []
    metrics.append("train", 1, {"text": '"kind": "incident"'}, {})
    metrics.append("incident", 1234, {"text": "the cat sat on the keyboard"}, {})
    assert metrics.incidents() == ["update 1,234: the cat sat on the keyboard"]


# The display


def run_display(*, enabled: bool = True, total: int | None = 2000) -> None:
    display = Display(enabled=enabled)
    with display.bar_to(total, step=1000):
        for step in range(1001, 1003):
            display.advance(step)
        display.show(1002, loss=2.34567, lr=7e-4, tokens_per_second=12345.6, seconds_left=75.0)
        display.say("valid 1,002 | best")


def test_without_a_terminal_the_display_is_plain_lines_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_display()
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        err
        == "step 1,002/2,000 | loss 2.346 | 12,346 tok/s | lr 7.00e-04 | 1:15 left\nvalid 1,002 | best\n"
    )


def test_without_a_known_end_none_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(enabled=True)
    with display.bar_to(None, step=0):
        display.show(5, loss=1.0, lr=1.0, tokens_per_second=1.0, seconds_left=75.0)
    assert capsys.readouterr().err == "step 5 | loss 1.000 | 1 tok/s | lr 1.00e+00 | 1:15 left\n"


def test_a_display_that_is_not_enabled_is_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_display(enabled=False)
    assert capsys.readouterr() == ("", "")
    assert on_terminal(monkeypatch, enabled=False) == ""


def on_terminal(
    monkeypatch: pytest.MonkeyPatch, *, enabled: bool = True, total: int | None = 2000
) -> str:
    """What the display sends to a terminal of 100 columns."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    seen = b""
    with monkeypatch.context() as patch, open(slave, "w", encoding="utf-8") as terminal:
        patch.setattr(sys, "stderr", terminal)
        run_display(enabled=enabled, total=total)
        print("end", file=terminal, flush=True)
        while not seen.endswith(b"end\r\n"):
            seen += os.read(master, 4096)
    os.close(master)
    return seen.decode("utf-8").removesuffix("end\r\n")


def on_screen(sent: str) -> list[str]:
    """The lines that stay: after a carriage return, the old is written over."""
    lines = []
    for line in sent.split("\n"):
        shown = ""
        for text in line.split("\r"):
            shown = text + shown[len(text) :]
        lines.append(shown.rstrip())
    return lines


def test_on_a_terminal_one_bar_stays_below_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    line, bar, after = on_screen(on_terminal(monkeypatch))
    assert (line, after) == ("valid 1,002 | best", "")
    assert all(
        part in bar
        for part in ("50%", "1002/2000", "loss 2.346", "12,346 tok/s", "lr 7.00e-04", "1:15 left")
    )


def test_on_a_terminal_the_bar_does_without_a_known_end(monkeypatch: pytest.MonkeyPatch) -> None:
    line, bar, after = on_screen(on_terminal(monkeypatch, total=None))
    assert (line, after) == ("valid 1,002 | best", "")
    assert bar.startswith("1002step")
    assert "%" not in bar
