"""Tests of `mt translate --resume`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from copy_task import write_copy_task
from runs import CONFIG, configure, train
from typer.testing import CliRunner

from mt.cli.app import app
from mt.cli.resumable_output import ResumableOutput
from mt.errors import DataError

CHUNK_SIZE = 8
SAMPLE = ("--sample", "--seed", "3", "--n-best", "2")


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture(scope="module")
def run_dir(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(configure(config_path, tmp_path_factory.mktemp("run"), "train.max_steps=3"))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mt.decoding.text_translator.CHUNK_SIZE", CHUNK_SIZE)


@pytest.fixture
def src(config_path: Path, tmp_path: Path) -> Path:
    lines = (config_path.parent / "train.aa").read_text(encoding="utf-8").splitlines()[:30]
    path = tmp_path / "src"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def translate(run_dir: Path, src: Path, output: Path, *options: str) -> int:
    arguments = ["translate", str(run_dir), "--device", "cpu", "-i", str(src), "-o", str(output)]
    return CliRunner().invoke(app, [*arguments, *options]).exit_code


def stop_after(monkeypatch: pytest.MonkeyPatch, num_chunks: int) -> None:
    """Stop the next command as a kill would, in the middle of the chunk after `num_chunks`."""
    write_chunk = ResumableOutput.write_chunk
    num_written = 0

    def write_or_stop(self: ResumableOutput, lines: Sequence[str], output: Iterable[str]) -> None:
        nonlocal num_written
        if num_written == num_chunks:
            self._file.write(b"half a lin")
            self._file.flush()
            raise KeyboardInterrupt
        num_written += 1
        write_chunk(self, lines, output)

    monkeypatch.setattr(ResumableOutput, "write_chunk", write_or_stop)


@pytest.mark.parametrize("options", [(), SAMPLE, ("--jsonl", "--alignments")])
@pytest.mark.parametrize("num_chunks", [0, 2])
def test_resumed_output_has_the_bytes_of_an_uninterrupted_one(
    run_dir: Path, src: Path, tmp_path: Path, options: tuple[str, ...], num_chunks: int
) -> None:
    whole = tmp_path / "whole"
    assert translate(run_dir, src, whole, *options) == 0
    output = tmp_path / "output"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, num_chunks)
        assert translate(run_dir, src, output, *options, "--resume") != 0
    assert not output.exists()
    assert translate(run_dir, src, output, *options, "--resume") == 0
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("output.partial*"))


def test_lines_that_are_translated_are_not_translated_again(
    run_dir: Path, src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2)
        translate(run_dir, src, output, "--resume")
    written: list[str] = []
    write_chunk = ResumableOutput.write_chunk

    def record(self: ResumableOutput, lines: Sequence[str], output: Iterable[str]) -> None:
        written.extend(lines)
        write_chunk(self, lines, output)

    monkeypatch.setattr(ResumableOutput, "write_chunk", record)
    assert translate(run_dir, src, output, "--resume") == 0
    assert written == src.read_text(encoding="utf-8").splitlines()[2 * CHUNK_SIZE :]


@pytest.mark.parametrize(
    "change", ["options", "precision", "first line", "shorter input", "damaged"]
)
def test_continuing_with_something_else_is_refused(
    run_dir: Path, src: Path, tmp_path: Path, change: str
) -> None:
    output = tmp_path / "output"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2)
        translate(run_dir, src, output, "--resume")
    options = ["--resume"]
    lines = src.read_text(encoding="utf-8").splitlines(keepends=True)
    if change == "options":
        options += ["--beam-size", "1"]
    elif change == "precision":
        options += ["--precision", "bf16"]
    elif change == "first line":
        src.write_text("".join(["balo\n", *lines[1:]]), encoding="utf-8")
    elif change == "shorter input":
        src.write_text("".join(lines[:CHUNK_SIZE]), encoding="utf-8")
    else:
        (tmp_path / "output.partial").write_bytes(b"x")
    partial = (tmp_path / "output.partial").read_bytes()
    assert translate(run_dir, src, output, *options) == 1
    assert not output.exists()
    assert (tmp_path / "output.partial").read_bytes()[:20] == partial[:20]


def test_a_command_killed_at_its_end_can_be_repeated(
    run_dir: Path, src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    state = tmp_path / "out.partial.json"
    stop_after(monkeypatch, 2)
    translate(run_dir, src, output, "--resume")
    record = state.read_bytes()
    monkeypatch.undo()
    monkeypatch.setattr("mt.decoding.text_translator.CHUNK_SIZE", CHUNK_SIZE)
    assert translate(run_dir, src, output, "--resume") == 0
    complete = output.read_bytes()

    state.write_bytes(record)  # a kill after the output had its name
    stop_after(monkeypatch, 0)
    assert translate(run_dir, src, output, "--resume") == 130
    monkeypatch.undo()
    assert translate(run_dir, src, output, "--resume") == 0
    assert output.read_bytes() == complete
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_output_that_another_command_writes_is_refused(tmp_path: Path) -> None:
    with ResumableOutput(tmp_path / "out", {}) as first:
        first.write_chunk(["a", "b"], ["A", "B"])
        with pytest.raises(DataError, match="another command"):
            ResumableOutput(tmp_path / "out", {})
        first.finish()
    assert (tmp_path / "out").read_text(encoding="utf-8") == "A\nB\n"


def test_output_keeps_its_link_and_permissions(run_dir: Path, src: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text("old", encoding="utf-8")
    output.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(output)
    assert translate(run_dir, src, link, "--resume") == 0
    assert link.is_symlink()
    assert len(output.read_text(encoding="utf-8").splitlines()) == 30
    assert output.stat().st_mode & 0o777 == 0o600


def test_output_that_is_no_file_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "out"
    os.mkfifo(fifo)
    with pytest.raises(DataError, match="to a file only"):
        ResumableOutput(fifo, {})


def test_resume_needs_two_files(run_dir: Path, src: Path, tmp_path: Path) -> None:
    assert translate(run_dir, src, tmp_path / "output.gz", "--resume") == 2
