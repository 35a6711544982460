"""Attention weights of one sentence pair as a page to look at, or as JSON, over subwords and over words."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mt.report.template import render

Array = NDArray[np.float32]

SPACE = "\u2581"  # how SentencePiece writes the space before a word
SHOWN_SPACE = "\u2423"  # and how a word of nothing else is shown
BYTE, NO_TEXT = re.compile(r"<0x([0-9A-F]{2})>"), b"\xff"  # a byte that is in no UTF-8
DIGITS = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", dtype=np.uint8
)
STEPS = 64 * 64 - 1  # a weight is written as two such digits: 0 to 4095

# Of each kind of attention, which side looks (queries) and which is looked at (keys). What a decoder's position writes
# says more than what it reads, so its queries are tgt_out; its keys are what it has read, tgt_in.
SIDES = {"cross": ("tgt_out", "src"), "encoder": ("src", "src"), "decoder": ("tgt_out", "tgt_in")}


class AxisTokens(NamedTuple):
    """The positions along one side of a map: subwords, as SentencePiece writes them, and the words they are part of."""

    subwords: list[str]
    words: list[str]
    word_index: list[int]  # the word of each subword
    marks: list[int]  # indices of the words that are no text, as <bos> and <eos>


class AttentionMaps(NamedTuple):
    """All that is shown: `weights[kind][layer]` is (num_heads, query_length, key_length), the kinds those of SIDES."""

    name: str  # of the run and its checkpoint
    src_text: str
    tgt_text: str
    sides: Mapping[str, AxisTokens]  # src, tgt_in and tgt_out
    weights: Mapping[str, Sequence[Array]]


def group_words(pieces: Sequence[str], *, marks: Collection[int]) -> list[int]:
    """The word of each piece, counted from 0: one begins at each U+2581, and each mark is one (`marks`: positions)."""
    starts = [
        i == 0 or i in marks or i - 1 in marks or piece.startswith(SPACE)
        for i, piece in enumerate(pieces)
    ]
    return [int(index) - 1 for index in np.cumsum(starts)]


def display_pieces(pieces: Sequence[str]) -> list[str]:
    """Pieces as a person reads them: bytes as the character that they make, each with its place, as in `ß 1/2`."""
    shown = [piece.removeprefix(SPACE) or SHOWN_SPACE for piece in pieces]
    raw = [bytes.fromhex(found[1]) if found else NO_TEXT for found in map(BYTE.fullmatch, pieces)]
    for length in range(1, 5):  # of a character in UTF-8
        for start in range(len(pieces) - length + 1):
            with suppress(UnicodeDecodeError):
                character = b"".join(raw[start : start + length]).decode()
                if (
                    len(character) == 1 and character.isprintable()
                ):  # of others, the bytes tell more
                    places = (
                        [f" {place}/{length}" for place in range(1, length + 1)]
                        if length > 1
                        else [""]
                    )
                    shown[start : start + length] = [character + place for place in places]
    return shown


def over_words(weights: Array, queries: AxisTokens, keys: AxisTokens) -> Array:
    """(num_heads, query_length, key_length) over subwords -> the same over words.

    Summed over the subwords of the word that is looked at, for it is seen through any of them; the mean over the
    subwords of the word that looks. So each row still adds up to one.
    """
    to_keys = np.eye(len(keys.words), dtype=np.float32)[
        keys.word_index
    ]  # (key_length, num_key_words)
    to_queries = np.eye(len(queries.words), dtype=np.float32)[
        queries.word_index
    ]  # (query_length, num_query_words)
    means = to_queries / to_queries.sum(axis=0)
    return np.asarray(means.T @ weights @ to_keys)


def attention_json(maps: AttentionMaps) -> str:
    """The maps as one JSON object, weights to four decimals, in lists by layer, head, query and key.

    {"format_version": 1, "name": ..., "src_text": ..., "tgt_text": ...,
     "sides": {"src" | "tgt_in" | "tgt_out": {"subwords", "words", "word_index", "marks"}},
     "attention": {"cross" | "encoder" | "decoder": {"queries": a side, "keys": a side, "subwords": ..., "words": ...}}}
    """
    attention = {}
    for kind, (queries, keys) in SIDES.items():
        words = [
            over_words(layer, maps.sides[queries], maps.sides[keys]) for layer in maps.weights[kind]
        ]
        units = {"subwords": maps.weights[kind], "words": words}
        rounded = {
            name: [each.astype(float).round(4).tolist() for each in layers]
            for name, layers in units.items()
        }
        attention[kind] = {"queries": queries, "keys": keys, **rounded}
    sides = {name: side._asdict() for name, side in maps.sides.items()}
    texts = {"name": maps.name, "src_text": maps.src_text, "tgt_text": maps.tgt_text}
    return json.dumps(
        {"format_version": 1, **texts, "sides": sides, "attention": attention}, ensure_ascii=False
    )


def attention_page(maps: AttentionMaps) -> str:
    """The maps as one HTML page; it draws them itself, and works offline."""
    kinds = {}
    for kind, (queries, keys) in SIDES.items():
        layers = [[_packed(head) for head in layer] for layer in maps.weights[kind]]
        kinds[kind] = {"queries": queries, "keys": keys, "layers": layers}
    sides = {
        name: {**side._asdict(), "subwords": display_pieces(side.subwords)}
        for name, side in maps.sides.items()
    }
    return render(
        "attention.html", {"maps": maps, "data": {"sides": sides, "kinds": kinds, "steps": STEPS}}
    )


def _packed(weights: Array) -> str:
    """Weights row by row, each as a number from 0 to STEPS in two digits of base 64: a third smaller than as bytes."""
    numbers = np.rint(weights.ravel().clip(0.0, 1.0) * STEPS).astype(np.int64)
    return bytes(DIGITS[np.stack((numbers // 64, numbers % 64), axis=1)]).decode("ascii")
