"""Bad tokenizers and bad run directories: protobuf, safetensors and JSON taken apart and put together otherwise."""

from __future__ import annotations

import hashlib
import json
import struct
from random import Random
from typing import Any

import yaml

from scripts.stress.fuzz.bad_input import (
    ABSURD,
    CHOICES,
    MAX_STEPS,
    RUNNABLE,
    SENTENCES,
    Case,
    Good,
    as_yaml,
    pickled_bomb,
    place_in,
    spoil_bytes,
)
from scripts.stress.fuzz.bad_text import ODD_LINES

# ---- protobuf

Field = tuple[
    int, int, Any
]  # number, wire type, value: an int for wire type 0, bytes for the others


def read_message(content: bytes) -> list[Field]:
    """The fields of a protobuf message in their order."""
    fields: list[Field] = []
    place = 0
    while place < len(content):
        tag, place = _read_varint(content, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _read_varint(content, place)
            fields.append((number, kind, value))
        else:
            size, place = {1: (8, place), 5: (4, place)}.get(kind) or _read_varint(content, place)
            fields.append((number, kind, content[place : place + size]))
            place += size
    return fields


def write_message(fields: list[Field]) -> bytes:
    """The inverse of `read_message`."""
    parts = []
    for number, kind, value in fields:
        size = _varint(len(value)) if kind == 2 else b""
        parts.append(_varint(number << 3 | kind) + size + (_varint(value) if kind == 0 else value))
    return b"".join(parts)


def _read_varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (content[place] & 127) << shift
        shift, place = shift + 7, place + 1
        if content[place - 1] < 128:
            return value, place


def _varint(value: int) -> bytes:
    value %= 2**64  # as protobuf writes what is negative
    groups = [value >> shift & 127 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


# ---- tokenizers

PIECE, TRAINER, NORMALIZER, SELF_TEST, DENORMALIZER = range(1, 6)  # fields of a model
TEXT, SCORE, TYPE = range(1, 4)  # fields of a piece
TABLE = 2  # field of the normalizer: a trie, compiled

# fmt: off
SCORES = (0.0, -0.0, 1.0, -1.5, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
PIECES = (
    b"", b"a", b"\n", b" ", b"\xff", b"\0", "\u2581".encode(), "a\u2581b".encode(), b"x" * 70_000, b"<s>", b"<0x41>",
    b"<0x0A>", b"\x10", b"<unk>", "é".encode(),
)
INTS = (0, 1, 2, 3, 4, 5, 6, 7, 255, 10**6, 2**31 - 1, 2**31, 2**32, 2**63, -1, -5)
# The trainer's fields that matter most: the kind, byte fallback, what unknown is, and the special ids.
TRAINER_FIELDS = (3, 3, 4, 24, 25, 26, 34, 35, 35, 40, 40, 41, 41, 42, 42, 43, 43, 44, *range(1, 60))
TRAINER_TEXTS = (1, 2, 5, 7, 30, 31, 36, 44, 45, 46, 47, 48)
# fmt: on


def tokenizer_case(draw: Random, good: Good) -> Case:
    """A tokenizer's file, used from the shell, to train with, and as a run's own."""
    model, how = _spoil_model(draw, good.tokenizer)
    name = draw.choice(("encode", "encode", "decode", "train", "sample", "translate"))
    shorter = [line for line in ODD_LINES if len(line) < 10_000]
    stdin = "".join(f"{draw.choice((*SENTENCES, *shorter))}\n" for _ in range(5)).encode()
    if name == "decode":
        stdin = "".join(
            f"{' '.join(str(draw.randrange(-1, 342)) for _ in range(5))}\n" for _ in range(3)
        ).encode()
    training = [
        "train",
        "--config",
        "good.yaml",
        "--set",
        "train.max_steps=1",
        "--run-dir",
        "new",
        "--set",
    ]
    commands = {
        "encode": ["tokenizer", "encode", "--model", "bad.model", *draw.choice(([], ["--pieces"]))],
        "decode": ["tokenizer", "decode", "--model", "bad.model"],
        "train": [*training, "tokenizer={model: bad.model}"],
        "sample": [*training, "tokenizer={model: bad.model, bpe_dropout: 0.5}"],
        "translate": ["translate", "run"],
    }
    files = {**good.files, "run/tokenizer.model" if name == "translate" else "bad.model": model}
    return Case(f"{name}: {how}", files, commands[name], stdin)


def _spoil_model(draw: Random, content: bytes) -> tuple[bytes, str]:
    chance = draw.random()
    if chance < 0.3:
        return spoil_bytes(draw, content), "spoilt bytes"
    if chance < 0.36:
        hostile = (pickled_bomb(), b"\n" + b"\xff" * 9 + b"\x01", b"\n\0" * 9000, b"\0" * 10**6)
        return draw.choice((b"", b"\n", b"text", draw.randbytes(2000), *hostile)), "whole file"
    model, hows = read_message(content), []
    for _ in range(draw.choice((1, 1, 1, 3))):
        spoil = draw.choice(
            (_spoil_pieces, _spoil_piece, _spoil_piece, _spoil_trainer, _spoil_rules, _spoil_fields)
        )
        hows.append(spoil(draw, model))
    return write_message(model), ", ".join(hows)


def _piece(text: bytes, score: float, kind: int) -> Field:
    return (
        PIECE,
        2,
        write_message([(TEXT, 2, text), (SCORE, 5, struct.pack("<f", score)), (TYPE, 0, kind)]),
    )


def _spoil_pieces(draw: Random, model: list[Field]) -> str:
    """Another order or number of pieces."""
    indices = [index for index, field in enumerate(model) if field[0] == PIECE] or [0]
    one, two = draw.choice(indices), draw.choice(indices)
    how = draw.choice(
        ("swapped", "swapped", "dropped", "doubled", "added", "added", "none", "many")
    )
    if how == "swapped":
        model[one], model[two] = model[two], model[one]
    elif how == "dropped":
        del model[one]
    elif how == "doubled":
        model.insert(two, model[one])
    elif how == "added":
        model.append(
            _piece(
                draw.choice(PIECES), draw.choice(SCORES), draw.choice((1, 1, 1, 2, 3, 4, 5, 6, 9))
            )
        )
    elif how == "none":
        model[:] = [field for field in model if field[0] != PIECE]
    else:
        model += [_piece(b"p%d" % number, -1.0, 1) for number in range(draw.choice((10, 30_000)))]
    return f"pieces {how}"


def _spoil_piece(draw: Random, model: list[Field]) -> str:
    """Another text, score or type of one piece, of some, or of all."""
    indices = [index for index, field in enumerate(model) if field[0] == PIECE]
    changes: dict[str, Field] = {
        "text": (TEXT, 2, draw.choice(PIECES)),
        "score": (SCORE, 5, struct.pack("<f", draw.choice(SCORES))),
        "type": (TYPE, 0, draw.choice((1, 2, 3, 4, 5, 6, 0, 9, -1))),
    }
    how = draw.choice([*changes])
    for index in draw.choice((indices[:1], indices, draw.sample(indices, min(len(indices), 3)))):
        fields = [field for field in read_message(model[index][2]) if field[0] != changes[how][0]]
        model[index] = (PIECE, 2, write_message([*fields, changes[how]]))
    return f"piece's {how}"


def _spoil_trainer(draw: Random, model: list[Field]) -> str:
    """Another value in how the model was trained."""
    number = draw.choice(TRAINER_FIELDS)
    is_text = number in TRAINER_TEXTS and draw.random() < 0.9
    _put_inside(
        model,
        TRAINER,
        (number, 2, draw.choice(PIECES)) if is_text else (number, 0, draw.choice(INTS)),
    )
    return f"trainer {number}"


def _spoil_rules(draw: Random, model: list[Field]) -> str:
    """Other rules of how a text is changed before it is encoded, or after it is decoded."""
    where, number = (
        draw.choice((NORMALIZER, NORMALIZER, DENORMALIZER)),
        draw.choice((1, TABLE, TABLE, 3, 4, 5, 6)),
    )
    size = struct.pack("<I", draw.choice((0, 4, 8, 1024, 4096, 10**6, 2**31, 2**32 - 1)))
    table = size + draw.randbytes(draw.choice((0, 3, 8, 1024, 1028, 4096)))
    texts = {
        1: (b"nmt_nfkc", b"identity", b"\xff"),
        TABLE: (table, table, b""),
        6: (b"61\t62\n", b"x", b"\xff\t"),
    }
    value = draw.choice(texts.get(number, INTS[:4]))
    _put_inside(model, where, (number, 2 if number in texts else 0, value))
    return f"{'normalizer' if where == NORMALIZER else 'denormalizer'} {number}"


def _spoil_fields(draw: Random, model: list[Field]) -> str:
    """A field more, or less, or of another kind."""
    how = draw.choice(("unknown", "other kind", "self test", "dropped", "deep"))
    if how == "unknown":
        model.append((draw.choice((6, 15, 200, 2**28)), 2, draw.randbytes(50)))
    elif how == "other kind":
        model.append((draw.choice((PIECE, TRAINER, 9)), 0, draw.choice(INTS)))
    elif how == "self test":
        sample = write_message(
            [(1, 2, b"a b"), (2, 2, draw.choice((b"x", b"\xff", "\u2581a \u2581b".encode())))]
        )
        model.append((SELF_TEST, 2, write_message([(1, 2, sample)])))
    elif how == "dropped":
        gone = draw.choice((TRAINER, NORMALIZER, DENORMALIZER))
        model[:] = [field for field in model if field[0] != gone]
    else:
        model.append(
            (7, 2, write_message([(1, 3, b"")]) * 3000)
        )  # groups that are opened and never closed
    return f"field {how}"


def _put_inside(model: list[Field], where: int, change: Field) -> None:
    """Give a message in a model one field with this value."""
    index = next((index for index, field in enumerate(model) if field[0] == where), None)
    fields = (
        []
        if index is None
        else [field for field in read_message(model[index][2]) if field[0] != change[0]]
    )
    model[len(model) if index is None else index : len(model) if index is None else index + 1] = [
        (where, 2, write_message([*fields, change]))
    ]


# ---- run directories

# fmt: off
WHOLE_JSON = (
    "", "null", "[]", "{}", "1", '"x"', "[" * 20_000, '{"a":' * 20_000, "9" * 5000, '{"format_version": 2', "nan",
    *(f'{{"format_version": {value}}}' for value in ("1", '"2"', "[2]", "2", "1e400", "true", "9" * 5000, "null")),
)
POINTERS = (
    "", "\n", "..", "../..", "../../../../../../etc", "/etc/passwd", "step_99999999", "step_00000001/../..", "a\0b",
    "x" * 10**6, "step_", "last", "best", "step_" + "9" * 5000, "é", "step_00000002\nstep_00000001", " step_00000002 ",
    "STEP_00000002", "step_00000002/model.safetensors",
)
STEPS = ("step_", "step_x", "step_00000001", "step_99999999", "step_" + "9" * 200, "x", "step_-1")
SHAPES = ([10**12], [10**9, 10**9], [2**63, 2], [0], [], [-1], [1.5], "x", [1] * 5000, None, [[1]], [16, 1], [1, 16])
DTYPES = ("F64", "F16", "I64", "BOOL", "U8", "BF16", "I32", "F8_E4M3", "C64", "X", "", 1, None)
OFFSETS = ([0, 10**15], [10**15, 10**15 + 4], [0, 0], [4, 0], [-4, 0], [0], [], "x", [0.5, 1], [0, 2**64], None)
HEADERS = (b"", b"{}", b"[]", b"null", b"{" * 9000, b'{"a":' * 9000, b"9" * 5000, b"\xff", b'{"a": 1}', pickled_bomb())
SIZES = (0, 1, 7, 10**8, 10**8 + 1, 2**31, 2**62, 2**63, 2**64 - 1)
METADATA = ({"format": "pt"}, {"x": "y" * 10**5}, {"a": 1}, [], None, {"format": "np"}, {"": ""})
FLOATS = (0.0, 1e38, -1e38, 1e-45, 3.0, float("inf"), float("nan"))
# fmt: on
SEALED = ("model.safetensors", "optimizer.safetensors", "meta.json")


def checkpoint_case(draw: Random, good: Good) -> Case:
    """A run directory with something spoilt in it, translated with, scored, or gone on with."""
    files = good.files
    step = f"run/checkpoints/{good.run['run/checkpoints/last'].decode().strip()}"
    makers = (
        _spoil_file,
        _spoil_json,
        _spoil_json,
        _spoil_tensors,
        _spoil_tensors,
        _spoil_names,
        _spoil_run_config,
    )
    how = draw.choice(makers)(draw, files, step)
    if (
        draw.random() < 0.8 and f"{step}/SHA256SUMS" in files
    ):  # who can change a file can change its checksum
        seal(files, step)
        how += ", sealed"
    commands = {
        "translate": ["translate", "run", *draw.choice(([], ["--checkpoint", "last"]))],
        "evaluate": ["evaluate", "run", "--src", "valid.a", "--ref", "valid.b"],
        "train": ["train", "--config", "good.yaml", "--set", f"train.max_steps={MAX_STEPS + 1}"],
    }
    name = draw.choice(("translate", "translate", "evaluate", "train", "train"))
    return Case(f"{name}: {how}", files, commands[name], b"The old dog sees it.\n\nA child.\n")


def seal(files: dict[str, bytes], step: str) -> None:
    """Write the checksums of what is in a step directory."""
    sums = {
        name: hashlib.sha256(files[f"{step}/{name}"])
        for name in SEALED
        if f"{step}/{name}" in files
    }
    files[f"{step}/SHA256SUMS"] = "".join(
        f"{sum.hexdigest()}  {name}\n" for name, sum in sums.items()
    ).encode()


def _spoil_file(draw: Random, files: dict[str, bytes], step: str) -> str:
    """Any file of the run: spoilt, emptied, gone, a directory, a pickle, or another file."""
    name = draw.choice(
        [name for name in files if name.startswith("run/") and not name.endswith("tokenizer.model")]
    )
    how = draw.choice(
        ("spoilt", "spoilt", "spoilt", "empty", "gone", "directory", "pickle", "other")
    )
    before = files.pop(name)
    if how == "directory":
        files[f"{name}/x"] = b""
    elif how != "gone":
        others = {"empty": b"", "pickle": pickled_bomb(), "other": draw.choice([*files.values()])}
        files[name] = spoil_bytes(draw, before) if how == "spoilt" else others[how]
    return f"{name.removeprefix('run/')} {how}"


def _spoil_json(draw: Random, files: dict[str, bytes], step: str) -> str:
    """meta.json, or the cache's, with another value or none somewhere in it."""
    caches = [
        name for name in files if name.startswith("run/cache/") and name.endswith("meta.json")
    ]
    file = draw.choice((*[f"{step}/meta.json"] * 4, *caches))
    if draw.random() < 0.15:
        files[file] = draw.choice(WHOLE_JSON).encode()
        return f"{file.split('/')[1]} meta.json whole"
    meta = node = json.loads(files[file])
    path: list[Any] = []
    while isinstance(node, dict | list) and node and (not path or draw.random() < 0.85):
        parent, key = node, draw.choice([*node] if isinstance(node, dict) else range(len(node)))
        path.append(key)
        node = parent[key]
    how = draw.choice(("set", "set", "set", "like", "like", "gone", "added", "digits"))
    if how == "gone":
        del parent[key]
    elif how == "added" and isinstance(parent, dict):
        parent[draw.choice(("extra", "", "é" * 50))] = draw.choice(ABSURD)
    elif how == "like" and isinstance(node, int | float):  # of the right type at least
        parent[key] = draw.choice(
            (0, 1, 2, 5, -1, 10**9, 2**31, 2**63, 10**30, 0.5, -0.5, 1e38, 1e308)
        )
    else:
        parent[key] = (
            draw.choice((*ABSURD, [0] * 3, ["x"] * 3, [0.5] * 7, [[0]] * 2))
            if how != "digits"
            else "DIGITS"
        )
    files[file] = json.dumps(meta).replace('"DIGITS"', "9" * 5000).encode()
    return f"{file.split('/')[1]} meta.json {'.'.join(map(str, path))[:40]} {how}"


def read_tensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the numbers after it."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write_tensors(header: dict[str, Any] | bytes, numbers: bytes, size: int | None = None) -> bytes:
    """The inverse of `read_tensors`; of another header, or one that says another size, if these are given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + numbers


def _spoil_tensors(draw: Random, files: dict[str, bytes], step: str) -> str:
    """A safetensors file whose header says something else, or whose numbers are others."""
    file = f"{step}/{draw.choice(('model', 'model', 'optimizer'))}.safetensors"
    header, numbers = read_tensors(files[file])
    name, other = (
        draw.choice([name for name in header if name != "__metadata__"]) for _ in range(2)
    )
    entry, size, text = header[name], None, None
    start, end = entry["data_offsets"]
    how = draw.choice(
        (
            "shape",
            "reshaped",
            "dtype",
            "offsets",
            "gone",
            "added",
            "renamed",
            "header",
            "size",
            "floats",
            "floats",
            "meta",
            "cut",
        )
    )
    if how == "shape":
        entry["shape"] = draw.choice(SHAPES)
    elif how == "reshaped":  # with the right number of numbers
        entry["shape"] = draw.choice(
            ([(end - start) // 4], entry["shape"][::-1], [1, *entry["shape"]], [*entry["shape"], 1])
        )
    elif how == "dtype":
        entry["dtype"] = draw.choice(DTYPES)
    elif how == "offsets":
        entry["data_offsets"] = draw.choice((*OFFSETS, header[other]["data_offsets"]))
    elif how == "gone":
        header, numbers = without(header, numbers, name)
    elif how == "added":
        header["extra"] = {
            "dtype": "F32",
            "shape": [4],
            "data_offsets": [len(numbers), len(numbers) + 16],
        }
        numbers += bytes(16)
    elif how == "renamed":
        header[draw.choice(("", "x", f"{name}.x", "é", "\0", "x" * 10_000, "__metadata__"))] = (
            header.pop(name)
        )
    elif how == "header":
        text = draw.choice(HEADERS)
    elif how == "size":
        size = draw.choice(SIZES)
    elif how == "floats":
        word = struct.pack("<f", draw.choice(FLOATS))
        numbers = draw.choice(
            (
                numbers[:start] + word * ((end - start) // 4) + numbers[end:],
                word * (len(numbers) // 4),
            )
        )
    elif how == "meta":
        header["__metadata__"] = draw.choice(METADATA)
    else:
        numbers = draw.choice((b"", numbers[:-1], numbers + b"\0", numbers * 2))
    files[file] = write_tensors(header if text is None else text, numbers, size)
    return f"{file.split('/')[-1]} {how}"


def without(header: dict[str, Any], numbers: bytes, gone: str) -> tuple[dict[str, Any], bytes]:
    """The same file without one tensor, well formed."""
    kept, content = {}, b""
    for name, entry in header.items():
        if name not in (gone, "__metadata__"):
            start, end = entry["data_offsets"]
            kept[name] = {**entry, "data_offsets": [len(content), len(content) + end - start]}
            content += numbers[start:end]
    return kept, content


def _spoil_names(draw: Random, files: dict[str, bytes], step: str) -> str:
    """Pointers to elsewhere, or step directories of other names."""
    how = draw.choice(("pointer", "pointer", "moved", "added"))
    if how == "pointer":
        for pointer in draw.choice((("last",), ("best",), ("last", "best"))):
            files[f"run/checkpoints/{pointer}"] = draw.choice(POINTERS).encode()
        return "names pointer"
    other = f"run/checkpoints/{draw.choice(STEPS)}"
    is_whole = draw.random() < 0.8
    for name in [name for name in files if name.startswith(f"{step}/")]:
        content = files.pop(name) if how == "moved" else files[name]
        files[name.replace(step, other)] = content if is_whole else b""
    return f"names {how} to {other[16:40]}"


def _spoil_run_config(draw: Random, files: dict[str, bytes], step: str) -> str:
    """The run's config.yaml with another value, such as an absurd size."""
    config = yaml.safe_load(files["run/config.yaml"])
    sizes = ("d_model", "d_ff", "num_heads", "num_encoder_layers", "num_decoder_layers")
    section, key = (
        (config["model"], draw.choice(sizes)) if draw.random() < 0.5 else place_in(draw, config)
    )
    section[key] = draw.choice((*ABSURD, *RUNNABLE, *(256, 4096, 65_536) * 5, *CHOICES))
    files["run/config.yaml"] = as_yaml(config).encode()
    return f"config.yaml {key} {str(section[key])[:20]}"
