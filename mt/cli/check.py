"""The command `mt check`."""

from pathlib import Path
from typing import Annotated

import typer

from mt.cli.options import (
    ConfigDeviceOption,
    JsonOption,
    QuietOption,
    SetOption,
    VerboseOption,
)


def check(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file that says what to train")
    ],
    overrides: SetOption = None,
    device: ConfigDeviceOption = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="also kill a short training, and compare what it resumes to"),
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Check a config and its files before training: faults, sizes, speed, time. Changes nothing.

    The exit code is 1 when there are errors, 0 when there are none or only warnings.
    """
    from mt.cli.check_output import print_findings
    from mt.preflight.run_checks import check as run_checks

    findings = run_checks(config, overrides or [], device=device, resume=resume)
    raise typer.Exit(print_findings(findings, as_json=json))
