"""The check of skipped tests, tried on a small project that uses the same conftest.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent / "conftest.py"
SKIPS = """
import pytest

def test_expected():
    pytest.skip("needs Chromium")

@pytest.mark.skip(reason="needs the corpus books")
def test_expected_as_well():
    pass

@pytest.mark.gpu
def test_on_gpu():
    pass

def test_passes():
    pass
"""
UNEXPECTED_SKIP = """
import pytest

@pytest.mark.skip(reason="a reason of its own")
def test_unexpected():
    pass
"""
SKIPPED_FILE = """
import pytest

pytest.importorskip("a_package_that_is_missing")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\ntestpaths = ["tests"]\nmarkers = ["gpu: needs a GPU"]\n',
        encoding="utf-8",
    )
    (tmp_path / "tests").mkdir()
    shutil.copy(CONFTEST, tmp_path / "tests")
    (tmp_path / "tests/test_skips.py").write_text(SKIPS, encoding="utf-8")
    return tmp_path


def run_pytest(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    for name in list(environment):
        if name.startswith("PYTEST_XDIST"):  # set when this test runs in a worker of pytest-xdist
            del environment[name]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_unexpected_skips_fail_the_run(project: Path) -> None:
    (project / "tests/test_more.py").write_text(UNEXPECTED_SKIP, encoding="utf-8")
    (project / "tests/test_file.py").write_text(SKIPPED_FILE, encoding="utf-8")
    ended = run_pytest(project, "--check-skips", "--numprocesses=2")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    _, _, refused = ended.stdout.partition("tests skipped for reasons not in tests/conftest.py")
    assert "test_more.py::test_unexpected: a reason of its own" in refused
    assert "test_file.py: could not import 'a_package_that_is_missing'" in refused
    assert "test_skips.py" not in refused


def test_expected_skips_do_not_fail_the_run(project: Path) -> None:
    ended = run_pytest(project, "--check-skips")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "3 skipped" in ended.stdout
