"""What the README says holds: its tables are those of the code, and its commands and programs run as they stand."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mt.cli.app import app
from mt.config.load import dump_config, load_config
from mt.training.run import FREE_KEYS
from scripts.docs import config_table

TOP = Path(__file__).resolve().parent.parent

README = (TOP / "README.md").read_text(encoding="utf-8")

# What fetches, installs or checks: tests/test_scripts.py and .ci/run see to it.
EXEMPT = ("scripts/", "python3 -m venv", ".venv/bin/pip", "source .venv")

# A model that is trained in a second, and soon out of words.
TINY = [
    "tokenizer.vocab_size=500",
    "model.d_model=16",
    "model.d_ff=16",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
    "train.warmup_steps=2",
    "train.max_steps=4",
    "search.max_length_factor=1",
    "search.max_length_offset=2",
]
NUM_LINES = {"train": 600}  # of other sets, 8


def marked(name: str) -> str:
    """The text between `<!-- name -->` and `<!-- /name -->`."""
    found = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, re.DOTALL)
    assert len(found) == 1, name
    return found[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def readme_commands() -> list[str]:
    """The commands of the bash blocks and of the session, each once; one may go on after `|` or a backslash."""
    lines = [line for block in blocks("bash") for line in re.split(r"(?<![|\\])\n", block)]
    lines += [
        line.removeprefix("$ ") for line in marked("session").splitlines() if line.startswith("$ ")
    ]
    return [line for line in dict.fromkeys(lines) if line and not line.startswith(EXEMPT)]


def run(command: str, cwd: Path) -> str:
    """What a command prints: in this process, which has torch already, unless it takes a shell and our programs."""
    if command.startswith("mt ") and not set(command) & set("|<>&;$*#"):
        with contextlib.chdir(cwd):
            result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, f"$ {command}\n{result.output}{result.exception}"
        return result.stdout
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=cwd,
        env=os.environ
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README thinks of it, all of it small: toy data, one's own data, configs, and a trained run."""
    top = tmp_path_factory.mktemp("workspace")
    (top / "configs").mkdir()
    (top / "data/toy").mkdir(parents=True)
    for source in (TOP / "data/toy").glob("*.[de][en]"):
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        (top / "data/toy" / source.name).write_text(
            "".join(lines[: NUM_LINES.get(source.stem, 8)]), encoding="utf-8"
        )
    for lang in ("en", "de"):
        shutil.copy(top / f"data/toy/train.{lang}", top / f"corpus.{lang}")
        shutil.copy(top / f"data/toy/valid.{lang}", top)
    (mine,) = blocks("yaml")
    (top / "mine.yaml").write_text(mine, encoding="utf-8")
    shutil.copy(TOP / "configs/toy.yaml", top / "configs")
    with contextlib.chdir(top):  # paths are read as relative to here
        for config in (Path("mine.yaml"), Path("configs/toy.yaml")):
            config.write_text(dump_config(load_config(config, TINY)), encoding="utf-8")
    run("mt train --config configs/toy.yaml", top)
    return top


def test_the_table_of_keys_is_that_of_the_code() -> None:
    assert marked("keys").splitlines() == list(config_table.table()), (
        "paste what python -m scripts.docs.config_table prints"
    )


def test_the_keys_that_may_change_when_a_run_goes_on_are_those_of_the_code() -> None:
    (listed,) = re.findall(r"<!-- free -->(.*?)<!-- /free -->", README, re.DOTALL)
    assert sorted(re.findall(r"`(.+?)`", listed)) == sorted(FREE_KEYS)


def test_the_session_is_a_real_one() -> None:
    lines = [line for line in marked("session").splitlines() if not line.startswith("```")]
    assert lines[0] == "$ mt train --config configs/toy.yaml"
    assert any(line.startswith("Die alte Frau sieht ") for line in lines)


def test_the_tree_names_each_module_once_and_says_what_it_is_for() -> None:
    named = [
        line.split(maxsplit=1) for line in marked("tree").splitlines() if not line.startswith("```")
    ]
    modules = [path for path in (TOP / "mt").rglob("[!_]*.py") if path.stat().st_size]
    assert sorted(words[0] for words in named) == sorted(
        str(path.relative_to(TOP)) for path in modules
    )
    assert [words for words in named if len(words) < 2] == []


def test_every_command_is_shown() -> None:
    shown = {words for command in readme_commands() for words in re.findall(r"\bmt (\w+)", command)}
    assert shown == {
        "align", "attention", "check", "evaluate", "export", "report", "tokenizer", "train", "translate",
    }  # fmt: skip


def test_the_commands_work_as_they_stand(workspace: Path) -> None:
    for command in readme_commands():
        run(command, workspace)


def test_the_python_works(workspace: Path) -> None:
    run("mt export runs/toy --to ctranslate2 toy.ct2", workspace)
    for program in blocks("python"):
        assert run(f"python -c {shlex.quote(program)}", workspace).count("\n") == program.count(
            "print("
        )
