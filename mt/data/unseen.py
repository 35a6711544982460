"""Random unseen characters: characters without a piece, inserted into some training sources.

A character without a piece is encoded as its UTF-8 bytes. A usual training text has no such
character, so the embeddings of the byte pieces would keep their random initial values, and one
emoji or Chinese word would turn a whole translation into nonsense. With them, the model learns
to translate the rest of a sentence as if the character were not there.
"""

from mt.data.bpe_dropout import Draw
from mt.data.corpus import EncodedPairs
from mt.data.token_array import TokenArray
from mt.data.tokenizer import Tokenizer

# Inserted characters make a source longer by a few tokens, and with it the whole batch. So only
# this fraction of the batches has them, in more of their pairs.
UNSEEN_BATCH_FRACTION = 1 / 16

# Characters of 1, 2, 3 and 4 bytes in UTF-8 are drawn equally often. The last range ends after the
# emoji.
RANGES = ((0x21, 0x7F), (0xA1, 0x800), (0x800, 0x10000), (0x10000, 0x1FB00))

MAX_INSERTED = 3  # characters in one place


def insert_unseen_characters(
    pairs: EncodedPairs, tokenizer: Tokenizer, *, fraction: float, draw: Draw, max_length: int
) -> EncodedPairs:
    """Return the pairs, about `fraction` of them with unseen characters in one place of the source.

    `tokenizer` is that of the sources. A pair that would have a source of more than `max_length`
    tokens, with its prefix, stays as it is. The result is a pure function of the pairs and of the
    random numbers that `draw` returns.
    """
    rows = pairs.src.rows()
    indices = [index for index in range(len(rows)) if draw() < fraction]
    texts = tokenizer.decode([rows[index] for index in indices])
    for index, text in zip(indices, texts, strict=True):
        (row,) = tokenizer.sample([_insert(text, tokenizer, draw)], draw)
        if len(pairs.src_prefixes[index]) + len(row) <= max_length:
            rows[index] = row
    return pairs._replace(src=TokenArray.from_rows(rows))


def _insert(text: str, tokenizer: Tokenizer, draw: Draw) -> str:
    """Return the text with a few unseen characters at its first, its last or any other word.

    They are a word of their own, or they are in front of the word, at its end or inside.
    """
    num_inserted = 1 + int(draw() * MAX_INSERTED)
    inserted = "".join(_draw_unseen_character(tokenizer, draw) for _ in range(num_inserted))
    words = text.split(" ")
    places = (0, len(words) - 1, int(draw() * len(words)))
    index = places[int(draw() * len(places))]
    word = words[index]
    cut = int(draw() * (len(word) + 1))
    forms = (
        f"{inserted} {word}",
        f"{word} {inserted}",
        f"{inserted}{word}",
        f"{word}{inserted}",
        f"{word[:cut]}{inserted}{word[cut:]}",
    )
    words[index] = forms[int(draw() * len(forms))]
    return " ".join(words)


def _draw_unseen_character(tokenizer: Tokenizer, draw: Draw) -> str:
    """Return a random visible character without a piece."""
    while True:
        start, end = RANGES[int(draw() * len(RANGES))]
        character = chr(start + int(draw() * (end - start)))
        if character.isprintable() and not tokenizer.has_piece(character):
            return character
