"""The notebook: its cells run from top to bottom, on a corpus and a model that are made small."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from mt.config.load import dump_config, load_config

TOP = Path(__file__).resolve().parent.parent
NOTEBOOK = TOP / "docs/toy.ipynb"
SMALL = [
    "tokenizer.vocab_size=400",
    "model.d_model=16",
    "model.d_ff=32",
    "model.num_heads=2",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
    "train.warmup_steps=5",
    "train.max_steps=60",
    "train.validate_every=30",
    "train.log_every=10",
    "search.max_length_factor=1",
    "search.max_length_offset=2",
]
NUM_LINES = {"train": 400, "valid": 8}  # the test sets are not read


class FakeHTML:
    """Stands for the class of IPython, which the tests do not need."""

    def __init__(self, data: str) -> None:
        self.data = data


class Ran(NamedTuple):
    """What the cells left behind."""

    names: dict[str, Any]
    shown: list[Any]  # the value of the last line of each cell, where it is an expression
    printed: str


def read_notebook() -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return notebook


def run_cell(source: str, names: dict[str, Any]) -> list[Any]:
    """Run a cell as IPython does, and return the value that it would show, if there is one."""
    *statements, last = ast.parse(source).body
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr) and not source.rstrip().endswith(";"):
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        return [value] if value is not None else []
    exec(compile(ast.Module([last], []), "cell", "exec"), names)
    return []


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Run the notebook in a copy of the folders that it uses."""
    top = tmp_path_factory.mktemp("checkout")
    (top / "docs").mkdir()
    (top / "configs").mkdir()
    (top / "data/toy").mkdir(parents=True)
    shutil.copy(NOTEBOOK, top / "docs")
    for name, num_lines in NUM_LINES.items():
        for lang in ("en", "de"):
            text = (TOP / f"data/toy/{name}.{lang}").read_text(encoding="utf-8")
            lines = text.splitlines(keepends=True)[:num_lines]
            (top / f"data/toy/{name}.{lang}").write_text("".join(lines), encoding="utf-8")
    config = dump_config(load_config(TOP / "configs/toy.yaml", SMALL))
    (top / "configs/toy.yaml").write_text(config, encoding="utf-8")

    display = ModuleType("IPython.display")
    display.HTML = FakeHTML  # type: ignore[attr-defined]
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(top / "docs"):
        patch.setitem(sys.modules, "IPython.display", display)
        with contextlib.redirect_stdout(printed):
            for cell in read_notebook()["cells"]:
                if cell["cell_type"] == "code":
                    shown += run_cell("".join(cell["source"]), names)
    return Ran(names, shown, printed.getvalue())


def test_training_is_watched(ran: Ran) -> None:
    result = ran.names["result"]
    assert result.run_dir.name == "notebook"
    assert result.best_step in (30, 60)
    losses = [event.record.losses["nll"] for event in ran.names["train"]]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert ran.printed.count("BLEU") == 2


def test_curve_and_attention_are_shown(ran: Ran) -> None:
    pictures = [value.data for value in ran.shown if isinstance(value, FakeHTML)]
    curve, page = pictures
    assert "<svg" in curve
    assert "training" in curve
    assert "iframe" in page
    assert "&lt;script" in page
    assert any(repr(value).startswith("Translator(en -> de") for value in ran.shown)


def test_model_is_seen_from_the_inside(ran: Ran) -> None:
    attention = ran.names["attention"]
    assert attention.src[-1] == "<eos>"
    assert f"source) = {attention.cross.shape}" in ran.printed


def test_notebook_has_no_outputs_and_a_valid_form() -> None:
    notebook = read_notebook()
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["source"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
