"""The limit on skipped tests, tried on a small project that uses the same conftest.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent / "conftest.py"
SOME_SKIPS = """
import pytest

def test_skipped():
    pytest.skip("a reason of its own")

@pytest.mark.skip(reason="another reason")
def test_skipped_as_well():
    pass

@pytest.mark.gpu
@pytest.mark.skip(reason="GPU tests do not count")
def test_on_gpu():
    pass

def test_passes():
    pass
"""
SKIPPED_FILE = """
import pytest

pytest.skip("needs another package", allow_module_level=True)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\ntestpaths = ["tests"]\nmarkers = ["gpu: needs a GPU"]\n',
        encoding="utf-8",
    )
    (tmp_path / "tests").mkdir()
    shutil.copy(CONFTEST, tmp_path / "tests")
    (tmp_path / "tests/test_some_skips.py").write_text(SOME_SKIPS, encoding="utf-8")
    (tmp_path / "tests/test_skipped_file.py").write_text(SKIPPED_FILE, encoding="utf-8")
    return tmp_path


def run_pytest(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    for name in list(environment):
        if name.startswith("PYTEST_XDIST"):  # set when this test runs in a worker of pytest-xdist
            del environment[name]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_more_skips_than_allowed_fail_the_run(project: Path) -> None:
    ended = run_pytest(project, "--max-skips=2", "--numprocesses=2")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "3 tests were skipped; --max-skips allows 2" in ended.stdout
    assert "a reason of its own" in ended.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-skips=3"],
        ["--max-skips=0", "tests/test_some_skips.py"],
        ["--max-skips=0", "-k", "skipped or passes or gpu"],
    ],
    ids=["as many as allowed", "a path given", "a selection given"],
)
def test_allowed_skips_do_not_fail_the_run(project: Path, arguments: list[str]) -> None:
    ended = run_pytest(project, *arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " skipped" in ended.stdout
