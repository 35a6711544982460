"""The output of mt check: a report in columns, or one JSON object."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest

from mt.cli.check_output import as_text, print_findings, summary_line
from mt.preflight.file_checks import Finding

FINDINGS = [
    Finding("ok", "config", "", "toy.yaml: en to de"),
    Finding("error", "alignment", "train.de:7", "a line is missing", {"line": 7}),
    Finding("note", "alignment", "", "second of its topic"),
]


@pytest.mark.parametrize(
    ("levels", "line"),
    [
        (["ok", "note"], "ready"),
        (["warning", "ok", "ok", "warning"], "ready with 2 warnings: a"),
        (["ok", "warning"], "ready with 1 warning: b"),
        (["warning", "note", "warning"], "ready with 2 warnings: a, c"),
        (["warning", "error", "error"], "not ready: b: text b (and 1 more)"),
    ],
)
def test_summary_line(levels: list, line: str) -> None:
    findings = []
    for level, topic in zip(levels, "abca", strict=False):
        findings.append(Finding(level, topic, "", f"text {topic}"))
    assert summary_line(findings) == line


def test_place_is_written_below_the_text_in_its_shorter_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finding = Finding("error", "files", str(tmp_path / "a:1"), "word " * 40)
    lines = as_text(finding, with_topic=True).splitlines()
    assert lines[0].startswith("files        ERROR    word word")
    assert lines[-1] == " " * 22 + "a:1"
    assert max(len(line) for line in lines) <= 118


def test_report_names_each_topic_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_findings(FINDINGS, as_json=False) == 1
    assert capsys.readouterr().out.splitlines() == [
        "config       ok       toy.yaml: en to de",
        "alignment    ERROR    a line is missing",
        "                      train.de:7",
        "             note     second of its topic",
        "",
        "not ready: alignment: a line is missing",
    ]


def test_json_keys_are_stable(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_findings(FINDINGS, as_json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert list(answer) == ["verdict", "exit_code", "findings"]
    assert answer["verdict"] == "not ready: alignment: a line is missing"
    assert answer["exit_code"] == 1
    assert answer["findings"][1] == {
        "level": "error",
        "what": "alignment",
        "where": "train.de:7",
        "text": "a line is missing",
        "numbers": {"line": 7},
    }


def test_exit_code_is_0_without_errors(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("warning", "disk", "", "nearly full")]
    assert print_findings(findings, as_json=False) == 0
    assert print_findings(findings, as_json=True) == 0


@pytest.mark.parametrize("as_json", [True, False])
def test_file_name_that_is_not_utf_8_is_escaped(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    findings = [Finding("warning", "text", "x\udcff.de:7", "x\udcff.de has a blank line")]
    print_findings(findings, as_json=as_json)
    assert capsys.readouterr().out.count(r"x\udcff.de") == 2


def test_report_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("error", "text", "x\x1b[2J.de:7", "x\x1b[2J.de has a blank line")]
    print_findings(findings, as_json=False)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count(r"x\x1b[2J.de") == 3


def test_place_is_shown_without_a_current_directory(tmp_path: Path) -> None:
    deleted = tmp_path / "deleted"
    deleted.mkdir()
    with contextlib.chdir(tmp_path):
        os.chdir(deleted)
        deleted.rmdir()
        text = as_text(Finding("error", "text", "/data/train.de:7", "blank"), with_topic=True)
    assert text.endswith(" /data/train.de:7")
