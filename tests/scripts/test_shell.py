"""The scripts start from nothing, do no work twice, and fetch only what they were told to expect."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.recipes import get_multi30k

TOP = Path(__file__).resolve().parents[2]
MULTI30K = TOP.parent / "shared/data/multi30k/raw"
SHELL_SCRIPTS = ["scripts/setup", "scripts/test", "scripts/check", "scripts/quickstart", ".ci/run"]


# ---- what a clone holds


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_a_shell_script_parses_runs_and_stops_at_the_first_error(name: str) -> None:
    subprocess.run(["bash", "-n", TOP / name], check=True)
    lines = (TOP / name).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert os.access(TOP / name, os.X_OK)


def test_constraints_pin_every_dependency_at_a_version_that_pyproject_allows() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        Requirement(line)
        for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]
    ]
    lines = (TOP / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(name): version for name, version in pins}
    assert len(versions) == len(pins)
    for requirement in wanted:
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
        assert "+" not in version, f"{requirement.name}: a build tag is for one kind of machine"


def test_git_ignores_what_is_made_or_fetched() -> None:
    assert {".venv/", "data/multi30k/", "runs/"} <= set(
        (TOP / ".gitignore").read_text(encoding="utf-8").splitlines()
    )


# ---- scripts/setup and those that call it, with stand-ins for Python, pip and mt

# Answers as python does, as far as setup asks; notes what pip and the other modules are asked to do.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$1 ${2:-}" in
    "-c "*) exit "${FAKE_IS_OLD:-0}" ;;
    "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip") if [[ $3 == install ]]; then echo "$*" >>"$LOG"; exit "${FAKE_PIP_FAILS:-0}"; fi ;;
    *) echo "python $*" >>"$LOG" ;;
esac
"""
FAKE_MT = """#!/usr/bin/env bash
echo "mt $*" >>"$LOG"
if [[ $1 == translate ]]; then sed 's/.*/Satz/'; fi
"""


