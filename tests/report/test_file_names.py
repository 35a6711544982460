"""How the report names the text files of a run."""

from __future__ import annotations

from mt.config.schema import Config, DataConfig, TrainConfig
from mt.report.facts import list_facts
from mt.training.metrics_log import MetricsHistory


def test_text_files_are_named_without_their_directories() -> None:
    train = (
        "dir/corpus",
        {"src": "dir/a.1", "tgt": "dir/a.2"},
        {"tsv": "dir/swe.tsv", "columns": (2, 1)},
        "dir/memory.tmx.gz",
    )
    data = DataConfig(src_lang="en", tgt_lang="sv", train=train, valid="dir/valid.txt")
    config = Config(data=data, train=TrainConfig(max_steps=1))
    history = MetricsHistory([])
    facts = list_facts(config, history, None, checkpoint="")
    names = [fact.name for fact in facts["Data"]]
    assert names[1:5] == ["corpus.en, corpus.sv", "a.1, a.2", "swe.tsv", "memory.tmx.gz"]
    assert facts["Data"][-1].value == "valid.txt"
