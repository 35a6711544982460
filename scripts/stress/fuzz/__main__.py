#!/usr/bin/env python3
"""Try bad input on mt's commands: each ends in success or in one clear line, and nothing that was read is executed.

    python -m scripts.stress.fuzz                                       # 1,000 bad inputs of each kind
    python -m scripts.stress.fuzz --kind config --start 17 --count 1    # one of them again

Each runs the real command in a process of its own, forked from one that has imported torch already, in a directory of
its own, with a limit on time and on memory. It fails by a traceback, by another number of error lines than one, by a
hang, by being killed, by asking for absurd amounts of memory, by leaving half a file, or by executing what it read.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from scripts.stress.fuzz.bad_input import (
    CANARY,
    Case,
    Good,
    as_yaml,
    good_config,
    good_texts,
    read_good,
)
from scripts.stress.fuzz.bad_models import checkpoint_case, tokenizer_case
from scripts.stress.fuzz.bad_text import config_case, corpus_case, translate_case

ATTENTION_KINDS: dict[str, Callable[[Random, Good], Case]] = {
    "config": config_case,
    "corpus": corpus_case,
    "tokenizer": tokenizer_case,
    "checkpoint": checkpoint_case,
    "translate": translate_case,
}

# Who answered, told by the line or else by the kind of error. The first four answer before anything is understood.
UNREAD = ("command line", "files", "checksum", "parser")
LINES = {
    "checksum": r"its checksum|SHA256SUMS",
    "files": r"no such|cannot read|cannot be read as|Errno|no config\.yaml|no \w+ checkpoint yet|cannot write",
    "parser": r"not YAML|not UTF-8|is empty|(is|are) damaged|damaged: |plain values|half a character|in each other|"
    r"given twice|a list or a section|at most [\d,]+ bytes|not a SentencePiece|not readable|KEY=VALUE|sections such as",
}
CLASSES = {
    **{
        "ConfigError": "schema",
        "DataError": "text rules",
        "TokenizerError": "tokenizer rules",
        "DeviceError": "device",
    },
    **{
        "CheckpointError": "checkpoint rules",
        "RunDirError": "run rules",
        "TrainingError": "training",
    },
}
# What is said before the last line while all is well.
PROGRESS = re.compile(
    r"(tokenizer|train|valid|next|warning): |(step|valid) |    (src|ref|hyp)|  (echo|mt) |mt: line \d|\S+: |max_|$"
)


class Limits(NamedTuple):
    """What a case may use beyond what its parent has."""

    cpu_seconds: int = 30
    wall_seconds: int = 300  # for what waits without computing, on a busy machine
    memory: int = 1 << 30  # bytes of address space
    file_size: int = 1 << 28  # bytes of any file written


class Ended(NamedTuple):
    """What a case left behind."""

    code: int  # negative: the signal that killed it
    out: bytes
    err: str
    error: str  # the class of the exception, if one ended it
    leftovers: list[str]
    cpu_seconds: float
    memory: int  # bytes, at most, in RAM beyond the parent's


class Outcome(NamedTuple):
    """Who answered and with what line; or what went wrong."""

    layer: str
    line: str
    failure: str
    ended: Ended


def make_cases(kind: str, good: Good, *, seed: int, start: int, count: int) -> Iterator[Case]:
    """Cases `start` and on: each is a function of the kind, the seed and its number alone."""
    for number in range(start, start + count):
        yield ATTENTION_KINDS[kind](Random(f"{kind} {seed} {number}"), good)


def make_good(directory: Path) -> Good:
    """Train the smallest run in `directory`, in a process of its own."""
    case = Case(
        "",
        {**good_texts(), "good.yaml": as_yaml(good_config()).encode()},
        ["train", "--config", "good.yaml"],
    )
    _, status = os.waitpid(start_case(case, directory), 0)
    if status != 0:
        raise SystemExit(f"fuzz: the good run fails: {(directory / 'err').read_text()}")
    return read_good(directory / "here")


def try_all(
    cases: Iterable[Case], *, jobs: int = 1, limits: Limits = Limits()
) -> Iterator[tuple[Case, Outcome]]:
    """Run the cases, `jobs` at a time; each with its outcome, in their order."""
    running: deque[tuple[int, Case, Path]] = deque()
    with tempfile.TemporaryDirectory(prefix="mt-fuzz-") as directory:
        for number, case in enumerate(cases):
            place = Path(directory, str(number))
            place.mkdir()
            running.append((start_case(case, place, limits=limits), case, place))
            if len(running) == jobs:
                yield _finish(*running.popleft())
        while running:
            yield _finish(*running.popleft())


def start_case(case: Case, place: Path, *, limits: Limits = Limits()) -> int:  # noqa: B008
    """Start a case in a child process, whose number this is; it runs in `place`/here."""
    (place / "here").mkdir()
    for name, content in case.files.items():
        path = place / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (place / "in").write_bytes(case.stdin)
    # All that a child would wait for. The first is slow, and comes with torch's optimizers.
    import torch._dynamo  # noqa: F401

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Python dislikes to fork beside threads; none of ours holds a lock
        child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _child(case, place, limits)
        finally:
            os._exit(code)
    return child


def _child(case: Case, place: Path, limits: Limits) -> int:
    """Run the command as the shell would; its exit code."""
    os.chdir(place / "here")
    faulthandler.disable()
    for number, name in enumerate(("in", "out", "err")):
        os.dup2(os.open(place / name, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, errors="backslashreplace")
    warnings.simplefilter("default")  # a warning would be a line too many
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(limits.wall_seconds)
    size, in_ram = (
        int(pages) * resource.getpagesize()
        for pages in Path("/proc/self/statm").read_text().split()[:2]
    )
    (place / "memory").write_text(str(in_ram))
    memory = size + limits.memory
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_size, limits.file_size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = _call(case, place)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _call(case: Case, place: Path) -> int:
    """Call `mt`'s main, and end as Python would."""
    import torch

    from mt.cli import app as cli
    from mt.training import run as train

    torch.set_num_threads(1)
    if case.is_dry:
        train.train = lambda config: None  # type: ignore[assignment]
    app = cli.app

    def noting_app() -> None:
        try:
            app()
        except BaseException as error:
            (place / "error").write_text(type(error).__name__)
            raise

    cli.app = noting_app  # type: ignore[assignment]
    sys.argv = ["mt", *case.arguments]
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _finish(child: int, case: Case, place: Path) -> tuple[Case, Outcome]:
    """Wait for a case, judge what it left, and delete that."""
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    names = {str(path.relative_to(place / "here")) for path in (place / "here").rglob("*")}
    leftovers = sorted(
        name
        for name in names
        if name.endswith((".partial", CANARY)) or (name == case.output and code)
    )
    out, err, error = (
        (path.read_bytes() if path.exists() else b"")
        for path in map(place.joinpath, ("out", "err", "error"))
    )
    memory = usage.ru_maxrss * 1024 - int((place / "memory").read_text())
    seconds = usage.ru_utime + usage.ru_stime
    ended = Ended(
        code, out, err.decode(errors="replace"), error.decode(), leftovers, seconds, memory
    )
    shutil.rmtree(place)
    failure = _failure(case, ended)
    line = ended.err.removesuffix("\n").split("\n")[-1]
    return case, Outcome("FAILURE" if failure else _layer(ended, line), line, failure, ended)


