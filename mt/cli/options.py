"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mt.cli.logs import configure_logging

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


def _set_quiet(value: bool) -> bool:
    if value:
        configure_logging(quiet=True)
    return value


def _set_verbose(value: bool) -> bool:
    if value:
        configure_logging(verbose=True)
    return value


ConfigArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="CONFIG", help="YAML file that says what to train, or a run directory: its config"
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="the same as the argument CONFIG")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="change a key: train.learning_rate=3e-4"),
]
RunDirArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_DIR", help="directory that mt train made, or a bundle of mt export"
    ),
]
DeviceOption = Annotated[Device, typer.Option(help="where to compute")]
ConfigDeviceOption = Annotated[
    Device | None, typer.Option(help="where to compute  [default: the config's]")
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="number format of matrix products; auto: the fast one on the device"),
]
CheckpointOption = Annotated[
    str,
    typer.Option(
        metavar="best|last|NAME|PATH",
        help="which checkpoint to use; a name is step_00012000 or average, for example",
    ),
]
BeamOption = Annotated[
    int | None,
    typer.Option(min=1, max=1000, help="beam size; 1 is greedy  [default: the config's]"),
]
EnsembleOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        metavar="RUN_DIR",
        help="another run, which computes together with the first (an ensemble); "
        "may be given again",
    ),
]
ToOption = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="LANG",
        help="target language, for a model of several  [default: data.tgt_lang]",
    ),
]
SrcFileOption = Annotated[Path, typer.Option("--src", help="file of sentences")]
TgtFileOption = Annotated[
    Path, typer.Option("--tgt", help="file of their translations, line by line")
]
InputOption = Annotated[
    Path | None, typer.Option("--input", "-i", help="file to read  [default: stdin]")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="file to write  [default: stdout]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object")]
# These two act through their callbacks; the commands do not use the values.
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="show warnings only", callback=_set_quiet)
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", help="show details for debugging", callback=_set_verbose)
]


def chosen_config(argument: Path | None, option: Path | None) -> Path:
    """Return the config that the user named by the argument CONFIG or by `--config`.

    Raises typer.BadParameter when both or none are given.
    """
    path = option if argument is None else argument
    if path is None:
        raise typer.BadParameter("wanted a config file or a run directory", param_hint="CONFIG")
    if argument is not None and option is not None:
        raise typer.BadParameter(
            f"wanted one config, found {argument} and --config {option}", param_hint="CONFIG"
        )
    return path
