"""Evaluation of a run, or of a file of translations, by BLEU, chrF and TER."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mt.data.eval_set import EvalSet, read_eval_set, warn_of_other_form
from mt.evaluation.metrics import Score, bleu_tokenizer, score_corpus
from mt.experiment import Experiment


class SetScores(NamedTuple):
    """The scores of one named evaluation set."""

    name: str
    num_lines: int
    scores: list[Score]


def evaluate(
    run_dir: str | Path,
    *,
    src: str | Path | None = None,
    refs: Sequence[str | Path] = (),
    checkpoint: str = "best",
    device: str = "auto",
    beam_size: int | None = None,
) -> list[SetScores]:
    """Translate evaluation sets with a run and score them. Raises MtError.

    The set is the file `src` with its references `refs`. Without `src`, the sets are the test sets
    of the run's config, or its validation set if it has no test sets.
    """
    experiment = Experiment.open(run_dir)
    if src is not None:
        src_path = Path(src)
        eval_sets = [read_eval_set(src_path.name, src_path, [Path(ref) for ref in refs])]
    else:
        eval_sets = experiment.evaluation_sets
    for eval_set in eval_sets:
        warn_of_other_form(eval_set, experiment.config.data.normalization)
    translator = experiment.translator(checkpoint, device=device, beam_size=beam_size)
    tgt_lang = experiment.config.data.tgt_lang
    return [
        score_set(eval_set, translator.translate(eval_set.src), tgt_lang=tgt_lang)
        for eval_set in eval_sets
    ]


def evaluate_file(hyp: Path, refs: Sequence[Path], *, tgt_lang: str = "") -> list[SetScores]:
    """Score a file of translations against files of references. Raises MtError."""
    # Scoring needs no source. The hypotheses take its place, so that line counts are checked.
    eval_set = read_eval_set(hyp.name, hyp, refs)
    hypotheses = eval_set.src
    return [score_set(eval_set, hypotheses, tgt_lang=tgt_lang)]


def score_set(
    eval_set: EvalSet,
    hypotheses: Sequence[str],
    *,
    tgt_lang: str,
    metrics: Sequence[str] = ("bleu", "chrf", "ter"),
) -> SetScores:
    """Return the scores of one translation of an evaluation set."""
    scores = score_corpus(
        hypotheses, eval_set.refs, metrics=metrics, tokenize=bleu_tokenizer(tgt_lang)
    )
    return SetScores(eval_set.name, len(eval_set.src), scores)
