"""The command `mt train`."""

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from mt.cli.options import (
    ConfigArgument,
    ConfigDeviceOption,
    ConfigOption,
    QuietOption,
    SetOption,
    VerboseOption,
    chosen_config,
)


def train(
    config: ConfigArgument = None,
    config_option: ConfigOption = None,
    overrides: SetOption = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="directory of the run  [default: the config's, or runs/<its name>]"),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="begin again; an earlier run moves from RUN_DIR to RUN_DIR.1, .2, ..."
        ),
    ] = False,
    device: ConfigDeviceOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a translator. The same command again resumes from the last checkpoint.

    mt train RUN_DIR resumes a run with the config that it has.
    """
    start_time = time.monotonic()  # imports take seconds, which train.max_minutes includes
    config_path = chosen_config(config, config_option)
    from mt.training.run import read_config, run_training

    resolved = read_config(config_path, overrides or [], run_dir=run_dir, device=device)
    end = run_training(resolved, fresh=fresh, start_time=start_time)
    if end.stop_signal is not None:
        # The exit code that a shell reports for the signal: in `mt train && mt evaluate`, the
        # second command then does not run.
        raise typer.Exit(128 + signal.Signals[end.stop_signal])
