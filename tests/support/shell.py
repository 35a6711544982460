"""The command line for tests: in this process, which is fast, or in a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mt.cli.app import main


class Ended(NamedTuple):
    """The result of a command: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def mt(*arguments: str | Path, stdin: str | bytes = b"") -> Ended:
    """Run `mt` as the shell would, but in this process, which has already imported PyTorch."""
    content = stdin.encode() if isinstance(stdin, str) else stdin
    out = io.BytesIO()
    err = io.BytesIO()
    stdin_stream = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    stdout_stream = io.TextIOWrapper(out, encoding="utf-8")
    stderr_stream = io.TextIOWrapper(err, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mt", *map(str, arguments)])
        patch.setattr(sys, "stdin", stdin_stream)
        patch.setattr(sys, "stdout", stdout_stream)
        patch.setattr(sys, "stderr", stderr_stream)
        code = exit_code_of_main()
    stdout_stream.flush()
    stderr_stream.flush()
    return Ended(code, out.getvalue().decode(), err.getvalue().decode())


def exit_code_of_main() -> int:
    try:
        main()
    except SystemExit as exit_:
        if isinstance(exit_.code, int):
            return exit_.code
        return 0 if exit_.code is None else 1
    return 0


def in_process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m` with these arguments in a process of its own, which has to succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, **options
    )
