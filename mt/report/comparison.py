"""mt compare: one HTML page about several runs: curves, scores, settings, and sentences."""

import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mt.errors import ConfigError, DataError
from mt.evaluation.analysis import most_different, word_diff
from mt.evaluation.evaluate import (
    OnEvaluationProgress,
    TranslatedSet,
    TranslatedSets,
    translate_sets,
)
from mt.evaluation.metrics import DEFAULT_METRICS, MIN_SENTENCES_FOR_INTERVAL
from mt.evaluation.per_sentence import SentenceScorer
from mt.evaluation.significance import PairedScores
from mt.report.compared_runs import ComparedRun, read_runs, run_facts
from mt.report.comparison_plots import Plot, comparison_plots, group_color
from mt.report.facts import describe_languages
from mt.report.template import PageLink, link_below, render, write_page
from mt.storage.checkpoint import BEST, has_best
from mt.storage.run_dir import RunDir
from mt.training.metrics_log import read_scope

logger = logging.getLogger(__name__)

NUM_SENTENCES = 10  # of each set, those where the runs differ most


class Spread(NamedTuple):
    """The scores of a group of runs that differ in the seed only."""

    mean: float
    deviation: float  # sample standard deviation
    lowest: float
    highest: float


class GroupScores(NamedTuple):
    """A group of runs with the spread of each metric."""

    name: str  # of its first run
    group: int
    num_runs: int
    spreads: list[Spread]  # in the order of the metrics


class Version(NamedTuple):
    """A translation of a sentence, and the runs that wrote it."""

    runs: list[ComparedRun]
    hyp: str
    ref: str  # the reference that it is compared with
    chrf: float


class DifferingSentence(NamedTuple):
    """A sentence that the runs translated differently."""

    line: int  # from 1
    src: str
    versions: list[Version]  # the best first


class ComparedSet(NamedTuple):
    """An evaluation set, translated by all runs that have a checkpoint."""

    name: str
    src_lang: str
    tgt_lang: str
    num_lines: int
    runs: list[ComparedRun]  # the first is the baseline of the tests
    scores: list[PairedScores]  # one for each metric
    groups: list[GroupScores]  # with two runs or more
    sentences: list[DifferingSentence]


class Comparison(NamedTuple):
    """Everything that the page shows."""

    languages: str
    runs: list[ComparedRun]
    plots: list[Plot]
    sets: list[ComparedSet]
    notes: list[str]  # sentences about what could not be shown, or cannot be compared
    report_links: Mapping[str, PageLink] = {}  # to the reports of the runs, by name of the run


def write_comparison(
    run_dirs: Sequence[Path],
    output: Path,
    *,
    checkpoint: str = "best",
    device: str = "auto",
    on_progress: OnEvaluationProgress | None = None,
) -> None:
    """Write a page about several runs to an HTML file. Raises MtError.

    The page says what could not be shown.
    """
    comparison = compare_runs(
        run_dirs, checkpoint=checkpoint, device=device, on_progress=on_progress
    )
    links = {}
    for run in comparison.runs:
        link = link_below(output, RunDir(run.path).report_path, text="report")
        if link is not None:
            links[run.name] = link
    write_page(comparison_page(comparison._replace(report_links=links)), output)
    logger.info(f"{output}: {output.stat().st_size / 1000:,.0f} kB")


def compare_runs(
    run_dirs: Sequence[Path],
    *,
    checkpoint: str,
    device: str,
    on_progress: OnEvaluationProgress | None = None,
) -> Comparison:
    """Read the records of runs, and translate and score the evaluation sets of the first one."""
    runs = read_runs(run_dirs)
    languages = describe_languages(runs[0].config.data)
    notes = _notes_on_validations(runs)
    usable = runs
    if checkpoint == BEST:
        usable = [run for run in runs if has_best(RunDir(run.path).checkpoints_dir)]
        notes += [f"{run.name} has no checkpoint yet." for run in runs if run not in usable]
    sets: list[ComparedSet] = []
    if len(usable) < 2:
        notes.append("Fewer than two runs have a checkpoint: nothing was translated.")
    else:
        try:
            translated = translate_sets(
                [run.path for run in usable],
                checkpoint=checkpoint,
                device=device,
                on_progress=on_progress,
            )
            notes += [f"{warning}." for warning in translated.warnings]
            sets = compare_sets(translated, usable)
        except (ConfigError, DataError) as error:
            notes.append(f"Nothing could be scored: {error}.")
    return Comparison(languages, runs, comparison_plots(runs), sets, notes)


