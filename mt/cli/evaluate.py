"""The command `mt evaluate`."""

import logging
from pathlib import Path
from typing import Annotated

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

logger = logging.getLogger(__name__)


def evaluate(
    run_dir: Annotated[
        Path | None,
        typer.Argument(metavar="RUN_DIR", help="directory that mt train made; none with --hyp"),
    ] = None,
    src: Annotated[
        Path | None,
        typer.Option(help="file to translate  [default: the config's test sets or validation set]"),
    ] = None,
    ref: Annotated[
        list[Path] | None, typer.Option(help="file of references; may be given again")
    ] = None,
    hyp: Annotated[Path | None, typer.Option(help="file of translations to score")] = None,
    lang: Annotated[
        str, typer.Option(help="target language of --hyp, such as zh, zho_Hant or pt-BR")
    ] = "",
    tokenize: Annotated[
        BleuTokenizer | None,
        typer.Option(
            help="BLEU's tokenizer, as sacreBLEU calls it; auto fits the target language  "
            "[default: the config's; auto with --hyp]"
        ),
    ] = None,
    lowercase: Annotated[
        bool | None,
        typer.Option(help="ignore case in BLEU and chrF  [default: the config's; no with --hyp]"),
    ] = None,
    json: JsonOption = False,
    ensemble_with: EnsembleOption = None,
    beam_size: BeamOption = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Score translations by BLEU, chrF and TER, each with its sacreBLEU signature."""
    _check_combination(run_dir, src=src, ref=ref, hyp=hyp, lang=lang)
    from mt.cli.evaluate_output import as_json, as_text
    from mt.cli.evaluate_progress import EvaluationBar
    from mt.evaluation.evaluate import evaluate as evaluate_run
    from mt.evaluation.evaluate import evaluate_file

    if hyp is not None:
        if ensemble_with:
            raise typer.BadParameter("goes with RUN_DIR, not with --hyp", param_hint="--with")
        results = evaluate_file(
            hyp,
            ref or [],
            tgt_lang=lang,
            tokenize=tokenize or "auto",
            lowercase=bool(lowercase),
        )
    else:
        assert run_dir is not None, "checked above"
        with ProgressBar(enabled=logger.isEnabledFor(logging.INFO)) as bar:
            results = evaluate_run(
                run_dir,
                src=src,
                refs=ref or [],
                ensemble_with=ensemble_with or [],
                checkpoint=checkpoint,
                device=device,
                beam_size=beam_size,
                tokenize=tokenize,
                lowercase=lowercase,
                on_progress=EvaluationBar(bar).on_progress,
            )
    write_lines([as_json(results) if json else as_text(results)])


def _check_combination(
    run_dir: Path | None,
    *,
    src: Path | None,
    ref: list[Path] | None,
    hyp: Path | None,
    lang: str,
) -> None:
    """Raise BadParameter unless the arguments name a run, or a file of translations, to score."""
    is_run = run_dir is not None and hyp is None and not lang
    is_file = run_dir is None and hyp is not None and src is None
    if not is_run and not is_file:
        raise typer.BadParameter(
            "give either RUN_DIR, with or without --src, or --hyp, with or without --lang"
        )
    has_text = src is not None or hyp is not None
    if has_text != bool(ref):
        raise typer.BadParameter(
            "--src and --hyp need --ref, and --ref needs one of them", param_hint="--ref"
        )
