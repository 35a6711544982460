"""The command `mt check`."""

from typing import Annotated

import typer

from mt.cli.options import (
    ConfigArgument,
    ConfigDeviceOption,
    ConfigOption,
    JsonOption,
    QuietOption,
    SetOption,
    VerboseOption,
    chosen_config,
)


def check(
    config: ConfigArgument = None,
    config_option: ConfigOption = None,
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
    config_path = chosen_config(config, config_option)
    from mt.cli.check_output import print_findings
    from mt.preflight.run_checks import check as run_checks

    findings = run_checks(config_path, overrides or [], device=device, resume=resume)
    raise typer.Exit(print_findings(findings, as_json=json))
