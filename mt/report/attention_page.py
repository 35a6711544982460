"""The attention weights of one sentence pair as an HTML page or as JSON, by subword and by word."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mt.data.words import find_words
from mt.report.template import PageLink, render
from mt.report.text_language import text_language

Array = NDArray[np.float32]

SPACE = "\u2581"  # SentencePiece writes the space before a word as this character
VISIBLE_SPACE = "\u2423"  # displayed for a piece that is only a space
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
MAX_UTF8_LENGTH = 4  # bytes of a character

# A weight is stored in the page as a number from 0 to WEIGHT_STEPS, in two digits of base 64.
BASE64_DIGITS = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", dtype=np.uint8
)
WEIGHT_STEPS = 64 * 64 - 1

# The sides of the queries and of the keys, by kind of attention. A decoder position is better
# described by the token it predicts than by the one it reads, so its queries are `tgt_out`. Its
# keys are the tokens read so far, `tgt_in`.
ATTENTION_AXES = {
    "cross": ("tgt_out", "src"),
    "encoder": ("src", "src"),
    "decoder": ("tgt_out", "tgt_in"),
}


class AxisTokens(NamedTuple):
    """The tokens along one axis of an attention map, and the words that they form."""

    subwords: list[str]  # as SentencePiece writes them
    words: list[str]
    word_index: list[int]  # index of the word of each subword
    special_words: list[int]  # indices of the words that are not text, such as <bos> and <eos>


class AttentionMaps(NamedTuple):
    """The attention weights of one sentence pair, with the tokens that they belong to."""

    name: str  # of the run
    src_lang: str
    tgt_lang: str
    src_text: str
    tgt_text: str
    sides: Mapping[str, AxisTokens]  # "src", "tgt_in" and "tgt_out"
    # weights[kind][layer]: (num_heads, query_length, key_length); the kinds are in ATTENTION_AXES.
    weights: Mapping[str, Sequence[Array]]


def group_words(pieces: Sequence[str], *, special_positions: Collection[int]) -> list[int]:
    """Return the index of the word that each piece belongs to, counted from 0.

    A word begins at each piece that starts with U+2581. Each special token is a word of its own. In
    a script without spaces, each piece is a word, but not its single bytes and combining marks.
    """
    texts = _piece_texts(pieces)
    for position in special_positions:
        texts[position] = " "
    # Where a word follows another one without a space.
    words = find_words("".join(texts))
    inner_starts = {word.start() for last, word in pairwise(words) if last.end() == word.start()}
    word_index = []
    word = -1
    offset = 0  # of the piece, in all texts
    for position, (piece, text) in enumerate(zip(pieces, texts, strict=True)):
        is_special = position in special_positions
        follows_special = position - 1 in special_positions
        begins_word = piece.startswith(SPACE) or (text != "" and offset in inner_starts)
        if position == 0 or is_special or follows_special or begins_word:
            word += 1
        word_index.append(word)
        offset += len(text)
    return word_index


def _piece_texts(pieces: Sequence[str]) -> list[str]:
    """Return the text of each piece, with a space for U+2581.

    SentencePiece splits a rare character into its UTF-8 bytes. The first of them has the character
    as its text, the others have none. Bytes of an unprintable character keep the piece's name.
    """
    texts = [piece.replace(SPACE, " ") for piece in pieces]
    for start, character in _characters_in_bytes(pieces):
        texts[start] = character
        for position in range(start + 1, start + len(character.encode())):
            texts[position] = ""
    return texts


def display_pieces(pieces: Sequence[str]) -> list[str]:
    """Return the pieces as they are displayed, without U+2581.

    SentencePiece splits a rare character into its UTF-8 bytes. Such pieces show the character and
    the number of the byte, as in `ß 1/2`. The bytes of an unprintable character stay as they are.
    """
    displayed = [piece.removeprefix(SPACE) or VISIBLE_SPACE for piece in pieces]
    for start, character in _characters_in_bytes(pieces):
        length = len(character.encode())
        for offset in range(length):
            byte_number = f" {offset + 1}/{length}" if length > 1 else ""
            displayed[start + offset] = character + byte_number
    return displayed


def _characters_in_bytes(pieces: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield each printable character that the pieces spell as bytes, with its first position."""
    byte_values = [_byte_value(piece) for piece in pieces]
    for length in range(1, MAX_UTF8_LENGTH + 1):
        for start in range(len(pieces) - length + 1):
            character = _decode_character(byte_values[start : start + length])
            if character is not None:
                yield start, character


def _byte_value(piece: str) -> int | None:
    """Return the value of a byte piece such as <0x9F>; None for any other piece."""
    match = BYTE_PIECE.fullmatch(piece)
    return int(match[1], base=16) if match else None


