"""Evaluation of a run, or of a file of translations, by BLEU, chrF and TER."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mt.config.schema import Config
from mt.data.eval_set import EvalSet, read_eval_set, warn_of_unnormalized_references
from mt.data.words import lacks_spaces
from mt.decoding.translator import TranslationProgress, Translator
from mt.evaluation.metrics import WORD_TOKENIZERS, Score, Scoring, score_corpus
from mt.experiment import Experiment

logger = logging.getLogger(__name__)


class SetScores(NamedTuple):
    """The scores of one named evaluation set."""

    name: str
    num_lines: int
    scores: list[Score]


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
    ensemble_with: Sequence[str | Path] = (),
    checkpoint: str = "best",
    device: str = "auto",
    beam_size: int | None = None,
    tokenize: str | None = None,
    lowercase: bool | None = None,
    on_progress: OnEvaluationProgress | None = None,
) -> list[SetScores]:
    """Translate evaluation sets with a run and score them. Raises MtError.

    The set is the file `src` with its references `refs`. Without `src`, the sets are the test sets
    of the run's config, or its validation set if it has no test sets. `tokenize` and `lowercase`
    default to the values in the run's config. `ensemble_with` names further runs, which translate
    together with the first (see `Translator.load`). `on_progress` is called at the start of each
    set and after each batch of its translation.
    """
    if isinstance(refs, str):
        raise TypeError("evaluate takes a list of references, not a single str")
    experiment = Experiment.open(run_dir)
    scoring = scoring_of_run(experiment.config, tokenize=tokenize, lowercase=lowercase)
    if src is not None:
        src_path = Path(src)
        eval_sets = [read_eval_set(src_path.name, src_path, [Path(ref) for ref in refs])]
    else:
        eval_sets = experiment.evaluation_sets
    for eval_set in eval_sets:
        warn_of_unnormalized_references(eval_set, experiment.config.data.normalization)
    translator = experiment.translator(
        checkpoint, device=device, beam_size=beam_size, ensemble_with=ensemble_with
    )
    results = []
    for number, eval_set in enumerate(eval_sets, start=1):
        progress = EvaluationProgress(eval_set.name, number, len(eval_sets), len(eval_set.src))
        hypotheses = _translate_set(translator, eval_set, progress, on_progress)
        _warn_of_set(eval_set, hypotheses, scoring)
        results.append(score_set(eval_set, hypotheses, scoring=scoring))
    return results


def evaluate_file(
    hyp: Path,
    refs: Sequence[Path],
    *,
    tgt_lang: str = "",
    tokenize: str = "auto",
    lowercase: bool = False,
) -> list[SetScores]:
    """Score a file of translations against files of references. Raises MtError."""
    scoring = Scoring.for_language(tgt_lang, tokenize=tokenize, lowercase=lowercase)
    # Scoring needs no source. The hypotheses take its place, so that line counts are checked.
    eval_set = read_eval_set(hyp.name, hyp, refs)
    hypotheses = eval_set.src
    _warn_of_set(eval_set, hypotheses, scoring)
    return [score_set(eval_set, hypotheses, scoring=scoring)]


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
    metrics: Sequence[str] = ("bleu", "chrf", "ter"),
) -> SetScores:
    """Return the scores of one translation of an evaluation set."""
    scores = score_corpus(hypotheses, eval_set.refs, metrics=metrics, scoring=scoring)
    return SetScores(eval_set.name, len(eval_set.src), scores)


def find_missing_spaces(
    name: str, sides: Mapping[str, Sequence[str]], scoring: Scoring
) -> str | None:
    """Return a warning about the first side without spaces, if BLEU counts words between spaces.

    `sides` maps a name, such as "references", to the lines of a set.
    """
    if scoring.tokenize not in WORD_TOKENIZERS:
        return None
    for side, lines in sides.items():
        if lacks_spaces(lines):
            return (
                f"{name}: the {side} have about one word a line, and BLEU counts words between "
                f"spaces (tok:{scoring.tokenize}): use --tokenize zh or char, "
                "or evaluation.tokenize in a config"
            )
    return None


def warn_of_missing_spaces(name: str, sides: Mapping[str, Sequence[str]], scoring: Scoring) -> None:
    """Log what `find_missing_spaces` finds."""
    problem = find_missing_spaces(name, sides, scoring)
    if problem is not None:
        logger.warning(problem)


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


def _warn_of_set(eval_set: EvalSet, hypotheses: Sequence[str], scoring: Scoring) -> None:
    sides = {"translations": hypotheses, "references": eval_set.refs[0]}
    warn_of_missing_spaces(eval_set.name, sides, scoring)
