"""Check that the session in README.md is what scripts/quickstart printed; exit code 1 if it is not.

    scripts/quickstart 2>&1 | tee runs/quickstart.log
    python -m scripts.docs.check_session runs/quickstart.log [--readme README.md]

The session stands between `<!-- session -->` and `<!-- /session -->`. Its lines must appear in the
log in the same order. Two lines that follow each other in the session must follow each other in the
log; a line `...` stands for any number of lines. The log may have more lines before and after the
session.

Numbers, number formats (bf16), the width of spaces, blank lines, and the path `.venv/bin/` of a
command are ignored, because they depend on the machine or only matter to the eye.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SESSION = re.compile(r"<!-- session -->\n(.*?)<!-- /session -->", re.DOTALL)
GAP = "..."
NUMBER_FORMAT = re.compile(r"\b(?:fp32|fp16|bf16)\b")
NUMBER = re.compile(r"\d[\d.,:]*\d|\d")
EXPONENT = re.compile(r"(?<=#)e[+-]?#")


def normalize(line: str) -> str:
    """Return the line without what may differ between two machines."""
    line = line.replace(".venv/bin/", "")
    line = NUMBER_FORMAT.sub("FORMAT", line)
    line = NUMBER.sub("#", line)
    line = EXPONENT.sub("", line)
    return " ".join(line.split())


def normalized_lines(text: str) -> list[str]:
    """Return the lines of a text, normalized, without blank ones."""
    lines = [normalize(line) for line in text.splitlines()]
    return [line for line in lines if line]


def read_session(readme: str) -> str:
    """Return the text between the session's markers, without the fence of its code block."""
    sessions = SESSION.findall(readme)
    if len(sessions) != 1:
        raise ValueError(f"wanted one <!-- session --> block, found {len(sessions)}")
    lines = [line for line in sessions[0].splitlines() if not line.startswith("```")]
    return "\n".join(lines)


def split_at_gaps(lines: list[str]) -> list[list[str]]:
    """Cut the session at its `...` lines into blocks of lines that follow each other."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line == GAP:
            blocks.append([])
        else:
            blocks[-1].append(line)
    return [block for block in blocks if block]


def find_block(block: list[str], log: list[str], *, start: int) -> int | None:
    """Return the first index, not before `start`, where the whole block stands in the log."""
    for index in range(start, len(log) - len(block) + 1):
        if log[index : index + len(block)] == block:
            return index
    return None


def longest_prefix(block: list[str], log: list[str], *, start: int) -> int:
    """Return how many of the block's first lines stand together in the log after `start`."""
    longest = 0
    for index in range(start, len(log)):
        length = 0
        while (
            length < len(block)
            and index + length < len(log)
            and log[index + length] == block[length]
        ):
            length += 1
        longest = max(longest, length)
    return longest


def find_difference(session: str, log: str) -> str | None:
    """Return what the log lacks of the session, in words; None if it has everything.

    The earliest place is taken for each block, which leaves the most room for the blocks after it:
    if this choice fails, every other one does.
    """
    log_lines = normalized_lines(log)
    blocks = split_at_gaps(normalized_lines(session))
    if not blocks:
        return "the session is empty"
    start = 0
    for block in blocks:
        index = find_block(block, log_lines, start=start)
        if index is None:
            missing = block[longest_prefix(block, log_lines, start=start)]
            return f"the log does not have this line of the session in its place: {missing}"
        start = index + len(block)
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path, help="what scripts/quickstart printed")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args(arguments)

    try:
        session = read_session(options.readme.read_text(encoding="utf-8"))
    except ValueError as error:
        print(f"check_session: {options.readme}: {error}", file=sys.stderr)
        return 1
    difference = find_difference(session, options.log.read_text(encoding="utf-8"))
    if difference is not None:
        print(
            f"check_session: {options.readme} and {options.log} differ: {difference}\n"
            "(numbers are shown as #; if runs/toy was trained before, remove it and run "
            "scripts/quickstart again)",
            file=sys.stderr,
        )
        return 1
    print(f"The session in {options.readme} is what scripts/quickstart printed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
