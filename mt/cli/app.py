"""The command line: options in, words out; everything is computed elsewhere, and imported only when needed."""

import math
import os
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mt.cli.logs import configure_logging
from mt.errors import MtError

app = typer.Typer(
    help="Two files of parallel text in, a translator out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
tokenizer_app = typer.Typer(
    help="Train and try a tokenizer, as training does it.", no_args_is_help=True
)
app.add_typer(tokenizer_app, name="tokenizer")


Device = Literal["auto", "cpu", "cuda"]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="change a key, as train.learning_rate=3e-4"),
]
RunDirArgument = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="directory that mt train made")
]
DeviceOption = Annotated[Device, typer.Option(help="where to compute")]
CheckpointOption = Annotated[
    str, typer.Option(metavar="best|last|PATH", help="which checkpoint to use")
]
BeamOption = Annotated[
    int | None,
    typer.Option(min=1, max=1000, help="hypotheses kept; 1 is greedy  [default: the config's]"),
]
InputOption = Annotated[
    Path | None, typer.Option("--input", "-i", help="file to read  [default: stdin]")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="file to write  [default: stdout]")
]
ModelOption = Annotated[Path, typer.Option("--model", "-m", help="tokenizer .model file")]


def main() -> None:
    """Run the command; a mistake of the user's, or the disk's, is one line on stderr and exit code 1."""
    _fill_closed_streams()
    configure_logging()
    try:
        app()
    except (MtError, OSError) as error:
        # A file's name may hold anything. What goes on in other lines is a list of ours, which is indented.
        odd = re.compile(r"\n(?!  )|[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
        line = odd.sub(lambda found: found[0].encode("unicode_escape").decode(), str(error))
        print(f"mt: {line}", file=sys.stderr)
        sys.exit(1)


def _fill_closed_streams() -> None:
    """Open the null device where a standard stream is closed (`2>&-`), lest a file of ours take its number.

    What is meant for stderr would go to that file, or, by `print` and tqdm, to stdout.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


@app.command()
def train(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="YAML file that says what to train")
    ],
    overrides: SetOption = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="where to keep the run  [default: the config's, or runs/<its name>]"),
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="where to compute  [default: the config's]")
    ] = None,
) -> None:
    """Train a translator. The same command again goes on from the last checkpoint."""
    from mt.training.run import read_config, train

    train(read_config(config, overrides or [], run_dir=run_dir, device=device))


@app.command()
def check(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file that says what to train")
    ],
    overrides: SetOption = None,
    device: Annotated[
        Device | None, typer.Option(help="where to compute  [default: the config's]")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="also kill a short training, and see that it goes on to the same bits"
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Look at a config and its files before the hours are spent: faults, sizes, speed, time. Changes nothing.

    The exit code is 1 when there are errors, 0 when there are none or only warnings.
    """
    signal.signal(
        signal.SIGTERM, lambda number, _: sys.exit(128 + number)
    )  # leaves no temporary directory behind
    from mt.preflight import check as command

    findings = command.check(config, overrides or [], device=device, resume=resume)
    raise typer.Exit(command.report(findings, as_json=json))


@app.command()
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
        typer.Option(min=1, max=1000, help="print that many translations a line, as Moses does"),
    ] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="print a JSON object a line, with scores")
    ] = False,
    alignments: Annotated[
        bool,
        typer.Option(
            "--alignments", help="add ' ||| 0-0 1-2': which source word each target word comes from"
        ),
    ] = False,
    errors: Annotated[
        Literal["strict", "replace"],
        typer.Option(
            help="what is not UTF-8 ends the command, with the line's number, or is read as U+FFFD"
        ),
    ] = "strict",
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="one line at a time: slower, but free of near-ties that others turn"
        ),
    ] = False,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
) -> None:
    """Translate lines: line i of the output answers line i of the input.

    A blank line stays blank. A line longer than the model was trained for is cut at the space nearest to its middle,
    again if need be, and translated part by part. An output file appears, or takes an old one's place, when the last
    line is translated; stdout gets what comes before an error.
    """
    signal.signal(
        signal.SIGTERM, lambda number, _: sys.exit(128 + number)
    )  # leaves, as on Ctrl-C, no part of a file
    if length_penalty is not None and math.isnan(
        length_penalty
    ):  # neither below the least nor above the most
        raise typer.BadParameter("wanted a number, found nan", param_hint="--length-penalty")
    if n_best is not None and n_best > (beam_size or n_best):
        raise typer.BadParameter(
            f"{n_best} translations need --beam-size {n_best} at least", param_hint="--n-best"
        )
    from mt.cli import translate as command

    command.translate(
        run_dir,
        source,
        output,
        form=command.json_line
        if jsonl
        else command.moses_lines
        if n_best is not None
        else command.best_line,
        n_best=n_best or 1,
        alignments=alignments,
        errors=errors,
        exact=exact,
        checkpoint=checkpoint,
        device=device,
        beam_size=beam_size,
        length_penalty=length_penalty,
    )


