"""Evaluation of runs, and of files of translations, by BLEU, chrF and TER."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mt.config.schema import Config
from mt.data.eval_set import EvalSet, read_eval_set, warn_of_unnormalized_references
from mt.data.tags import describe_default_language, translatable_languages
from mt.data.text import read_lines
from mt.decoding.translation import TranslationProgress
from mt.decoding.translator import Translator
from mt.errors import ConfigError, DataError
from mt.evaluation.metrics import DEFAULT_METRICS, Score, Scoring, score_corpus
from mt.evaluation.significance import PairedScores, compare_with_baseline
from mt.evaluation.text_warnings import find_seen_source_problems, find_text_problems
from mt.experiment import Experiment
from mt.wording import count_of

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
    scoring: Scoring
    has_sources: bool = True  # False: the sources are not known, and those of `eval_set` are blank

    def score(self, metrics: Sequence[str]) -> SetScores:
        """Return the scores of the first system."""
        hypotheses = self.outputs[0].lines
        references = self.eval_set.refs
        scores = score_corpus(hypotheses, references, metrics=metrics, scoring=self.scoring)
        return SetScores(self.eval_set.name, len(self.eval_set.src), scores)

    def compare_systems(self, metrics: Sequence[str]) -> list[PairedScores]:
        """Return the scores of the systems, each compared with the baseline."""
        return compare_with_baseline(
            [output.lines for output in self.outputs],
            self.eval_set.refs,
            metrics=metrics,
            scoring=self.scoring,
        )


@dataclass(frozen=True)
class TranslatedSets:
    """Evaluation sets with their translations."""

    sets: list[TranslatedSet]
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
    to: str | None = None,
    ensemble_with: Sequence[str | Path] = (),
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
    of the run's config, or its validation sets if it has no test sets. `to` is the target language
    of `src`, for a model of several. `tokenize` and `lowercase` default to the values in the run's
    config. `ensemble_with` names further runs, which translate together with the first (see
    `Translator.load`). `metrics` are "bleu", "chrf", "chrf++" and "ter". `on_progress` is called at
    the start of each set and after each batch of its translation.
    """
    translated = translate_sets(
        [run_dir],
        src=src,
        refs=refs,
        to=to,
        ensemble_with=ensemble_with,
        checkpoint=checkpoint,
        device=device,
        beam_size=beam_size,
        tokenize=tokenize,
        lowercase=lowercase,
        on_progress=on_progress,
    )
    return [item.score(metrics) for item in translated.sets]


def translate_sets(
    run_dirs: Sequence[str | Path],
    *,
    hyps: Sequence[str | Path] = (),
    src: str | Path | None = None,
    refs: Sequence[str | Path] = (),
    to: str | None = None,
    tgt_lang: str = "",
    ensemble_with: Sequence[str | Path] = (),
    checkpoint: str = "best",
    device: str = "auto",
    beam_size: int | None = None,
    tokenize: str | None = None,
    lowercase: bool | None = None,
    on_progress: OnEvaluationProgress | None = None,
) -> TranslatedSets:
    """Translate evaluation sets with each run, and read files of translations. Raises MtError.

    The set is the file `src` with its references `refs`; without `src`, the sets are those of the
    first run's config (see `evaluate`). `to` is the target language of `src`, for models of
    several. Files of translations (`hyps`) need a single set; without runs, they need only its
    references. `tgt_lang` is their language, where there is no run. `ensemble_with` names runs that
    translate together with each run (see `Translator.load`).
    """
    if isinstance(refs, str):
        raise TypeError("evaluation takes a list of references, not a single str")
    experiments = [Experiment.open(run_dir) for run_dir in run_dirs]
    eval_sets = _load_sets(experiments, hyps, src=src, refs=refs, to=to)
    scorings = [
        _common_scoring(
            experiments, eval_set.tgt_lang or tgt_lang, tokenize=tokenize, lowercase=lowercase
        )
        for eval_set in eval_sets
    ]
    for experiment in experiments[1:]:
        for eval_set in eval_sets:
            require_same_languages(experiment, eval_set, first=experiments[0])
    read_outputs = [_read_output(Path(hyp), eval_sets[0]) for hyp in hyps]
    warnings = _find_seen_sources(eval_sets, experiments)
    if experiments and src is not None and to is None:
        data = experiments[0].config.data
        problem = describe_default_language(data.tgt_lang, translatable_languages(data))
        if problem is not None:
            warnings.append(problem)
    outputs_of_sets: list[list[SystemOutput]] = [[] for _ in eval_sets]
    for number, experiment in enumerate(experiments):
        translator = experiment.translator(
            checkpoint, device=device, beam_size=beam_size, ensemble_with=ensemble_with
        )
        system = " + ".join(str(path) for path in (run_dirs[number], *ensemble_with))
        for set_number, eval_set in enumerate(eval_sets):
            progress = _start_progress(experiments, number, eval_sets, set_number)
            lines = _translate_set(translator, eval_set, progress, on_progress)
            outputs_of_sets[set_number].append(SystemOutput(system, lines))
    has_sources = bool(experiments) or src is not None
    sets = [
        TranslatedSet(eval_set, [*outputs, *read_outputs], scoring, has_sources)
        for eval_set, outputs, scoring in zip(eval_sets, outputs_of_sets, scorings, strict=True)
    ]
    for item in sets:
        warnings += _find_output_problems(item)
    for warning in warnings:
        logger.warning(warning)
    return TranslatedSets(sets, warnings)


