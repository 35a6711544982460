"""Evaluation of runs, and of files of translations, by BLEU, chrF and TER."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mt.config.schema import Config
from mt.data.eval_set import EvalSet, read_eval_set, warn_of_unnormalized_references
from mt.data.text import read_lines
from mt.decoding.translator import TranslationProgress, Translator
from mt.errors import ConfigError, DataError
from mt.evaluation.metrics import DEFAULT_METRICS, Score, Scoring, score_corpus
from mt.evaluation.text_warnings import (
    describe_seen_sources,
    find_seen_sources,
    find_text_problems,
)
from mt.experiment import Experiment

logger = logging.getLogger(__name__)


class SetScores(NamedTuple):
    """The scores of one named evaluation set."""

    name: str
    num_lines: int
    scores: list[Score]


class SystemOutput(NamedTuple):
    """What one system wrote: a translation of each line of a set."""

    system: str  # the run directory or the file
    lines: list[str]


@dataclass(frozen=True)
class TranslatedSet:
    """An evaluation set with its translations by one or more systems, the baseline first."""

    eval_set: EvalSet
    outputs: list[SystemOutput]
    has_sources: bool = True  # False: the sources are not known, and those of `eval_set` are blank


@dataclass(frozen=True)
class TranslatedSets:
    """Evaluation sets with their translations, and how these are scored."""

    sets: list[TranslatedSet]
    scoring: Scoring
    warnings: list[str]  # about the sets and the text, logged already


@dataclass(frozen=True)
class EvaluationProgress:
    """How far the evaluation of one of several sets has come."""

    set_name: str
    set_number: int  # from 1
    num_sets: int
    num_lines: int  # of the set
    translation: TranslationProgress | None = None  # None: no batch is translated yet


OnEvaluationProgress = Callable[[EvaluationProgress], None]


def evaluate(
    run_dir: str | Path,
    *,
    src: str | Path | None = None,
    refs: Sequence[str | Path] = (),
    checkpoint: str = "best",
    device: str = "auto",
    beam_size: int | None = None,
    tokenize: str | None = None,
    lowercase: bool | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    on_progress: OnEvaluationProgress | None = None,
) -> list[SetScores]:
    """Translate evaluation sets with a run and score them. Raises MtError.

    The set is the file `src` with its references `refs`. Without `src`, the sets are the test sets
    of the run's config, or its validation set if it has no test sets. `tokenize` and `lowercase`
    default to the values in the run's config. `metrics` are "bleu", "chrf", "chrf++" and "ter".
    `on_progress` is called at the start of each set and after each batch of its translation.
    """
    translated = translate_sets(
        [run_dir],
        src=src,
        refs=refs,
        checkpoint=checkpoint,
        device=device,
        beam_size=beam_size,
        tokenize=tokenize,
        lowercase=lowercase,
        on_progress=on_progress,
    )
    return [
        score_set(item.eval_set, item.outputs[0].lines, scoring=translated.scoring, metrics=metrics)
        for item in translated.sets
    ]


def translate_sets(
    run_dirs: Sequence[str | Path],
    *,
    hyps: Sequence[str | Path] = (),
    src: str | Path | None = None,
    refs: Sequence[str | Path] = (),
    tgt_lang: str = "",
    checkpoint: str = "best",
    device: str = "auto",
    beam_size: int | None = None,
    tokenize: str | None = None,
    lowercase: bool | None = None,
    on_progress: OnEvaluationProgress | None = None,
) -> TranslatedSets:
    """Translate evaluation sets with each run, and read files of translations. Raises MtError.

    The set is the file `src` with its references `refs`; without `src`, the sets are those of the
    first run's config (see `evaluate`). Files of translations (`hyps`) need a single set; without
    runs, they need only its references. `tgt_lang` is their language, where there is no run.
    """
    if isinstance(refs, str):
        raise TypeError("evaluation takes a list of references, not a single str")
    experiments = [Experiment.open(run_dir) for run_dir in run_dirs]
    scoring = _common_scoring(experiments, tgt_lang, tokenize=tokenize, lowercase=lowercase)
    has_sources = bool(experiments) or src is not None
    if experiments and src is None:
        eval_sets = experiments[0].evaluation_sets
    else:
        eval_sets = [_read_set(src, hyps, refs)]
    if hyps and len(eval_sets) > 1:
        raise DataError(f"{hyps[0]}: translation of which of the test sets? Name it by --src")
    read_outputs = [_read_output(Path(hyp), eval_sets[0]) for hyp in hyps]
    warnings = _find_seen_sources(eval_sets, experiments)
    for experiment in experiments[:1]:
        for eval_set in eval_sets:
            warn_of_unnormalized_references(eval_set, experiment.config.data.normalization)

    outputs_by_set: list[list[SystemOutput]] = [[] for _ in eval_sets]
    for index, experiment in enumerate(experiments):
        translator = experiment.translator(checkpoint, device=device, beam_size=beam_size)
        for set_index, eval_set in enumerate(eval_sets):
            name = eval_set.name
            if len(experiments) > 1:
                name = f"{experiment.run_dir.path.name} {name}"
            progress = EvaluationProgress(
                name,
                set_number=index * len(eval_sets) + set_index + 1,
                num_sets=len(experiments) * len(eval_sets),
                num_lines=len(eval_set.src),
            )
            lines = _translate_set(translator, eval_set, progress, on_progress)
            outputs_by_set[set_index].append(SystemOutput(str(run_dirs[index]), lines))
    sets = []
    for eval_set, outputs in zip(eval_sets, outputs_by_set, strict=True):
        item = TranslatedSet(eval_set, [*outputs, *read_outputs], has_sources)
        warnings += _find_output_problems(item, scoring)
        sets.append(item)
    for warning in warnings:
        logger.warning(warning)
    return TranslatedSets(sets, scoring, warnings)


def scoring_of_run(
    config: Config, *, tokenize: str | None = None, lowercase: bool | None = None
) -> Scoring:
    """Return how a run's translations are scored, in validation too. Raises TokenizerError.

    `tokenize` and `lowercase` replace the values in the config.
    """
    section = config.evaluation
    return Scoring.for_language(
        config.data.tgt_lang,
        tokenize=section.tokenize if tokenize is None else tokenize,
        lowercase=section.lowercase if lowercase is None else lowercase,
    )


def score_set(
    eval_set: EvalSet,
    hypotheses: Sequence[str],
    *,
    scoring: Scoring,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> SetScores:
    """Return the scores of one translation of an evaluation set."""
    scores = score_corpus(hypotheses, eval_set.refs, metrics=metrics, scoring=scoring)
    return SetScores(eval_set.name, len(eval_set.src), scores)


def _common_scoring(
    experiments: Sequence[Experiment],
    tgt_lang: str,
    *,
    tokenize: str | None,
    lowercase: bool | None,
) -> Scoring:
    """Return how all systems are scored. Raises ConfigError if the runs' configs disagree."""
    if not experiments:
        return Scoring.for_language(
            tgt_lang, tokenize=tokenize or "auto", lowercase=bool(lowercase)
        )
    first = experiments[0]
    scoring = scoring_of_run(first.config, tokenize=tokenize, lowercase=lowercase)
    for experiment in experiments[1:]:
        other = scoring_of_run(experiment.config, tokenize=tokenize, lowercase=lowercase)
        _check_same_languages(first, experiment)
        if other != scoring:
            raise ConfigError(
                f"{experiment.run_dir.path}: its config scores with {other}, but that of "
                f"{first.run_dir.path} with {scoring}; give --tokenize and --lowercase or "
                "--no-lowercase"
            )
    return scoring


