"""mt align: the word alignments of sentence pairs that are there already, a line for each pair."""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from mt.cli.streams import write_lines
from mt.cli.translate import CHUNK_SIZE, refuse_overwriting_input
from mt.data.text import read_parallel
from mt.decoding.alignment import AlignmentStep, align, format_alignment
from mt.decoding.translator import Segment, Translator
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
    """Align two files to a file, which appears when the last pair is done, or to stdout. Raises MtError.

    Layers are counted from 1, as people do.
    """
    refuse_overwriting_input(src, output, by="alignments")
    refuse_overwriting_input(tgt, output, by="alignments")
    translator = Translator.load(run_dir, checkpoint=checkpoint, device=device)
    num_layers = len(translator.model.decoder_layers)
    if layer is not None and layer > num_layers:
        raise DataError(f"--layer {layer}: the decoder of {run_dir} has {num_layers} layers")
    answers = align_lines(translator, read_parallel(src, tgt), layer=layer and layer - 1, step=step)
    write_lines(answers, output, with_bar=output is not None and sys.stderr.isatty())


def align_lines(
    translator: Translator,
    pairs: Iterable[tuple[str, str]],
    *,
    layer: int | None = None,
    step: AlignmentStep = "output",
) -> Iterator[str]:
    """The links of each pair of lines; an empty line where one is blank, or longer than the model was trained for."""
    tokenizers = translator.src_tokenizer, translator.tgt_tokenizer
    numbered = enumerate(pairs, start=1)
    while chunk := list(islice(numbered, CHUNK_SIZE)):
        encoded = []
        for number, texts in chunk:
            pair = Segment(
                *(side.encode([text])[0] for side, text in zip(tokenizers, texts, strict=True))
            )
            if (num_tokens := max(map(len, pair))) > translator.max_length:
                said = f"mt: line {number}: {num_tokens:,} tokens, over {translator.max_length:,}: not aligned"
                tqdm.write(said, file=sys.stderr)
                pair = Segment(*([side.eos_id] for side in tokenizers))
            encoded.append(pair)
        yield from map(format_alignment, align(translator, encoded, layer=layer, step=step))
