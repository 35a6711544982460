"""Bad configs, bad corpora, and arbitrary text to translate."""

from __future__ import annotations

import gzip
import json
import zlib
from functools import cache
from random import Random
from typing import NamedTuple

from mt.config.keys import walk_keys
from mt.config.schema import Config
from scripts.stress.fuzz.bad_input import (
    ABSURD_VALUES,
    CANARY,
    CHOICES,
    PLAUSIBLE_VALUES,
    SENTENCES,
    Case,
    GoodInput,
    as_yaml,
    choose_key,
    copy_config,
    damage_bytes,
)

# Configs

# fmt: off
# YAML for the place of a value.
TRICKS = (
    "[" * 3000, "{a: " * 3000, "- " * 3000, "[" * 15 + "]" * 15, "9" * 5000, "-" + "9" * 5000,
    "0x" + "f" * 5000, "9" * 5000 + ".5", "1e" + "9" * 400, "0o" + "7" * 5000, ".nan", "-.inf",
    "1_000", "1:30", "0777", "+1", "1e3", "0b11",
    f'!!python/object/apply:os.system ["touch {CANARY}"]',
    f"!!python/object/new:os.system [touch {CANARY}]", "!!python/name:os.system", "!!binary aGk=",
    "!!set {a, b}", "!!timestamp 2020-01-01", "!x y", "!<tag:x> y", "! 1", "&a [*a]", "*a", "&a 1",
    "<<: {d_model: 4}", '"\\ud800"', '"\\UFFFFFFFF"', '"\\x00"', "'", '"', '"\\q"', "|", ">-\n",
    "? a", "%", "[1, " * 10, "{a: 1, a: 2}", "{d_model: 4, d_model: 8}", "@x", "`x", "\t1",
    "a: b: c", "--- 1", "...", "# x", "", "''", "[" + "1, " * 20_000 + "]",
    "{" + ", ".join(f"k{i}: 1" for i in range(3000)) + "}", "x" * 90_000, "'" + "é" * 40_000 + "'",
    "[" + "[], " * 10_000 + "]", "[" + "{prefix: train}, " * 2000 + "]", "[" + "{}, " * 5000 + "]",
)
# References that expand exponentially, the "billion laughs".
LAUGHS = "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
WHOLE_CONFIGS = (
    "", "\n", "# nothing", "null", "[]", "{}", "1", "text", "---", "--- {}\n--- {}",
    f"a: &a [x,x,x,x]\n{LAUGHS}", "%YAML 9.9\n---\na: 1", "{" * 5000,
    f"%YAML {'9' * 5000}.1\n---\na: 1", "%TAG ! tag:x,2000:\n---\n!a 1", "\ufeffa: 1",
    "a: 1\r\nb: 2\r", "a:\n" * 3000, "? " * 3000, "\n".join(" " * i + "a:" for i in range(300)),
    "x: " + "y" * 600_000, "data: &x {a: 1}\ntrain: *x", "a: 1\0", "<<: [1]",
    "data: data\ntrain: train", "data:\ntrain:\nmodel:",
    "data: {src_lang: a}\ntrain: {max_steps: 1}", "{data, train}", "- data\n- train",
)
ODD_KEYS = (
    "", ".", "a", "data", "data.train", "data.train.1", "data.train." + "9" * 5000,
    "a." * 500 + "a", "train.é", "x" * 9000,
)
# Overrides that keep training short, whatever else a config says.
SHORT_TRAINING = (
    "train.max_steps=1", "train.run_dir=run", "search.max_length_offset=3",
    "search.max_length_factor=1", "model.d_model=16", "model.d_ff=16", "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
)
VALUE_CHANGES = (
    "absurd", "absurd", "absurd", "plausible", "plausible", "choice", "gone", "renamed",
)
# fmt: on


class BadConfig(NamedTuple):
    """A config file, overrides of its values, and how they are bad."""

    content: bytes
    overrides: list[str]
    description: str