def _failure(case: Case, ended: Ended) -> str:
    """What is wrong with how a case ended; nothing, if nothing is."""
    text = re.sub(
        r"(?:\n  [\w.]+: .* -> .*)+\n$", "\n", ended.err
    )  # which keys have changed: the one list there is
    *before, last = text.removesuffix("\n").split("\n")
    said = ended.err if len(ended.err) < 1500 else f"{ended.err[:300]} [...] {ended.err[-1200:]}"
    if any(name.endswith(CANARY) for name in ended.leftovers):
        return "executed what it read"
    if ended.code < 0:
        name = signal.Signals(-ended.code).name
        return "hangs" if name in ("SIGALRM", "SIGXCPU") else f"killed by {name}: {said!r}"
    if "Traceback" in ended.err:
        return f"traceback: {said!r}"
    if ended.leftovers:
        return f"leaves {', '.join(ended.leftovers)}"
    if ended.code == 0:
        if case.num_lines not in (None, ended.out.count(b"\n")):
            return f"{case.num_lines} lines in, {ended.out.count(10)} lines out"
        is_quiet = all(map(PROGRESS.match, [*before, last])) or case.arguments[0] == "train"
        return "" if is_quiet else f"success, and yet: {said!r}"
    if re.search("[^ -~\u00a0-\U0010ffff]", last):
        return f"control characters: {last!r}"
    if ended.code == 2:
        return "" if re.match(r"Error: |╰", last) else f"wrong usage, but no word of it: {said!r}"
    if ended.code != 1 or not last.startswith("mt: ") or not all(map(PROGRESS.match, before)):
        return f"exit code {ended.code}, and not one line: {said!r}"
    if any(line.startswith("mt: ") and not line.startswith("mt: line ") for line in before):
        return f"more than one line: {said!r}"
    if re.search("allocat|memory", last):
        return f"asks for absurd memory: {last!r}"
    return ""


