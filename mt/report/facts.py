"""Facts about a run for the tables of its report, taken from its config and metrics.jsonl."""

import re
from datetime import UTC, datetime
from typing import NamedTuple

from mt.config.schema import (
    Config,
    DataConfig,
    Section,
)
from mt.config.yaml_file import show
from mt.progress_bar import format_duration
from mt.report.pair_counts import PairCounts
from mt.training.metrics_log import MetricsHistory, MetricsLine, read_scope, read_scores
from mt.wording import count_of


class Fact(NamedTuple):
    """One row of a table."""

    name: str
    value: str
    is_timing: bool = False  # depends on the speed and load of the machine


def headline_facts(
    config: Config, history: MetricsHistory, counts: PairCounts | None
) -> list[Fact]:
    """Return the facts for the top of the report: size, data, duration and device."""
    start = history.start
    facts = []
    if "num_parameters" in start:
        facts.append(Fact("parameters", f"{start['num_parameters']:,}"))
    if counts is not None:
        facts.append(Fact("sentence pairs", f"{counts.total.kept:,}"))
    last_step = history.lines[-1].get("step", 0) if history.lines else 0
    facts.append(Fact("updates", f"{last_step:,}"))
    if history.elapsed_seconds is not None:
        duration = format_duration(history.elapsed_seconds)
        facts.append(Fact("training time", duration, is_timing=True))
    facts.append(Fact("device", f"{config.train.device}, {config.train.precision}"))
    start_time = start.get("timing", {}).get("unix_time")
    if start_time is not None:
        date = f"{datetime.fromtimestamp(start_time, UTC):%d %b %Y, %H:%M}"
        facts.append(Fact("started (UTC)", date))
    return facts


def list_facts(
    config: Config, history: MetricsHistory, counts: PairCounts | None, *, checkpoint: str
) -> dict[str, list[Fact]]:
    """Return all facts by heading.

    `checkpoint` is the name of the checkpoint that was scored, "" if none was.
    """
    return {
        "Data": _data_facts(config, counts),
        "Tokenizer and model": [
            *_changed_settings(config.tokenizer),
            *_changed_settings(config.model),
        ],
        "Training settings": _changed_settings(config.train),
        "Progress and evaluation": _progress_facts(config, history, checkpoint),
    }


def _data_facts(config: Config, counts: PairCounts | None) -> list[Fact]:
    data = config.data
    facts = [Fact("languages", describe_languages(data))]
    for index, corpus in enumerate(data.train):
        value = "number of pairs unknown: the run's cache was deleted"
        if counts is not None:
            value = f"{count_of(counts.kept[index], 'pair')} kept"
        if corpus.weight != 1.0:
            value += f", weight {corpus.weight:g}"
        if corpus.tag is not None:
            value += f", tag {corpus.tag}"
        facts.append(Fact(", ".join(data.file_names(corpus)), value))
    if counts is not None:
        facts.append(Fact("all training pairs", str(counts.total)))
    rule = (
        f"a side is blank, longer than {data.max_length} tokens,"
        f" or more than {data.max_length_ratio:g} times as long as the other"
    )
    facts.append(Fact("pairs left out if", rule))
    eval_sets = [(f"validation: {valid_set.name}", valid_set) for valid_set in data.valid]
    eval_sets += [(f"test: {test_set.name}", test_set) for test_set in data.test]
    for name, eval_set in eval_sets:
        facts.append(Fact(name, ", ".join(data.file_names(eval_set))))
    return facts


def describe_languages(data: DataConfig) -> str:
    """Return the directions of a run: `en → de`, or several of them."""
    return ", ".join(f"{pair.src} → {pair.tgt}" for pair in data.language_pairs)


def hide_directories(text: str) -> str:
    """Return a text with absolute paths in quotes replaced by the names of the files.

    A page may be shown to people who should not see local paths.
    """
    return re.sub(r'"/[^"]*?([^"/]*)"', r'"\1"', text)


def _changed_settings(section: Section) -> list[Fact]:
    """Return the settings that differ from their defaults, without `run_dir`."""
    fields = type(section).model_fields
    facts = []
    for key, value in section:
        if key != "run_dir" and value != fields[key].default:
            facts.append(Fact(key, hide_directories(show(value))))
    return facts


def _progress_facts(config: Config, history: MetricsHistory, checkpoint: str) -> list[Fact]:
    train = history.train
    last: MetricsLine = train[-1] if train else {}
    keys = {
        "updates": "step",
        "epochs completed": "epoch",
        "target tokens seen": "tokens_seen",
        "updates skipped": "num_skipped",
    }
    facts = [Fact(name, f"{last[key]:,}") for name, key in keys.items() if key in last]

    valid = history.valid
    validations = f"{len(valid):,}"
    best_steps = [line["step"] for line in valid if line.get("is_best")]
    if best_steps:
        validations += f", best at update {best_steps[-1]:,}"
    facts.append(Fact("validations", validations))
    scope = read_scope(valid[-1]) if valid else None
    if scope is not None:
        facts.append(Fact("validation scores of", str(scope)))

    facts += [_final_score_fact(line) for line in history.final[-1:]]

    facts.append(Fact("scored checkpoint", checkpoint or "none"))
    search = config.search
    search_settings = f"beam {search.beam_size}, length penalty {search.length_penalty:g}"
    facts.append(Fact("search", search_settings))
    facts.append(Fact("environment at the start", _environment(history.start)))
    return facts


def _final_score_fact(line: MetricsLine) -> Fact:
    """Return what the run's last line about its best checkpoint says."""
    scores = ", ".join(f"{name} {score:.2f}" for name, score in read_scores(line).items())
    return Fact(f"final score of {line.get('checkpoint')}", f"{scores} ({read_scope(line)})")


def _environment(start: MetricsLine) -> str:
    environment = start.get("environment")
    if not isinstance(environment, dict) or not environment:
        return "not recorded"
    return ", ".join(f"{name} {value}" for name, value in environment.items())