def config_case(rng: Random, good: GoodInput) -> Case:
    """Make a bad config file, bad overrides, or both. Three in ten go on to train."""
    makers = (
        config_with_damaged_bytes,
        config_with_changed_values,
        config_with_changed_values,
        config_with_trick,
        config_with_overrides,
    )
    config = rng.choice(makers)(rng, good)
    overrides = config.overrides
    skip_training = rng.random() < 0.7
    if skip_training:
        description = f"read: {config.description}"
    else:
        description = f"train: {config.description}"
        overrides = [*overrides, *SHORT_TRAINING]
    arguments = ["train", "--config", "bad.yaml"]
    for override in overrides:
        arguments += ["--set", override]
    files = {**good.texts, "bad.yaml": config.content}
    return Case(description, files, arguments, skip_training=skip_training)


def config_with_damaged_bytes(rng: Random, good: GoodInput) -> BadConfig:
    text = as_yaml(good.config)
    if rng.random() < 0.1:
        content = rng.choice((rng.randbytes(300), text.encode("utf-16"), b"\xff" * 20))
        return BadConfig(content, [], "other bytes")
    return BadConfig(damage_bytes(rng, text.encode()), [], "damaged bytes")


def config_with_changed_values(rng: Random, good: GoodInput) -> BadConfig:
    """Make valid YAML in which one or two keys have another value, or no value, or another name."""
    config = copy_config(good.config)
    changes = []
    num_changes = rng.choice((1, 1, 2))
    for _ in range(num_changes):
        section, key = choose_key(rng, config)
        change = rng.choice(VALUE_CHANGES)
        if change == "gone":
            section.pop(key, None)
        elif change == "renamed":
            value = section.pop(key, None)
            names = (key[:-1], f"{key}s", key.upper(), "é" * 50, "a\nb", "k" * 9000, "", "0")
            section[rng.choice(names)] = value
        elif change == "absurd":
            section[key] = rng.choice(ABSURD_VALUES)
        elif change == "plausible":
            section[key] = rng.choice(PLAUSIBLE_VALUES)
        else:
            section[key] = rng.choice(CHOICES)
        changes.append(f"{key} {change}")
    return BadConfig(as_yaml(config).encode(), [], ", ".join(changes))


def config_with_trick(rng: Random, good: GoodInput) -> BadConfig:
    """Make a config with a trick in the place of one value, or in the place of everything."""
    if rng.random() < 0.3:
        text = rng.choice(WHOLE_CONFIGS)
        return BadConfig(text.encode(), [], f"whole file {text[:20]!r}")
    config = copy_config(good.config)
    trick = rng.choice(TRICKS)
    section, key = choose_key(rng, config)
    section[key] = "HERE"
    text = as_yaml(config).replace("HERE", trick, 1)
    return BadConfig(text.encode(), [], f"{key} {trick[:20]!r}")


def config_with_overrides(rng: Random, good: GoodInput) -> BadConfig:
    """Make a good file with one or two bad `--set`."""
    values = [json.dumps(value) for value in (*ABSURD_VALUES, *PLAUSIBLE_VALUES, *CHOICES)]
    values += [trick for trick in TRICKS if len(trick) < 10_000]
    keys = [key.replace(".N.", ".0.") for key, _ in walk_keys(Config)]
    overrides = []
    num_overrides = rng.choice((1, 1, 2))
    for _ in range(num_overrides):
        key = rng.choice(keys if rng.random() < 0.8 else ODD_KEYS)
        separator = rng.choice("=========:")
        value = rng.choice(values)
        overrides.append(f"{key}{separator}{value}")
    content = as_yaml(good.config).encode()
    return BadConfig(content, overrides, f"--set {overrides[0][:40]!r}")


# Corpora

# fmt: off
ODD_LINES = (
    "", " ", "\t", "\u3000", "\0", "a\0b", "a\u2028b", "\u2029", "a\x85b", "a\x0bb\x0c", "\r",
    "a\rb", "\r\r", "\x1a", "\ufeff", "\ufeffThe dog", "\u200b\u200d", "\ufffd", "\uffff\ufffe",
    "\U0010ffff", "\u2581", "\u2585", "\x10s\x10e", "<s> </s> <pad> <unk> <tag_0> <0x0A>",
    "||| a ||| b", '{"a": 1}', "\u202eabc", "\x1b[31m", "👩‍👩‍👧" * 40, "ش" * 300,
    "e" + "\u0301" * 500, "中文" * 300, "a " * 2000, "x" * 5000, "The old dog " * 30, "." * 1000,
    "x" * 200_000, " a" * 20_000, "ü" * 60_000,
)
NOT_UTF8 = (
    b"caf\xe9", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe4\xb8",
    b"\xff\xfeT\0h\0e\0",
)
WHOLE_TEXTS = (
    b"", b"\n", b"\n\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\0" * 1000,
    "a\nb".encode("utf-16"), b"%PDF-1.4\n", b"x" * 10**6, b"a " * 500_000,
    (b"The dog " * 120_000 + b"\n") * 20, b"x" * 5_000_000,
)
LINE_DAMAGES = (
    "odd", "odd", "odd", "more", "not UTF-8", "crlf", "cr", "few", "same", "order", "no end",
    "no file",
)
GZIP_DAMAGES = ("good", "cut", "bytes", "checksum", "plain", "tail", "two", "bomb", "bomb of lines")
# fmt: on


