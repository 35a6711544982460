"""The command line `mt`: its commands, and how errors are shown.

Each command has a module of its own in this folder. A command imports torch only when it runs, so
that `mt --help` is fast.
"""

import os
import re
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer

import mt
from mt.cli.align import align
from mt.cli.attention import attention
from mt.cli.average import average
from mt.cli.check import check
from mt.cli.clean import clean
from mt.cli.compare import compare
from mt.cli.evaluate import evaluate
from mt.cli.export import export
from mt.cli.init import init
from mt.cli.logs import configure_logging, escape_control_chars
from mt.cli.report import report
from mt.cli.schema import schema
from mt.cli.score import score
from mt.cli.serve import serve
from mt.cli.split import split
from mt.cli.tokenizer import tokenizer_app
from mt.cli.train import train
from mt.cli.translate import translate
from mt.errors import DiskError, MtError

app = typer.Typer(
    help="Train and use machine translation models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    init,
    train,
    check,
    translate,
    evaluate,
    average,
    align,
    score,
    report,
    compare,
    attention,
    export,
    serve,
    split,
    clean,
    schema,
):
    app.command()(command)
app.add_typer(tokenizer_app, name="tokenizer")


def main() -> None:
    """Run the command line.

    Prints an MtError or OSError as one line to stderr, and exits with code 1.
    """
    _replace_closed_streams()
    configure_logging()
    try:
        _refuse_deleted_directory()
        app()
    except (MtError, OSError) as error:
        with suppress(OSError):
            print(f"mt: {_printable(str(error))}", file=sys.stderr)
        sys.exit(1)


def _refuse_deleted_directory() -> None:
    """Raise DiskError if the current directory was deleted: PyTorch's libraries end without it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise DiskError("the current directory was deleted; change to another one") from None


def _show_version(value: bool) -> None:
    if value:
        print(f"mt {mt.__version__}")
        raise typer.Exit


@app.callback()
def common_options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="show the version", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Train and use machine translation models."""
    if context.invoked_subcommand != "train":  # training saves a checkpoint first
        _exit_on_sigterm()


def _exit_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit, so that temporary files are removed as after Ctrl-C."""

    def exit_with_signal_code(number: int, frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, exit_with_signal_code)


def _printable(message: str) -> str:
    """Escape what would break the line or change the terminal: a file name may contain anything."""
    # A newline followed by two spaces is ours: it begins an item of a list.
    one_line = re.sub(r"\n(?!  )", r"\\n", message)
    return escape_control_chars(one_line)


def _replace_closed_streams() -> None:
    """Open the null device for a standard stream that is closed, as after `2>&-`.

    Otherwise the next file that is opened gets the stream's number, and messages are written into
    it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is `descriptor`
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
