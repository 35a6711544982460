"""The settings of a SentencePiece model that change the text or its words.

SentencePiece's own functions do not show them. The model is a protobuf message; only the form of
its fields is needed here: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator

# Numbers of fields in a model
PIECE = 1
TRAINER = 2
NORMALIZER = 3
DENORMALIZER = 5

# PIECE_TYPE: number of the field with the type of a piece. USER_DEFINED: one value of it.
PIECE_TYPE = 3
USER_DEFINED = 4

# Numbers of fields in the specification of a trainer, and of a normalizer
WHITESPACE_AS_SUFFIX = 24  # `treat_whitespace_as_suffix`
TABLE = 2  # `precompiled_charsmap`; empty for the rule "identity"
DUMMY_PREFIX = 3  # `add_dummy_prefix`: a space before a text
ESCAPE_WHITESPACES = 5  # a space becomes U+2581

# Types of fields
VARINT = 0
FIXED_64 = 1
BYTES = 2
FIXED_32 = 5
FIXED_SIZES = {FIXED_64: 8, FIXED_32: 4}


def replaces_characters(model: bytes) -> bool:
    """Return whether a model replaces characters when it encodes or decodes a text.

    Raises ValueError when these are not the bytes of a SentencePiece model.
    """
    for number, value in _fields(model):
        if number not in (NORMALIZER, DENORMALIZER) or not isinstance(value, bytes):
            continue
        if any(inner_number == TABLE and table for inner_number, table in _fields(value)):
            return True
    return False


def changes_words_in_context(model: bytes) -> bool:
    """Return whether the pieces of a word can depend on its neighbors or its position.

    This is possible with user-defined pieces, which are matched before all others, or with another
    treatment of spaces than in mt's own models. Raises ValueError as `replaces_characters`.
    """
    unusual_fields = {
        PIECE: (PIECE_TYPE, USER_DEFINED),
        TRAINER: (WHITESPACE_AS_SUFFIX, 1),
    }
    for number, value in _fields(model):
        if not isinstance(value, bytes):
            continue
        if number in unusual_fields and unusual_fields[number] in _fields(value):
            return True
        if number == NORMALIZER:
            fields = list(_fields(value))
            if (DUMMY_PREFIX, 0) in fields or (ESCAPE_WHITESPACES, 0) in fields:
                return True
    return False


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of each field that holds an integer or bytes."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        number = tag >> 3
        field_type = tag & 7
        if field_type == VARINT:
            integer, position = _read_varint(message, position)
            yield number, integer
        elif field_type == BYTES:
            size, position = _read_varint(message, position)
            yield number, message[position : position + size]
            position += size
        elif field_type in FIXED_SIZES:
            position += FIXED_SIZES[field_type]
        else:
            raise ValueError(f"field {number} has the unknown type {field_type}")


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """Return the integer at `position`, in groups of 7 bits, and the position after it."""
    value = 0
    shift = 0
    while position < len(message):
        byte = message[position]
        value |= (byte & 127) << shift
        position += 1
        shift += 7
        if byte < 128:
            return value, position
    raise ValueError("the message ends inside a field")
