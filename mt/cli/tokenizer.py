"""The commands `mt tokenizer encode` and `mt tokenizer decode`: text to token ids and back."""

from collections.abc import Iterator
from pathlib import Path

from mt.cli.streams import read_input
from mt.data.text import chunked
from mt.data.tokenizer import Tokenizer
from mt.errors import TokenizerError

CHUNK_SIZE = 4096  # lines that are encoded together
CHUNK_CHARS = 2**20  # a chunk ends early when its lines have this many characters


def encode_lines(model: Path, source: Path | None, *, as_pieces: bool = False) -> Iterator[str]:
    """Yield the ids of each line of a file, or of stdin if `source` is None.

    The ids, or their pieces if `as_pieces`, are separated by spaces and do not include eos.
    """
    tokenizer = Tokenizer.load(model)
    for chunk in chunked(read_input(source), size=CHUNK_SIZE, num_chars=CHUNK_CHARS):
        for ids_with_eos in tokenizer.encode(chunk):
            ids = ids_with_eos[:-1]
            if as_pieces:
                yield " ".join(tokenizer.piece(token_id) for token_id in ids)
            else:
                yield " ".join(str(token_id) for token_id in ids)


def decode_lines(model: Path, source: Path | None) -> Iterator[str]:
    """Yield the text of each line of ids in a file, or in stdin if `source` is None.

    Raises TokenizerError for a word that is not an id of the tokenizer.
    """
    tokenizer = Tokenizer.load(model)
    # Words are compared with this set, because int() also accepts digits of other scripts.
    valid_ids = {str(token_id) for token_id in range(tokenizer.vocab_size)}
    for number, line in enumerate(read_input(source), start=1):
        words = line.split()
        for word in words:
            if word not in valid_ids:
                largest = tokenizer.vocab_size - 1
                raise TokenizerError(
                    f"line {number}: wanted ids from 0 to {largest}, found {word!r}"
                )
        (text,) = tokenizer.decode([[int(word) for word in words]])
        yield text
