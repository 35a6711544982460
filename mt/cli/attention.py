"""The command `mt attention`."""

from pathlib import Path
from typing import Annotated

import typer

from mt.cli.options import (
    CheckpointOption,
    DeviceOption,
    QuietOption,
    RunDirArgument,
    ToOption,
    VerboseOption,
)


def attention(
    run_dir: RunDirArgument,
    sentence: Annotated[
        str, typer.Argument(metavar="SENTENCE", help="what to translate, in quotes")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="page.html to write, or its numbers as .json  [default: RUN_DIR/attention.html]",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="show attention for this translation  [default: the model's own]"),
    ] = None,
    to: ToOption = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show the attention weights of every layer and head while a sentence is translated."""
    from mt.report.attention_page import write_attention
    from mt.storage.run_dir import RunDir

    path = output or RunDir(run_dir).attention_path
    write_attention(
        run_dir,
        sentence,
        output=path,
        target=target,
        to=to,
        checkpoint=checkpoint,
        device=device,
    )
