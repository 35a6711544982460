"""Output formats of the command `mt check`."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from mt.cli.logs import escape_control_chars
from mt.cli.streams import StandardOutput, standard_output
from mt.preflight.file_checks import Finding
from mt.storage.run_dir import display_path
from mt.wording import count_of

# The text report, in columns: topic, level, text.
TOPIC_WIDTH = 12
LEVEL_WIDTH = 8
INDENT = TOPIC_WIDTH + 1 + LEVEL_WIDTH + 1
REPORT_WIDTH = 118


def print_findings(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print each finding as it comes and then a summary, or one JSON object in the end.

    Return the exit code: 1 if there is an error, else 0.
    """
    with standard_output() as file:
        if as_json:
            printed = list(findings)
            text = json.dumps(as_json_object(printed), ensure_ascii=False, indent=2)
        else:
            printed = _print_as_text(findings, file)
            text = f"\n{escape_control_chars(summary_line(printed))}"
        _write_line(file, text)
    return exit_code(printed)


def _print_as_text(findings: Iterable[Finding], file: StandardOutput) -> list[Finding]:
    """Print each finding as it comes, and return all of them."""
    printed: list[Finding] = []
    for finding in findings:
        repeats_topic = bool(printed) and printed[-1].topic == finding.topic
        _write_line(file, as_text(finding, with_topic=not repeats_topic))
        file.flush()
        printed.append(finding)
    return printed


def _write_line(file: StandardOutput, text: str) -> None:
    # A file name may have bytes that are not UTF-8.
    file.write(f"{text}\n".encode(errors="backslashreplace"))


def as_text(finding: Finding, *, with_topic: bool) -> str:
    """Format a finding as topic, level and text in columns, and its place on a line below.

    The place is relative if it is below the current directory.
    """
    topic = finding.topic if with_topic else ""
    level = "ERROR" if finding.level == "error" else finding.level
    lines = textwrap.wrap(
        finding.text, REPORT_WIDTH - INDENT, break_long_words=False, break_on_hyphens=False
    )
    if finding.place:
        lines.append(display_path(finding.place))
    head = f"{topic:<{TOPIC_WIDTH}} {level:<{LEVEL_WIDTH}} "
    return head + f"\n{' ' * INDENT}".join(escape_control_chars(line) for line in lines)


def as_json_object(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the object that `--json` prints. Programs read it: its keys never change."""
    return {
        "verdict": summary_line(findings),
        "exit_code": exit_code(findings),
        "findings": [
            {
                "level": finding.level,
                "what": finding.topic,
                "where": finding.place,
                "text": finding.text,
                "numbers": finding.numbers,
            }
            for finding in findings
        ],
    }


def summary_line(findings: Sequence[Finding]) -> str:
    """Return the result of all checks in one line."""
    errors = [finding for finding in findings if finding.level == "error"]
    warnings = [finding for finding in findings if finding.level == "warning"]
    if errors:
        line = f"not ready: {errors[0].topic}: {errors[0].text}"
        if len(errors) > 1:
            line += f" (and {len(errors) - 1:,} more)"
        return line
    if not warnings:
        return "ready"
    topics = ", ".join(dict.fromkeys(finding.topic for finding in warnings))
    return f"ready with {count_of(len(warnings), 'warning')}: {topics}"


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 1 if there is an error among the findings, else 0."""
    return int(any(finding.level == "error" for finding in findings))