def _decode_character(byte_values: Sequence[int | None]) -> str | None:
    """Return the printable character that the bytes encode; None if they are not exactly one."""
    values = [value for value in byte_values if value is not None]
    if len(values) < len(byte_values):
        return None
    try:
        text = bytes(values).decode()
    except UnicodeDecodeError:
        return None
    return text if len(text) == 1 and text.isprintable() else None


def word_level_weights(weights: Array, queries: AxisTokens, keys: AxisTokens) -> Array:
    """Combine weights between subwords into weights between words.

    The result sums over the subwords of a key word, since attention to any of them is attention to
    the word, and averages over the subwords of a query word. Each row still adds up to one.

    `weights` is (num_heads, query_length, key_length); the result is
    (num_heads, num_query_words, num_key_words).
    """
    key_membership = _membership(keys)  # (key_length, num_key_words)
    query_membership = _membership(queries)  # (query_length, num_query_words)
    query_average = query_membership / query_membership.sum(axis=0)
    return np.asarray(query_average.T @ weights @ key_membership)


def _membership(side: AxisTokens) -> Array:
    """Return a matrix (num_subwords, num_words) with a one where a subword belongs to a word."""
    one_hot = np.eye(len(side.words), dtype=np.float32)
    return np.asarray(one_hot[side.word_index])


def attention_json(maps: AttentionMaps) -> str:
    """Return the maps as a JSON object, with weights rounded to four decimals.

    {"format_version": 1, "name": ..., "src_text": ..., "tgt_text": ...,
     "sides": {SIDE: {"subwords": ..., "words": ..., "word_index": ..., "marks": ...}},
     "attention": {KIND: {"queries": SIDE, "keys": SIDE, "subwords": ..., "words": ...}}}

    SIDE is "src", "tgt_in" or "tgt_out", KIND is "cross", "encoder" or "decoder". Weights are
    nested lists [layer][head][query][key]; "marks" are the indices of words such as <bos>.
    """
    attention = {}
    for kind, (query_side, key_side) in ATTENTION_AXES.items():
        queries = maps.sides[query_side]
        keys = maps.sides[key_side]
        layers = maps.weights[kind]
        word_layers = [word_level_weights(layer, queries, keys) for layer in layers]
        attention[kind] = {
            "queries": query_side,
            "keys": key_side,
            "subwords": [_rounded(layer) for layer in layers],
            "words": [_rounded(layer) for layer in word_layers],
        }
    content = {
        "format_version": 1,
        "name": maps.name,
        "src_text": maps.src_text,
        "tgt_text": maps.tgt_text,
        "sides": {name: _side_as_dict(side) for name, side in maps.sides.items()},
        "attention": attention,
    }
    return json.dumps(content, ensure_ascii=False)


def attention_page(maps: AttentionMaps, *, links: Sequence[PageLink] = ()) -> str:
    """Return the maps as an HTML page. Its script draws them, without access to the network.

    `links` lead to other pages about the run.
    """
    kinds = {}
    for kind, (query_side, key_side) in ATTENTION_AXES.items():
        layers = [[_pack_weights(head) for head in layer] for layer in maps.weights[kind]]
        kinds[kind] = {"queries": query_side, "keys": key_side, "layers": layers}
    sides = {}
    for name, side in maps.sides.items():
        language = text_language(maps.src_lang if name == "src" else maps.tgt_lang)
        sides[name] = {
            **_side_as_dict(side._replace(subwords=display_pieces(side.subwords))),
            "lang": language.lang,
            "dir": language.dir,
        }
    data = {"sides": sides, "kinds": kinds, "steps": WEIGHT_STEPS}
    return render("attention.html", {"maps": maps, "data": data, "links": links})


def _side_as_dict(side: AxisTokens) -> dict[str, Any]:
    return {
        "subwords": side.subwords,
        "words": side.words,
        "word_index": side.word_index,
        "marks": side.special_words,
    }


def _rounded(weights: Array) -> list[Any]:
    """Return weights as nested lists of numbers with at most four decimals."""
    rounded: list[Any] = weights.astype(float).round(4).tolist()
    return rounded


def _pack_weights(weights: Array) -> str:
    """Encode weights between 0 and 1, row by row, in two digits of base 64 each.

    Two digits hold 12 bits: enough for a color, and shorter than 16-bit numbers in base 64.
    """
    numbers = np.rint(weights.ravel().clip(0.0, 1.0) * WEIGHT_STEPS).astype(np.int64)
    high_digits, low_digits = np.divmod(numbers, 64)
    digits = np.stack((high_digits, low_digits), axis=1)
    return bytes(BASE64_DIGITS[digits]).decode("ascii")
