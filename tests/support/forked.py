"""Processes forked from this one, which has imported PyTorch already: that takes three seconds."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import torch._dynamo  # noqa: F401  # optimizers import it where nothing else has

import mt.training.run  # noqa: F401
from mt.cli.app import main

NO_VARIABLES: Mapping[str, str] = {}


class ForkedProcess:
    """A process that calls a function, with the methods of a Popen that the tests need."""

    def __init__(self, function: Callable[[], None], *, output: Path) -> None:
        """Start the process. What it prints is appended to the file `output`."""
        self._output = output
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_call, args=(function, output))
        with warnings.catch_warnings():
            # Python warns about forking with threads, but none of our threads holds a lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, -N after the signal N, or None while the process runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process, and return its exit code."""
        self._process.join(timeout)
        code = self.returncode
        assert code is not None, f"the process still runs after {timeout} seconds"
        return code

    def output(self) -> str:
        """Return what the process has printed so far."""
        return self._output.read_text(encoding="utf-8")

    def kill(self) -> None:
        self._process.kill()


def _call(function: Callable[[], None], output: Path) -> None:
    """Call `function` with stdout and stderr in the file `output`."""
    gc.freeze()  # a collection would touch, and so copy, every object of the parent
    stream = output.open("a", encoding="utf-8", buffering=1)
    for number in (1, 2):
        os.dup2(stream.fileno(), number)
    sys.stdout = stream
    sys.stderr = stream
    function()


def run_mt(arguments: Sequence[str], *, variables: Mapping[str, str] = NO_VARIABLES) -> None:
    """Run the command `mt` with environment variables. It is for forked processes only."""
    os.environ.update(variables)
    sys.argv = ["mt", *arguments]
    main()


def fork_command(
    command: Sequence[str], *, stdin: int, stdout: BinaryIO, stderr: BinaryIO
) -> ForkedProcess:
    """Start a command `python -m mt ...` in a forked process. It stands for subprocess.Popen."""
    assert command[:3] == [sys.executable, "-m", "mt"]
    assert stdin == subprocess.DEVNULL
    assert stdout is stderr
    return ForkedProcess(partial(run_mt, command[3:]), output=Path(stdout.name))


# Stands for the module subprocess where `mt check --resume` starts its trainings.
forking_subprocess = SimpleNamespace(Popen=fork_command, DEVNULL=subprocess.DEVNULL)
