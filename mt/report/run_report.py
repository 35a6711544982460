"""mt report: one HTML page about a training run, finished or not."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mt.advice.advice import Advice
from mt.advice.next_steps import suggest_next_steps
from mt.advice.outputs import OutputCounts, count_outputs
from mt.config.load import dump_config, load_run_config
from mt.config.schema import Config
from mt.decoding.translator import Translator
from mt.evaluation.analysis import LENGTH_RATIO, word_diff
from mt.evaluation.evaluate import scoring_of_run
from mt.evaluation.metrics import MIN_SENTENCES_FOR_INTERVAL, Score
from mt.evaluation.text_warnings import find_seen_source_problems
from mt.report.facts import Fact, describe_languages, headline_facts, list_facts
from mt.report.heat_maps import HeatMap, compute_heat_maps
from mt.report.pair_counts import read_pair_counts
from mt.report.run_plots import length_plot, training_plots
from mt.report.scored_set import ScoredSet, load_evaluation_sets, translate_and_score
from mt.report.template import PageLink, link_below, render, write_page
from mt.report.training_history import (
    SampleVersion,
    follow_samples,
    missing_metrics,
    read_curves,
)
from mt.storage.checkpoint import BEST, find_checkpoint, has_best
from mt.storage.run_dir import RunDir, open_run_dir
from mt.training.metrics_log import MetricsHistory, read_metrics_log, read_scores
from mt.wording import count_of

logger = logging.getLogger(__name__)


class Report(NamedTuple):
    """Everything that the page shows."""

    name: str
    languages: str
    src_lang: str  # of the samples; "" if there are several languages
    tgt_lang: str
    summary: Sequence[Fact]
    facts: Mapping[str, Sequence[Fact]]  # by heading
    history: MetricsHistory
    samples: Mapping[tuple[str, str], Sequence[SampleVersion]]  # by (source, reference)
    scored_sets: Sequence[ScoredSet]
    heat_maps: Sequence[HeatMap]
    heat_maps_source: str  # name of the evaluation set of the heat maps' sentences
    missing: Sequence[str]  # sentences about what could not be shown
    config: str  # as YAML
    next_steps: Sequence[Advice] | None = None  # None: there are too few validations to judge
    links: Sequence[PageLink] = ()  # to other pages about the run


class Evaluation(NamedTuple):
    """The part of a report that needs the model."""

    checkpoint: str = ""  # name of the scored checkpoint, "" if there is none
    scored_sets: Sequence[ScoredSet] = ()
    heat_maps: Sequence[HeatMap] = ()
    heat_maps_source: str = ""
    missing: Sequence[str] = ()


class Headline(NamedTuple):
    """The score at the top of the page."""

    score: Score
    description: str  # the set that was scored


def write_report(
    run_dir: Path, output: Path, *, checkpoint: str = "best", device: str = "auto"
) -> None:
    """Write the report of a run to an HTML file. Raises MtError.

    The page and the log say which parts are missing.
    """
    report = collect_report(run_dir, checkpoint=checkpoint, device=device)
    for sentence in report.missing:
        logger.info(sentence)
    link = link_below(output, RunDir(run_dir).attention_path, text="Attention page")
    write_page(report_page(report._replace(links=[link] if link is not None else [])), output)
    logger.info(f"{output}: {output.stat().st_size / 1000:,.0f} kB")


def collect_report(run_dir: Path, *, checkpoint: str, device: str) -> Report:
    """Read the records of a run, and translate and score its evaluation sets."""
    run = open_run_dir(run_dir)
    config = load_run_config(run.config_path)
    history = read_metrics_log(run.metrics_path)
    counts = read_pair_counts(run, num_corpora=len(config.data.train))
    evaluation = evaluate_run(run, config, checkpoint=checkpoint, device=device)
    valid_languages = [config.data.languages(section) for section in config.data.valid]
    return Report(
        name=run.path.resolve().name,
        languages=describe_languages(config.data),
        src_lang=_single_language(languages.src for languages in valid_languages),
        tgt_lang=_single_language(languages.tgt for languages in valid_languages),
        summary=headline_facts(config, history, counts),
        facts=list_facts(config, history, counts, checkpoint=evaluation.checkpoint),
        history=history,
        samples=follow_samples(history),
        scored_sets=evaluation.scored_sets,
        heat_maps=evaluation.heat_maps,
        heat_maps_source=evaluation.heat_maps_source,
        missing=[*missing_metrics(history, file_name=run.metrics_path.name), *evaluation.missing],
        config=dump_config(config),
        next_steps=find_next_steps(config, history, evaluation.scored_sets),
    )


def _single_language(languages: Iterable[str]) -> str:
    """Return the language if all are the same, else ""."""
    different = set(languages)
    return different.pop() if len(different) == 1 else ""


def find_next_steps(
    config: Config, history: MetricsHistory, scored_sets: Sequence[ScoredSet]
) -> list[Advice] | None:
    """Return the advice about a run, or None if there are too few validations to judge.

    The translations are those of the first scored set, if there is one.
    """
    curves = read_curves(history, config)
    if not curves.is_enough:
        return None
    outputs: OutputCounts | None = None
    scores: dict[str, Score] = {}
    if scored_sets:
        sentences = scored_sets[0].sentences
        outputs = count_outputs(
            [sentence.src for sentence in sentences],
            [sentence.hyp for sentence in sentences],
            [sentence.ref for sentence in sentences],
        )
        scores = {score.name: score for score in scored_sets[0].scores}
    return suggest_next_steps(curves, outputs, bleu=scores.get("BLEU"), chrf=scores.get("chrF"))


def evaluate_run(run: RunDir, config: Config, *, checkpoint: str, device: str) -> Evaluation:
    """Translate and score the run's evaluation sets, if there is a checkpoint yet."""
    if checkpoint == BEST and not has_best(run.checkpoints_dir):
        return Evaluation(missing=["The run has no checkpoint yet: nothing could be translated."])
    translator = Translator.load(run.path, checkpoint=checkpoint, device=device)
    eval_sets, problems = load_evaluation_sets(config)
    problems += [f"{text}." for text in find_seen_source_problems(eval_sets, config.data)]
    scored_sets = []
    heat_maps: list[HeatMap] = []
    heat_maps_source = ""
    for eval_set in eval_sets:
        logger.info(f"{eval_set.name}: translating {count_of(len(eval_set.src), 'sentence')}")
        scoring = scoring_of_run(config, tgt_lang=eval_set.tgt_lang)
        scored_sets.append(translate_and_score(eval_set, translator, scoring=scoring))
        if not heat_maps:  # the sets before had no suitable sentence
            heat_maps = compute_heat_maps(eval_set, translator)
            heat_maps_source = eval_set.name
    return Evaluation(
        checkpoint=find_checkpoint(run.checkpoints_dir, checkpoint).name,
        scored_sets=scored_sets,
        heat_maps=heat_maps,
        heat_maps_source=heat_maps_source,
        missing=problems,
    )


def report_page(report: Report) -> str:
    """Render the report as one HTML file that needs no other file."""
    return render(
        "report.html",
        {
            "report": report,
            "headline": find_headline(report),
            "plots": training_plots(report.history),
            "length_plot": length_plot,
            "word_diff": word_diff,
            "min_sentences": MIN_SENTENCES_FOR_INTERVAL,
            "length_ratio": LENGTH_RATIO,
        },
    )


def find_headline(report: Report) -> Headline | None:
    """Choose the score for the top of the page.

    It is the first score of the first set or, if no set was scored, of the best validation.
    """
    if report.scored_sets:
        first_set = report.scored_sets[0]
        return Headline(first_set.scores[0], first_set.name)
    for line in reversed(report.history.valid):
        if not line.get("is_best"):
            continue
        for name, value in read_scores(line).items():
            score = Score(name, float(value), line["signatures"][name])
            return Headline(score, f"the validation set, at update {line['step']:,}")
    return None