def _layer(ended: Ended, line: str) -> str:
    if ended.code == 0:
        return "success"
    if ended.code == 2:
        return "command line"
    return next(
        (layer for layer, words in LINES.items() if re.search(words, line)),
        CLASSES.get(ended.error, "files"),
    )


def share_read(outcomes: list[Outcome]) -> float:
    """How many got past the parser."""
    return sum(outcome.layer not in (*UNREAD, "FAILURE") for outcome in outcomes) / len(outcomes)


def print_table(kind: str, outcomes: list[Outcome]) -> None:
    """Who answered how often, and what it cost at most."""
    counts = Counter(outcome.layer for outcome in outcomes)
    num_failures, share = counts["FAILURE"], share_read(outcomes)
    seconds, memory = (
        max(getattr(outcome.ended, cost) for outcome in outcomes)
        for cost in ("cpu_seconds", "memory")
    )
    print(
        f"{kind}: {len(outcomes):,} bad inputs, {share:.0%} past the parser, {num_failures} failures"
    )
    print(
        f"    at most {seconds:.1f} s of CPU, and {memory / 1e6:.0f} MB of RAM more than the parent has"
    )
    for layer, count in counts.most_common():
        print(f"    {count:5,}  {layer}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kind", choices=ATTENTION_KINDS, action="append", help="may be given again; default: all"
    )
    parser.add_argument("--count", type=int, default=1000, help="of each kind")
    parser.add_argument("--start", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--verbose", action="store_true", help="print what each case said")
    options = parser.parse_args()
    is_good = True
    with tempfile.TemporaryDirectory(prefix="mt-fuzz-good-") as directory:
        good = make_good(Path(directory))
    print(f"seed {options.seed}", flush=True)
    for kind in options.kind or ATTENTION_KINDS:
        outcomes: list[Outcome] = []
        cases = make_cases(kind, good, seed=options.seed, start=options.start, count=options.count)
        for number, (case, outcome) in enumerate(
            try_all(cases, jobs=options.jobs), start=options.start
        ):
            outcomes.append(outcome)
            if options.verbose or outcome.failure:
                again = f"--kind {kind} --seed {options.seed} --start {number} --count 1"
                answer = outcome.failure or outcome.line
                print(f"{again} | {case.how} | {outcome.layer} | {answer}", flush=True)
        print_table(kind, outcomes)
        is_good &= not any(outcome.failure for outcome in outcomes)
        is_good &= share_read(outcomes) >= 1 / 3 or options.count == 1
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
