"""Settings of the tests: one PyTorch thread, a limit on skipped tests, and shared fixtures."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from mt.kernels.dispatch import use_reference


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--max-skips",
        type=int,
        default=None,
        metavar="N",
        help="fail a run of the whole suite that skips more than N tests, GPU tests not counted",
    )


def pytest_configure() -> None:
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


# A test that is skipped on every machine checks nothing, and nobody notices. So a run of the whole
# suite fails when it skips more tests than expected. With pytest-xdist, the reports of all workers
# arrive in the main process, where the terminal reporter collects them. GPU tests are not counted:
# they are skipped on most machines.


def is_whole_suite(config: pytest.Config) -> bool:
    """Return whether pytest was started without paths and without a selection by -k or -m."""
    has_paths = config.args_source is pytest.Config.ArgsSource.ARGS
    return not (has_paths or config.option.keyword or config.option.markexpr)


def skipped_tests(config: pytest.Config) -> set[str]:
    """Return the ids of the skipped tests without GPU tests, and of skipped test files."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return set()
    nodes = set()
    for report in reporter.stats.get("skipped", []):
        keywords = getattr(report, "keywords", {})  # the report on a whole file has none
        if "gpu" not in keywords:
            nodes.add(report.nodeid)
    return nodes


def has_too_many_skips(config: pytest.Config) -> bool:
    is_worker = hasattr(config, "workerinput")
    max_skips = config.option.max_skips
    if is_worker or max_skips is None or not is_whole_suite(config):
        return False
    return len(skipped_tests(config)) > max_skips


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and has_too_many_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not has_too_many_skips(config):
        return
    terminalreporter.section("too many skipped tests", red=True)
    terminalreporter.line(
        f"{len(skipped_tests(config))} tests were skipped; "
        f"--max-skips allows {config.option.max_skips}. "
        "Their reasons are listed by -rs."
    )


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
