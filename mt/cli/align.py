"""The command `mt align`."""

from typing import Annotated, Literal

import typer

from mt.cli.logs import escape_control_chars
from mt.cli.options import (
    CheckpointOption,
    DeviceOption,
    OutputOption,
    QuietOption,
    RunDirArgument,
    SrcFileOption,
    TgtFileOption,
    ToOption,
    VerboseOption,
)
from mt.cli.streams import write_lines
from mt.cli.text_input import refuse_overwriting_input
from mt.wording import count_of


def align(
    run_dir: RunDirArgument,
    src: SrcFileOption,
    tgt: TgtFileOption,
    output: OutputOption = None,
    to: ToOption = None,
    layer: Annotated[
        int | None,
        typer.Option(
            min=1, help="decoder layer to use  [default: the last but one, or the second of two]"
        ),
    ] = None,
    step: Annotated[
        Literal["output", "input"],
        typer.Option(
            help="use the attention of the step that writes a word's first subword (output), "
            "or that reads its last subword (input)"
        ),
    ] = "output",
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Align the words of given sentence pairs by the model's cross-attention.

    Line i of the output has the links of pair i, source-target, as in 0-0 1-2. Words are separated
    by white space and counted from 0; in a script without spaces, such as Chinese, each character
    counts as a word. The line is empty when a sentence is blank, or longer than
    the model was trained for.
    """
    refuse_overwriting_input(src, output, written="alignments")
    refuse_overwriting_input(tgt, output, written="alignments")
    from mt.cli.line_progress import show_lines
    from mt.data.text import read_parallel
    from mt.decoding.alignment import align_lines, format_alignment
    from mt.decoding.translator import Translator

    translator = Translator.load(run_dir, checkpoint=checkpoint, device=device)
    translator.warn_of_default_language(to)
    layer_index = None
    if layer is not None:
        num_layers = len(translator.model.decoder_layers)
        if layer > num_layers:
            raise typer.BadParameter(
                f"{layer}: the decoder of {escape_control_chars(str(run_dir))} has "
                f"{count_of(num_layers, 'layer')}",
                param_hint="--layer",
            )
        layer_index = layer - 1
    alignments = align_lines(
        translator,
        read_parallel(src, tgt),
        layer=layer_index,
        step=step,
        prefix=translator.language_prefix(to),
    )
    shown_alignments = show_lines(alignments, src, enabled=output is not None)
    write_lines((format_alignment(alignment) for alignment in shown_alignments), output)