class BadText(NamedTuple):
    """A damaged text, a suffix for the name of its file, and how it was damaged."""

    content: bytes
    suffix: str
    description: str


def corpus_case(rng: Random, good: GoodInput) -> Case:
    """Make a bad parallel corpus, to train with, to evaluate with, or to train a tokenizer on."""
    files = good.files
    stem = rng.choice(("train", "train", "valid"))
    damaged_sides = rng.choice(("a", "b", "ab"))
    names = {side: f"{stem}.{side}" for side in "ab"}
    description = ""
    for side in damaged_sides:
        text = damage_text(rng, files.pop(f"{stem}.{side}"))
        names[side] += text.suffix
        description = text.description
        if description != "no file":
            files[names[side]] = text.content
    src, tgt = names.values()
    train = ["train", "--config", "good.yaml", "--set", "train.max_steps=1", "--run-dir", "new"]
    train_tokenizer = [
        "tokenizer",
        "train",
        src,
        tgt,
        "--model",
        "new.model",
        "--vocab-size",
        "330",
    ]
    commands = {
        "train": train,
        "tokenizer": train_tokenizer,
        "evaluate": ["evaluate", "run", "--src", src, "--ref", tgt],
        "score": ["evaluate", "--hyp", src, "--ref", tgt],
    }
    command = rng.choice(("train", "train", "train", "tokenizer", "evaluate", "score"))
    arguments = commands[command]
    if command == "train" and rng.random() < 0.6:
        arguments += ["--set", "tokenizer={model: run/tokenizer.model}"]
    description = f"{command}: {stem} {'+'.join(damaged_sides)} {description}"
    return Case(description, files, arguments, output="new.model")


def damage_text(rng: Random, content: bytes) -> BadText:
    chance = rng.random()
    if chance < 0.25:
        return BadText(damage_bytes(rng, content), "", "damaged bytes")
    if chance < 0.45:
        packed, description = damage_gzip(rng, content)
        return BadText(packed, ".gz", description)
    if chance < 0.5:
        return BadText(rng.choice(WHOLE_TEXTS), "", "whole file")
    return damage_lines(rng, content.split(b"\n")[:-1])