class Clone:
    """A copy of the scripts in a folder with a space in its name, run from elsewhere."""

    def __init__(self, tmp_path: Path) -> None:
        self.top, self.elsewhere, self.log = (
            tmp_path / "a clone",
            tmp_path / "else where",
            tmp_path / "log",
        )
        for folder in (self.top / "scripts", self.elsewhere):
            folder.mkdir(parents=True)
        for name in SHELL_SCRIPTS[:-1]:
            shutil.copy2(TOP / name, self.top / name)
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(TOP / name, self.top)
        self.log.touch()
        self.python = self.add_program(tmp_path / "my python", FAKE_PYTHON)

    def add_program(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def run(
        self, *command: str, **variables: str
    ) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """The finished process, and what the stand-ins were asked to do meanwhile."""
        self.log.write_text("", encoding="utf-8")
        environment = os.environ | {"PYTHON": str(self.python), "LOG": str(self.log)} | variables
        script = str(self.top / "scripts" / command[0])
        done = subprocess.run(
            [script, *command[1:]],
            cwd=self.elsewhere,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )
        return done, self.log.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


INSTALL = "-m pip install --quiet --disable-pip-version-check -e {} -c constraints.txt"


def test_setup_installs_once_and_again_only_when_something_changed(clone: Clone) -> None:
    assert clone.run("setup")[1] == [INSTALL.format(".")]
    assert clone.run("setup")[1] == []
    assert clone.run("setup", "test")[1] == [INSTALL.format(".[test]")]
    assert clone.run("setup", "test")[1] == []
    assert clone.run("setup")[1] == []  # the extra's install serves it too
    with (clone.top / "constraints.txt").open("a", encoding="utf-8") as file:
        file.write("# a change\n")
    assert clone.run("setup")[1] == [INSTALL.format(".")]
    assert clone.run("setup", "test")[1] == [INSTALL.format(".[test]")]
    clone.top = clone.top.rename(clone.top.with_name("moved clone"))
    assert clone.run("setup", "test")[1] == [INSTALL.format(".[test]")]


def test_setup_says_nothing_when_nothing_is_to_do(clone: Clone) -> None:
    clone.run("setup")
    done, _ = clone.run("setup")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_failed_install_is_tried_again(clone: Clone) -> None:
    done, _ = clone.run("setup", FAKE_PIP_FAILS="1")
    assert done.returncode == 1
    assert clone.run("setup")[1] == [INSTALL.format(".")]


@pytest.mark.parametrize("variables", [{"FAKE_IS_OLD": "1"}, {"PYTHON": "no-such-python"}])
def test_an_old_or_missing_python_is_one_clear_line(
    clone: Clone, variables: dict[str, str]
) -> None:
    done, asked = clone.run("setup", **variables)
    python = variables.get("PYTHON", str(clone.python))
    wanted = f"setup: {python} is not Python 3.11 or newer: install one, or name it, as PYTHON=python3.12\n"
    assert (done.returncode, done.stdout, done.stderr, asked) == (1, "", wanted, [])
    assert not (clone.top / ".venv").exists()


def test_the_tests_get_their_arguments_and_the_check_runs_ruff_and_mypy(clone: Clone) -> None:
    options = "--numprocesses=auto --dist=loadfile --durations=10"
    assert clone.run("test", "-k", "two words")[1][1:] == [
        f"python -m pytest {options} -k two words"
    ]
    assert clone.run("check")[1] == [
        "python -m ruff format --check .",
        "python -m ruff check .",
        "python -m mypy",
    ]


def test_the_quickstart_trains_translates_and_evaluates_by_our_own_mt(
    clone: Clone, tmp_path: Path
) -> None:
    clone.add_program(clone.top / ".venv/bin/mt", FAKE_MT)
    clone.add_program(clone.top / ".venv/bin/python", FAKE_PYTHON)
    tape = clone.add_program(tmp_path / "bin/mt", "#!/usr/bin/env bash\necho tape >>$LOG\nexit 1\n")
    done, asked = clone.run("quickstart", PATH=f"{tape.parent}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert asked[1:] == [
        "mt train --config configs/toy.yaml",
        "mt translate runs/toy",
        "mt evaluate runs/toy",
        "python -m scripts.toy.baselines runs/toy",
    ]
    assert "The old woman sees a small dog.\n    Satz\n" in done.stdout


def test_the_quickstart_and_what_it_tells_to_try_name_files_that_are_there() -> None:
    text = (TOP / "scripts/quickstart").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:configs|scripts|data)/[\w./-]+\w", text)) | {"README.md"}
    assert {"configs/toy.yaml", "scripts/setup", "scripts/recipes/get_multi30k.py"} <= named
    assert [name for name in sorted(named) if not (TOP / name).exists()] == []


