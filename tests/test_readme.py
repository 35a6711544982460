"""The documents: their commands, programs and configs work, and what they name exists."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest
from forked import ForkedProcess, forking_subprocess
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

import mt
from mt.cli.app import app
from mt.config.json_schema import config_json_schema
from mt.config.keys import walk_keys
from mt.config.load import dump_config, load_config
from mt.config.schema import Config
from mt.config.yaml_file import read_config_file
from mt.preflight import kill_test
from mt.project import machine
from mt.training.resume_rules import CHANGEABLE_KEYS
from scripts.docs import config_table, settings_table

TOP = Path(__file__).resolve().parent.parent
PAGES = [
    *(TOP / name for name in ("README.md", "CONTRIBUTING.md", "RECORDS.md")),
    *sorted((TOP / "docs").glob("*.md")),
]
ALL_PAGES = [*PAGES, TOP / "CHANGELOG.md"]  # CHANGELOG.md also names what was removed

# Commands that download, install or check. tests/scripts and .ci/run run these.
NOT_RUN = ("git clone", "cd ", "scripts/", "python3 -m venv", ".venv/bin/pip", "source .venv")

# Overrides that make a model small enough to be trained in a second. It writes short nonsense.
TINY = [
    "tokenizer.vocab_size=500",
    "model.d_model=16",
    "model.d_ff=16",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
    "train.warmup_steps=2",
    "train.max_steps=4",
    "train.validate_every=2",
    "search.max_length_factor=1",
    "search.max_length_offset=2",
]
NUM_TRAIN_LINES = 600
NUM_OTHER_LINES = 8


def read(path: str | Path) -> str:
    return (TOP / path).read_text(encoding="utf-8")


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def text_between(path: str, name: str) -> str:
    """Return the text between `<!-- name -->` and `<!-- /name -->`, which is on the page once."""
    pattern = rf"<!-- {name} -->\n?(.*?)<!-- /{name} -->"
    (text,) = re.findall(pattern, read(path), re.DOTALL)
    return str(text)


def code_blocks(path: str | Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read(path), re.DOTALL | re.MULTILINE)


def commands_of(path: Path) -> list[str]:
    """Return the commands in a page's bash blocks. A line that ends in `|` or a backslash
    continues.
    """
    commands = []
    for block in code_blocks(path, "bash"):
        lines = re.split(r"(?<![|\\])\n", block)
        commands += [line for line in lines if line and not line.startswith(("#", *NOT_RUN))]
    return commands


def session_commands() -> list[str]:
    """Return the commands of the README's session."""
    lines = text_between("README.md", "session").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def all_commands() -> list[str]:
    """Return every command of the README and the documents once, the session's first."""
    commands = session_commands()
    for page in PAGES:
        commands += commands_of(page)
    return list(dict.fromkeys(commands))


def run(command: str, cwd: Path) -> str:
    """Run a command and return what it prints.

    `mt` runs in this process, which has imported torch already, with the input that a pipe or a
    file gives it. Everything else runs in a shell.
    """
    input_command, _, last_command = command.rpartition(" | ")
    mt_command, _, input_file = last_command.partition(" < ")
    needs_shell = bool(set(mt_command) & set("|<>&;$*#"))
    if not mt_command.startswith("mt ") or needs_shell:
        return run_in_shell(command, cwd)
    text = ""
    if input_command:
        text = run(input_command, cwd)
    elif input_file:
        text = (cwd / input_file).read_text(encoding="utf-8")
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(app, shlex.split(mt_command)[1:], input=text)
    assert result.exit_code == 0, f"$ {command}\n{result.output}{result.exception}"
    return result.stdout


