"""The command `mt average`."""

from typing import Annotated

import typer

from mt.cli.options import QuietOption, RunDirArgument, VerboseOption
from mt.cli.streams import write_lines


def average(
    run_dir: RunDirArgument,
    last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="average the newest N checkpoints")
    ] = None,
    best: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="average the N checkpoints with the best validation"),
    ] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Average the weights of several checkpoints.

    The result is the checkpoint "average" of the run: mt evaluate RUN_DIR --checkpoint average.
    """
    if (last is None) == (best is None):
        raise typer.BadParameter("wanted one of the two", param_hint="--last or --best")
    from mt.experiment import Experiment
    from mt.training.checkpoint_average import average_checkpoints

    experiment = Experiment.open(run_dir)
    count = last if best is None else best
    assert count is not None, "checked above"
    names = average_checkpoints(experiment, count=count, by_score=best is not None)
    write_lines([f"average of {', '.join(names)}"])
