"""Tests of the figures about the training sources, which a run keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mt.data.chunk_encoder import FilterCounts
from mt.data.corpus import EncodedCorpus
from mt.data.source_stats import SourceStats
from mt.data.token_array import TokenArray
from mt.errors import RunDirError

STATS = SourceStats(usual_length=24, rare_length=27, several_sentences_share=0.25)


def make_corpus(src_lengths: list[int], *, num_several_sentences: int | None) -> EncodedCorpus:
    num_pairs = len(src_lengths)
    return EncodedCorpus(
        TokenArray.from_rows([[5] * length for length in src_lengths]),
        TokenArray.from_rows([[5]] * num_pairs),
        weights=np.ones(num_pairs, np.float32),
        counts=FilterCounts(kept=num_pairs),
        num_pairs=(num_pairs,),
        num_several_sentences=num_several_sentences,
    )


def test_lengths_leave_out_the_few_longest_sources() -> None:
    lengths = [*range(1, 10), *[10] * 19_980, *[20] * 9, 30, 250]
    corpus = make_corpus(lengths, num_several_sentences=5_000)
    assert SourceStats.measure(corpus) == SourceStats(10, 30, 0.25)


def test_lengths_of_a_small_corpus_are_its_longest() -> None:
    stats = SourceStats.measure(make_corpus([3, 8, 5], num_several_sentences=0))
    assert stats == SourceStats(8, 8, 0.0)


def test_lengths_include_the_prefix() -> None:
    corpus = replace(make_corpus([3, 8, 5], num_several_sentences=0), src_prefixes=((3, 4),))
    assert SourceStats.measure(corpus) == SourceStats(10, 10, 0.0)


def test_corpus_of_an_older_cache_has_no_figures() -> None:
    assert SourceStats.measure(make_corpus([3], num_several_sentences=None)) is None


def test_saved_figures_are_read(tmp_path: Path) -> None:
    STATS.save(tmp_path / "stats.json")
    assert SourceStats.load(tmp_path / "stats.json") == STATS
    assert SourceStats.load(tmp_path / "missing.json") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        "\ud800",
        {"usual_length": "24"},
        {"usual_length": 0},
        {"rare_length": True},
        {"rare_length": 27.0},
        {"several_sentences_share": 1.5},
        {"several_sentences_share": float("nan")},
        {"several_sentences_share": None},
        {"other": 1},
    ],
    ids=lambda content: str(content)[:40],
)
def test_damaged_file_is_refused_with_its_path(
    tmp_path: Path, content: str | dict[str, object]
) -> None:
    path = tmp_path / "stats.json"
    STATS.save(path)
    if isinstance(content, dict):
        content = json.dumps({**json.loads(path.read_text(encoding="utf-8")), **content})
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunDirError, match=f"^{path}: "):
        SourceStats.load(path)
