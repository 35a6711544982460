"""The command `mt export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mt.cli.options import CheckpointOption, QuietOption, RunDirArgument, VerboseOption

Format = Literal["ctranslate2", "transformers", "argos", "bundle"]
Quantization = Literal["float32", "int8", "int16", "float16", "bfloat16"]


def export(
    run_dir: RunDirArgument,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="directory to write, or an older export to replace; "
            "for argos, a file that ends in .argosmodel",
        ),
    ],
    to: Annotated[Format, typer.Option(help="program that reads the export; bundle: mt")],
    quantization: Annotated[
        Quantization | None,
        typer.Option(help="how weights are stored by ctranslate2 and argos  [default: float32]"),
    ] = None,
    license_name: Annotated[
        str | None,
        typer.Option("--license", metavar="TEXT", help="license of the model, for its card"),
    ] = None,
    checkpoint: CheckpointOption = "best",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write a model for other programs or other people, with a model card (README.md).

    ctranslate2 is for CTranslate2, which needs no PyTorch and is usually faster; transformers for
    Hugging Face Transformers; argos for Argos Translate and LibreTranslate; bundle for mt on
    another machine.
    """
    if quantization is not None and to not in ("ctranslate2", "argos"):
        raise typer.BadParameter("goes with ctranslate2 and argos", param_hint="--quantization")
    if to == "bundle":
        from mt.export import bundle

        bundle.export(run_dir, path, checkpoint=checkpoint, license_name=license_name)
    elif to == "transformers":
        from mt.export import transformers

        transformers.export(run_dir, path, checkpoint=checkpoint, license_name=license_name)
    else:
        from mt.export import argos, ctranslate2

        export_quantized = argos.export if to == "argos" else ctranslate2.export
        export_quantized(
            run_dir,
            path,
            quantization=quantization or "float32",
            checkpoint=checkpoint,
            license_name=license_name,
        )
