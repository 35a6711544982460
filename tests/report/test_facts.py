"""Facts about a run, from its config and the lines of metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from copy_task import write_copy_task
from runs import CONFIG

from mt.config.load import load_config
from mt.report.facts import hide_directories, list_facts
from mt.training.metrics_log import MetricsHistory

SCOPE = {"num_lines": 500, "num_lines_in_set": 1791, "beam_size": 1}


def progress_facts(directory: Path, lines: list[dict[str, Any]]) -> dict[str, str]:
    """Return the facts under "Progress and evaluation" by name."""
    config = load_config(write_copy_task(directory, CONFIG))
    facts = list_facts(config, MetricsHistory(lines), None, checkpoint="")
    return {fact.name: fact.value for fact in facts["Progress and evaluation"]}


def test_facts_say_which_lines_and_which_search_a_validation_scored(tmp_path: Path) -> None:
    line = {"kind": "valid", "step": 3, "BLEU": 12.0}
    facts = progress_facts(tmp_path, [line | SCOPE])
    assert facts["validation scores of"] == "500 of 1,791 lines, beam 1"
    assert "validation scores of" not in progress_facts(tmp_path, [line])  # of an older version


def test_facts_have_the_final_score(tmp_path: Path) -> None:
    final = {"kind": "final", "step": 9, "BLEU": 12.346, "chrF": 40.0, "signatures": {"BLEU": "a"}}
    final |= {"num_lines": 1791, "num_lines_in_set": 1791, "beam_size": 5}
    final |= {"checkpoint": "step_00000006"}
    facts = progress_facts(tmp_path, [final])
    assert facts["final score of step_00000006"] == "BLEU 12.35 (1,791 lines, beam 5)"


def test_directories_are_hidden() -> None:
    text = 'data.train.0.prefix: "/home/me/secret/a" -> "/b/c.tsv", ["/x/y", 1, "no/path"]'
    assert hide_directories(text) == 'data.train.0.prefix: "a" -> "c.tsv", ["y", 1, "no/path"]'