# ---- scripts/get_multi30k.py


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Two small files in place of the six."""
    texts = {"train.en": b"A dog.\n", "train.de": "Ein schöner Hund.\n".encode()}
    sums = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    monkeypatch.setattr(get_multi30k, "SHA256", sums)
    return texts


@pytest.fixture
def packed(texts: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "served here"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(text))
    return folder


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The packed files, served on this machine alone."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(QuietHandler, directory=str(packed))
    ) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def get(out: Path, *, origin: str | Path) -> int:
    return get_multi30k.main(["--from", str(origin), "--out", str(out)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_files_come_unpacked_from_a_server(
    texts: dict[str, bytes], url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(tmp_path / "out", origin=url) == 0
    assert contents(tmp_path / "out") == texts
    assert "non-commercial research and education" in capsys.readouterr().out


def test_files_come_from_a_folder_packed_or_not(
    texts: dict[str, bytes], packed: Path, tmp_path: Path
) -> None:
    assert get(tmp_path / "out", origin=packed) == 0
    assert get(tmp_path / "out again", origin=tmp_path / "out") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "out again") == texts


def test_right_files_are_left_alone_and_wrong_ones_fetched(
    texts: dict[str, bytes], url: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    get(out, origin=url)
    (out / "train.de").write_bytes(b"half a fi")
    before = (out / "train.en").stat().st_mtime_ns
    assert get(out, origin=url) == 0
    assert (out / "train.en").stat().st_mtime_ns == before
    assert contents(out) == texts
    assert get(out, origin="http://127.0.0.1:1") == 0  # nothing left to ask for


def test_a_wrong_checksum_leaves_no_file(
    texts: dict[str, bytes],
    packed: Path,
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (packed / "train.de.gz").write_bytes(gzip.compress(texts["train.de"] + b"!"))
    assert get(tmp_path / "out", origin=url) == 1
    assert set(contents(tmp_path / "out")) == {"train.en"}
    wanted = f"get_multi30k: {url}: train.de is not the file expected (its SHA-256 differs)\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (None, "HTTP Error 404: File not found"),
        (
            lambda data: data[:-9],
            "Compressed file ended before the end-of-stream marker was reached",
        ),
        (lambda _: b"<html>", "Not a gzipped file (b'<h')"),
    ],
    ids=["missing", "cut short", "a page"],
)
def test_what_a_server_may_do_wrong_is_one_line(
    damage, says: str, packed: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = packed / "train.en.gz"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    assert get(tmp_path / "out", origin=url) == 1
    assert capsys.readouterr().err == f"get_multi30k: {url}/train.en.gz: {says}\n"
    assert contents(tmp_path / "out") == {}


def test_no_network_is_one_line_that_tells_the_way_out(
    texts: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(
        get_multi30k, "ORIGINS", ("http://127.0.0.1:1/pinned", "http://127.0.0.1:1/other")
    )
    assert get_multi30k.main(["--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("get_multi30k: http://127.0.0.1:1/pinned/train.en.gz: ")
    assert said.endswith(
        "Connection refused (if you have the files already, name their folder by --from)\n"
    )


def test_a_second_origin_serves_when_the_first_does_not(
    texts: dict[str, bytes], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_multi30k, "ORIGINS", (f"{url}/a3d2e0d", url))
    assert get_multi30k.main(["--out", str(tmp_path / "out")]) == 0
    assert contents(tmp_path / "out") == texts


def test_a_folder_without_the_files_is_one_line(
    texts: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(tmp_path / "out", origin=tmp_path / "nowhere") == 1
    wanted = f"get_multi30k: {tmp_path}/nowhere/train.en: no such file, nor one with .gz\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.skipif(not MULTI30K.exists(), reason="no Multi30k beside this checkout")
def test_the_checksums_are_those_of_multi30k(tmp_path: Path) -> None:
    assert get(tmp_path, origin=MULTI30K) == 0
    num_lines = {name: text.count(b"\n") for name, text in contents(tmp_path).items()}
    sizes = {"train": 29_000, "val": 1_014, "test_2016_flickr": 1_000}
    assert num_lines == {
        f"{name}.{lang}": size for name, size in sizes.items() for lang in ("en", "de")
    }


# ---- stress


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_runs_that_are_killed_again_and_again_end_as_the_one_that_was_left_alone() -> None:
    """The short form of what RECORDS.md has in full."""
    command = [sys.executable, "-m", "scripts.stress.resume", "--kills", "8", "--forced", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TOP)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 kills over" in done.stdout
    assert done.stdout.count("#") >= 16, "each of the 8 kills is in two histograms"
    (counts,) = re.findall(r"(\d+) of (\d+) runs ended as the uninterrupted one", done.stdout)
    assert counts[0] == counts[1]


# ---- scripts/plot_speed.py


def test_a_run_is_drawn_and_told_in_sixths(tmp_path: Path) -> None:
    """An hour at a pace that doubles in its second half, and memory that grows once."""
    lines = [
        {
            "kind": "train",
            "timing": {
                "elapsed_seconds": 60 * minute,
                "tokens_per_second": speed,
                "peak_memory": memory,
            },
        }
        for minute in range(1, 61)
        for speed, memory in [(1000 if minute <= 30 else 2000, 1.5e9 if minute <= 10 else 2.25e9)]
    ]
    lines.insert(30, {"kind": "valid", "timing": {"elapsed_seconds": 1800}})
    run_dir, picture = tmp_path / "run", tmp_path / "speed.png"
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text(
        "".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8"
    )
    command = [
        sys.executable,
        "-m",
        "scripts.benchmarks.plot_speed",
        run_dir,
        "-o",
        picture,
        "--names",
        "mine",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TOP)
    assert done.stdout.splitlines() == [
        "mine",
        "  to minute  10.0:    1,000 tokens/s, 1.50 GB",
        "  to minute  20.0:    1,000 tokens/s, 2.25 GB",
        "  to minute  30.0:    1,000 tokens/s, 2.25 GB",
        "  to minute  40.0:    2,000 tokens/s, 2.25 GB",
        "  to minute  50.0:    2,000 tokens/s, 2.25 GB",
        "  to minute  60.0:    2,000 tokens/s, 2.25 GB",
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
