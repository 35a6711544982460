"""Bad tokenizers and bad run directories.

Protobuf, safetensors and JSON files are taken apart, changed, and put together again.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import yaml

from scripts.stress.fuzz.bad_input import (
    ABSURD_VALUES,
    CHOICES,
    MAX_STEPS,
    PLAUSIBLE_VALUES,
    SENTENCES,
    Case,
    GoodInput,
    as_yaml,
    choose_key,
    damage_bytes,
    pickled_bomb,
)
from scripts.stress.fuzz.bad_text import ODD_LINES

# Protobuf messages

VARINT = 0
FIXED_64 = 1
BYTES = 2
GROUP_START = 3
FIXED_32 = 5
FIXED_SIZES = {FIXED_64: 8, FIXED_32: 4}


class Field(NamedTuple):
    """A field of a protobuf message."""

    number: int
    wire_type: int
    value: Any  # an int for VARINT, bytes for the others


def read_message(content: bytes) -> list[Field]:
    """Return the fields of a protobuf message in their order."""
    fields: list[Field] = []
    position = 0
    while position < len(content):
        tag, position = read_varint(content, position)
        number = tag >> 3
        wire_type = tag & 7
        value: Any
        if wire_type == VARINT:
            value, position = read_varint(content, position)
        else:
            if wire_type in FIXED_SIZES:
                size = FIXED_SIZES[wire_type]
            else:
                size, position = read_varint(content, position)
            value = content[position : position + size]
            position += size
        fields.append(Field(number, wire_type, value))
    return fields


def write_message(fields: list[Field]) -> bytes:
    """Return the protobuf message with these fields: the inverse of `read_message`."""
    parts = []
    for number, wire_type, value in fields:
        parts.append(write_varint(number << 3 | wire_type))
        if wire_type == VARINT:
            parts.append(write_varint(value))
        else:
            if wire_type == BYTES:
                parts.append(write_varint(len(value)))
            parts.append(value)
    return b"".join(parts)


def read_varint(content: bytes, position: int) -> tuple[int, int]:
    """Return the number that begins at `position`, and the position after it."""
    value = 0
    shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position


def write_varint(value: int) -> bytes:
    value %= 2**64  # the protobuf form of negative numbers
    groups = [value >> shift & 127 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


# Tokenizers

# Numbers of fields in a SentencePiece model, in one of its pieces, and in its normalizer.
PIECE = 1
TRAINER = 2
NORMALIZER = 3
SELF_TEST = 4
DENORMALIZER = 5
PIECE_TEXT = 1
PIECE_SCORE = 2
PIECE_TYPE = 3
NORMALIZER_TABLE = 2  # a compiled trie

# fmt: off
SCORES = (0.0, -0.0, 1.0, -1.5, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
PIECES = (
    b"", b"a", b"\n", b" ", b"\xff", b"\0", "\u2581".encode(), "a\u2581b".encode(), b"x" * 70_000,
    b"<s>", b"<0x41>", b"<0x0A>", b"\x10", b"<unk>", "é".encode(),
)
INTS = (0, 1, 2, 3, 4, 5, 6, 7, 255, 10**6, 2**31 - 1, 2**31, 2**32, 2**63, -1, -5)
# The trainer's fields. Those that matter most are repeated: the kind of model, byte fallback, the
# unknown piece, and the special ids.
TRAINER_FIELDS = (
    3, 3, 4, 24, 25, 26, 34, 35, 35, 40, 40, 41, 41, 42, 42, 43, 43, 44, *range(1, 60),
)
TRAINER_TEXT_FIELDS = (1, 2, 5, 7, 30, 31, 36, 44, 45, 46, 47, 48)
PIECE_ORDER_DAMAGES = ("swapped", "swapped", "dropped", "doubled", "added", "added", "none", "many")
# fmt: on


def tokenizer_case(rng: Random, good: GoodInput) -> Case:
    """Make a bad tokenizer file, for the tokenizer commands, for training, and as a run's own."""
    model, description = damage_model(rng, good.tokenizer)
    command = rng.choice(("encode", "encode", "decode", "train", "sample", "translate"))
    short_lines = [line for line in ODD_LINES if len(line) < 10_000]
    lines = [rng.choice((*SENTENCES, *short_lines)) for _ in range(5)]
    if command == "decode":
        lines = [" ".join(str(rng.randrange(-1, 342)) for _ in range(5)) for _ in range(3)]
    stdin = "".join(f"{line}\n" for line in lines).encode()

    pieces_option = rng.choice(([], ["--pieces"]))
    train = ["train", "--config", "good.yaml", "--set", "train.max_steps=1", "--run-dir", "new"]
    commands = {
        "encode": ["tokenizer", "encode", "--model", "bad.model", *pieces_option],
        "decode": ["tokenizer", "decode", "--model", "bad.model"],
        "train": [*train, "--set", "tokenizer={model: bad.model}"],
        "sample": [*train, "--set", "tokenizer={model: bad.model, bpe_dropout: 0.5}"],
        "translate": ["translate", "run"],
    }
    file = "run/tokenizer.model" if command == "translate" else "bad.model"
    files = {**good.files, file: model}
    return Case(f"{command}: {description}", files, commands[command], stdin)


