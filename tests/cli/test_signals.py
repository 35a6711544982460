"""SIGTERM while a command writes a file: no file is left, and the exit code names the signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from copy_task import write_copy_task
from runs import CONFIG, configure, train
from shell import mt

from mt.storage import atomic

# RUN stands for the run directory, TEXT for a text file, OUT for what is written.
COMMANDS = {
    "align": "align RUN --src TEXT --tgt TEXT -o OUT/links",
    "average": "average RUN --last 1",
    "attention": "attention RUN balo -o OUT/page.html",
    "export": "export RUN --to ctranslate2 OUT/model",
    "score": "score RUN --src TEXT --tgt TEXT -o OUT/scores",
    "report": "report RUN -o OUT/page.html",
    "tokenizer": "tokenizer train TEXT --model OUT/tokenizer.model --vocab-size 330",
    "translate": "translate RUN -i TEXT -o OUT/translations",
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one update."""
    top = tmp_path_factory.mktemp("task")
    return train(configure(write_copy_task(top, CONFIG), top / "run", "train.max_steps=1"))


@pytest.fixture
def ignored_sigterm() -> Iterator[None]:
    """Ignore SIGTERM, so that a command without a handler of its own continues."""
    old_handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, old_handler)


@pytest.mark.parametrize("command", COMMANDS)
def test_sigterm_leaves_no_partial_file(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ignored_sigterm: None,
    command: str,
) -> None:
    if command == "export":
        pytest.importorskip("ctranslate2")
    fsync_path = atomic.fsync_path
    output_dir = run_dir / "checkpoints" if command == "average" else tmp_path
    files_before = set(os.listdir(output_dir))
    files_at_signal: set[str] = set()

    def terminate_before_fsync(path: Path) -> None:
        if not files_at_signal:
            files_at_signal.update(os.listdir(output_dir))
            signal.raise_signal(signal.SIGTERM)
        fsync_path(path)

    monkeypatch.setattr(atomic, "fsync_path", terminate_before_fsync)
    text = COMMANDS[command].replace("RUN", str(run_dir)).replace("OUT", str(tmp_path))
    ended = mt(*text.replace("TEXT", str(run_dir.parent / "train.aa")).split())
    assert ended.code == 128 + signal.SIGTERM, ended.err
    (partial,) = files_at_signal - files_before
    assert partial.endswith(".partial")
    assert set(os.listdir(output_dir)) == files_before
