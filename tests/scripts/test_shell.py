"""The shell scripts and .ci/run, with stand-ins for Python, pip and mt."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).resolve().parents[2]
SHELL_SCRIPTS = ["scripts/setup", "scripts/test", "scripts/check", "scripts/quickstart", ".ci/run"]


# The files of a clone


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_shell_script_parses_and_stops_at_the_first_error(name: str) -> None:
    subprocess.run(["bash", "-n", TOP / name], check=True)
    lines = (TOP / name).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert os.access(TOP / name, os.X_OK)


def test_constraints_pin_every_dependency_at_an_allowed_version() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    dependencies = [*project["dependencies"], *chain.from_iterable(extras)]
    requirements = [Requirement(line) for line in dependencies]

    lines = (TOP / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(name): version for name, version in pins}
    assert len(versions) == len(pins), "a package is pinned twice"

    for requirement in requirements:
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
        assert "+" not in version, f"{requirement.name}: a build tag fits one kind of machine only"


def test_git_ignores_generated_and_downloaded_files() -> None:
    ignored = (TOP / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".venv/", "data/multi30k/", "runs/"} <= set(ignored)


# A clone in which the scripts run with stand-ins

# Answers as python does, as far as setup needs it, and logs what pip and other modules are started
# with.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$1 ${2:-}" in
    "-c "*) exit "${FAKE_IS_OLD:-0}" ;;
    "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip")
        case "$4" in
            config) echo "${FAKE_PIP_CONFIG-global.index-url='file:///packages'}" ;;
            install)
                echo "$*" >>"$LOG"
                echo "Downloading packages"
                if [[ $* == *"${FAKE_PIP_FAILS:-nowhere}"* ]]; then exit 1; fi ;;
        esac ;;
    *) echo "python $*" >>"$LOG" ;;
esac
"""
FAKE_MT = """#!/usr/bin/env bash
echo "mt $*" >>"$LOG"
if [[ $1 == translate ]]; then sed 's/.*/Satz/'; fi
if [[ $1 == "${FAKE_MT_FAILS:-}" ]]; then exit 1; fi
"""
FAKE_UNAME = "#!/usr/bin/env bash\necho {}\n"
FAKE_NVIDIA_SMI = "#!/usr/bin/env bash\nexit {}\n"
INSTALL = "-m pip --disable-pip-version-check install -c constraints.txt -e {}"
INSTALL_CPU_TORCH = (
    "-m pip --disable-pip-version-check install -c constraints.txt --no-deps "
    "--index-url https://download.pytorch.org/whl/cpu torch"
)
CHECKS = ["python -m ruff format --check .", "python -m ruff check .", "python -m mypy"]
QUICKSTART = [
    "mt train configs/toy.yaml",
    "mt translate runs/toy",
    "mt translate runs/toy",
    "mt translate runs/toy",
    "mt evaluate runs/toy",
    "python -m scripts.toy.baselines runs/toy",
]
TESTS = "python -m pytest --numprocesses=auto --dist=worksteal --durations=10 -rs --check-skips"


