"""metrics.jsonl: its schema, and writing it on a disk that may be full."""

from __future__ import annotations

import errno
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mt.errors import DiskError
from mt.training.metrics_log import (
    FinalRecord,
    IncidentRecord,
    MetricsLog,
    Record,
    Sample,
    ScoreScope,
    StartRecord,
    TrainRecord,
    Validation,
    ValidationRecord,
    parse_metrics,
    read_metrics_log,
)

SCORES = {"BLEU": 34.5678, "chrF": 61.2, "TER": 48.0}
SIGNATURES = {"BLEU": "nrefs:1|case:mixed", "chrF": "nrefs:1|nc:6", "TER": "nrefs:1|norm:no"}
SAMPLES = (Sample("A dog.", "Ein Hund.", "Eine Hund."), Sample("Two.", "Zwei.", ""))


def make_validation(loss: float = 1.25) -> Validation:
    scope = ScoreScope(500, 1791, beam_size=1)
    return Validation(loss=loss, scores=SCORES, signatures=SIGNATURES, samples=SAMPLES, scope=scope)


def write_incident(metrics: MetricsLog, step: int, text: str = "") -> None:
    metrics.write(IncidentRecord(text), step=step, timing={})


def read_steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


# Validation


def test_perplexity_is_exp_of_loss_or_infinite() -> None:
    assert make_validation(2.0).perplexity == math.exp(2.0)
    assert make_validation(1e6).perplexity == math.inf
    assert make_validation(math.nan).perplexity == math.inf


@pytest.mark.parametrize(("metric", "score"), [("bleu", 34.5678), ("chrf", 61.2), ("loss", -1.25)])
def test_selection_score_is_higher_for_better_models(metric: str, score: float) -> None:
    assert make_validation().selection_score(metric) == score


