"""mt report: one page that tells all of a run, finished or not."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mt.config.load import dump_config, load_run_config
from mt.config.schema import Config
from mt.data.corpus import FilterCounts
from mt.data.eval_set import EvalSet, load_eval_set
from mt.decoding.translator import Translator
from mt.errors import CheckpointError, DataError
from mt.evaluation import analysis
from mt.evaluation.analysis import Bucket, Example, ScoredSentence
from mt.evaluation.metrics import MIN_SENTENCES, NUM_RESAMPLES, Score, bleu_tokenizer, score_corpus
from mt.report.attention_maps import attention_maps
from mt.report.attention_page import AxisTokens, display_pieces, over_words
from mt.report.charts import MetricsLine, of_kind, show_control_chars, training_plots
from mt.report.facts import Fact, PairCounts, list_facts, summarise
from mt.report.plots import plot_intervals
from mt.report.template import render
from mt.storage.atomic import atomic_file
from mt.storage.checkpoint import find_checkpoint, load_meta
from mt.storage.run_dir import RunDir, open_run_dir
from mt.training.metrics_log import Sample

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 5  # of each kind, in each test set
NUM_HEAT_MAPS, HEAT_MAP_WORDS = 4, range(7, 15)


class ScoredSet(NamedTuple):
    """A set that was translated and scored, and what there is to learn from it."""

    name: str
    judged: Sequence[ScoredSentence]  # its sentences
    scores: Sequence[Score]
    length_unit: str
    by_length: Sequence[tuple[Bucket, Sequence[Score]]]
    examples: Mapping[str, Sequence[Example]]  # best, worst, instructive


class Version(NamedTuple):
    """What a sample's translation was from one validation to another."""

    first_step: int
    last_step: int
    hyp: str
    chrf: float


class HeatMap(NamedTuple):
    """Who looks (queries) at whom (keys): rows of weights, each adding up to one."""

    queries: Sequence[str]
    keys: Sequence[str]
    weights: NDArray[np.float32]  # (num_queries, num_keys)


class Report(NamedTuple):
    """All that the page tells."""

    name: str
    languages: str
    summary: Sequence[Fact]  # what, when, how long, at a glance
    facts: Mapping[str, Sequence[Fact]]  # by heading
    metrics: Sequence[MetricsLine]
    samples: Mapping[
        tuple[str, str], Sequence[Version]
    ]  # by source and reference, in the order of time
    sets: Sequence[ScoredSet]
    heat_maps: Sequence[HeatMap]
    missing: Sequence[str]  # what could not be shown, in sentences
    config: str


def write_report(
    run_dir: Path, output: Path, *, checkpoint: str = "best", device: str = "auto"
) -> None:
    """Write the page of a run; what is missing for it is said on the page and on stderr. Raises MtError."""
    run = open_run_dir(run_dir)
    config = load_run_config(run.config)
    metrics, missing = read_metrics(run.metrics)
    counts = pair_counts(run)
    sets: list[ScoredSet] = []
    heat_maps: list[HeatMap] = []
    scored = ""
    if checkpoint == "best" and not (run.checkpoints / "best").is_file():
        missing.append("The run has no checkpoint yet: nothing could be translated.")
    else:
        translator = Translator.load(run_dir, checkpoint=checkpoint, device=device)
        scored = find_checkpoint(run.checkpoints, checkpoint).name
        for each in evaluation_sets(config, missing):
            logger.info(f"{each.name}: translating {len(each.src):,} sentences")
            sets.append(examine(each, translator, tgt_lang=config.data.tgt_lang))
            heat_maps = heat_maps or draw_heat_maps(each.src, translator)
    for sentence in missing:
        logger.info(sentence)
    report = Report(
        name=run.path.resolve().name,
        languages=f"{config.data.src_lang} → {config.data.tgt_lang}",
        summary=summarise(config, metrics, counts),
        facts=list_facts(config, metrics, counts, checkpoint=scored),
        metrics=metrics,
        samples=follow_samples(metrics),
        sets=sets,
        heat_maps=heat_maps,
        missing=missing,
        config=dump_config(config),
    )
    with atomic_file(output) as file:
        file.write(report_page(report).encode(errors="replace"))
    logger.info(f"{output}: {output.stat().st_size / 1000:,.0f} kB")


def report_page(report: Report) -> str:
    """The page as HTML: one file that needs nothing beside it."""
    values: dict[str, object] = {
        "report": report,
        "min_sentences": MIN_SENTENCES,
        "length_ratio": analysis.LENGTH_RATIO,
    }
    values |= {"headline": _headline(report), "plots": training_plots(report.metrics)}
    functions = {
        "length_plot": _length_plot,
        "of_kind": of_kind,
        "show_control_chars": show_control_chars,
        "word_diff": analysis.word_diff,
    }
    return render("report.html", {**values, **functions})


def _headline(report: Report) -> tuple[Score | None, str]:
    """The score to put first, and what it is of: the first test set's or, without one, the best validation's."""
    for each in report.sets:
        return each.scores[0], each.name
    for line in reversed(of_kind(report.metrics, "valid")):
        for name, signature in line.get("signatures", {}).items():
            if line.get("is_best"):
                return Score(
                    name, float(line[name]), signature
                ), f"the validation set, at update {line['step']:,}"
    return None, ""


def _length_plot(each: ScoredSet) -> str:
    """BLEU and chrF with their intervals by source length."""
    categories = [f"{bucket.label}\n{len(bucket.indices):,}" for bucket, _ in each.by_length]
    columns = zip(*(scores for _, scores in each.by_length), strict=True)  # of one metric each
    series = {
        column[0].name: [(score.value, *score.interval) for score in column] for column in columns
    }
    return plot_intervals(categories, series, label=f"{each.name}: scores by source length")