def compare_sets(translated: TranslatedSets, runs: Sequence[ComparedRun]) -> list[ComparedSet]:
    """Score the translations of the runs, and find the sentences where they differ most."""
    compared = []
    for item in translated.sets:
        scorer = SentenceScorer(item.scoring)
        scores = item.compare_systems(DEFAULT_METRICS)
        compared.append(
            ComparedSet(
                name=item.eval_set.name,
                src_lang=item.eval_set.src_lang or runs[0].config.data.src_lang,
                tgt_lang=item.eval_set.tgt_lang or runs[0].config.data.tgt_lang,
                num_lines=len(item.eval_set.src),
                runs=list(runs),
                scores=scores,
                groups=group_scores(scores, runs),
                sentences=differing_sentences(item, runs, scorer),
            )
        )
    return compared


def group_scores(scores: Sequence[PairedScores], runs: Sequence[ComparedRun]) -> list[GroupScores]:
    """Return mean and spread of the scores of each group with two runs or more."""
    groups = []
    for group in sorted({run.group for run in runs}):
        members = [index for index, run in enumerate(runs) if run.group == group]
        if len(members) < 2:
            continue
        spreads = []
        for item in scores:
            values = [item.systems[index].score.value for index in members]
            deviation = statistics.stdev(values)
            spreads.append(Spread(statistics.mean(values), deviation, min(values), max(values)))
        groups.append(GroupScores(runs[members[0]].name, group, len(members), spreads))
    return groups


def differing_sentences(
    item: TranslatedSet, runs: Sequence[ComparedRun], scorer: SentenceScorer
) -> list[DifferingSentence]:
    """Return the sentences of a set with the largest differences in chrF between the runs."""
    refs_by_line = list(zip(*item.eval_set.refs, strict=True))
    chrf_by_run = []
    for output in item.outputs:
        pairs = zip(output.lines, refs_by_line, strict=True)
        chrf_by_run.append([scorer.score(hyp, refs).chrf for hyp, refs in pairs])
    chosen = most_different(item.eval_set.src, chrf_by_run, num_sentences=NUM_SENTENCES)
    sentences = []
    for index in chosen:
        runs_by_hyp: dict[str, list[ComparedRun]] = {}
        for run, output in zip(runs, item.outputs, strict=True):
            runs_by_hyp.setdefault(output.lines[index], []).append(run)
        versions = [
            _version(hyp, members, refs_by_line[index], scorer)
            for hyp, members in runs_by_hyp.items()
        ]
        versions.sort(key=lambda version: -version.chrf)
        sentences.append(DifferingSentence(index + 1, item.eval_set.src[index], versions))
    return sentences


def _version(
    hyp: str, runs: list[ComparedRun], refs: Sequence[str], scorer: SentenceScorer
) -> Version:
    """Return a translation with the reference that is most similar to it."""
    ref = max(refs, key=lambda ref: scorer.score(hyp, [ref]).chrf)
    return Version(runs, hyp, ref, scorer.score(hyp, refs).chrf)


def _notes_on_validations(runs: Sequence[ComparedRun]) -> list[str]:
    """Return a note if the curves of the runs do not mean the same."""
    scopes = set()
    for run in runs:
        for line in run.history.valid:
            scopes.add((str(read_scope(line)), str(line.get("signatures"))))
    if len(scopes) < 2:
        return []
    return [
        "The validation scores are of different lines, searches or signatures: compare the scores "
        "of the table, not those of the curves."
    ]


def comparison_page(comparison: Comparison) -> str:
    """Render the comparison as one HTML file that needs no other file."""
    return render(
        "comparison.html",
        {
            "comparison": comparison,
            "facts": [run_facts(run) for run in comparison.runs],
            "group_color": group_color,
            "word_diff": word_diff,
            "min_sentences": MIN_SENTENCES_FOR_INTERVAL,
        },
    )