def damage_model(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Return a damaged SentencePiece model, and a description of the damage."""
    chance = rng.random()
    if chance < 0.3:
        return damage_bytes(rng, content), "damaged bytes"
    if chance < 0.36:
        hostile = (pickled_bomb(), b"\n" + b"\xff" * 9 + b"\x01", b"\n\0" * 9000, b"\0" * 10**6)
        whole = rng.choice((b"", b"\n", b"text", rng.randbytes(2000), *hostile))
        return whole, "whole file"
    model = read_message(content)
    damages = (
        damage_piece_order,
        damage_piece,
        damage_piece,
        damage_trainer,
        damage_normalization,
        damage_fields,
    )
    descriptions = []
    num_damages = rng.choice((1, 1, 1, 3))
    for _ in range(num_damages):
        damage = rng.choice(damages)
        descriptions.append(damage(rng, model))
    return write_message(model), ", ".join(descriptions)


# Each of these functions changes a model in one way, and returns a description.


def damage_piece_order(rng: Random, model: list[Field]) -> str:
    """Change the order or the number of pieces."""
    indices = [index for index, field in enumerate(model) if field.number == PIECE] or [0]
    first = rng.choice(indices)
    second = rng.choice(indices)
    damage = rng.choice(PIECE_ORDER_DAMAGES)
    if damage == "swapped":
        model[first], model[second] = model[second], model[first]
    elif damage == "dropped":
        del model[first]
    elif damage == "doubled":
        model.insert(second, model[first])
    elif damage == "added":
        text = rng.choice(PIECES)
        score = rng.choice(SCORES)
        piece_type = rng.choice((1, 1, 1, 2, 3, 4, 5, 6, 9))
        model.append(make_piece(text, score, piece_type))
    elif damage == "none":
        model[:] = [field for field in model if field.number != PIECE]
    else:
        num_pieces = rng.choice((10, 30_000))
        model += [make_piece(b"p%d" % number, -1.0, 1) for number in range(num_pieces)]
    return f"pieces {damage}"


def make_piece(text: bytes, score: float, piece_type: int) -> Field:
    fields = [
        Field(PIECE_TEXT, BYTES, text),
        Field(PIECE_SCORE, FIXED_32, struct.pack("<f", score)),
        Field(PIECE_TYPE, VARINT, piece_type),
    ]
    return Field(PIECE, BYTES, write_message(fields))


def damage_piece(rng: Random, model: list[Field]) -> str:
    """Change the text, the score or the type of one piece, of three pieces, or of all."""
    indices = [index for index, field in enumerate(model) if field.number == PIECE]
    changes = {
        "text": Field(PIECE_TEXT, BYTES, rng.choice(PIECES)),
        "score": Field(PIECE_SCORE, FIXED_32, struct.pack("<f", rng.choice(SCORES))),
        "type": Field(PIECE_TYPE, VARINT, rng.choice((1, 2, 3, 4, 5, 6, 0, 9, -1))),
    }
    name = rng.choice([*changes])
    change = changes[name]
    three = rng.sample(indices, min(len(indices), 3))
    for index in rng.choice((indices[:1], indices, three)):
        fields = read_message(model[index].value)
        others = [field for field in fields if field.number != change.number]
        model[index] = Field(PIECE, BYTES, write_message([*others, change]))
    return f"piece's {name}"


def damage_trainer(rng: Random, model: list[Field]) -> str:
    """Change a value of how the model was trained."""
    number = rng.choice(TRAINER_FIELDS)
    if number in TRAINER_TEXT_FIELDS and rng.random() < 0.9:
        field = Field(number, BYTES, rng.choice(PIECES))
    else:
        field = Field(number, VARINT, rng.choice(INTS))
    set_inner_field(model, TRAINER, field)
    return f"trainer {number}"


def damage_normalization(rng: Random, model: list[Field]) -> str:
    """Change a rule of how text is changed before it is encoded, or after it is decoded."""
    section = rng.choice((NORMALIZER, NORMALIZER, DENORMALIZER))
    number = rng.choice((1, NORMALIZER_TABLE, NORMALIZER_TABLE, 3, 4, 5, 6))
    size = struct.pack("<I", rng.choice((0, 4, 8, 1024, 4096, 10**6, 2**31, 2**32 - 1)))
    table = size + rng.randbytes(rng.choice((0, 3, 8, 1024, 1028, 4096)))
    texts = {
        1: (b"nmt_nfkc", b"identity", b"\xff"),
        NORMALIZER_TABLE: (table, table, b""),
        6: (b"61\t62\n", b"x", b"\xff\t"),
    }
    if number in texts:
        field = Field(number, BYTES, rng.choice(texts[number]))
    else:
        field = Field(number, VARINT, rng.choice(INTS[:4]))
    set_inner_field(model, section, field)
    name = "normalizer" if section == NORMALIZER else "denormalizer"
    return f"{name} {number}"


def damage_fields(rng: Random, model: list[Field]) -> str:
    """Add a field, remove one, or give one another kind of value."""
    damage = rng.choice(("unknown", "other kind", "self test", "dropped", "deep"))
    if damage == "unknown":
        number = rng.choice((6, 15, 200, 2**28))
        model.append(Field(number, BYTES, rng.randbytes(50)))
    elif damage == "other kind":
        number = rng.choice((PIECE, TRAINER, 9))
        model.append(Field(number, VARINT, rng.choice(INTS)))
    elif damage == "self test":
        expected = rng.choice((b"x", b"\xff", "\u2581a \u2581b".encode()))
        sample = write_message([Field(1, BYTES, b"a b"), Field(2, BYTES, expected)])
        model.append(Field(SELF_TEST, BYTES, write_message([Field(1, BYTES, sample)])))
    elif damage == "dropped":
        dropped = rng.choice((TRAINER, NORMALIZER, DENORMALIZER))
        model[:] = [field for field in model if field.number != dropped]
    else:
        # Groups inside groups, which are never closed.
        model.append(Field(7, BYTES, write_message([Field(1, GROUP_START, b"")]) * 3000))
    return f"field {damage}"


def set_inner_field(model: list[Field], section: int, change: Field) -> None:
    """Set a field of a section of the model, which is a message in the message."""
    for index, field in enumerate(model):
        if field.number == section:
            others = [inner for inner in read_message(field.value) if inner.number != change.number]
            model[index] = Field(section, BYTES, write_message([*others, change]))
            return
    model.append(Field(section, BYTES, write_message([change])))


# Run directories

# fmt: off
WHOLE_JSON = (
    "", "null", "[]", "{}", "1", '"x"', "[" * 20_000, '{"a":' * 20_000, "9" * 5000,
    '{"format_version": 2', "nan",
    *(
        f'{{"format_version": {value}}}'
        for value in ("1", '"2"', "[2]", "2", "1e400", "true", "9" * 5000, "null")
    ),
)
POINTERS = (
    "", "\n", "..", "../..", "../../../../../../etc", "/etc/passwd", "step_99999999",
    "step_00000001/../..", "a\0b", "x" * 10**6, "step_", "last", "best", "step_" + "9" * 5000, "é",
    "step_00000002\nstep_00000001", " step_00000002 ", "STEP_00000002",
    "step_00000002/model.safetensors",
)
STEPS = ("step_", "step_x", "step_00000001", "step_99999999", "step_" + "9" * 200, "x", "step_-1")
SHAPES: tuple[Any, ...] = (
    [10**12], [10**9, 10**9], [2**63, 2], [0], [], [-1], [1.5], "x", [1] * 5000, None, [[1]],
    [16, 1], [1, 16],
)
DTYPES = ("F64", "F16", "I64", "BOOL", "U8", "BF16", "I32", "F8_E4M3", "C64", "X", "", 1, None)
OFFSETS: tuple[Any, ...] = (
    [0, 10**15], [10**15, 10**15 + 4], [0, 0], [4, 0], [-4, 0], [0], [], "x", [0.5, 1], [0, 2**64],
    None,
)
HEADERS = (
    b"", b"{}", b"[]", b"null", b"{" * 9000, b'{"a":' * 9000, b"9" * 5000, b"\xff", b'{"a": 1}',
    pickled_bomb(),
)
SIZES = (0, 1, 7, 10**8, 10**8 + 1, 2**31, 2**62, 2**63, 2**64 - 1)
METADATA: tuple[Any, ...] = (
    {"format": "pt"}, {"x": "y" * 10**5}, {"a": 1}, [], None, {"format": "np"}, {"": ""},
)
FLOATS = (0.0, 1e38, -1e38, 1e-45, 3.0, float("inf"), float("nan"))
NUMBERS = (0, 1, 2, 5, -1, 10**9, 2**31, 2**63, 10**30, 0.5, -0.5, 1e38, 1e308)
TENSOR_DAMAGES = (
    "shape", "reshaped", "dtype", "offsets", "gone", "added", "renamed", "header", "size", "floats",
    "floats", "meta", "cut",
)
FILE_DAMAGES = ("damaged", "damaged", "damaged", "empty", "gone", "directory", "pickle", "other")
JSON_DAMAGES = ("set", "set", "set", "like", "like", "gone", "added", "digits")
# fmt: on
CHECKPOINT_FILES = ("model.safetensors", "optimizer.safetensors", "meta.json")  # with checksums


def checkpoint_case(rng: Random, good: GoodInput) -> Case:
    """Make a run directory with something damaged in it, to translate, evaluate or resume with."""
    files = good.files
    description = damage_run(rng, files)
    checkpoint_option = rng.choice(([], ["--checkpoint", "last"]))
    max_steps = f"train.max_steps={MAX_STEPS + 1}"
    commands = {
        "translate": ["translate", "run", *checkpoint_option],
        "evaluate": ["evaluate", "run", "--src", "valid.a", "--ref", "valid.b"],
        "train": ["train", "--config", "good.yaml", "--set", max_steps],
    }
    command = rng.choice(("translate", "translate", "evaluate", "train", "train"))
    stdin = b"The old dog sees it.\n\nA child.\n"
    return Case(f"{command}: {description}", files, commands[command], stdin)


def damage_run(rng: Random, files: dict[str, bytes]) -> str:
    """Damage one file of the run, with right checksums for most; return a description."""
    step = files["run/checkpoints/last"].decode().strip()
    step_dir = f"run/checkpoints/{step}"
    damages: tuple[Callable[[Random, dict[str, bytes], str], str], ...] = (
        damage_file,
        damage_json,
        damage_json,
        damage_tensors,
        damage_tensors,
        damage_names,
        damage_run_config,
    )
    description = rng.choice(damages)(rng, files, step_dir)
    # An attacker who can change a file can change its checksum, too.
    if rng.random() < 0.8 and f"{step_dir}/SHA256SUMS" in files:
        write_checksums(files, step_dir)
        description += ", checksums updated"
    return description


def write_checksums(files: dict[str, bytes], step_dir: str) -> None:
    """Write SHA256SUMS of the files in a checkpoint's directory."""
    lines = []
    for name in CHECKPOINT_FILES:
        path = f"{step_dir}/{name}"
        if path in files:
            lines.append(f"{hashlib.sha256(files[path]).hexdigest()}  {name}\n")
    files[f"{step_dir}/SHA256SUMS"] = "".join(lines).encode()


# Each of these functions changes the files of a run in one way, and returns a description.


def damage_file(rng: Random, files: dict[str, bytes], step_dir: str) -> str:
    """Damage, empty or remove any file of the run, or put something else in its place."""
    names = [name for name in files if name.startswith("run/")]
    name = rng.choice([name for name in names if not name.endswith("tokenizer.model")])
    damage = rng.choice(FILE_DAMAGES)
    content = files.pop(name)
    if damage == "directory":
        files[f"{name}/x"] = b""
    elif damage != "gone":
        other_content = rng.choice([*files.values()])
        if damage == "empty":
            files[name] = b""
        elif damage == "pickle":
            files[name] = pickled_bomb()
        elif damage == "other":
            files[name] = other_content
        else:
            files[name] = damage_bytes(rng, content)
    return f"{name.removeprefix('run/')} {damage}"


def damage_json(rng: Random, files: dict[str, bytes], step_dir: str) -> str:
    """Change, remove or add a value in a meta.json, of the checkpoint or of the cache."""
    cache_files = [name for name in files if name.startswith("run/cache/")]
    cache_files = [name for name in cache_files if name.endswith("meta.json")]
    file = rng.choice((*[f"{step_dir}/meta.json"] * 4, *cache_files))
    directory = file.split("/")[1]
    if rng.random() < 0.15:
        files[file] = rng.choice(WHOLE_JSON).encode()
        return f"{directory} meta.json whole"

    meta = json.loads(files[file])
    parent, path = choose_value(rng, meta)
    key = path[-1]
    damage = rng.choice(JSON_DAMAGES)
    if damage == "gone":
        del parent[key]
    elif damage == "added" and isinstance(parent, dict):
        value = rng.choice(ABSURD_VALUES)
        parent[rng.choice(("extra", "", "é" * 50))] = value
    elif damage == "like" and isinstance(parent[key], int | float):  # another number
        parent[key] = rng.choice(NUMBERS)
    elif damage == "digits":
        parent[key] = "DIGITS"
    else:
        parent[key] = rng.choice((*ABSURD_VALUES, [0] * 3, ["x"] * 3, [0.5] * 7, [[0]] * 2))
    # json.dumps would refuse a number of 5,000 digits.
    files[file] = json.dumps(meta).replace('"DIGITS"', "9" * 5000).encode()
    return f"{directory} meta.json {'.'.join(map(str, path))[:40]} {damage}"


def choose_value(rng: Random, meta: Any) -> tuple[Any, list[Any]]:
    """Choose a value somewhere in a JSON object; return the container that has it, and its path."""
    node = meta
    parent: Any = None
    path: list[Any] = []
    while isinstance(node, dict | list) and node and (not path or rng.random() < 0.85):
        parent = node
        key = rng.choice([*node] if isinstance(node, dict) else range(len(node)))
        path.append(key)
        node = parent[key]
    return parent, path


def read_tensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a safetensors file, and the numbers after it."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write_tensors(header: dict[str, Any] | bytes, numbers: bytes, size: int | None = None) -> bytes:
    """Return a safetensors file: the inverse of `read_tensors`.

    Args:
        header: as bytes, it is written as it is.
        size: what the file says of the size of its header, if it is not the right one.
    """
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    if size is None:
        size = len(text)
    return struct.pack("<Q", size) + text + numbers


def damage_tensors(rng: Random, files: dict[str, bytes], step_dir: str) -> str:
    """Change the header of a safetensors file, or its numbers."""
    file = f"{step_dir}/{rng.choice(('model', 'model', 'optimizer'))}.safetensors"
    header, numbers = read_tensors(files[file])
    tensor_names = [name for name in header if name != "__metadata__"]
    name = rng.choice(tensor_names)
    other_name = rng.choice(tensor_names)
    entry = header[name]
    start, end = entry["data_offsets"]
    num_floats = (end - start) // 4
    size = None
    header_text = None
    damage = rng.choice(TENSOR_DAMAGES)
    if damage == "shape":
        entry["shape"] = rng.choice(SHAPES)
    elif damage == "reshaped":  # with the right number of elements
        shape = entry["shape"]
        entry["shape"] = rng.choice(([num_floats], shape[::-1], [1, *shape], [*shape, 1]))
    elif damage == "dtype":
        entry["dtype"] = rng.choice(DTYPES)
    elif damage == "offsets":
        entry["data_offsets"] = rng.choice((*OFFSETS, header[other_name]["data_offsets"]))
    elif damage == "gone":
        header, numbers = without_tensor(header, numbers, name)
    elif damage == "added":
        offsets = [len(numbers), len(numbers) + 16]
        header["extra"] = {"dtype": "F32", "shape": [4], "data_offsets": offsets}
        numbers += bytes(16)
    elif damage == "renamed":
        value = header.pop(name)
        new_names = ("", "x", f"{name}.x", "é", "\0", "x" * 10_000, "__metadata__")
        header[rng.choice(new_names)] = value
    elif damage == "header":
        header_text = rng.choice(HEADERS)
    elif damage == "size":
        size = rng.choice(SIZES)
    elif damage == "floats":
        value = struct.pack("<f", rng.choice(FLOATS))
        one_tensor = numbers[:start] + value * num_floats + numbers[end:]
        all_tensors = value * (len(numbers) // 4)
        numbers = rng.choice((one_tensor, all_tensors))
    elif damage == "meta":
        header["__metadata__"] = rng.choice(METADATA)
    else:
        numbers = rng.choice((b"", numbers[:-1], numbers + b"\0", numbers * 2))
    files[file] = write_tensors(header if header_text is None else header_text, numbers, size)
    return f"{file.split('/')[-1]} {damage}"


def without_tensor(
    header: dict[str, Any], numbers: bytes, removed: str
) -> tuple[dict[str, Any], bytes]:
    """Return the header and the numbers of a valid file without one of the tensors."""
    new_header = {}
    new_numbers = b""
    for name, entry in header.items():
        if name not in (removed, "__metadata__"):
            start, end = entry["data_offsets"]
            offsets = [len(new_numbers), len(new_numbers) + end - start]
            new_header[name] = {**entry, "data_offsets": offsets}
            new_numbers += numbers[start:end]
    return new_header, new_numbers


def damage_names(rng: Random, files: dict[str, bytes], step_dir: str) -> str:
    """Let `last` or `best` name something else, or give a checkpoint's directory another name."""
    damage = rng.choice(("pointer", "pointer", "moved", "added"))
    if damage == "pointer":
        for pointer in rng.choice((("last",), ("best",), ("last", "best"))):
            files[f"run/checkpoints/{pointer}"] = rng.choice(POINTERS).encode()
        return "names pointer"
    new_step = rng.choice(STEPS)
    new_step_dir = f"run/checkpoints/{new_step}"
    is_whole = rng.random() < 0.8
    for name in [name for name in files if name.startswith(f"{step_dir}/")]:
        content = files.pop(name) if damage == "moved" else files[name]
        files[name.replace(step_dir, new_step_dir)] = content if is_whole else b""
    return f"names {damage} to {new_step[:24]}"


def damage_run_config(rng: Random, files: dict[str, bytes], step_dir: str) -> str:
    """Change a value of the run's config.yaml, for example to an absurd size."""
    config = yaml.safe_load(files["run/config.yaml"])
    sizes = ("d_model", "d_ff", "num_heads", "num_encoder_layers", "num_decoder_layers")
    if rng.random() < 0.5:
        section = config["model"]
        key = rng.choice(sizes)
    else:
        section, key = choose_key(rng, config)
    large_sizes = (256, 4096, 65_536) * 5
    section[key] = rng.choice((*ABSURD_VALUES, *PLAUSIBLE_VALUES, *large_sizes, *CHOICES))
    files["run/config.yaml"] = as_yaml(config).encode()
    return f"config.yaml {key} {str(section[key])[:20]}"
