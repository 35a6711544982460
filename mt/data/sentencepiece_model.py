"""The normalization tables in a SentencePiece model.

SentencePiece's own functions do not show them. The model is a protobuf message; only the form of
its fields is needed here: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator

# Numbers of fields: in a model, and in the specification of a normalizer.
NORMALIZER = 3
DENORMALIZER = 5
TABLE = 2  # `precompiled_charsmap`; empty for the rule "identity"

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
    for number, value in _fields_of_bytes(model):
        if number not in (NORMALIZER, DENORMALIZER):
            continue
        for inner_number, table in _fields_of_bytes(value):
            if inner_number == TABLE and table:
                return True
    return False


def _fields_of_bytes(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the content of each field that holds bytes, and pass over the others."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        number = tag >> 3
        field_type = tag & 7
        if field_type == VARINT:
            _, position = _read_varint(message, position)
            continue
        if field_type == BYTES:
            size, position = _read_varint(message, position)
            yield number, message[position : position + size]
        elif field_type in FIXED_SIZES:
            size = FIXED_SIZES[field_type]
        else:
            raise ValueError(f"field {number} has the unknown type {field_type}")
        position += size


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