class Clone:
    """A copy of the shell scripts in a folder with a space in its name, run from another folder."""

    def __init__(self, tmp_path: Path) -> None:
        self.top = tmp_path / "a clone"
        self.elsewhere = tmp_path / "else where"
        self.log = tmp_path / "log"
        for name in SHELL_SCRIPTS:
            (self.top / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, self.top / name)
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(TOP / name, self.top)
        self.elsewhere.mkdir()
        self.log.touch()
        self.python = self.add_program(tmp_path / "my python", FAKE_PYTHON)

    def add_program(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def add_fake_venv(self) -> None:
        self.add_program(self.top / ".venv/bin/mt", FAKE_MT)
        self.add_program(self.top / ".venv/bin/python", FAKE_PYTHON)

    def run(
        self, script: str, *arguments: str, **variables: str
    ) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """Run a script; return the finished process, and the log of the stand-ins."""
        self.log.write_text("", encoding="utf-8")
        environment = {
            **os.environ,
            "PYTHON": str(self.python),
            "LOG": str(self.log),
            **variables,
        }
        process = subprocess.run(
            [self.top / script, *arguments],
            cwd=self.elsewhere,
            env=environment,
            text=True,
            capture_output=True,
        )
        return process, self.log.read_text(encoding="utf-8").splitlines()

    def log_of(self, script: str, *arguments: str, **variables: str) -> list[str]:
        return self.run(script, *arguments, **variables)[1]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


# scripts/setup


def test_setup_installs_once_and_again_after_a_change(clone: Clone) -> None:
    assert clone.log_of("scripts/setup") == [INSTALL.format(".")]
    assert clone.log_of("scripts/setup") == []
    assert clone.log_of("scripts/setup", "test") == [INSTALL.format(".[test]")]
    assert clone.log_of("scripts/setup", "test") == []
    assert clone.log_of("scripts/setup") == [], "the installation with an extra serves this too"

    with (clone.top / "constraints.txt").open("a", encoding="utf-8") as file:
        file.write("# a change\n")
    assert clone.log_of("scripts/setup") == [INSTALL.format(".")]
    assert clone.log_of("scripts/setup", "test") == [INSTALL.format(".[test]")]


def test_setup_installs_again_in_a_moved_clone(clone: Clone) -> None:
    clone.log_of("scripts/setup", "test")
    clone.top = clone.top.rename(clone.top.with_name("moved clone"))
    assert clone.log_of("scripts/setup", "test") == [INSTALL.format(".[test]")]


def test_setup_prints_nothing_when_nothing_is_to_do(clone: Clone) -> None:
    clone.run("scripts/setup")
    process, _ = clone.run("scripts/setup")
    assert process.returncode == 0
    assert process.stdout == ""
    assert process.stderr == ""


def test_setup_repeats_a_failed_installation(clone: Clone) -> None:
    process, _ = clone.run("scripts/setup", FAKE_PIP_FAILS="install")
    assert process.returncode == 1
    assert clone.log_of("scripts/setup") == [INSTALL.format(".")]


@pytest.mark.parametrize("variables", [{"FAKE_IS_OLD": "1"}, {"PYTHON": "no-such-python"}])
def test_setup_refuses_an_old_or_missing_python(clone: Clone, variables: dict[str, str]) -> None:
    process, log = clone.run("scripts/setup", **variables)
    python = variables.get("PYTHON", str(clone.python))
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1
    for part in (f"setup: {python} is not Python 3.11 or newer", "PYTHON=python3.12"):
        assert part in process.stderr
    assert log == []
    assert not (clone.top / ".venv").exists()


class Machine(NamedTuple):
    """What `scripts/setup` asks a machine."""

    system: str = "Linux"
    nvidia_smi_code: int = 9
    has_device_file: bool = False
    pip_config: str = "global.timeout='60'"


def run_setup(
    clone: Clone, machine: Machine, **variables: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run `scripts/setup` as on another machine, whatever this one has."""
    programs = clone.top.parent / "programs"
    clone.add_program(programs / "uname", FAKE_UNAME.format(machine.system))
    clone.add_program(programs / "nvidia-smi", FAKE_NVIDIA_SMI.format(machine.nvidia_smi_code))
    script = clone.top / "scripts/setup"
    device_file = clone.top / "nvidia0"
    text = script.read_text(encoding="utf-8")
    assert "-e /dev/nvidia0 " in text
    script.write_text(text.replace("/dev/nvidia0", f"'{device_file}'"), encoding="utf-8")
    if machine.has_device_file:
        device_file.touch()
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return clone.run("scripts/setup", PATH=path, FAKE_PIP_CONFIG=machine.pip_config, **variables)


@pytest.mark.parametrize(
    ("machine", "size"),
    [
        (Machine(nvidia_smi_code=0), "several GB"),
        (Machine(has_device_file=True), "several GB"),
        (Machine(system="Darwin"), "200 MB"),
        (Machine(pip_config=":env:.index-url='file:///mirror'"), "200 MB, or several GB"),
        (Machine(pip_config="global.find-links='/wheels'"), "200 MB, or several GB"),
    ],
)
def test_setup_takes_the_usual_build_of_torch(clone: Clone, machine: Machine, size: str) -> None:
    process, log = run_setup(clone, machine)
    assert process.returncode == 0, process.stderr
    assert log == [INSTALL.format(".")]
    assert size in process.stderr


def test_setup_takes_the_cpu_build_of_torch_without_a_gpu(clone: Clone) -> None:
    process, log = run_setup(clone, Machine())
    assert process.returncode == 0, process.stderr
    assert log == [INSTALL_CPU_TORCH, INSTALL.format(".")]
    assert "300 MB" in process.stderr


def test_setup_says_when_the_cpu_build_of_torch_cannot_be_had(clone: Clone) -> None:
    process, log = run_setup(clone, Machine(), FAKE_PIP_FAILS="--index-url")
    assert process.returncode == 0, process.stderr
    assert log == [INSTALL_CPU_TORCH, INSTALL.format(".")]
    last_message = process.stderr.split("setup: ")[-1]
    assert "download.pytorch.org" in last_message
    assert "several GB" in last_message


def test_setup_shows_the_progress_of_pip(clone: Clone) -> None:
    """On stderr, because other scripts call setup and print their results."""
    process, (command,) = clone.run("scripts/setup")
    assert "--quiet" not in command
    assert "Downloading packages" in process.stderr
    assert process.stdout == ""


# scripts/test, scripts/check, scripts/quickstart and .ci/run


def test_test_script_passes_its_arguments_to_pytest(clone: Clone) -> None:
    _, *log = clone.log_of("scripts/test", "-k", "two words")
    assert log == [f"{TESTS} -k two words"]


def test_check_script_runs_ruff_and_mypy(clone: Clone) -> None:
    _, *log = clone.log_of("scripts/check")
    assert log == CHECKS


def test_quickstart_trains_translates_and_evaluates_with_mt_of_the_venv(
    clone: Clone, tmp_path: Path
) -> None:
    clone.add_fake_venv()
    other_mt = clone.add_program(
        tmp_path / "bin/mt", "#!/usr/bin/env bash\necho tape >>$LOG\nexit 1\n"
    )
    path = f"{other_mt.parent}{os.pathsep}{os.environ['PATH']}"
    process, (_, *log) = clone.run("scripts/quickstart", PATH=path)
    assert process.returncode == 0, process.stderr
    assert log == QUICKSTART
    shown = '$ echo "The old woman sees a small dog." | .venv/bin/mt translate runs/toy\nSatz\n'
    assert shown in process.stdout


def test_files_named_by_the_quickstart_exist() -> None:
    text = (TOP / "scripts/quickstart").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:configs|scripts|data)/[\w./-]+\w", text)) | {"README.md"}
    assert {"configs/toy.yaml", "scripts/setup", "scripts/recipes/get_data.py"} <= named
    for name in sorted(named):
        assert (TOP / name).exists(), name

    modules = re.findall(r"-m (scripts\.[\w.]+)", text)
    assert modules == ["scripts.toy.baselines"]
    for module in modules:
        assert (TOP / f"{module.replace('.', '/')}.py").exists(), module


def test_ci_checks_the_scores_and_the_session_of_the_quickstart(clone: Clone) -> None:
    clone.add_fake_venv()
    process, log = clone.run(".ci/run")
    assert process.returncode == 0, process.stderr
    after_quickstart = [
        "mt evaluate runs/toy --json",
        "python -m scripts.toy.check_quality",
        "python -m scripts.docs.check_session runs/quickstart.log",
    ]
    steps = [line for line in log if not line.startswith("-m pip")]
    # The two commands of a pipe start in any order.
    assert sorted(steps) == sorted([*CHECKS, *QUICKSTART, *after_quickstart, TESTS])
    assert steps[-2:] == [after_quickstart[-1], TESTS]
    saved = (clone.top / "runs/quickstart.log").read_text(encoding="utf-8")
    assert "$ .venv/bin/mt evaluate runs/toy\n" in saved


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_ci_stops_when_the_quickstart_fails(clone: Clone, command: str) -> None:
    clone.add_fake_venv()
    process, log = clone.run(".ci/run", FAKE_MT_FAILS=command)
    assert process.returncode != 0
    assert TESTS not in log
