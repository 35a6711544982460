"""Reading metrics.jsonl and following sample sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import CONFIG

from mt.advice.curves import TrainPoint, ValidationPoint
from mt.config.load import load_config
from mt.report.training_history import (
    SampleVersion,
    follow_samples,
    missing_metrics,
    read_curves,
)
from mt.training.metrics_log import MetricsHistory, read_metrics_log


def test_unreadable_lines_are_counted_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"kind": "train", "step": 1}\n'
        b"\xff\n"
        b"[]\n"
        b'{"kind": "valid"}\n'
        b'{"kind": "valid", "step": 2}\n'
        b'{"ki'
    )
    history = read_metrics_log(path)
    assert [line["step"] for line in history.lines] == [1, 2]
    assert history.num_unreadable == 4
    (sentence,) = missing_metrics(history, file_name="metrics.jsonl")
    assert sentence.startswith("metrics.jsonl: 4 lines cannot be read")


def test_missing_file_is_reported(tmp_path: Path) -> None:
    history = read_metrics_log(tmp_path / "metrics.jsonl")
    assert history.lines == []
    (sentence,) = missing_metrics(history, file_name="metrics.jsonl")
    assert "no metrics.jsonl" in sentence


def test_missing_kinds_of_lines_are_reported() -> None:
    history = MetricsHistory([{"kind": "start", "step": 0}])
    no_update, no_validation = missing_metrics(history, file_name="metrics.jsonl")
    assert "No update" in no_update
    assert "no validation" in no_validation


@pytest.mark.parametrize("kind", ["valid", "final"])
def test_history_of_a_bundle_has_only_scores(kind: str) -> None:
    history = MetricsHistory([{"kind": kind, "step": 100, "BLEU": 30.0}])
    (sentence,) = missing_metrics(history, file_name="metrics.jsonl")
    assert "only the scores of the exported model" in sentence


def test_unchanged_translation_is_one_version() -> None:
    lines = [
        {"kind": "valid", "step": step, "samples": [{"src": "s", "ref": "a", "hyp": hyp}]}
        for step, hyp in [(1, "a"), (2, "a"), (3, "b"), (4, "a")]
    ]
    versions_by_sample = follow_samples(MetricsHistory(lines))
    assert versions_by_sample == {
        ("s", "a"): [
            SampleVersion(1, 2, "a", 100.0),
            SampleVersion(3, 3, "b", 0.0),
            SampleVersion(4, 4, "a", 100.0),
        ]
    }


def test_curves_are_the_finite_numbers_of_the_history(tmp_path: Path) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    config = load_config(path, ["train.max_epochs=3", "model.dropout=0.2"])
    lines = [
        {"kind": "train", "step": 2, "nll": 4.5, "lr": 1e-3, "num_skipped": 1},
        {"kind": "train", "step": 4, "nll": None, "lr": 2e-3, "num_skipped": 3},
        {"kind": "valid", "step": 4, "loss": 4.0, "BLEU": 1.5, "is_best": True},
        {"kind": "valid", "step": 6, "loss": None, "BLEU": 1.5},
        {"kind": "valid", "step": 8, "loss": 3.9},
    ]
    curves = read_curves(MetricsHistory(lines), config)
    assert curves.train == [TrainPoint(2, 4.5, 1e-3)]
    assert curves.validations == [
        ValidationPoint(4, 4.0, 1.5, is_best=True),
        ValidationPoint(8, 3.9, 0.0, is_best=False),
    ]
    assert curves.num_skipped == 3
    assert curves.dropout == 0.2
    assert curves.limits == {"train.max_steps": 12, "train.max_epochs": 3}
    assert not curves.is_enough
    assert not read_curves(MetricsHistory([]), config).is_enough
