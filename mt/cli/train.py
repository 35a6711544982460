"""The command `mt train`."""

import signal
import time
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
    start_time = time.monotonic()  # imports take seconds, which train.max_minutes includes
    from mt.training.run import read_config, run_training

    checked = read_config(config, overrides or [], run_dir=run_dir, device=device)
    end = run_training(checked, start_time=start_time)
    if end.stop_signal is not None:
        # The exit code that a shell reports for the signal: in `mt train && mt evaluate`, the
        # second command then does not run.
        raise typer.Exit(128 + signal.Signals[end.stop_signal])
