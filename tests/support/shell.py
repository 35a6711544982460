"""The command line as tests use it: quickly in this process, or in one of its own."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from runs import one_thread

from mt.cli.app import main


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def mt(*arguments: str | Path, stdin: str | bytes = b"") -> Ended:
    """Run the command as the shell would, but in this process, which has imported torch already."""
    content = stdin.encode() if isinstance(stdin, str) else stdin
    streams = {
        name: io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for name in ("stdout", "stderr")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mt", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        logger = logging.getLogger("mt")
        patch.setattr(logger, "handlers", logger.handlers)
        patch.setattr(logger, "level", logger.level)
        patch.setattr(logger, "propagate", logger.propagate)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    for stream in streams.values():
        stream.flush()
    return Ended(code, *(stream.buffer.getvalue().decode() for stream in streams.values()))  # type: ignore[attr-defined]


def output_lines(ended: Ended) -> list[str]:
    """Return the lines of stdout, split at newlines only. The command must have succeeded."""
    assert ended.code == 0, ended.err
    assert ended.out.endswith("\n") or not ended.out
    return ended.out.split("\n")[:-1]


def assert_fails(ended: Ended, *contents: str) -> None:
    """Check that a command printed nothing but one line of error, which has the given contents."""
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith("mt: ")
    assert ended.err.endswith("\n")
    assert ended.err.count("\n") == 1
    for content in contents:
        assert content in ended.err


def in_process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own; it has to succeed."""
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=one_thread(), **options
    )
