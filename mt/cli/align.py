"""The command `mt align`: print the word alignments of given sentence pairs."""

import sys
from pathlib import Path

from mt.cli.streams import refuse_overwriting_input, write_lines
from mt.data.text import read_parallel
from mt.decoding.alignment import AlignmentStep, align_lines, format_alignment
from mt.decoding.translator import Translator
from mt.errors import DataError


def align_files(
    run_dir: Path,
    src: Path,
    tgt: Path,
    output: Path | None,
    *,
    layer: int | None,
    step: AlignmentStep,
    checkpoint: str,
    device: str,
) -> None:
    """Align two files line by line, to a file, or to stdout if `output` is None.

    An output file appears when the last pair is aligned. `layer` is counted from 1. Raises MtError.
    """
    refuse_overwriting_input(src, output, written="alignments")
    refuse_overwriting_input(tgt, output, written="alignments")
    translator = Translator.load(run_dir, checkpoint=checkpoint, device=device)
    if layer is not None:
        num_layers = len(translator.model.decoder_layers)
        if layer > num_layers:
            raise DataError(f"--layer {layer}: the decoder of {run_dir} has {num_layers} layers")
        layer -= 1
    alignments = align_lines(translator, read_parallel(src, tgt), layer=layer, step=step)
    lines = (format_alignment(alignment) for alignment in alignments)
    write_lines(lines, output, with_bar=output is not None and sys.stderr.isatty())
