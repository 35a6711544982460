"""The command `mt compare`."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from mt.cli.options import CheckpointOption, DeviceOption, QuietOption, VerboseOption
from mt.progress_bar import ProgressBar

logger = logging.getLogger(__name__)


def compare(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR", help="two or more directories that mt train made"),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write")] = Path(
        "compare.html"
    ),
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write an HTML page that compares runs: curves, scores with p-values, settings, sentences."""
    if len(run_dirs) < 2:
        raise typer.BadParameter("wanted two runs or more", param_hint="RUN_DIR")
    from mt.cli.evaluate_progress import EvaluationBar
    from mt.report.comparison import write_comparison

    with ProgressBar(enabled=logger.isEnabledFor(logging.INFO)) as bar:
        write_comparison(
            run_dirs,
            output,
            checkpoint=checkpoint,
            device=device,
            on_progress=EvaluationBar(bar).on_progress,
        )