# Schema: the lines as they have been since format version 1, key by key


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            StartRecord(1234, {"torch": "2.13.0"}),
            {"kind": "start", "num_parameters": 1234, "environment": {"torch": "2.13.0"}},
        ),
        (
            TrainRecord(
                epoch=1,
                losses={"loss": math.pi, "nll": 3.0},
                lr=1e-3,
                grad_norm=0.5,
                tokens_seen=100,
                num_skipped=0,
            ),
            {
                "kind": "train",
                "epoch": 1,
                "loss": math.pi,
                "nll": 3.0,
                "lr": 1e-3,
                "grad_norm": 0.5,
                "tokens_seen": 100,
                "num_skipped": 0,
            },
        ),
        (
            ValidationRecord(2, make_validation(), is_best=True),
            {
                "kind": "valid",
                "epoch": 2,
                "loss": 1.25,
                "perplexity": math.exp(1.25),
                **SCORES,
                "signatures": SIGNATURES,
                "samples": [
                    {"src": "A dog.", "ref": "Ein Hund.", "hyp": "Eine Hund."},
                    {"src": "Two.", "ref": "Zwei.", "hyp": ""},
                ],
                "is_best": True,
                "num_lines": 500,
                "num_lines_in_set": 1791,
                "beam_size": 1,
            },
        ),
        (
            FinalRecord("step_00000006", SCORES, SIGNATURES, ScoreScope(1791, 1791, beam_size=5)),
            {
                "kind": "final",
                "checkpoint": "step_00000006",
                **SCORES,
                "signatures": SIGNATURES,
                "num_lines": 1791,
                "num_lines_in_set": 1791,
                "beam_size": 5,
            },
        ),
        (
            IncidentRecord("grün\u2028 \n"),
            {"kind": "incident", "text": "grün\u2028 \n"},
        ),
    ],
    ids=["start", "train", "valid", "final", "incident"],
)
def test_line_of_each_kind(record: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    metrics.write(record, step=7, timing={"elapsed_seconds": 0.1})
    (raw,) = metrics.path.read_bytes().split(b"\n")[:-1]
    line = json.loads(raw)
    assert line == {**expected, "step": 7, "timing": {"elapsed_seconds": 0.1}}
    assert list(line)[:2] == ["kind", "step"]
    assert list(line)[-1] == "timing"
    history = read_metrics_log(metrics.path)
    assert history.of_kind(record.kind) == [line]
    assert history.num_unreadable == 0


def test_non_finite_numbers_are_null(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    record = ValidationRecord(0, make_validation(math.nan), is_best=False)
    metrics.write(record, step=1, timing={})
    line = json.loads(metrics.path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert line["loss"] is None
    assert line["perplexity"] is None
    assert line["BLEU"] == SCORES["BLEU"]


def test_parse_metrics_counts_broken_lines() -> None:
    content = b'{"kind": "train", "step": 1}\nnot json\n[]\n{"kind": "train"}\n{"kind": "val'
    history = parse_metrics(content)
    assert history.lines == [{"kind": "train", "step": 1}]
    assert history.num_unreadable == 4


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("start", "num_parameters", "many"),
        ("start", "timing", {"unix_time": 1e18}),
        ("start", "environment", []),
        ("train", "step", True),
        ("train", "step", 1.5),
        ("train", "step", 10**30),
        ("train", "loss", "1.5"),
        ("train", "lr", [1]),
        ("train", "lr", 10**400),
        ("train", "epoch", None),
        ("train", "timing", 3),
        ("train", "timing", {"peak_memory": "1 GB"}),
        ("valid", "BLEU", {"score": 1}),
        ("valid", "loss", math.nan),
        ("valid", "signatures", {"BLEU": 4}),
        ("valid", "samples", [{"src": "a", "ref": "b"}]),
        ("valid", "samples", [{"src": "a", "ref": "b", "hyp": 3}]),
        ("valid", "is_best", "yes"),
        ("incident", "text", None),
    ],
)
def test_line_with_a_value_of_a_wrong_type_is_counted(kind: str, key: str, value: Any) -> None:
    good: dict[str, Any] = {"kind": kind, "step": 3, "timing": {}}
    if kind == "incident":
        good["text"] = "the disk was full"
    lines = [json.dumps(line) for line in (good, {**good, key: value})]
    history = parse_metrics("\n".join(lines).encode())
    assert history.lines == [good]
    assert history.num_unreadable == 1


def test_lines_that_were_written_are_readable(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    losses = {"loss": math.nan, "nll": 2.0, "kl": 0.5}
    records: list[Record] = [
        StartRecord(num_parameters=3, environment={"torch": "2"}),
        TrainRecord(1, losses, lr=1e-3, grad_norm=math.inf, tokens_seen=5, num_skipped=0),
        ValidationRecord(1, make_validation(math.nan), is_best=True),
        IncidentRecord("x\udcff: cannot write"),
    ]
    for record in records:
        metrics.write(record, step=1, timing={"elapsed_seconds": 1.5})
    history = read_metrics_log(metrics.path)
    assert history.num_unreadable == 0
    assert [line["kind"] for line in history.lines] == [record.kind for record in records]


def test_incident_that_is_cut_is_no_error(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    write_incident(metrics, 1, "the disk was full")
    with metrics.path.open("ab") as file:
        file.write(b'{"kind": "incident", "step": 2}\n{"kind": "incident", "step": 3, "te\n')
    assert metrics.incidents() == ["update 1: the disk was full"]


# Writing


def test_cut_back_drops_what_came_later(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    assert metrics.cut_back(0, step=0)
    metrics.clear()
    assert not metrics.path.exists()
    write_incident(metrics, 1, "ü")
    size = metrics.sync()
    content = metrics.path.read_bytes()
    assert size == len(content)
    write_incident(metrics, 2)
    assert metrics.cut_back(size, step=1)
    assert metrics.path.read_bytes() == content
    write_incident(metrics, 2)
    assert read_steps(metrics.path) == [1, 2]
    metrics.clear()
    assert metrics.path.read_bytes() == b""


@pytest.mark.parametrize(("cut", "steps"), [(1, [1, 1]), (30, [1, 1]), (0, [1, 1, 2])])
def test_cut_back_keeps_the_complete_lines_of_a_cut_file(
    tmp_path: Path, cut: int, steps: list[int]
) -> None:
    """The file had 200 bytes more at update 2."""
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 1, 2):
        write_incident(metrics, step)
    content = metrics.path.read_bytes()
    size = len(content) + 200
    metrics.path.write_bytes(content[: len(content) - cut])
    assert not metrics.cut_back(size, step=2)
    assert read_steps(metrics.path) == steps
    assert content.startswith(metrics.path.read_bytes())


def test_cut_back_of_a_changed_file_drops_later_updates(tmp_path: Path) -> None:
    """A line was removed from the middle, so the size at update 2 lies within a line."""
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        write_incident(metrics, step, "long enough")
    size = metrics.sync()
    write_incident(metrics, 3, "a later line")
    _, *others = metrics.path.read_bytes().splitlines(keepends=True)
    metrics.path.write_bytes(b"".join(others))
    assert not metrics.cut_back(size, step=2)
    assert read_steps(metrics.path) == [2]


def test_cut_back_of_a_missing_file_is_noticed(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    assert not metrics.cut_back(100, step=2)
    assert metrics.path.read_bytes() == b""


def test_sync_raises_disk_error_when_fsync_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    write_incident(metrics, 1)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskError, match=r"metrics\.jsonl: cannot write: Disk quota exceeded$"):
        metrics.sync()


def test_lines_wait_while_the_disk_is_full(full_disk: Path) -> None:
    metrics = MetricsLog(full_disk / "metrics.jsonl")
    write_incident(metrics, 1)
    filler = full_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1000)):
            pass
    for step in (2, 3):
        write_incident(metrics, step, "x" * 10_000)
        assert read_steps(metrics.path) == [1]
    with pytest.raises(DiskError, match=r"metrics\.jsonl: cannot write: No space left on device"):
        metrics.sync()
    filler.unlink()
    write_incident(metrics, 4)
    assert read_steps(metrics.path) == [1, 2, 3, 4]


def test_incidents_lists_incidents_only(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    assert metrics.incidents() == []
    metrics.write(StartRecord(1, {"x": '"kind": "incident"'}), step=0, timing={})
    write_incident(metrics, 1234, "the disk was full")
    assert metrics.incidents() == ["update 1,234: the disk was full"]


def test_null_in_the_timing_is_as_if_it_were_missing() -> None:
    lines = [
        {"kind": "train", "step": 1, "timing": None},
        {"kind": "train", "step": 2, "timing": {"elapsed_seconds": None, "peak_memory": 5}},
    ]
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    history = parse_metrics(content)
    assert [line["timing"] for line in history.train] == [{}, {"peak_memory": 5}]
