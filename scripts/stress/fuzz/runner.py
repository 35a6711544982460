"""Runs the real command with bad input, each case in a process and a directory of its own."""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from scripts.stress.fuzz.bad_input import (
    CANARY,
    Case,
    GoodInput,
    as_yaml,
    good_config,
    good_texts,
    read_good_input,
)
from scripts.stress.fuzz.outcome import Ended, Outcome, judge


class Limits(NamedTuple):
    """What a case may use, beyond what its parent process has."""

    cpu_seconds: int = 30
    wall_seconds: int = 300  # for a command that waits without computing, on a busy machine
    memory: int = 1 << 30  # bytes of address space
    file_size: int = 1 << 28  # bytes of any file written


DEFAULT_LIMITS = Limits()


class Workspace:
    """The files of one case: `here`, where the command runs, and what it reads and prints."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.here = directory / "here"
        self.stdin = directory / "in"
        self.stdout = directory / "out"
        self.stderr = directory / "err"
        self.error = directory / "error"  # the class of the exception that ended the command
        self.memory = directory / "memory"  # of the process before the command, in bytes

    def fill(self, case: Case) -> None:
        self.here.mkdir(parents=True)
        for name, content in case.files.items():
            path = self.here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.stdin.write_bytes(case.stdin)

    def file_names(self) -> list[str]:
        return [str(path.relative_to(self.here)) for path in sorted(self.here.rglob("*"))]


def make_good_input(directory: Path) -> GoodInput:
    """Train the smallest run in `directory`, in a process of its own."""
    files = {**good_texts(), "good.yaml": as_yaml(good_config()).encode()}
    case = Case("good input", files, ["train", "--config", "good.yaml"])
    workspace = Workspace(directory)
    process_id = start(case, workspace, limits=DEFAULT_LIMITS)
    _, status = os.waitpid(process_id, 0)
    if status != 0:
        raise SystemExit(f"fuzz: training with good input fails: {workspace.stderr.read_text()}")
    return read_good_input(workspace.here)


def run_all(
    cases: Iterable[Case], *, jobs: int = 1, limits: Limits = DEFAULT_LIMITS
) -> Iterator[tuple[Case, Outcome]]:
    """Run the cases, `jobs` at a time; yield each with its outcome, in their order."""
    running: deque[tuple[int, Case, Workspace]] = deque()
    with tempfile.TemporaryDirectory(prefix="mt-fuzz-") as directory:
        for number, case in enumerate(cases):
            workspace = Workspace(Path(directory, str(number)))
            process_id = start(case, workspace, limits=limits)
            running.append((process_id, case, workspace))
            if len(running) == jobs:
                yield finish(*running.popleft())
        while running:
            yield finish(*running.popleft())


def start(case: Case, workspace: Workspace, *, limits: Limits) -> int:
    """Fork a process that runs the case; return its id."""
    workspace.fill(case)
    import_what_cases_need()
    with warnings.catch_warnings():
        # Python warns about forking with threads, but none of our threads holds a lock.
        warnings.simplefilter("ignore")
        process_id = os.fork()
    if process_id == 0:
        run_forked(case, workspace, limits)
    return process_id


def import_what_cases_need() -> None:
    """Import in this process what each case would have to wait for in its own."""
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401
    import torch._dynamo  # noqa: F401  # the optimizers import it

    import mt.cli.app
    import mt.export.ctranslate2
    import mt.report.run_report
    import mt.training.run  # noqa: F401

    with suppress(ImportError):  # it is optional
        import ctranslate2.specs  # noqa: F401


def run_forked(case: Case, workspace: Workspace, limits: Limits) -> NoReturn:
    """Run the case in a forked process, and end that process, whatever happens."""
    code = 70
    gc.freeze()  # a collection would touch, and so copy, every object of the parent
    try:
        redirect_streams(workspace)
        set_limits(workspace, limits)
        code = call_main(case, workspace)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def redirect_streams(workspace: Workspace) -> None:
    os.chdir(workspace.here)
    faulthandler.disable()
    for number, path in enumerate((workspace.stdin, workspace.stdout, workspace.stderr)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, errors="backslashreplace")
    warnings.simplefilter("default")  # a warning on stderr counts as a line too many


def set_limits(workspace: Workspace, limits: Limits) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(limits.wall_seconds)

    page_size = resource.getpagesize()
    num_pages, num_pages_in_ram, *_ = Path("/proc/self/statm").read_text().split()
    workspace.memory.write_text(str(int(num_pages_in_ram) * page_size))
    max_memory = int(num_pages) * page_size + limits.memory
    resource.setrlimit(resource.RLIMIT_AS, (max_memory, max_memory))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_size, limits.file_size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def call_main(case: Case, workspace: Workspace) -> int:
    """Call the main function of `mt`; return the exit code that Python would end with."""
    import torch

    from mt.cli import app as cli
    from mt.training import run as training

    torch.set_num_threads(1)
    if case.skip_training:
        training.train = lambda config: None
    original_app = cli.app

    def app_that_notes_its_error() -> None:
        try:
            original_app()
        except BaseException as error:
            workspace.error.write_text(type(error).__name__)
            raise

    cli.app = app_that_notes_its_error
    sys.argv = ["mt", *case.arguments]
    try:
        cli.main()
    except SystemExit as exit_:
        if isinstance(exit_.code, int):
            return exit_.code
        return 0 if exit_.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def finish(process_id: int, case: Case, workspace: Workspace) -> tuple[Case, Outcome]:
    """Wait until a case ends, judge how it ended, and delete its files."""
    _, status, usage = os.wait4(process_id, 0)
    code = os.waitstatus_to_exitcode(status)
    leftovers = []
    for name in workspace.file_names():
        is_output_of_failure = name == case.output and code != 0
        if name.endswith((".partial", CANARY)) or is_output_of_failure:
            leftovers.append(name)
    ended = Ended(
        code=code,
        out=read_if_exists(workspace.stdout),
        err=read_if_exists(workspace.stderr).decode(errors="replace"),
        error=read_if_exists(workspace.error).decode(),
        leftovers=leftovers,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        memory=usage.ru_maxrss * 1024 - int(workspace.memory.read_text()),
    )
    shutil.rmtree(workspace.directory)
    return case, judge(case, ended)


def read_if_exists(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
