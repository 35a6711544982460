"""The command `mt score`."""

import json
import math
from typing import TYPE_CHECKING, Annotated

import typer

from mt.cli.options import (
    CheckpointOption,
    DeviceOption,
    EnsembleOption,
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

if TYPE_CHECKING:
    from mt.decoding.scoring import PairScore


def score(
    run_dir: RunDirArgument,
    src: SrcFileOption,
    tgt: TgtFileOption,
    output: OutputOption = None,
    to: ToOption = None,
    ensemble_with: EnsembleOption = None,
    jsonl: Annotated[
        bool,
        typer.Option("--jsonl", help="print a JSON object a line, with the score of each token"),
    ] = False,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Score given translations: the log-probability of each one, given its source.

    Line i of the output has the natural logarithm of the probability of pair i, the end of the
    sentence included. It is -inf (null in JSON) for a pair that is too long for the model.
    """
    refuse_overwriting_input(src, output, written="scores")
    refuse_overwriting_input(tgt, output, written="scores")
    from mt.cli.line_progress import show_lines
    from mt.data.text import read_parallel
    from mt.decoding.scoring import score_pairs
    from mt.decoding.translator import Translator

    translator = Translator.load(
        run_dir, ensemble_with=ensemble_with or (), checkpoint=checkpoint, device=device
    )
    translator.warn_of_default_language(to)
    prefix = translator.language_prefix(to)
    scores = score_pairs(translator, read_parallel(src, tgt), prefix=prefix)
    format_score = json_line if jsonl else plain_line
    shown_scores = show_lines(scores, src, enabled=output is not None)
    write_lines((format_score(index, score) for index, score in enumerate(shown_scores)), output)


def plain_line(index: int, score: "PairScore") -> str:
    """Return the log-probability alone."""
    return f"{score.log_prob:.6f}"


def json_line(index: int, score: "PairScore") -> str:
    """Return a JSON object with the index of the pair, the log-probability, and the tokens."""
    log_prob = score.log_prob if math.isfinite(score.log_prob) else None
    tokens = [token._asdict() for token in score.tokens]
    values = {"index": index, "log_prob": log_prob, "tokens": tokens}
    return json.dumps(values, ensure_ascii=False)
