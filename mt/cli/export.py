"""The command `mt export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mt.cli.options import CheckpointOption, QuietOption, RunDirArgument, VerboseOption

Quantization = Literal["float32", "int8", "int16", "float16", "bfloat16"]


def export(
    run_dir: RunDirArgument,
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="directory to write, or an older export to replace"),
    ],
    to: Annotated[Literal["ctranslate2"], typer.Option(help="program to export for")],
    quantization: Annotated[Quantization, typer.Option(help="how weights are stored")] = "float32",
    checkpoint: CheckpointOption = "best",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write the model and its tokenizers for CTranslate2.

    CTranslate2 translates faster, and without PyTorch.
    """
    from mt.export.ctranslate2 import export as export_to_ctranslate2

    export_to_ctranslate2(run_dir, directory, quantization=quantization, checkpoint=checkpoint)
