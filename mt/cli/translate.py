"""The command `mt translate`."""

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mt.cli.options import (
    BeamOption,
    CheckpointOption,
    DeviceOption,
    InputOption,
    OutputOption,
    QuietOption,
    RunDirArgument,
    VerboseOption,
)
from mt.cli.streams import read_input, refuse_overwriting_input, write_lines

if TYPE_CHECKING:
    from mt.cli.translate_output import Format
    from mt.decoding.translator import Translator


def translate(
    run_dir: RunDirArgument,
    source: InputOption = None,
    output: OutputOption = None,
    beam_size: BeamOption = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=10.0, help="score = log_prob / length^this  [default: the config's]"
        ),
    ] = None,
    n_best: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, help="print the N best translations of each line, in Moses' format"
        ),
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="print a JSON object per line, with scores")
    ] = False,
    alignments: Annotated[
        bool,
        typer.Option("--alignments", help="add ' ||| 0-0 1-2': source word-target word"),
    ] = False,
    errors: Annotated[
        Literal["strict", "replace"],
        typer.Option(help="bytes that are not UTF-8: an error with the line, or U+FFFD"),
    ] = "strict",
    exact: Annotated[
        bool,
        typer.Option("--exact", help="batches of one line: slower, but independent of each other"),
    ] = False,
    no_split: Annotated[
        bool,
        typer.Option(
            "--no-split",
            help="translate a line of several sentences as a whole, up to data.max_length tokens",
        ),
    ] = False,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Translate lines: line i of the output is the translation of line i of the input.

    A blank line stays blank. A line that the model was not trained for, because of its length or
    because it has several sentences, is translated sentence by sentence. An output file is written
    only after the last line is translated. On stdout, the lines translated before an error remain.
    """
    if length_penalty is not None and math.isnan(length_penalty):
        raise typer.BadParameter("wanted a number, found nan", param_hint="--length-penalty")
    if n_best is not None and beam_size is not None and n_best > beam_size:
        raise typer.BadParameter(
            f"{n_best} translations need --beam-size {n_best} at least", param_hint="--n-best"
        )
    refuse_overwriting_input(source, output, written="its translation")

    from mt.cli import translate_output as formats
    from mt.decoding.translator import CHUNK_SIZE, Translator

    translator = Translator.load(
        run_dir,
        checkpoint=checkpoint,
        device=device,
        beam_size=beam_size,
        length_penalty=length_penalty,
        exact=exact,
        split_lines=not no_split,
    )
    num_translations = n_best or 1
    if num_translations > translator.search.beam_size:
        search = translator.search.model_copy(update={"beam_size": num_translations})
        translator = replace(translator, search=search)
    format_line = formats.best_line
    if jsonl:
        format_line = formats.json_line
    elif n_best is not None:
        format_line = formats.moses_lines

    input_is_terminal = source is None and sys.stdin is not None and sys.stdin.isatty()
    output_is_terminal = output is None and sys.stdout is not None and sys.stdout.isatty()
    formatted = translate_lines(
        translator,
        read_input(source, errors=errors),
        format_line=format_line,
        n_best=num_translations,
        alignments=alignments,
        chunk_size=1 if input_is_terminal else CHUNK_SIZE,  # a typed line is answered at once
    )
    # On a terminal, a progress bar would get between the lines.
    with_bar = sys.stderr.isatty() and not input_is_terminal and not output_is_terminal
    write_lines(formatted, output, with_bar=with_bar, at_once=input_is_terminal)


def translate_lines(
    translator: "Translator",
    lines: Iterable[str],
    *,
    format_line: "Format",
    n_best: int,
    alignments: bool,
    chunk_size: int,
) -> Iterator[str]:
    """Yield what to print for each line, in order.

    With a chunk size of 1, each line is translated before the next one is read.
    """
    from mt.decoding.alignment import align_translations

    number = 0
    for chunk in translator.translate_chunks(lines, n_best=n_best, chunk_size=chunk_size):
        n_best_lists = chunk.translations
        if alignments:
            n_best_lists = align_translations(translator, chunk.lines, n_best_lists)
        for line, translations in zip(chunk.lines, n_best_lists, strict=True):
            number += 1
            yield format_line(number, line, translations)