def damage_lines(rng: Random, lines: list[bytes]) -> BadText:
    """Return the text of these lines, with some lines changed."""
    index = rng.randrange(len(lines))
    num_odd_lines = rng.choice((1, 1, 5))
    odd_lines = [rng.choice(ODD_LINES).encode() for _ in range(num_odd_lines)]
    damage = rng.choice(LINE_DAMAGES)
    if damage == "odd":
        lines[index : index + len(odd_lines)] = odd_lines[: len(lines) - index]
    elif damage == "more":
        lines[index:index] = odd_lines
    elif damage == "not UTF-8":
        beginning = rng.choice((b"", lines[index] + b" "))
        lines[index] = beginning + rng.choice(NOT_UTF8)
    elif damage == "crlf":
        lines = [line + rng.choice((b"\r", b"")) for line in lines]
    elif damage == "cr":
        lines = [b"\r".join(lines)]
    elif damage == "few":
        lines = lines[: rng.choice((0, 1, 2, index))]
    elif damage == "same":
        line = odd_lines[0]
        num_lines = rng.choice((len(lines), 3000))
        lines = [line] * min(num_lines, 2_000_000 // (len(line) + 1))
    elif damage == "order":
        lines = rng.sample(lines, len(lines))
    end = b"" if damage == "no end" else b"\n"
    return BadText(b"\n".join(lines) + end, "", damage)


def damage_gzip(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Return a compressed text, damaged or not, and how it was damaged."""
    packed = gzip.compress(content, mtime=0)
    damage = rng.choice(GZIP_DAMAGES)
    if damage == "cut":
        packed = packed[: rng.randrange(len(packed))]
    elif damage == "bytes":
        packed = damage_bytes(rng, packed)
    elif damage == "checksum":
        packed = packed[:-8] + rng.randbytes(8)
    elif damage == "plain":
        packed = content
    elif damage == "tail":
        packed += rng.choice((b"\0" * 20, b"tail", b"\x1f\x8b"))
    elif damage == "two":
        packed += gzip.compress(rng.choice((b"", content, b"\xff")), mtime=0)
    elif damage == "bomb":
        packed = compress_repeated(rng.choice((b"\0", b"a", b"ab ")), 300_000_000)
    elif damage == "bomb of lines":
        packed = compress_repeated(rng.choice((b"\n", b"a\n")), 20_000)
    return packed, f"gzip {damage}"


@cache
def compress_repeated(unit: bytes, size: int) -> bytes:
    """Return a gzip file that unpacks to about `size` bytes, without holding them in memory."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: with the header of gzip
    block = unit * (100_000 // len(unit))
    parts = [compressor.compress(block) for _ in range(size // len(block))]
    return b"".join([*parts, compressor.flush()])


# Text to translate

# fmt: off
NUMBERS = (
    "0", "-1", "1", "2", "5", "1000", "1001", "1000000000", "9" * 400, "x", "", "nan", "inf",
    "-inf", "1e308", "0.5",
)
CHECKPOINTS = (
    "best", "last", "step_00000002", "step_99999999", "../..", "/", "/dev/null", "", "a\nb",
    "x" * 5000, "run", "good.yaml", "\udcff",
)
OUTPUTS = (
    "out.txt", "out.txt", "none/x/out.txt", "/dev/full", "/dev/null", ".", "run",
    "good.yaml/out.txt",
)
# fmt: on
OPTION_VALUES = {
    "--beam-size": NUMBERS,
    "--length-penalty": NUMBERS,
    "--n-best": NUMBERS,
    "--checkpoint": CHECKPOINTS,
    "--output": OUTPUTS,
}


def translate_case(rng: Random, good: GoodInput) -> Case:
    """Make an arbitrary text to translate, from stdin or a file, with arbitrary options."""
    content, description = arbitrary_text(rng, good)
    files = good.files
    stdin = b""
    arguments = ["translate", "run"]
    has_no_options = rng.random() < 0.4
    if has_no_options or rng.random() < 0.4:
        stdin = content
    else:
        name = rng.choice(("in.txt", "in.txt", "in.txt.gz"))
        files[name] = content
        if name.endswith(".gz"):
            files[name], description = damage_gzip(rng, content)
        if rng.random() >= 0.9:
            name = rng.choice(("none", ".", "/dev/null", "run/checkpoints"))
        arguments += ["--input", name]
    if not has_no_options:
        for option, values in OPTION_VALUES.items():
            if rng.random() < 0.25:
                arguments += [option, rng.choice(values)]
        arguments += rng.choice(([], [], [], ["--jsonl"], ["--device", "cuda"]))

    num_lines = None
    if has_no_options:  # a line out for each line in
        text = stdin.removeprefix(b"\xef\xbb\xbf")
        num_lines = text.count(b"\n")
        if text and not text.endswith(b"\n"):
            num_lines += 1
    description = f"{' '.join(arguments[2:])[:80]} {description}"
    return Case(description, files, arguments, stdin, output="out.txt", num_lines=num_lines)


def arbitrary_text(rng: Random, good: GoodInput) -> tuple[bytes, str]:
    """Return a text, and a description of it."""
    chance = rng.random()
    if chance < 0.15:
        return rng.randbytes(rng.choice((0, 1, 10, 3000))), "random bytes"
    if chance < 0.35:
        return damage_bytes(rng, good.texts["valid.a"]), "damaged bytes"
    num_lines = rng.choice((1, 3, 10))
    lines = [rng.choice((*SENTENCES, *ODD_LINES)).encode() for _ in range(num_lines)]
    if chance < 0.5:
        lines.append(rng.choice(NOT_UTF8))
    separator = rng.choice((b"\n", b"\r\n", b"\n\n"))
    end = rng.choice((b"", b"\n"))
    return separator.join(lines) + end, "odd lines"
