"""The command `mt evaluate`."""

import logging
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mt.cli.options import (
    BeamOption,
    CheckpointOption,
    DeviceOption,
    EnsembleOption,
    JsonOption,
    QuietOption,
    VerboseOption,
)
from mt.cli.streams import write_lines
from mt.config.choices import BleuTokenizer
from mt.progress_bar import ProgressBar

if TYPE_CHECKING:
    from mt.cli.evaluate_output import SetComparison, SystemLengths
    from mt.evaluation.evaluate import TranslatedSets

logger = logging.getLogger(__name__)


class Metric(StrEnum):
    """A score that can be asked for. (Typer takes no list of a Literal.)"""

    BLEU = "bleu"
    CHRF = "chrf"
    CHRF_WITH_WORDS = "chrf++"
    TER = "ter"


def evaluate(
    run_dirs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN_DIR", help="directories that mt train made; none with --hyp alone"
        ),
    ] = None,
    src: Annotated[
        Path | None,
        typer.Option(
            help="file to translate  [default: the config's test sets or validation sets]"
        ),
    ] = None,
    ref: Annotated[
        list[Path] | None, typer.Option(help="file of references; may be given again")
    ] = None,
    hyp: Annotated[
        list[Path] | None,
        typer.Option(help="file of translations to score; may be given again"),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="LANG",
            help="target language of --src, for a model of several  [default: data.tgt_lang]",
        ),
    ] = None,
    lang: Annotated[
        str,
        typer.Option(help="target language of --hyp without a run, such as zh, zho_Hant or pt-BR"),
    ] = "",
    tokenize: Annotated[
        BleuTokenizer | None,
        typer.Option(
            help="BLEU's tokenizer, as sacreBLEU calls it; auto fits the target language  "
            "[default: the config's; auto without a run]"
        ),
    ] = None,
    lowercase: Annotated[
        bool | None,
        typer.Option(
            help="ignore case in BLEU and chrF  [default: the config's; no without a run]"
        ),
    ] = None,
    metric: Annotated[
        list[Metric] | None,
        typer.Option(help="score to compute; may be given again  [default: bleu, chrf, ter]"),
    ] = None,
    by_length: Annotated[
        bool, typer.Option("--by-length", help="show the scores by source length too")
    ] = False,
    per_sentence: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="write each sentence with its BLEU and chrF, one JSON object a line",
        ),
    ] = None,
    json: JsonOption = False,
    ensemble_with: EnsembleOption = None,
    beam_size: BeamOption = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Score translations by BLEU, chrF and TER, each with its sacreBLEU signature.

    With several runs or files, each is compared with the first: confidence intervals, and p-values
    of a paired bootstrap (bs) and of a paired approximate randomization (ar).
    """
    run_dirs = run_dirs or []
    hyps = hyp or []
    _check_combination(run_dirs, src=src, ref=ref, hyps=hyps, lang=lang, by_length=by_length)
    if to is not None and (src is None or not run_dirs):
        raise typer.BadParameter("needs RUN_DIR and --src", param_hint="--to")
    if ensemble_with and len(run_dirs) != 1:
        raise typer.BadParameter("needs one RUN_DIR", param_hint="--with")
    from mt.cli.evaluate_progress import EvaluationBar
    from mt.evaluation.evaluate import translate_sets
    from mt.evaluation.metrics import DEFAULT_METRICS

    with ProgressBar(enabled=logger.isEnabledFor(logging.INFO)) as bar:
        translated = translate_sets(
            run_dirs,
            hyps=hyps,
            src=src,
            refs=ref or [],
            to=to,
            tgt_lang=lang,
            ensemble_with=ensemble_with or [],
            checkpoint=checkpoint,
            device=device,
            beam_size=beam_size,
            tokenize=tokenize,
            lowercase=lowercase,
            on_progress=EvaluationBar(bar).on_progress,
        )
    metrics = list(dict.fromkeys(str(name) for name in metric or DEFAULT_METRICS))
    _print_scores(translated, metrics, json=json, by_length=by_length)
    if per_sentence is not None:
        _write_sentences(translated, per_sentence)


def _print_scores(
    translated: "TranslatedSets", metrics: Sequence[str], *, json: bool, by_length: bool
) -> None:
    """Score the translations and print the scores: a list for one system, a table for several."""
    from mt.cli import evaluate_output as output

    lengths = _score_by_length(translated, metrics) if by_length else []
    if len(translated.sets[0].outputs) == 1:
        results = [item.score(metrics) for item in translated.sets]
        text = output.as_json(results, lengths) if json else output.as_text(results)
    else:
        compared = _compare_systems(translated, metrics)
        if json:
            text = output.comparison_as_json(compared, lengths)
        else:
            text = output.comparison_as_text(compared)
    if lengths and not json:
        text += "\n" + output.lengths_as_text(lengths)
    write_lines([text])


def _compare_systems(translated: "TranslatedSets", metrics: Sequence[str]) -> "list[SetComparison]":
    """Return the scores of several systems, each compared with the first."""
    from mt.cli.evaluate_output import SetComparison

    compared = []
    for item in translated.sets:
        scores = item.compare_systems(metrics)
        systems = [output.system for output in item.outputs]
        eval_set = item.eval_set
        compared.append(SetComparison(eval_set.name, len(eval_set.src), systems, scores))
    return compared


def _score_by_length(translated: "TranslatedSets", metrics: Sequence[str]) -> "list[SystemLengths]":
    """Return the scores of each set and system by source length."""
    from mt.cli.evaluate_output import SystemLengths
    from mt.evaluation.by_length import score_by_length

    scored = []
    for item in translated.sets:
        for system, lines in item.outputs:
            lengths = score_by_length(item.eval_set, lines, scoring=item.scoring, metrics=metrics)
            scored.append(SystemLengths(item.eval_set.name, system, lengths))
    return scored


def _write_sentences(translated: "TranslatedSets", path: Path) -> None:
    """Write each sentence with its scores to a file, and log the signatures of these."""
    from mt.cli.evaluate_output import sentences_as_jsonl
    from mt.evaluation.per_sentence import SentenceScorer

    # Sets with other target languages may be scored in another way.
    scorers = {item.scoring: SentenceScorer(item.scoring) for item in translated.sets}
    write_lines(sentences_as_jsonl(translated.sets, scorers), path)
    for scorer in scorers.values():
        for name, signature in scorer.signatures.items():
            logger.info(f"{path}: {name} of each sentence: {signature}")


def _check_combination(
    run_dirs: Sequence[Path],
    *,
    src: Path | None,
    ref: list[Path] | None,
    hyps: Sequence[Path],
    lang: str,
    by_length: bool,
) -> None:
    """Raise BadParameter unless the arguments name runs or files of translations to score."""
    if not run_dirs and not hyps:
        raise typer.BadParameter("give RUN_DIR, with or without --src, or --hyp, or both")
    if run_dirs and lang:
        raise typer.BadParameter("a run has its language in its config", param_hint="--lang")
    if bool(ref) != (src is not None or not run_dirs):
        raise typer.BadParameter(
            "--src and --hyp need --ref, and --ref needs one of them; with a run, it needs --src",
            param_hint="--ref",
        )
    if by_length and src is None and not run_dirs:
        raise typer.BadParameter("needs the sources: --src", param_hint="--by-length")
