"""The command `mt train`."""

from pathlib import Path
from typing import Annotated

import typer

from mt.cli.options import (
    ConfigDeviceOption,
    ConfigOption,
    QuietOption,
    SetOption,
    VerboseOption,
)


def train(
    config: ConfigOption,
    overrides: SetOption = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="directory of the run  [default: the config's, or runs/<its name>]"),
    ] = None,
    device: ConfigDeviceOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a translator. The same command again resumes from the last checkpoint."""
    from mt.training.run import read_config
    from mt.training.run import train as train_run

    train_run(read_config(config, overrides or [], run_dir=run_dir, device=device))