def scoring_of_run(
    config: Config,
    *,
    tgt_lang: str | None = None,
    tokenize: str | None = None,
    lowercase: bool | None = None,
) -> Scoring:
    """Return how a run's translations are scored, in validation too.

    `tgt_lang` is the language of the translations, for a model of several. `tokenize` and
    `lowercase` replace the values in the config. Raises PackageError and TokenizerError as
    `Scoring.for_language` does.
    """
    section = config.evaluation
    return Scoring.for_language(
        tgt_lang or config.data.tgt_lang,
        tokenize=section.tokenize if tokenize is None else tokenize,
        lowercase=section.lowercase if lowercase is None else lowercase,
    )


def _common_scoring(
    experiments: Sequence[Experiment],
    tgt_lang: str,
    *,
    tokenize: str | None,
    lowercase: bool | None,
) -> Scoring:
    """Return how all translations into a language are scored.

    Raises ConfigError if the runs' configs disagree.
    """
    if not experiments:
        return Scoring.for_language(
            tgt_lang, tokenize=tokenize or "auto", lowercase=bool(lowercase)
        )
    first = experiments[0]
    scoring = scoring_of_run(
        first.config, tgt_lang=tgt_lang, tokenize=tokenize, lowercase=lowercase
    )
    for experiment in experiments[1:]:
        other = scoring_of_run(
            experiment.config, tgt_lang=tgt_lang, tokenize=tokenize, lowercase=lowercase
        )
        if other != scoring:
            raise ConfigError(
                f"{experiment.run_dir.path}: its config scores with {other}, but that of "
                f"{first.run_dir.path} with {scoring}; give --tokenize and --lowercase or "
                "--no-lowercase"
            )
    return scoring


def require_same_languages(experiment: Experiment, eval_set: EvalSet, *, first: Experiment) -> None:
    """Raise ConfigError if a run does not translate a set between the languages of the first run.

    A set without languages is translated between the default languages of each run.
    """
    data = experiment.config.data
    src_lang = eval_set.src_lang or first.config.data.src_lang
    tgt_lang = eval_set.tgt_lang or first.config.data.tgt_lang
    src_languages = {pair.src for pair in data.language_pairs}
    tgt_languages = translatable_languages(data) if eval_set.tgt_lang else (data.tgt_lang,)
    if src_lang not in src_languages or tgt_lang not in tgt_languages:
        raise ConfigError(
            f"{experiment.run_dir.path}: does not translate {src_lang} to {tgt_lang}, as "
            f"{first.run_dir.path} does, but {' or '.join(sorted(src_languages))} to "
            f"{' or '.join(tgt_languages)}: their scores cannot be compared"
        )


def _load_sets(
    experiments: Sequence[Experiment],
    hyps: Sequence[str | Path],
    *,
    src: str | Path | None,
    refs: Sequence[str | Path],
    to: str | None,
) -> list[EvalSet]:
    """Return the set that the user named, or else those of the first run's config."""
    if not experiments or src is not None:
        eval_sets = [_read_set(src, hyps, refs)._replace(tgt_lang=to)]
    else:
        eval_sets = experiments[0].evaluation_sets
    if hyps and len(eval_sets) > 1:
        names = ", ".join(eval_set.name for eval_set in eval_sets)
        raise DataError(f"{hyps[0]}: the translation of which set ({names})? Give --src and --ref")
    if experiments:
        normalization = experiments[0].config.data.normalization
        for eval_set in eval_sets:
            warn_of_unnormalized_references(eval_set, normalization)
    return eval_sets


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
            f"{hyp}: {count_of(len(lines), 'line')}, but {eval_set.name} has "
            f"{len(eval_set.src):,}; line i must be the translation of line i"
        )
    return SystemOutput(str(hyp), lines)


def _start_progress(
    experiments: Sequence[Experiment],
    number: int,
    eval_sets: Sequence[EvalSet],
    set_number: int,
) -> EvaluationProgress:
    """Return the progress before run `number` translates a set; both numbers begin at 0."""
    eval_set = eval_sets[set_number]
    name = eval_set.name
    if len(experiments) > 1:
        name = f"{experiments[number].run_dir.path.name} {name}"
    return EvaluationProgress(
        name,
        set_number=number * len(eval_sets) + set_number + 1,
        num_sets=len(experiments) * len(eval_sets),
        num_lines=len(eval_set.src),
    )


def _translate_set(
    translator: Translator,
    eval_set: EvalSet,
    progress: EvaluationProgress,
    on_progress: OnEvaluationProgress | None,
) -> list[str]:
    """Return the translation of a set, and call `on_progress` meanwhile."""
    if on_progress is None:
        return translator.translate(eval_set.src, to=eval_set.tgt_lang)

    def report(translation: TranslationProgress) -> None:
        on_progress(replace(progress, translation=translation))

    on_progress(progress)
    translator = replace(translator, on_progress=report)
    return translator.translate(eval_set.src, to=eval_set.tgt_lang)


def _find_seen_sources(
    eval_sets: Sequence[EvalSet], experiments: Sequence[Experiment]
) -> list[str]:
    """Return warnings about sources of the sets that are in the training text of a run."""
    # Most runs that are compared have the same training text. It is read once.
    training_texts = {}
    for experiment in experiments:
        data = experiment.config.data
        training_texts[repr((data.train, data.normalization))] = data
    problems = []
    for data in training_texts.values():
        problems += find_seen_source_problems(eval_sets, data)
    return list(dict.fromkeys(problems))


def _find_output_problems(item: TranslatedSet) -> list[str]:
    """Return warnings about the translations and references of a set."""
    sides = {}
    for output in item.outputs:
        is_only = len(item.outputs) == 1
        sides["translations" if is_only else f"translations of {output.system}"] = output.lines
    sides["references"] = item.eval_set.refs[0]
    return find_text_problems(item.eval_set.name, sides, item.scoring)
