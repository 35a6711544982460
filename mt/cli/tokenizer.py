"""mt tokenizer: the tokenizer that training uses, driven from the shell."""

from collections.abc import Callable, Iterator
from pathlib import Path

from mt.cli.streams import read_input
from mt.data.text import chunked
from mt.data.tokenizer import Tokenizer
from mt.errors import TokenizerError

CHUNK_SIZE, CHUNK_CHARS = 4096, 2**20  # lines at a time, and their characters


def encode_lines(model: Path, source: Path | None, *, as_pieces: bool = False) -> Iterator[str]:
    """Each line of a file or of stdin as ids, or as the pieces that they stand for, with spaces between and no eos."""
    tokenizer = Tokenizer.load(model)
    show: Callable[[int], str] = tokenizer.piece if as_pieces else str
    for chunk in chunked(read_input(source), size=CHUNK_SIZE, num_chars=CHUNK_CHARS):
        for ids in tokenizer.encode(chunk):
            yield " ".join(map(show, ids[:-1]))


def decode_lines(model: Path, source: Path | None) -> Iterator[str]:
    """The text of each line of ids in a file or stdin. Raises TokenizerError for what is no id."""
    tokenizer = Tokenizer.load(model)
    known = {str(token_id) for token_id in range(tokenizer.vocab_size)}
    for number, line in enumerate(read_input(source), start=1):
        words = line.split()
        wrong = next((word for word in words if word not in known), None)
        if wrong is not None:
            raise TokenizerError(
                f"line {number}: wanted ids from 0 to {tokenizer.vocab_size - 1}, found {wrong!r}"
            )
        yield tokenizer.decode([[int(word) for word in words]])[0]
