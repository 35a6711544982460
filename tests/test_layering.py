"""The plan of the house, held by reading the source: who may import whom, what is named where, how long things are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "mt").rglob("*.py"))

MAX_PACKAGE_LINES = 5000  # of code
MAX_MODULE_LINES = 330
MAX_FUNCTION_LINES = 60

# A layer is a module or a folder directly in mt/; inside a folder its modules may import each other.
FOUNDATION = {"errors", "configfile", "configkeys", "config", "runtime", "rundir", "disk", "checkpoint"}
STATIONS = {"data", "inspection", "model", "training", "decoding", "evaluation", "pages"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "configfile": {"errors"},
    "configkeys": {"errors", "configfile"},
    "config": {"errors", "configfile", "configkeys"},
    "runtime": {"errors"},
    "rundir": {"errors", "disk"},
    "disk": {"errors"},
    "checkpoint": {"errors", "disk"},
    "data": FOUNDATION,
    "inspection": {"errors", "data"},
    "model": FOUNDATION,
    "training": FOUNDATION | {"data", "model"},
    "decoding": FOUNDATION | {"data", "model"},
    "evaluation": {"errors"},
    "pages": {"errors"},
    "commands": FOUNDATION | STATIONS,
    "cli": {"__init__", "errors", "commands"},
    "__init__": {"config", "decoding", "commands"},  # inside functions only
    "process": {"cli"},
    "__main__": {"process"},
}

# What computes knows no files and no formats: torch, numpy, and the standard library's words for types and numbers.
PURE_WORDS = {"__future__", "abc", "collections", "dataclasses", "enum", "functools", "itertools", "math", "typing"}
PURE = {"model": PURE_WORDS | {"torch", "numpy", "mt"}, "decoding.search": PURE_WORDS | {"torch"}}


def module_name(path: Path) -> str:
    """`mt/data/corpus.py` is `data.corpus`, `mt/data/__init__.py` is `data.__init__`."""
    return ".".join(path.relative_to(ROOT / "mt").with_suffix("").parts)


def imported_names(tree: ast.AST, module: str) -> Iterator[str]:
    """All that is imported anywhere in a module, with full names: `mt.data.text.read_lines`."""
    package = ["mt", *module.split(".")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def layer_of(name: str) -> str:
    """The layer of `mt` that an imported name belongs to; the package's own names live in `__init__`."""
    layer = [*name.split("."), ""][1]
    return layer if layer in ALLOWED or (ROOT / "mt" / layer).with_suffix(".py").exists() else "__init__"


def dotted_names(tree: ast.AST) -> Iterator[str]:
    """Every name that is used, with what it is an attribute of: `torch.nn.parallel.DistributedDataParallel`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def concerns_one_module(test: object) -> object:
    return pytest.mark.parametrize("path", MODULES, ids=module_name)(test)


@concerns_one_module
def test_imports_go_down_only(path: Path) -> None:
    module = module_name(path)
    layer = module.split(".")[0]
    assert layer in ALLOWED, f"{module} has no place in the plan of the house"
    ours = {name for name in imported_names(parse(path), module) if name.split(".")[0] == "mt"}
    wrong = sorted(name for name in ours if layer_of(name) not in ALLOWED[layer] | {layer})
    assert not wrong, f"{module} may not import {wrong}"


@concerns_one_module
def test_what_computes_knows_no_files_and_no_formats(path: Path) -> None:
    module = module_name(path)
    for pure, words in PURE.items():
        if module == pure or module.startswith(f"{pure}."):
            names = set(imported_names(parse(path), module))
            strangers = sorted(name for name in names if name.split(".")[0] not in words)
            assert not strangers, f"{module} may not import {strangers}"
            assert not {"open", "print", "input"} & set(dotted_names(parse(path))), f"{module} talks to the world"


@concerns_one_module
def test_only_runtime_names_what_makes_many_processes_or_mixed_precision(path: Path) -> None:
    module, tree = module_name(path), parse(path)
    if module == "runtime":
        return
    names = {*imported_names(tree, module), *dotted_names(tree)}
    parts = {name: name.split(".") for name in names}
    wrong = [name for name, words in parts.items() if {"DistributedDataParallel", "DDP"} & {*words}]
    wrong += [name for name, words in parts.items() if words[0] == "torch" and {"distributed", "autocast"} & {*words}]
    assert not wrong, f"{module} names {sorted(wrong)}, which is for runtime.py alone"


@concerns_one_module
def test_modules_are_named_for_what_they_mean(path: Path) -> None:
    assert not {"utils", "util", "helpers", "helper", "common", "misc"} & {*module_name(path).split(".")}


@concerns_one_module
def test_a_module_can_be_read_at_one_sitting(path: Path) -> None:
    assert num_lines(path) < MAX_MODULE_LINES


@concerns_one_module
def test_a_function_fits_a_screen(path: Path) -> None:
    functions = [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in functions}
    assert not {name: length for name, length in lengths.items() if length >= MAX_FUNCTION_LINES}


def test_the_package_can_be_read_in_an_afternoon() -> None:
    assert sum(num_code_lines(path) for path in MODULES) < MAX_PACKAGE_LINES


def num_code_lines(path: Path) -> int:
    """Lines that are neither blank, nor comment, nor docstring: being well documented should cost nothing."""
    lines = path.read_text(encoding="utf-8").splitlines()
    documented = {
        number
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
        for number in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    numbered = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    return sum(bool(line) and not line.startswith("#") and number not in documented for number, line in numbered)


def test_the_package_imports_its_own_modules_only_when_asked() -> None:
    """`import mt`, and with it `mt --help`, must not wait for torch."""
    at_once = ast.Module([node for node in parse(ROOT / "mt/__init__.py").body if not is_type_checking(node)], [])
    outside_functions = ast.Module([node for node in at_once.body if not isinstance(node, ast.FunctionDef)], [])
    assert not [name for name in imported_names(outside_functions, "__init__") if name.split(".")[0] in ("mt", "torch")]


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def test_the_table_has_no_way_back() -> None:
    """Layers can be put in an order in which each imports earlier ones alone."""
    placed: set[str] = set()
    while ready := {layer for layer in ALLOWED if layer not in placed and ALLOWED[layer] - {"__init__"} <= placed}:
        placed |= ready
    assert placed == set(ALLOWED)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import mt.cli", {"mt.cli"}),
        ("from mt import config", {"mt.config"}),
        ("from mt.data.text import read_lines", {"mt.data.text.read_lines"}),
        ("from . import text", {"mt.data.text"}),
        ("from .text import read_lines", {"mt.data.text.read_lines"}),
        ("from ..config import Config", {"mt.config.Config"}),
        ("def late():\n    from .. import runtime", {"mt.runtime"}),
        ("from torch import distributed as dist", {"torch.distributed"}),
    ],
)
def test_the_reader_sees_every_form_of_import(source: str, names: set[str]) -> None:
    assert set(imported_names(ast.parse(source), "data.corpus")) == names


def test_the_reader_sees_names_however_deep() -> None:
    tree = ast.parse("with torch.amp.autocast('cpu'): x = wrap(nn.parallel.DistributedDataParallel(model))")
    assert {"torch.amp.autocast", "nn.parallel.DistributedDataParallel"} <= set(dotted_names(tree))