@app.command()
def evaluate(
    run_dir: Annotated[
        Path | None,
        typer.Argument(metavar="RUN_DIR", help="directory that mt train made; none with --hyp"),
    ] = None,
    src: Annotated[
        Path | None,
        typer.Option(
            help="file to translate  [default: the config's test sets, else its validation set]"
        ),
    ] = None,
    ref: Annotated[
        list[Path] | None, typer.Option(help="file of references; may be given again")
    ] = None,
    hyp: Annotated[
        Path | None, typer.Option(help="file of translations that are there already")
    ] = None,
    lang: Annotated[str, typer.Option(help="target language of --hyp, for BLEU's tokenizer")] = "",
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    beam_size: BeamOption = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
) -> None:
    """Score translations by BLEU, chrF and TER, each with its sacreBLEU signature."""
    if (
        (run_dir is None) == (hyp is None)
        or (hyp is not None and src is not None)
        or (hyp is None and lang)
    ):
        raise typer.BadParameter(
            "give either RUN_DIR, with or without --src, or --hyp, with or without --lang"
        )
    if (src is not None or hyp is not None) != bool(ref):
        raise typer.BadParameter(
            "--ref goes with --src or --hyp, and they with it", param_hint="--ref"
        )
    from mt.cli.evaluate import as_json, as_text
    from mt.cli.streams import write_lines
    from mt.evaluation import evaluate as command

    if run_dir is None:
        found = command.evaluate_file(hyp or Path(), ref or [], tgt_lang=lang)
    else:
        options = {"checkpoint": checkpoint, "device": device}
        found = command.evaluate(run_dir, src=src, refs=ref or [], beam_size=beam_size, **options)
    write_lines([as_json(found) if json else as_text(found)])


@app.command()
def align(
    run_dir: RunDirArgument,
    src: Annotated[Path, typer.Option(help="file of sentences")],
    tgt: Annotated[Path, typer.Option(help="file of their translations, line by line")],
    output: OutputOption = None,
    layer: Annotated[
        int | None,
        typer.Option(
            min=1, help="decoder layer to ask  [default: the last but one, or the second of two]"
        ),
    ] = None,
    step: Annotated[
        Literal["output", "input"],
        typer.Option(
            help="ask the position that writes a word's first subword, or has just read its last"
        ),
    ] = "output",
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
) -> None:
    """Link each word of given translations to the source word it comes from, by the model's cross-attention.

    Line i of the output has the links of pair i, source-target, as in 0-0 1-2. Words are what white space parts,
    counted from 0. The line is empty where one of the pair is blank, or longer than the model was trained for.
    """
    from mt.cli.align import align_files

    align_files(
        run_dir, src, tgt, output, layer=layer, step=step, checkpoint=checkpoint, device=device
    )


@app.command()
def report(
    run_dir: RunDirArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="HTML file to write  [default: RUN_DIR/report.html]"),
    ] = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
) -> None:
    """Write one HTML page about a run: its data, its course, its scores with intervals, and where it fails."""
    from mt.report.run_report import write_report

    write_report(run_dir, output or run_dir / "report.html", checkpoint=checkpoint, device=device)


@app.command()
def attention(
    run_dir: RunDirArgument,
    sentence: Annotated[
        str, typer.Argument(metavar="SENTENCE", help="what to translate, in quotes")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="page.html to write, or its numbers as .json")
    ],
    target: Annotated[
        str | None, typer.Option(help="a translation to look at  [default: the model's own]")
    ] = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
) -> None:
    """Show where the model looks as it translates: a page of every layer and head."""
    from mt.report.attention_maps import write_attention

    write_attention(
        run_dir, sentence, output=output, target=target, checkpoint=checkpoint, device=device
    )


@app.command()
def export(
    run_dir: RunDirArgument,
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="directory to write, or an older export to replace"),
    ],
    to: Annotated[Literal["ctranslate2"], typer.Option(help="for which program")],
    quantization: Annotated[
        Literal["float32", "int8", "int16", "float16", "bfloat16"],
        typer.Option(help="how weights are kept"),
    ] = "float32",
    checkpoint: CheckpointOption = "best",
) -> None:
    """Write the model and its tokenizer for CTranslate2, which translates faster and without PyTorch."""
    from mt.export.ctranslate2 import export

    export(run_dir, directory, quantization=quantization, checkpoint=checkpoint)


@tokenizer_app.command("train")
def tokenizer_train(
    texts: Annotated[list[Path], typer.Argument(help="files of text, plain or .gz")],
    model: ModelOption,
    vocab_size: Annotated[int, typer.Option(min=1, help="number of tokens")] = 8000,
    kind: Annotated[Literal["bpe", "unigram"], typer.Option(help="algorithm")] = "bpe",
    character_coverage: Annotated[
        float, typer.Option(min=0.98, max=1.0, help="share of characters with a token")
    ] = 1.0,
) -> None:
    """Train a tokenizer on text."""
    from mt.data.tokenizer import train_tokenizer_from_files

    train_tokenizer_from_files(
        texts, model, kind=kind, vocab_size=vocab_size, character_coverage=character_coverage
    )


@tokenizer_app.command("encode")
def tokenizer_encode(
    model: ModelOption,
    source: InputOption = None,
    pieces: Annotated[
        bool, typer.Option("--pieces", help="print subwords instead of their ids")
    ] = False,
) -> None:
    """Text to token ids, line by line."""
    from mt.cli.streams import write_lines
    from mt.cli.tokenizer import encode_lines

    write_lines(encode_lines(model, source, as_pieces=pieces))


@tokenizer_app.command("decode")
def tokenizer_decode(model: ModelOption, source: InputOption = None) -> None:
    """Token ids to text, line by line."""
    from mt.cli.streams import write_lines
    from mt.cli.tokenizer import decode_lines

    write_lines(decode_lines(model, source))