def _check_same_languages(first: Experiment, other: Experiment) -> None:
    """Raise ConfigError if two runs translate between different languages."""
    languages = [
        f"{item.config.data.src_lang} to {item.config.data.tgt_lang}" for item in (first, other)
    ]
    if languages[0] != languages[1]:
        raise ConfigError(
            f"{other.run_dir.path}: translates {languages[1]}, but {first.run_dir.path} translates "
            f"{languages[0]}: their scores cannot be compared"
        )


def _read_set(
    src: str | Path | None, hyps: Sequence[str | Path], refs: Sequence[str | Path]
) -> EvalSet:
    """Read the set that the user named. Without `src`, its sources are blank."""
    ref_paths = [Path(ref) for ref in refs]
    if src is not None:
        return read_eval_set(Path(src).name, Path(src), ref_paths)
    # The translations take the place of the sources, so that line counts are checked.
    hyp = Path(hyps[0])
    eval_set = read_eval_set(hyp.name if len(hyps) == 1 else ref_paths[0].name, hyp, ref_paths)
    return eval_set._replace(src=[""] * len(eval_set.src))


def _read_output(hyp: Path, eval_set: EvalSet) -> SystemOutput:
    """Read a file of translations. Raises DataError if it has another number of lines."""
    lines = list(read_lines(hyp))
    if len(lines) != len(eval_set.src):
        raise DataError(
            f"{hyp}: {len(lines):,} lines, but {eval_set.name} has {len(eval_set.src):,}; "
            "line i must be the translation of line i"
        )
    return SystemOutput(str(hyp), lines)


def _translate_set(
    translator: Translator,
    eval_set: EvalSet,
    progress: EvaluationProgress,
    on_progress: OnEvaluationProgress | None,
) -> list[str]:
    """Return the translation of a set, and call `on_progress` meanwhile."""
    if on_progress is None:
        return translator.translate(eval_set.src)

    def report(translation: TranslationProgress) -> None:
        on_progress(replace(progress, translation=translation))

    on_progress(progress)
    return replace(translator, on_progress=report).translate(eval_set.src)


def _find_seen_sources(
    eval_sets: Sequence[EvalSet], experiments: Sequence[Experiment]
) -> list[str]:
    """Return warnings about sources of the sets that are in the training text of a run."""
    # Most runs that are compared have the same training text. It is read once.
    training_texts = {}
    for experiment in experiments:
        data = experiment.config.data
        training_texts[repr((data.train, data.normalization))] = data
    messages = []
    for data in training_texts.values():
        seen = find_seen_sources(eval_sets, data)
        for eval_set, numbers in zip(eval_sets, seen or [], strict=False):
            if numbers:
                messages.append(describe_seen_sources(eval_set, numbers))
    return list(dict.fromkeys(messages))


def _find_output_problems(item: TranslatedSet, scoring: Scoring) -> list[str]:
    """Return warnings about the translations and references of a set."""
    sides = {}
    for output in item.outputs:
        is_only = len(item.outputs) == 1
        sides["translations" if is_only else f"translations of {output.system}"] = output.lines
    sides["references"] = item.eval_set.refs[0]
    return find_text_problems(item.eval_set.name, sides, scoring)
