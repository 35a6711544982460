"""Judges how a command ended that was given bad input."""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

from scripts.stress.fuzz.bad_input import CANARY, Case

FAILURE = "FAILURE"

# The part of mt that reported an error ("layer") is recognized by its message, or else by the class
# of the error. The first four layers answer before the content of the input is understood.
UNREAD_LAYERS = ("command line", "files", "checksum", "parser")
LAYER_OF_MESSAGE = {
    "checksum": r"its checksum|SHA256SUMS",
    "files": (
        r"no such|cannot read|cannot be read as|Errno|no config\.yaml|no \w+ checkpoint yet"
        r"|cannot write"
    ),
    "parser": (
        r"not YAML|not UTF-8|is empty|(is|are) damaged|damaged: |plain values|half a character"
        r"|in each other|given twice|a list or a section|at most [\d,]+ bytes|not a SentencePiece"
        r"|not readable|KEY=VALUE|sections such as"
    ),
}
LAYER_OF_ERROR = {
    "ConfigError": "schema",
    "DataError": "text rules",
    "TokenizerError": "tokenizer rules",
    "DeviceError": "device",
    "PackageError": "packages",
    "CheckpointError": "checkpoint rules",
    "RunDirError": "run rules",
    "TrainingError": "training",
}

# Lines that may be printed before the last one.
PROGRESS = re.compile(
    r"(tokenizer|train|valid|next|warning): "
    r"|(step|valid) "
    r"|    (src|ref|hyp)"
    r"|  (echo|mt) "
    r"|mt: line \d"
    r"|\S+: "
    r"|max_"
    r"|$"
)
CHANGED_KEYS = re.compile(r"(?:\n  [\w.]+: .* -> .*)+\n$")  # the only list in an error message
CONTROL_CHARACTER = re.compile("[^ -~\u00a0-\U0010ffff]")


class Ended(NamedTuple):
    """What a case left behind."""

    code: int  # the exit code; negative: the signal that killed it
    out: bytes
    err: str
    error: str  # the class of the exception that ended it, if there was one
    leftovers: list[str]  # files that should not be there
    cpu_seconds: float
    memory: int  # the most bytes of RAM, beyond those of the parent process


class Outcome(NamedTuple):
    """The judgment on a case."""

    layer: str  # that answered, or FAILURE
    line: str  # the last line of stderr
    failure: str  # what is wrong, or nothing
    ended: Ended


def judge(case: Case, ended: Ended) -> Outcome:
    line = ended.err.removesuffix("\n").split("\n")[-1]
    failure = find_failure(case, ended)
    layer = FAILURE if failure else find_layer(ended, line)
    return Outcome(layer, line, failure, ended)


def find_failure(case: Case, ended: Ended) -> str:
    """Return what is wrong with how a case ended; nothing if all is well."""
    if any(name.endswith(CANARY) for name in ended.leftovers):
        return "executed what it read"
    if ended.code < 0:
        name = signal.Signals(-ended.code).name
        if name in ("SIGALRM", "SIGXCPU"):
            return "hangs"
        return f"killed by {name}: {shorten(ended.err)!r}"
    if "Traceback" in ended.err:
        return f"traceback: {shorten(ended.err)!r}"
    if ended.leftovers:
        return f"leaves {', '.join(ended.leftovers)}"

    text = CHANGED_KEYS.sub("\n", ended.err)
    lines = text.removesuffix("\n").split("\n")
    if ended.code == 0:
        return find_failure_of_success(case, ended, lines)
    if CONTROL_CHARACTER.search(lines[-1]):
        return f"control characters: {lines[-1]!r}"
    if ended.code == 2:
        return find_failure_of_usage_error(ended, lines)
    return find_failure_of_error(ended, lines)


def find_failure_of_success(case: Case, ended: Ended, lines: list[str]) -> str:
    num_lines = ended.out.count(b"\n")
    if case.num_lines is not None and case.num_lines != num_lines:
        return f"{case.num_lines} lines in, {num_lines} lines out"
    is_training = case.arguments[0] == "train"
    if not is_training and not all(PROGRESS.match(line) for line in lines):
        return f"success, but it prints: {shorten(ended.err)!r}"
    return ""


def find_failure_of_usage_error(ended: Ended, lines: list[str]) -> str:
    """Judge an error that the parser of the command line reported."""
    if not re.match(r"Error: |╰", lines[-1]):
        return f"exit code 2 without an error message: {shorten(ended.err)!r}"
    return ""


def find_failure_of_error(ended: Ended, lines: list[str]) -> str:
    """Judge an error that `mt` reported, which must be one line."""
    *before, last = lines
    is_one_line = last.startswith("mt: ") and all(PROGRESS.match(line) for line in before)
    if ended.code != 1 or not is_one_line:
        return f"exit code {ended.code}, and not one line: {shorten(ended.err)!r}"
    for line in before:
        if line.startswith("mt: ") and not line.startswith("mt: line "):
            return f"more than one line: {shorten(ended.err)!r}"
    if re.search("allocat|memory", last):
        return f"asks for absurd memory: {last!r}"
    return ""


def shorten(text: str) -> str:
    if len(text) < 1500:
        return text
    return f"{text[:300]} [...] {text[-1200:]}"


def find_layer(ended: Ended, line: str) -> str:
    """Return which part of mt answered."""
    if ended.code == 0:
        return "success"
    if ended.code == 2:
        return "command line"
    for layer, pattern in LAYER_OF_MESSAGE.items():
        if re.search(pattern, line):
            return layer
    return LAYER_OF_ERROR.get(ended.error, "files")


def fraction_past_parser(outcomes: list[Outcome]) -> float:
    """Return the fraction of cases with content that was understood, right or wrong."""
    num_past_parser = 0
    for outcome in outcomes:
        if outcome.layer not in (*UNREAD_LAYERS, FAILURE):
            num_past_parser += 1
    return num_past_parser / len(outcomes)
