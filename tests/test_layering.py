"""The layout of the package: which module may import which, and where some names may be used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "mt").rglob("*.py"))

# A module or folder directly in mt/ is a layer. A layer imports only itself and layers above it in
# this list.
LAYERS = [
    "errors",
    "wording",
    "progress_bar",
    "device",
    "config",
    "distributed",
    "storage",
    "kernels",
    "data",
    "model",
    "decoding",
    "experiment",
    "evaluation",
    "training",
    "advice",
    "project",
    "preflight",
    "cleaning",
    "report",
    "export",
    "serve",
    "cli",
]
# These do not import each other, except that cleaning judges pairs as preflight does.
INDEPENDENT = {"preflight", "cleaning", "report", "export"}
USED_BY_CLEANING = {"preflight"}
ENTRY_POINTS = {"__init__": set(LAYERS), "__main__": {"cli"}}

# What computes knows no files: it imports torch, numpy and these modules of the standard library.
PURE_STANDARD_MODULES = {
    "__future__",
    "abc",
    "collections",
    "contextlib",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "math",
    "typing",
}
PURE_MODULES = {
    "kernels": PURE_STANDARD_MODULES | {"torch", "numpy", "mt"},
    "model": PURE_STANDARD_MODULES | {"torch", "numpy", "mt"},
    "decoding.search": PURE_STANDARD_MODULES | {"torch"},
}

BANNED_MODULE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "files"}


def allowed_layers(layer: str) -> set[str]:
    """Return the layers that `layer` may import, itself included."""
    if layer in ENTRY_POINTS:
        return ENTRY_POINTS[layer]
    above = set(LAYERS[: LAYERS.index(layer) + 1])
    if layer in INDEPENDENT:
        above -= INDEPENDENT - {layer}
    if layer == "cleaning":
        above |= USED_BY_CLEANING
    return above


def module_name(path: Path) -> str:
    """Return `data.corpus` for `mt/data/corpus.py`, and `data.__init__` for
    `mt/data/__init__.py`.
    """
    return ".".join(path.relative_to(ROOT / "mt").with_suffix("").parts)


def imported_names(tree: ast.AST, module: str) -> Iterator[str]:
    """Yield everything a module imports, with full names such as `mt.data.text.read_lines`."""
    package = ["mt", *module.split(".")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def layer_of(name: str) -> str:
    """Return the layer of an imported name of `mt`; names of the package itself are in
    `__init__`.
    """
    layer = [*name.split("."), ""][1]
    return layer if layer in LAYERS else "__init__"


def dotted_names(tree: ast.AST) -> Iterator[str]:
    """Yield every name used, attributes with their owner:
    `torch.nn.parallel.DistributedDataParallel`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def used_names(path: Path) -> set[str]:
    """Return every name that a module imports or uses."""
    tree = parse(path)
    return {*imported_names(tree, module_name(path)), *dotted_names(tree)}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def for_each_module(test: object) -> object:
    return pytest.mark.parametrize("path", MODULES, ids=module_name)(test)


@for_each_module
def test_imports_point_to_layers_above(path: Path) -> None:
    module = module_name(path)
    layer = module.split(".")[0]
    assert layer in {*LAYERS, *ENTRY_POINTS}, f"{module}: add its layer to LAYERS"
    ours = {name for name in imported_names(parse(path), module) if name.split(".")[0] == "mt"}
    allowed = allowed_layers(layer) | {"__init__"}
    wrong = sorted(name for name in ours if layer_of(name) not in allowed)
    assert not wrong, f"{module} may not import {wrong}"


@for_each_module
def test_computing_modules_know_no_files(path: Path) -> None:
    module = module_name(path)
    for pure, allowed in PURE_MODULES.items():
        if module == pure or module.startswith(f"{pure}."):
            tree = parse(path)
            roots = {name.split(".")[0] for name in imported_names(tree, module)}
            assert not roots - allowed, f"{module} may not import {sorted(roots - allowed)}"
            assert not {"open", "print", "input"} & set(dotted_names(tree)), f"{module} does I/O"


@for_each_module
def test_only_distributed_uses_process_groups(path: Path) -> None:
    module = module_name(path)
    if module == "distributed":
        return
    wrong = []
    for name in used_names(path):
        words = name.split(".")
        if {"DistributedDataParallel", "DDP"} & set(words):
            wrong.append(name)
        if words[0] == "torch" and "distributed" in words:
            wrong.append(name)
    assert not wrong, f"{module} uses {sorted(wrong)}, which is for distributed.py"


@for_each_module
def test_no_module_uses_autocast(path: Path) -> None:
    """The model casts explicitly instead: `Transformer.compute_dtype`."""
    wrong = [name for name in used_names(path) if "autocast" in name]
    assert not wrong, f"{module_name(path)} uses {sorted(wrong)}"


@for_each_module
def test_model_does_not_know_devices(path: Path) -> None:
    """`mt.kernels` chooses what runs on a CPU and on a GPU."""
    if module_name(path).startswith("model."):
        words = {word for name in dotted_names(parse(path)) for word in name.split(".")}
        assert not {"is_cpu", "is_cuda", "is_compiling", "requires_grad"} & words


@for_each_module
def test_module_names_say_what_is_inside(path: Path) -> None:
    assert not BANNED_MODULE_NAMES & set(module_name(path).split("."))


def test_importing_mt_does_not_import_torch() -> None:
    top_level = [
        node
        for node in parse(ROOT / "mt/__init__.py").body
        if not is_type_checking(node) and not isinstance(node, ast.FunctionDef)
    ]
    names = imported_names(ast.Module(top_level, []), "__init__")
    assert not [name for name in names if name.split(".")[0] in ("mt", "torch")]


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import mt.cli", {"mt.cli"}),
        ("from mt import config", {"mt.config"}),
        ("from mt.data.text import read_lines", {"mt.data.text.read_lines"}),
        ("from . import text", {"mt.data.text"}),
        ("from .text import read_lines", {"mt.data.text.read_lines"}),
        ("from ..config import schema", {"mt.config.schema"}),
        ("def late():\n    from .. import device", {"mt.device"}),
        ("from torch import distributed as dist", {"torch.distributed"}),
    ],
)
def test_imported_names_reads_every_form_of_import(source: str, names: set[str]) -> None:
    assert set(imported_names(ast.parse(source), "data.corpus")) == names


def test_dotted_names_reads_nested_names() -> None:
    source = "with torch.amp.autocast('cpu'): x = nn.parallel.DistributedDataParallel(model)"
    names = set(dotted_names(ast.parse(source)))
    assert {"torch.amp.autocast", "nn.parallel.DistributedDataParallel"} <= names
