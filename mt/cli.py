"""The command line: options in, words out; everything is computed elsewhere, and imported only when needed."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mt.errors import MtError

app = typer.Typer(
    help="Two files of parallel text in, a translator out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
tokenizer_app = typer.Typer(help="Train and try a tokenizer, as training does it.", no_args_is_help=True)
app.add_typer(tokenizer_app, name="tokenizer")


Device = Literal["auto", "cpu", "cuda"]
RunDirArgument = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="directory that mt train made")]
DeviceOption = Annotated[Device, typer.Option(help="where to compute")]
CheckpointOption = Annotated[str, typer.Option(metavar="best|last|PATH", help="which checkpoint to use")]
BeamOption = Annotated[int | None, typer.Option(min=1, help="hypotheses kept; 1 is greedy  [default: the config's]")]
InputOption = Annotated[Path | None, typer.Option("--input", "-i", help="file to read  [default: stdin]")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="file to write  [default: stdout]")]
ModelOption = Annotated[Path, typer.Option("--model", "-m", help="tokenizer .model file")]


def main() -> None:
    """Run the command; a mistake of the user's, or the disk's, is one line on stderr and exit code 1."""
    # PyTorch's threads should spin very shortly for the next piece of work, then sleep: to spin long costs most of the
    # speed beside another busy process, to sleep at once a fifth of it when alone (see RECORDS.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app()
    except (MtError, OSError) as error:
        print(f"mt: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML file that says what to train")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a key, as train.learning_rate=3e-4")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="where to keep the run  [default: the config's, or runs/<its name>]")
    ] = None,
    device: Annotated[Device | None, typer.Option(help="where to compute  [default: the config's]")] = None,
) -> None:
    """Train a translator. The same command again goes on from the last checkpoint."""
    from mt.commands.train import read_config, train

    train(read_config(config, overrides or [], run_dir=run_dir, device=device))


@app.command()
def translate(
    run_dir: RunDirArgument,
    source: InputOption = None,
    output: OutputOption = None,
    beam_size: BeamOption = None,
    length_penalty: Annotated[
        float | None, typer.Option(min=0.0, help="score = log_prob / length^this  [default: the config's]")
    ] = None,
    n_best: Annotated[
        int | None, typer.Option(min=1, help="print that many translations a line, as Moses does")
    ] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="print a JSON object a line, with scores")] = False,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
) -> None:
    """Translate lines: line i of the output answers line i of the input.

    A blank line stays blank. A line longer than the model was trained for is cut at the space nearest to its middle,
    again if need be, and translated part by part.
    """
    if n_best is not None and n_best > (beam_size or n_best):
        raise typer.BadParameter(f"{n_best} translations need --beam-size {n_best} at least", param_hint="--n-best")
    from mt.commands import translate as command

    command.translate(
        run_dir,
        source,
        output,
        form=command.json_line if jsonl else command.moses_lines if n_best is not None else command.best_line,
        n_best=n_best or 1,
        checkpoint=checkpoint,
        device=device,
        beam_size=beam_size,
        length_penalty=length_penalty,
    )


@app.command()
def evaluate(
    run_dir: Annotated[
        Path | None, typer.Argument(metavar="RUN_DIR", help="directory that mt train made; none with --hyp")
    ] = None,
    src: Annotated[
        Path | None, typer.Option(help="file to translate  [default: the config's test sets, else its validation set]")
    ] = None,
    ref: Annotated[list[Path] | None, typer.Option(help="file of references; may be given again")] = None,
    hyp: Annotated[Path | None, typer.Option(help="file of translations that are there already")] = None,
    lang: Annotated[str, typer.Option(help="target language of --hyp, for BLEU's tokenizer")] = "",
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    beam_size: BeamOption = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = "auto",
) -> None:
    """Score translations by BLEU, chrF and TER, each with its sacreBLEU signature."""
    if (run_dir is None) == (hyp is None) or (hyp is not None and src is not None) or (hyp is None and lang):
        raise typer.BadParameter("give either RUN_DIR, with or without --src, or --hyp, with or without --lang")
    if (src is not None or hyp is not None) != bool(ref):
        raise typer.BadParameter("--ref goes with --src or --hyp, and they with it", param_hint="--ref")
    from mt.commands import evaluate as command

    if run_dir is None:
        found = command.evaluate_file(hyp or Path(), ref or [], tgt_lang=lang)
    else:
        options = {"checkpoint": checkpoint, "device": device}
        found = command.evaluate(run_dir, src=src, refs=ref or [], beam_size=beam_size, **options)
    print(command.as_json(found) if json else command.as_text(found))


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
    from mt.commands.tokenizer import train_from_files

    train_from_files(texts, model, kind=kind, vocab_size=vocab_size, character_coverage=character_coverage)


@tokenizer_app.command("encode")
def tokenizer_encode(
    model: ModelOption,
    source: InputOption = None,
    pieces: Annotated[bool, typer.Option("--pieces", help="print subwords instead of their ids")] = False,
) -> None:
    """Text to token ids, line by line."""
    from mt.commands.tokenizer import encode_lines

    for line in encode_lines(model, source, as_pieces=pieces):
        sys.stdout.buffer.write(f"{line}\n".encode())


@tokenizer_app.command("decode")
def tokenizer_decode(model: ModelOption, source: InputOption = None) -> None:
    """Token ids to text, line by line."""
    from mt.commands.tokenizer import decode_lines

    for line in decode_lines(model, source):
        sys.stdout.buffer.write(f"{line}\n".encode())
