"""The command `mt report`."""

from pathlib import Path
from typing import Annotated

import typer

from mt.cli.options import (
    CheckpointOption,
    DeviceOption,
    QuietOption,
    RunDirArgument,
    VerboseOption,
)


def report(
    run_dir: RunDirArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="HTML file to write  [default: RUN_DIR/report.html]"),
    ] = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write an HTML page about a run: scores, translations, training curves, what to try next."""
    from mt.report.run_report import write_report
    from mt.storage.run_dir import RunDir

    page = output or RunDir(run_dir).report_path
    write_report(run_dir, page, checkpoint=checkpoint, device=device)