def run_in_shell(command: str, cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=cwd,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
    return done.stdout


def make_tiny(config: Path) -> None:
    """Change a config, so that its model is trained in a second."""
    config.write_text(dump_config(load_config(config, TINY)), encoding="utf-8")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with what the documents assume, made small: data, configs and a trained
    run.
    """
    top = tmp_path_factory.mktemp("workspace")
    (top / "configs").mkdir()
    (top / "data/toy").mkdir(parents=True)
    for source in (TOP / "data/toy").glob("*.[de][en]"):
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        num_lines = NUM_TRAIN_LINES if source.stem == "train" else NUM_OTHER_LINES
        text = "".join(lines[:num_lines])
        (top / "data/toy" / source.name).write_text(text, encoding="utf-8")
    for lang in ("en", "de"):
        shutil.copy(top / f"data/toy/train.{lang}", top / f"corpus.{lang}")
        shutil.copy(top / f"data/toy/valid.{lang}", top / f"valid.{lang}")
        shutil.copy(top / f"data/toy/test.{lang}", top / f"test.{lang}")
    pairs = zip(*(read_lines(top / f"corpus.{lang}") for lang in ("en", "de")), strict=True)
    table = "".join(f"{src}\t{tgt}\tCC-BY\n" for src, tgt in pairs)
    (top / "swe.txt").write_text(table, encoding="utf-8")
    own_data_config = code_blocks("docs/recipes.md", "yaml")[0]
    (top / "mine.yaml").write_text(own_data_config, encoding="utf-8")
    shutil.copy(TOP / "configs/toy.yaml", top / "configs")
    with contextlib.chdir(top):  # paths in a config are relative to the current directory
        make_tiny(Path("mine.yaml"))
        make_tiny(Path("configs/toy.yaml"))
    run("mt train --config configs/toy.yaml", top)
    return top


def test_table_of_keys_is_that_of_the_code() -> None:
    table = text_between("docs/configuration.md", "keys").splitlines()
    assert table == list(config_table.table()), "run python -m scripts.docs.config_table --write"


def test_table_of_settings_is_that_of_the_code() -> None:
    table = text_between("docs/recipes.md", "settings").splitlines()
    command = "python -m scripts.docs.settings_table --write"
    assert table == list(settings_table.table()), f"run {command}"


def test_keys_that_may_change_on_resume_are_those_of_the_code() -> None:
    listed = re.findall(r"`(.+?)`", text_between("docs/reliability.md", "free"))
    assert sorted(listed) == sorted(CHANGEABLE_KEYS)


def test_keys_named_in_documents_exist() -> None:
    known = {key for key, _ in walk_keys(Config)}
    sections = "data|tokenizer|model|train|search"
    for page in PAGES:
        named = re.findall(rf"`(?:{sections})\.[a-z_.N0-9]+", read(page))
        keys = {re.sub(r"\.\d+\.", ".N.", name.removeprefix("`")) for name in named}
        groups = {"data.train", "data.valid", "data.test"}
        old = {"tokenizer.sampling", "train.max_tokens", "train.accumulate", "search.max_tokens"}
        files = {f"tokenizer.{end}" for end in ("model", "src.model", "tgt.model", "json")}
        if page.name == "configuration.md":  # the only page that explains the old names
            keys -= old
        assert not keys - known - groups - files, page.name


def test_config_examples_are_valid(tmp_path: Path) -> None:
    """They load, and an editor accepts them too. One without a required section is completed."""
    required = {
        "data": "{src_lang: en, tgt_lang: de, train: [{prefix: a}], valid: {name: v, prefix: b}}",
        "train": "{max_steps: 10000}",
    }
    validator = Draft202012Validator(config_json_schema())
    for page in PAGES:
        for example in code_blocks(page, "yaml"):
            for section, values in required.items():
                if not re.search(rf"^{section}:", example, re.MULTILINE):
                    example += f"{section}: {values}\n"
            path = tmp_path / "example.yaml"
            path.write_text(example, encoding="utf-8")
            load_config(path)
            validator.validate(json.loads(json.dumps(read_config_file(path).values)))


def test_session_shows_the_quickstarts_commands() -> None:
    """.ci/run compares the rest of the session with what the quickstart prints."""
    quickstart = read("scripts/quickstart")
    for command in session_commands():
        mt_command = command.rpartition("| ")[2].removeprefix("mt ")
        assert mt_command in quickstart, command


def test_architecture_names_each_module() -> None:
    named = re.findall(r"`(\w+(?:/\w+)?\.py)`", read("docs/architecture.md"))
    modules = [path for path in (TOP / "mt").rglob("[!_]*.py") if path.stat().st_size]
    existing = {path.relative_to(TOP / "mt").as_posix() for path in modules}
    assert {name for name in named if not name.startswith(("mt/", "tests/"))} == existing


def test_paths_and_scripts_named_in_documents_exist() -> None:
    for page in ALL_PAGES:
        text = read(page)
        paths = re.findall(r"`((?:mt|tests|scripts|configs)/[\w/.-]+)`", text)
        scripts = re.findall(r"python -m (scripts\.[\w.]+\w)", text)
        paths += [script.replace(".", "/") for script in scripts]
        for path in paths:
            exists = (TOP / path).exists() or (TOP / f"{path}.py").exists()
            assert exists or page.name == "log.md", (page.name, path)


def heading_anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    text_without_code = re.sub(r"^```.*?^```$", "", read(path), flags=re.DOTALL | re.MULTILINE)
    anchors = set()
    for heading in re.findall(r"^#+ (.+)$", text_without_code, re.MULTILINE):
        words = re.sub(r"[^\w -]", "", heading.lower())
        anchors.add(words.replace(" ", "-"))
    return anchors


def broken_links(page: Path) -> list[str]:
    """Return the links of a page to a file or a heading that does not exist."""
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", read(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in heading_anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "# A `code` heading: v1.0\n```bash\n# no heading\n```\n[x](page.md) [x](https://a.b#c)\n"
    text += "[x](#a-code-heading-v10) [x](page.md#a-code-heading-v10)\n"
    broken = ["#no-heading", "page.md#absent", "absent.md", "absent.md#x"]
    page.write_text(text + " ".join(f"[x]({link})" for link in broken), encoding="utf-8")
    assert broken_links(page) == broken


def test_every_command_is_in_readme_and_on_the_commands_page() -> None:
    existing = {str(group.name) for group in app.registered_groups}
    for command in app.registered_commands:
        assert command.callback is not None
        existing.add(command.name or command.callback.__name__)
    table_rows = re.findall(r"^\| `(\w+)` \| `mt (\w+) ", read("README.md"), re.MULTILINE)
    assert [name for name, _ in table_rows] == [example for _, example in table_rows]
    assert {name for name, _ in table_rows} == existing
    headings = re.findall(r"^## mt (\w+)$", read("docs/commands.md"), re.MULTILINE)
    commands = " ".join(commands_of(TOP / "docs/commands.md"))
    assert set(headings) == set(re.findall(r"\bmt (\w+)", commands)) == existing


def run_init(command: str, workspace: Path) -> None:
    """Run `mt init` and make the config tiny."""
    before = set(workspace.glob("*.yaml"))
    run(command, workspace)
    (config,) = set(workspace.glob("*.yaml")) - before
    with contextlib.chdir(workspace):
        make_tiny(config)


def run_server(command: str, workspace: Path) -> None:
    """Run `mt serve` on a free port until it has shown its page."""
    arguments = shlex.split(command)[1:]
    process = subprocess.Popen(
        [sys.executable, "-m", "mt", *arguments, "--host", "127.0.0.1", "--port", "0"],
        cwd=workspace,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        address = process.stderr.readline().partition(": ")[0]
        with urlopen(address) as page:
            assert b"<h1>Translate</h1>" in page.read()
        process.terminate()
        assert process.wait() == 0
    finally:
        process.kill()
        process.stderr.close()


def test_commands_run(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MIN_SECONDS", 0.1)
    monkeypatch.setattr(machine, "NUM_WARM_UP_UPDATES", 0)
    monkeypatch.setattr(machine, "MIN_TIMED_UPDATES", 1)
    monkeypatch.setattr(kill_test, "subprocess", forking_subprocess)
    for command in all_commands():
        if command.startswith("mt init "):
            run_init(command, workspace)
        elif command.startswith("mt serve "):
            run_server(command, workspace)
        else:
            run(command, workspace)


def test_python_page_names_what_is_public() -> None:
    page = read("docs/python.md")
    assert [name for name in mt.__all__ if name != "__version__" and f"mt.{name}" not in page] == []
    named = set(re.findall(r"\bmt\.(\w+)", page))
    assert named <= set(mt.__all__)


def test_python_programs_run(workspace: Path, tmp_path: Path) -> None:
    """Each in a process of its own, since some change mt."""
    run("mt export runs/toy --to ctranslate2 toy.ct2", workspace)
    printed = tmp_path / "printed"
    for page in PAGES:
        for program in code_blocks(page, "python"):
            start = partial(run_program, program, workspace, printed)
            process = ForkedProcess(start, output=tmp_path / "log")
            assert process.wait() == 0, process.output()
            num_lines = len(printed.read_text(encoding="utf-8").splitlines())
            assert num_lines == program.count("print("), page.name


def run_program(program: str, cwd: Path, printed: Path) -> None:
    """Run a program with its stdout in the file `printed`. It is for a process of its own."""
    os.chdir(cwd)
    with printed.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
