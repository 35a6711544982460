"""Reading the number of sentence pairs from a run's cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mt.report.pair_counts import read_pair_counts
from mt.storage.run_dir import RunDir


def test_counts_are_of_the_last_checkpoints_data(run_dir: Path) -> None:
    (entry,) = (run_dir / "cache").iterdir()
    shutil.copytree(entry, run_dir / "cache/other")
    counts = read_pair_counts(RunDir(run_dir), num_corpora=1)
    assert counts is not None
    assert list(counts.kept) == [79]
    assert counts.total.blank == 1


def test_counts_are_unknown_without_checkpoint(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    assert read_pair_counts(RunDir(run_dir), num_corpora=1) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 20_000,
        '{"num_pairs": [79]}',
        '{"num_pairs": [79], "counts": {"kept": 79, "x": 2}}',
        '{"num_pairs": [79], "counts": {"kept": "79"}}',
        '{"num_pairs": ["79"], "counts": {"kept": 79}}',
        '{"num_pairs": [79], "counts": {"kept": 78}}',
        '{"num_pairs": [], "counts": {"kept": 0}}',
        '{"num_pairs": 79, "counts": {"kept": 79}}',
    ],
)
def test_counts_are_unknown_if_the_cache_is_damaged(run_dir: Path, content: str) -> None:
    (meta,) = (run_dir / "cache").glob("*/meta.json")
    meta.write_text(content, encoding="utf-8")
    assert read_pair_counts(RunDir(run_dir), num_corpora=1) is None
