"""What is known of a run from its config and metrics.jsonl, in words."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mt.config.schema import Config, CorpusConfig, EvalSetConfig, Section
from mt.config.yaml_file import show
from mt.data.corpus import FilterCounts
from mt.report.charts import MetricsLine, of_kind
from mt.training.console import format_duration

Fact = tuple[str, str]  # a line of a table: a name, and what there is to say


class PairCounts(NamedTuple):
    """How many pairs of each training corpus were kept, and how many of all were left out for what reason."""

    kept: Sequence[int]
    all: FilterCounts


def summarise(
    config: Config, metrics: Sequence[MetricsLine], counts: PairCounts | None
) -> list[Fact]:
    """What, when and how long, at a glance."""
    start, last = _start(metrics), metrics[-1] if metrics else {}
    facts = [("parameters", f"{start['num_parameters']:,}")] if "num_parameters" in start else []
    facts += [("sentence pairs", f"{counts.all.kept:,}")] if counts else []
    facts.append(("updates", f"{last.get('step', 0):,}"))
    if timed := [line for line in metrics if "elapsed_seconds" in line.get("timing", {})]:
        facts.append(("training time", format_duration(timed[-1]["timing"]["elapsed_seconds"])))
    facts.append(("device", f"{config.train.device}, {config.train.precision}"))
    if (begun := start.get("timing", {}).get("unix_time")) is not None:
        facts.append(("begun (UTC)", f"{datetime.fromtimestamp(begun, UTC):%d %b %Y, %H:%M}"))
    return facts


def list_facts(
    config: Config, metrics: Sequence[MetricsLine], counts: PairCounts | None, *, checkpoint: str
) -> dict[str, list[Fact]]:
    """All that one would ask, by heading; `checkpoint` is the name of what was scored, "" when nothing was."""
    return {
        "Data": _data(config, counts),
        "Tokenizer and model": [*_settings(config.tokenizer), *_settings(config.model)],
        "Training": _settings(config.train),
        "Course": _course(config, metrics, checkpoint),
    }


def _data(config: Config, counts: PairCounts | None) -> list[Fact]:
    data = config.data
    facts = [("languages", f"{data.src_lang} → {data.tgt_lang}")]
    for index, corpus in enumerate(data.train):
        kept = (
            f"{counts.kept[index]:,} pairs kept"
            if counts
            else "number of pairs not known: the run's cache is gone"
        )
        weight = f", weight {corpus.weight:g}" if corpus.weight != 1.0 else ""
        facts.append(
            (_files(corpus, corpus.src_lang or data.src_lang, data.tgt_lang), kept + weight)
        )
    if counts:
        facts.append(("all training pairs", str(counts.all)))
    limits = f"a side is blank, over {data.max_length} tokens, or over {data.max_length_ratio:g} times the other"
    facts.append(("left out when", limits))
    facts.append(
        (f"validation: {data.valid.name}", _files(data.valid, data.src_lang, data.tgt_lang))
    )
    facts += [
        (f"test: {each.name}", _files(each, data.src_lang, data.tgt_lang)) for each in data.test
    ]
    return facts


def _files(section: CorpusConfig | EvalSetConfig, src_lang: str, tgt_lang: str) -> str:
    """The names of the files, without their folders."""
    if section.prefix is not None:
        return f"{Path(section.prefix).name}.{{{src_lang},{tgt_lang}}}"
    others = section.refs if isinstance(section, EvalSetConfig) else (section.tgt,)
    return ", ".join(Path(path or "").name for path in (section.src, *others))


def _settings(section: Section) -> list[Fact]:
    """The keys of a section of the config that are not as by default; where a run lies is nobody's business."""
    fields = type(section).model_fields
    return [
        (key, show(value))
        for key, value in section
        if value != fields[key].default and key != "run_dir"
    ]


def _course(config: Config, metrics: Sequence[MetricsLine], checkpoint: str) -> list[Fact]:
    train, valid, search = of_kind(metrics, "train"), of_kind(metrics, "valid"), config.search
    last: MetricsLine = train[-1] if train else {}
    best = [line["step"] for line in valid if line.get("is_best")]
    known = {"updates": "step", "epochs completed": "epoch", "target tokens seen": "tokens_seen"}
    known["updates skipped"] = "num_skipped"
    facts = [(name, f"{last[key]:,}") for name, key in known.items() if key in last]
    facts.append(
        ("validations", f"{len(valid):,}" + (f", best at update {best[-1]:,}" if best else ""))
    )
    facts.append(("scored checkpoint", checkpoint or "none"))
    facts.append(("search", f"beam {search.beam_size}, length penalty {search.length_penalty:g}"))
    begun_with = _start(metrics).get("environment")
    known = begun_with if isinstance(begun_with, dict) else {}
    facts.append(("begun with", ", ".join(f"{k} {v}" for k, v in known.items()) or "not recorded"))
    return facts


def _start(metrics: Sequence[MetricsLine]) -> MetricsLine:
    return next(iter(of_kind(metrics, "start")), {})
