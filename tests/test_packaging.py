"""The installed package: found from every folder, typed, and with one version."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import mt

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def parent_of_clone(tmp_path: Path) -> Path:
    """Return a folder in which the clone is called `mt`, as `git clone` would have made it."""
    (tmp_path / "mt").symlink_to(ROOT, target_is_directory=True)
    return tmp_path


def run_python(folder: Path, *arguments: str) -> str:
    """Run the installed Python in `folder` and return what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_import_from_the_parent_folder_of_the_clone(parent_of_clone: Path) -> None:
    program = "from mt import Translator; print(Translator.__module__)"
    assert run_python(parent_of_clone, "-c", program) == "mt.decoding.translator\n"


def test_python_m_mt_from_the_parent_folder_of_the_clone(parent_of_clone: Path) -> None:
    assert run_python(parent_of_clone, "-m", "mt", "--version") == f"mt {mt.__version__}\n"


def test_installed_version_is_that_of_the_package() -> None:
    assert version("mt-from-two-files") == mt.__version__


def test_the_tests_have_the_packages_of_all_extras() -> None:
    """scripts/test installs the extra `test`, and the tests of an extra need its packages.

    Transformers is large. .ci/run installs it, and tests that need it are skipped elsewhere.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    large = extras.pop("transformers")
    for name, requirements in extras.items():
        missing = set(requirements) - set(extras["test"])
        assert not missing, f"the extra {name}"
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines}
    wanted = {requirement.partition(">=")[0] for requirement in (*extras["test"], *large)}
    assert wanted <= pinned


def test_wheel_has_all_files_of_the_package(tmp_path: Path) -> None:
    """`py.typed` and the templates of the HTML pages among them."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("mt/")}
    files = [path for path in (ROOT / "mt").rglob("*") if path.is_file()]
    package = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    assert packed == package
    assert "mt/py.typed" in packed
