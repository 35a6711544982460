"""The commands `mt tokenizer train`, `encode` and `decode`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from mt.cli.options import InputOption
from mt.cli.streams import write_lines
from mt.cli.text_input import open_input
from mt.config.choices import Normalization
from mt.data.text import chunked, read_lines
from mt.errors import TokenizerError

CHUNK_SIZE = 4096  # lines that are encoded together
CHUNK_CHARS = 2**20  # a chunk ends early when its lines have this many characters

ModelOption = Annotated[Path, typer.Option("--model", "-m", help="tokenizer .model file")]

tokenizer_app = typer.Typer(
    help="Train a tokenizer, or encode and decode text with one.", no_args_is_help=True
)


@tokenizer_app.command()
def train(
    texts: Annotated[list[Path], typer.Argument(help="files of text, plain, .gz or .zst")],
    model: ModelOption,
    vocab_size: Annotated[int, typer.Option(min=1, help="number of tokens")] = 8000,
    kind: Annotated[Literal["bpe", "unigram"], typer.Option(help="algorithm")] = "bpe",
    character_coverage: Annotated[
        float, typer.Option(min=0.98, max=1.0, help="share of characters with a token")
    ] = 1.0,
    max_sentences: Annotated[
        int | None,
        typer.Option(min=1, help="train on a random sample of so many lines  [default: all]"),
    ] = None,
    normalization: Annotated[
        Normalization,
        typer.Option(help="form of the text, as data.normalization in a config"),
    ] = "nfc",
) -> None:
    """Train a tokenizer on text."""
    from mt.data.tokenizer_training import sample_sentences, train_tokenizer

    train_tokenizer(
        sample_sentences((read_lines(path) for path in texts), max_sentences=max_sentences),
        model,
        kind=kind,
        vocab_size=vocab_size,
        character_coverage=character_coverage,
        normalization=normalization,
    )


@tokenizer_app.command()
def encode(
    model: ModelOption,
    source: InputOption = None,
    pieces: Annotated[
        bool, typer.Option("--pieces", help="print subwords instead of their ids")
    ] = False,
) -> None:
    """Convert text to token ids, line by line."""
    write_lines(encode_lines(model, source, as_pieces=pieces), at_once=source is None)


@tokenizer_app.command()
def decode(model: ModelOption, source: InputOption = None) -> None:
    """Convert token ids to text, line by line."""
    write_lines(decode_lines(model, source), at_once=source is None)


def encode_lines(model: Path, source: Path | None, *, as_pieces: bool = False) -> Iterator[str]:
    """Yield the ids of each line of a file, or of stdin if `source` is None.

    The ids, or their pieces if `as_pieces`, are separated by spaces and do not include eos.
    """
    from mt.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(model)
    text = open_input(source)
    chunks = chunked(
        text.lines,
        size=CHUNK_SIZE,
        num_chars=CHUNK_CHARS,
        is_item_waiting=text.is_line_waiting,
    )
    for chunk in chunks:
        for ids_with_eos in tokenizer.encode(chunk):
            ids = ids_with_eos[:-1]
            if as_pieces:
                yield " ".join(tokenizer.piece(token_id) for token_id in ids)
            else:
                yield " ".join(str(token_id) for token_id in ids)


def decode_lines(model: Path, source: Path | None) -> Iterator[str]:
    """Yield the text of each line of ids in a file, or in stdin if `source` is None.

    Raises TokenizerError for a word that is not an id of the tokenizer, and for ids of a newline.
    """
    from mt.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(model)
    # Words are compared with this set, because int() also accepts digits of other scripts.
    valid_ids = {str(token_id) for token_id in range(tokenizer.vocab_size)}
    for number, line in enumerate(open_input(source).lines, start=1):
        words = line.split()
        for word in words:
            if word not in valid_ids:
                largest = tokenizer.vocab_size - 1
                raise TokenizerError(
                    f"line {number}: wanted ids from 0 to {largest}, found {word!r}"
                )
        (text,) = tokenizer.decode([[int(word) for word in words]])
        if "\n" in text:
            raise TokenizerError(f"line {number}: wanted the ids of one line, found a newline")
        yield text
