"""Settings of the tests: one PyTorch thread, reasons to skip, and shared fixtures."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from mt.kernels.dispatch import use_reference

# What a machine may lack, and the reasons of tests that need it. A test that is skipped for another
# reason checks nothing on any machine, and nobody notices.
ALLOWED_SKIPS = [
    "needs Chromium",
    "needs Multi30k",
    "needs a CUDA device",
    "needs a machine without a GPU",
    "needs the corpus",
    "needs transformers",
    "needs the right to mount a small filesystem",
]
if sys.platform != "linux":
    ALLOWED_SKIPS += ["needs Linux", "needs the sha256sum command"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--check-skips",
        action="store_true",
        help="fail a run that skips a test for a reason that is not in tests/conftest.py",
    )


def pytest_configure() -> None:
    # A shell lets the programs that it starts in the background ignore SIGINT, which tests send.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Machines are shared and may be slow, so the time of one example says nothing.
    hypothesis.settings.register_profile("mt", deadline=None)
    hypothesis.settings.load_profile("mt")
    # One thread is fastest for small tensors, and gives the same bits as a subprocess with one
    # thread.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def unexpected_skips(config: pytest.Config) -> list[str]:
    """Return the tests and test files that --check-skips refuses, each with its reason.

    With pytest-xdist, the reports of all workers arrive in the main process, where the terminal
    reporter collects them.
    """
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    is_worker = hasattr(config, "workerinput")
    if is_worker or reporter is None or not config.option.check_skips:
        return []
    unexpected = []
    for report in reporter.stats.get("skipped", []):
        _, _, message = report.longrepr
        reason = message.removeprefix("Skipped: ")
        if not reason.startswith(tuple(ALLOWED_SKIPS)):
            unexpected.append(f"{report.nodeid}: {reason}")
    return unexpected


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and unexpected_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    unexpected = unexpected_skips(config)
    if not unexpected:
        return
    terminalreporter.section("tests skipped for reasons not in tests/conftest.py", red=True)
    for line in unexpected:
        terminalreporter.line(line)


@pytest.fixture(params=["auto", "reference"])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test with the kernels that a CPU takes, and with the references that a GPU takes."""
    if request.param == "auto":
        yield request.param
        return
    with use_reference():
        yield request.param


@pytest.fixture
def restore_logging() -> Iterator[None]:
    """Undo afterwards what a test does to the logger `mt`."""
    logger = logging.getLogger("mt")
    handlers = logger.handlers
    level = logger.level
    propagate = logger.propagate
    yield
    logger.handlers = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield the directory of a filesystem of 1 MiB that a test can fill; mounting it needs root."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount_point)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small filesystem")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", "--lazy", str(mount_point)], check=True)