# What was translated


def evaluation_sets(config: Config, missing: list[str]) -> list[EvalSet]:
    """The sets that `mt evaluate` would score, but for those whose files cannot be read."""
    if not config.data.test:
        missing.append(
            f"The config has no test sets: scored is {config.data.valid.name}, which chose the checkpoint."
        )
    sets = []
    for section in config.data.test or (config.data.valid,):
        try:
            sets.append(load_eval_set(section, config.data))
        except DataError as error:
            missing.append(f"{section.name} could not be scored: {error}.")
    return sets


def examine(each: EvalSet, translator: Translator, *, tgt_lang: str) -> ScoredSet:
    """Translate a set; score it as a whole and by length, and choose what to look at."""
    judged = []
    for src, (found, *_), *refs in zip(
        each.src, translator.n_best(each.src), *each.refs, strict=True
    ):
        num_tokens = sum(len(segment.tgt) for segment in found.segments) or 1
        nearest = (
            max(refs, key=lambda ref: analysis.sentence_chrf(found.text, [ref]))
            if len(refs) > 1
            else refs[0]
        )
        chrf, probability = (
            analysis.sentence_chrf(found.text, refs),
            math.exp(found.log_prob / num_tokens),
        )
        judged.append(ScoredSentence(src, found.text, nearest, chrf, probability))

    def scores(indices: Sequence[int], metrics: Sequence[str]) -> list[Score]:
        hyps, refs = (
            [judged[i].hyp for i in indices],
            [[lines[i] for i in indices] for lines in each.refs],
        )
        return score_corpus(
            hyps,
            refs,
            metrics=metrics,
            tokenize=bleu_tokenizer(tgt_lang),
            num_resamples=NUM_RESAMPLES,
        )

    unit, buckets = analysis.length_buckets(each.src)
    by_length = [(bucket, scores(bucket.indices, ("bleu", "chrf"))) for bucket in buckets]
    examples = analysis.choose_examples(judged, num_each=NUM_EXAMPLES)
    return ScoredSet(
        each.name,
        judged,
        scores(range(len(judged)), ("bleu", "chrf", "ter")),
        unit,
        by_length,
        examples,
    )


def draw_heat_maps(sources: Sequence[str], translator: Translator) -> list[HeatMap]:
    """Cross-attention of a few short sentences from all over the set: the mean of the heads of the upper layers."""
    short = [
        src
        for src in sources
        if len(analysis.words_and_punctuation(src)) in HEAT_MAP_WORDS
        and len(translator.split(src)) == 1
    ]
    heat_maps = []
    for place in np.linspace(0, len(short) - 1, min(NUM_HEAT_MAPS, len(short))).round().astype(int):
        maps = attention_maps(translator, short[place], target=None, name="")
        queries, keys = (
            subwords_if_unspaced(maps.sides["tgt_out"]),
            subwords_if_unspaced(maps.sides["src"]),
        )
        upper = np.stack(
            maps.weights["cross"][len(maps.weights["cross"]) // 2 :]
        )  # (layers, heads, queries, keys)
        weights = over_words(upper.mean(axis=(0, 1))[None], queries, keys)[0]
        heat_maps.append(HeatMap(queries.words, keys.words, weights))
    return heat_maps


def subwords_if_unspaced(side: AxisTokens) -> AxisTokens:
    """The side as it is or, of a text without spaces, where one word is most of it, with every subword for a word."""
    if 2 * np.bincount(side.word_index).max() <= len(side.subwords):
        return side
    return side._replace(
        words=display_pieces(side.subwords), word_index=list(range(len(side.subwords)))
    )


# What was written down while it trained


def read_metrics(path: Path) -> tuple[list[MetricsLine], list[str]]:
    """The lines of metrics.jsonl, and what is wrong with the file: a run that is going may be writing its last line."""
    if not path.is_file():
        return [], [f"There is no {path.name}: nothing is known of the training."]
    lines, found = path.read_bytes().splitlines(), list[MetricsLine]()
    for line in lines:
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("step"), int):
                found.append(value)
    missing = []
    if num_broken := len(lines) - len(found):
        broken = f"{num_broken:,} line{'s' if num_broken > 1 else ''} cannot be read"
        missing.append(f"{path.name}: {broken}; a run that goes on may be writing the last.")
    needed = {
        "train": "No update has been logged yet.",
        "valid": "There has been no validation yet.",
    }
    return found, missing + [
        sentence for kind, sentence in needed.items() if not of_kind(found, kind)
    ]


def follow_samples(metrics: Sequence[MetricsLine]) -> dict[tuple[str, str], list[Version]]:
    """The sample sentences, each with what became of it; a translation that stays the same is one version."""
    samples: dict[tuple[str, str], list[Version]] = {}
    for line in of_kind(metrics, "valid"):
        for src, ref, hyp in (Sample(**sample) for sample in line.get("samples", [])):
            versions = samples.setdefault((src, ref), [])
            if versions and versions[-1].hyp == hyp:
                versions[-1] = versions[-1]._replace(last_step=line["step"])
            else:
                versions.append(
                    Version(line["step"], line["step"], hyp, analysis.sentence_chrf(hyp, [ref]))
                )
    return samples


def pair_counts(run: RunDir) -> PairCounts | None:
    """How many pairs were trained on; None when the run's cache, which knows it, is gone or damaged."""
    with suppress(CheckpointError, OSError, ValueError, KeyError, TypeError):
        digest = load_meta(find_checkpoint(run.checkpoints, "last"))["data_digest"]
        meta = json.loads((run.cache / digest / "meta.json").read_text(encoding="utf-8"))
        return PairCounts(meta["num_pairs"], FilterCounts(**meta["counts"]))
    return None
