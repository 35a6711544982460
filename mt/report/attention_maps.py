"""The attention weights of one sentence pair, with the tokens and words that they belong to."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mt.data.tokenizer import Tokenizer
from mt.data.words import find_words
from mt.decoding.translator import Translator

Array = NDArray[np.float32]

SPACE = "\u2581"  # SentencePiece writes the space before a word as this character
VISIBLE_SPACE = "\u2423"  # displayed for a piece that is only a space
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
MAX_UTF8_LENGTH = 4  # bytes of a character

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


def attention_maps(
    translator: Translator,
    sentence: str,
    *,
    target: str | None,
    name: str,
    to: str | None = None,
) -> AttentionMaps:
    """Return the attention weights between a sentence and `target`, or its own translation.

    The tag of the target language `to` is in front of the sentence as a special word, if it has
    one. Raises DataError for a text that cannot be shown.
    """
    attention = translator.attention(sentence, target, to=to)
    tgt_tokenizer = translator.tgt_tokenizer
    tgt_out = attention.ids.tgt
    tgt_in = [tgt_tokenizer.bos_id, *tgt_out[:-1]]
    sides = {
        "src": axis_tokens(
            translator.src_tokenizer, attention.ids.src, tag_names=translator.tag_names
        ),
        "tgt_in": axis_tokens(tgt_tokenizer, tgt_in),
        "tgt_out": axis_tokens(tgt_tokenizer, tgt_out),
    }
    weights = {
        "cross": list(attention.cross),
        "encoder": list(attention.encoder),
        "decoder": list(attention.decoder),
    }
    return AttentionMaps(
        name=name,
        src_lang=translator.src_lang,
        tgt_lang=to or translator.tgt_lang,
        src_text=attention.src_text,
        tgt_text=attention.tgt_text,
        sides=sides,
        weights=weights,
    )


def axis_tokens(
    tokenizer: Tokenizer, ids: Sequence[int], *, tag_names: Mapping[int, str] | None = None
) -> AxisTokens:
    """Return the subwords and words of a sequence of token ids."""
    special_ids = {tokenizer.bos_id, tokenizer.eos_id, *tokenizer.tag_ids}
    subwords = tokenizer.token_names(ids, tag_names=tag_names)
    special_positions = [i for i, token_id in enumerate(ids) if token_id in special_ids]
    word_index = group_words(subwords, special_positions=special_positions)

    word_starts = np.flatnonzero(np.diff(word_index)) + 1
    ids_by_word = [word.tolist() for word in np.split(np.array(ids), word_starts)]
    words = tokenizer.decode(ids_by_word)
    special_words = [word_index[position] for position in special_positions]
    for word, position in zip(special_words, special_positions, strict=True):
        words[word] = subwords[position]  # decoding gives no text for special tokens
    return AxisTokens(subwords, words, word_index, special_words)


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
