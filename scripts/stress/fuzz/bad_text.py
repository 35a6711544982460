"""Bad configs, bad corpora, and anything at all to translate."""

from __future__ import annotations

import gzip
import json
import zlib
from functools import cache
from random import Random

from mt.config.keys import walk_keys
from mt.config.schema import Config
from scripts.stress.fuzz.bad_input import (
    ABSURD,
    CANARY,
    CHOICES,
    RUNNABLE,
    SENTENCES,
    Case,
    Good,
    as_yaml,
    copied,
    place_in,
    spoil_bytes,
)

# ---- configs

# fmt: off
# YAML that stands where a value could stand.
TRICKS = (
    "[" * 3000, "{a: " * 3000, "- " * 3000, "[" * 15 + "]" * 15, "9" * 5000, "-" + "9" * 5000, "0x" + "f" * 5000,
    "9" * 5000 + ".5", "1e" + "9" * 400, "0o" + "7" * 5000, ".nan", "-.inf", "1_000", "1:30", "0777", "+1", "1e3",
    "0b11", f'!!python/object/apply:os.system ["touch {CANARY}"]',
    f"!!python/object/new:os.system [touch {CANARY}]", "!!python/name:os.system",
    "!!binary aGk=", "!!set {a, b}", "!!timestamp 2020-01-01", "!x y", "!<tag:x> y", "! 1",
    "&a [*a]", "*a", "&a 1",
    "<<: {d_model: 4}", '"\\ud800"', '"\\UFFFFFFFF"', '"\\x00"', "'", '"', '"\\q"', "|", ">-\n",
    "? a", "%", "[1, " * 10, "{a: 1, a: 2}", "{d_model: 4, d_model: 8}", "@x", "`x", "\t1", "a: b: c", "--- 1", "...",
    "# x", "", "''", "[" + "1, " * 20_000 + "]", "{" + ", ".join(f"k{i}: 1" for i in range(3000)) + "}",
    "x" * 90_000, "'" + "é" * 40_000 + "'", "[" + "[], " * 10_000 + "]",
    "[" + "{prefix: train}, " * 2000 + "]", "[" + "{}, " * 5000 + "]",
)
LAUGHS = "".join(f"{b}: &{b} [*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
WHOLE = (
    "", "\n", "# nothing", "null", "[]", "{}", "1", "text", "---", "--- {}\n--- {}", f"a: &a [x,x,x,x]\n{LAUGHS}",
    "%YAML 9.9\n---\na: 1", "{" * 5000, f"%YAML {'9' * 5000}.1\n---\na: 1", "%TAG ! tag:x,2000:\n---\n!a 1",
    "\ufeffa: 1",
    "a: 1\r\nb: 2\r", "a:\n" * 3000, "? " * 3000, "\n".join(" " * i + "a:" for i in range(300)), "x: " + "y" * 600_000,
    "data: &x {a: 1}\ntrain: *x", "a: 1\0", "<<: [1]", "data: data\ntrain: train", "data:\ntrain:\nmodel:",
    "data: {src_lang: a}\ntrain: {max_steps: 1}", "{data, train}", "- data\n- train",
)
ODD_KEYS = (
    "", ".", "a", "data", "data.train", "data.train.1", "data.train." + "9" * 5000, "a." * 500 + "a", "train.é",
    "x" * 9000,
)
# What keeps training short, whatever else a config says.
SHORT = (
    "train.max_steps=1", "train.run_dir=run", "search.max_length_offset=3", "search.max_length_factor=1",
    "model.d_model=16", "model.d_ff=16", "model.num_encoder_layers=1", "model.num_decoder_layers=1",
)
# fmt: on


def config_case(draw: Random, good: Good) -> Case:
    """A config file, overrides, or both; three in ten go on to train."""
    makers = (_config_bytes, _config_values, _config_values, _config_trick, _config_overrides)
    text, overrides, how = draw.choice(makers)(draw, good)
    if is_dry := draw.random() < 0.7:
        how = f"read: {how}"
    else:
        how, overrides = f"train: {how}", [*overrides, *SHORT]
    arguments = [
        "train",
        "--config",
        "bad.yaml",
        *(word for change in overrides for word in ("--set", change)),
    ]
    return Case(how, {**good.texts, "bad.yaml": text}, arguments, is_dry=is_dry)


def _config_bytes(draw: Random, good: Good) -> tuple[bytes, list[str], str]:
    text = as_yaml(good.config)
    if draw.random() < 0.1:
        return (
            draw.choice((draw.randbytes(300), text.encode("utf-16"), b"\xff" * 20)),
            [],
            "other bytes",
        )
    return spoil_bytes(draw, text.encode()), [], "spoilt bytes"


def _config_values(draw: Random, good: Good) -> tuple[bytes, list[str], str]:
    """Valid YAML in which one key or two have another value, or none, or another name."""
    config, hows = copied(good.config), []
    for _ in range(draw.choice((1, 1, 2))):
        section, key = place_in(draw, config)
        kind = draw.choice(
            ("absurd", "absurd", "absurd", "runnable", "runnable", "choice", "gone", "renamed")
        )
        if kind in ("gone", "renamed"):
            value = section.pop(key, None)
            if kind == "renamed":
                section[
                    draw.choice(
                        (key[:-1], f"{key}s", key.upper(), "é" * 50, "a\nb", "k" * 9000, "", "0")
                    )
                ] = value
        else:
            section[key] = draw.choice(
                {"absurd": ABSURD, "runnable": RUNNABLE, "choice": CHOICES}[kind]
            )
        hows.append(f"{key} {kind}")
    return as_yaml(config).encode(), [], ", ".join(hows)


def _config_trick(draw: Random, good: Good) -> tuple[bytes, list[str], str]:
    """Valid YAML but for what stands in the place of one value, or of all."""
    if draw.random() < 0.3:
        text = draw.choice(WHOLE)
        return text.encode(), [], f"whole file {text[:20]!r}"
    config, trick = copied(good.config), draw.choice(TRICKS)
    section, key = place_in(draw, config)
    section[key] = "HERE"
    return as_yaml(config).replace("HERE", trick, 1).encode(), [], f"{key} {trick[:20]!r}"


def _config_overrides(draw: Random, good: Good) -> tuple[bytes, list[str], str]:
    """A good file, and --set with something else."""
    values = [
        *map(json.dumps, (*ABSURD, *RUNNABLE, *CHOICES)),
        *(trick for trick in TRICKS if len(trick) < 10_000),
    ]
    keys = [key.replace(".N.", ".0.") for key, _ in walk_keys(Config)]
    overrides = []
    for _ in range(draw.choice((1, 1, 2))):
        key = draw.choice(keys if draw.random() < 0.8 else ODD_KEYS)
        overrides.append(f"{key}{draw.choice('=========:')}{draw.choice(values)}")
    return as_yaml(good.config).encode(), overrides, f"--set {overrides[0][:40]!r}"


# ---- corpora

# fmt: off
ODD_LINES = (
    "", " ", "\t", "\u3000", "\0", "a\0b", "a\u2028b", "\u2029", "a\x85b", "a\x0bb\x0c", "\r", "a\rb", "\r\r", "\x1a",
    "\ufeff", "\ufeffThe dog", "\u200b\u200d", "\ufffd", "\uffff\ufffe", "\U0010ffff", "\u2581", "\u2585", "\x10s\x10e",
    "<s> </s> <pad> <unk> <tag_0> <0x0A>", "||| a ||| b", '{"a": 1}', "\u202eabc", "\x1b[31m", "👩‍👩‍👧" * 40, "ش" * 300,
    "e" + "\u0301" * 500, "中文" * 300, "a " * 2000, "x" * 5000, "The old dog " * 30, "." * 1000, "x" * 200_000,
    " a" * 20_000, "ü" * 60_000,
)
NOT_UTF8 = (
    b"caf\xe9", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe4\xb8", b"\xff\xfeT\0h\0e\0",
)
WHOLE_TEXTS = (
    b"", b"\n", b"\n\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\0" * 1000, "a\nb".encode("utf-16"), b"%PDF-1.4\n",
    b"x" * 10**6, b"a " * 500_000, (b"The dog " * 120_000 + b"\n") * 20, b"x" * 5_000_000,
)
# fmt: on


def corpus_case(draw: Random, good: Good) -> Case:
    """A parallel corpus, trained on, scored with, or made a tokenizer of."""
    files = good.files
    stem, sides, how = draw.choice(("train", "train", "valid")), draw.choice(("a", "b", "ab")), ""
    names = {side: f"{stem}.{side}" for side in "ab"}
    for side in sides:
        content, suffix, how = _spoil_text(draw, files.pop(f"{stem}.{side}"))
        names[side] += suffix
        if how != "no file":
            files[names[side]] = content
    src, tgt = names.values()
    commands = {
        "train": [
            "train",
            "--config",
            "good.yaml",
            "--set",
            "train.max_steps=1",
            "--run-dir",
            "new",
        ],
        "tokenizer": [
            "tokenizer",
            "train",
            src,
            tgt,
            "--model",
            "new.model",
            "--vocab-size",
            "330",
        ],
        "evaluate": ["evaluate", "run", "--src", src, "--ref", tgt],
        "score": ["evaluate", "--hyp", src, "--ref", tgt],
    }
    name = draw.choice(("train", "train", "train", "tokenizer", "evaluate", "score"))
    arguments = commands[name]
    if name == "train" and draw.random() < 0.6:
        arguments += ["--set", "tokenizer={model: run/tokenizer.model}"]
    return Case(f"{name}: {stem} {'+'.join(sides)} {how}", files, arguments, output="new.model")


def _spoil_text(draw: Random, content: bytes) -> tuple[bytes, str, str]:
    """A spoilt text, what to add to its name, and how it was spoilt."""
    chance = draw.random()
    if chance < 0.25:
        return spoil_bytes(draw, content), "", "spoilt bytes"
    if chance < 0.45:
        packed, how = spoil_gzip(draw, content)
        return packed, ".gz", how
    if chance < 0.5:
        return draw.choice(WHOLE_TEXTS), "", "whole file"
    lines = content.split(b"\n")[:-1]
    place, odd = (
        draw.randrange(len(lines)),
        [draw.choice(ODD_LINES).encode() for _ in range(draw.choice((1, 1, 5)))],
    )
    how = draw.choice(
        (
            "odd",
            "odd",
            "odd",
            "more",
            "not UTF-8",
            "crlf",
            "cr",
            "few",
            "same",
            "order",
            "no end",
            "no file",
        )
    )
    if how == "odd":
        lines[place : place + len(odd)] = odd[: len(lines) - place]
    elif how == "more":
        lines[place:place] = odd
    elif how == "not UTF-8":
        lines[place] = draw.choice((b"", lines[place] + b" ")) + draw.choice(NOT_UTF8)
    elif how == "crlf":
        lines = [line + draw.choice((b"\r", b"")) for line in lines]
    elif how == "cr":
        lines = [b"\r".join(lines)]
    elif how == "few":
        lines = lines[: draw.choice((0, 1, 2, place))]
    elif how == "same":
        lines = [odd[0]] * min(draw.choice((len(lines), 3000)), 2_000_000 // (len(odd[0]) + 1))
    elif how == "order":
        lines = draw.sample(lines, len(lines))
    return b"\n".join(lines) + (b"" if how == "no end" else b"\n"), "", how


def spoil_gzip(draw: Random, content: bytes) -> tuple[bytes, str]:
    """A compressed text, whole or not, and how it was spoilt."""
    packed = gzip.compress(content, mtime=0)
    how = draw.choice(
        ("good", "cut", "bytes", "checksum", "plain", "tail", "two", "bomb", "bomb of lines")
    )
    if how == "cut":
        packed = packed[: draw.randrange(len(packed))]
    elif how == "bytes":
        packed = spoil_bytes(draw, packed)
    elif how == "checksum":
        packed = packed[:-8] + draw.randbytes(8)
    elif how == "plain":
        packed = content
    elif how == "tail":
        packed += draw.choice((b"\0" * 20, b"tail", b"\x1f\x8b"))
    elif how == "two":
        packed += gzip.compress(draw.choice((b"", content, b"\xff")), mtime=0)
    elif how == "bomb":
        packed = _gzip_of(draw.choice((b"\0", b"a", b"ab ")), 300_000_000)
    elif how == "bomb of lines":
        packed = _gzip_of(draw.choice((b"\n", b"a\n")), 20_000)
    return packed, f"gzip {how}"


@cache
def _gzip_of(unit: bytes, size: int) -> bytes:
    """What unpacks to about `size` bytes, made without holding them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: with gzip's header
    block = unit * (100_000 // len(unit))
    return b"".join([*(packer.compress(block) for _ in range(size // len(block))), packer.flush()])


# ---- text to translate

# fmt: off
NUMBERS = (
    "0", "-1", "1", "2", "5", "1000", "1001", "1000000000", "9" * 400, "x", "", "nan", "inf", "-inf", "1e308", "0.5",
)
WHICH = (
    "best", "last", "step_00000002", "step_99999999", "../..", "/", "/dev/null", "", "a\nb", "x" * 5000, "run",
    "good.yaml", "\udcff",
)
OUTPUTS = ("out.txt", "out.txt", "none/x/out.txt", "/dev/full", "/dev/null", ".", "run", "good.yaml/out.txt")
# fmt: on


def translate_case(draw: Random, good: Good) -> Case:
    """Anything to translate, from stdin or a file, with any options."""
    content, how = _any_text(draw, good)
    files, stdin, arguments = good.files, b"", ["translate", "run"]
    is_plain = draw.random() < 0.4
    if is_plain or draw.random() < 0.4:
        stdin = content
    else:
        name = draw.choice(("in.txt", "in.txt", "in.txt.gz"))
        files[name] = content
        if name.endswith(".gz"):
            files[name], how = spoil_gzip(draw, content)
        others = ("none", ".", "/dev/null", "run/checkpoints")
        arguments += ["--input", name if draw.random() < 0.9 else draw.choice(others)]
    if not is_plain:
        options = dict.fromkeys(("--beam-size", "--length-penalty", "--n-best"), NUMBERS)
        for option, values in {**options, "--checkpoint": WHICH, "--output": OUTPUTS}.items():
            if draw.random() < 0.25:
                arguments += [option, draw.choice(values)]
        arguments += draw.choice(([], [], [], ["--jsonl"], ["--device", "cuda"]))
    text = stdin.removeprefix(b"\xef\xbb\xbf")
    num_lines = text.count(b"\n") + (text[-1:] not in (b"", b"\n")) if is_plain else None
    how = f"{' '.join(arguments[2:])[:80]} {how}"
    return Case(how, files, arguments, stdin, output="out.txt", num_lines=num_lines)


def _any_text(draw: Random, good: Good) -> tuple[bytes, str]:
    chance = draw.random()
    if chance < 0.15:
        return draw.randbytes(draw.choice((0, 1, 10, 3000))), "random bytes"
    if chance < 0.35:
        return spoil_bytes(draw, good.texts["valid.a"]), "spoilt bytes"
    lines = [draw.choice((*SENTENCES, *ODD_LINES)).encode() for _ in range(draw.choice((1, 3, 10)))]
    if chance < 0.5:
        lines.append(draw.choice(NOT_UTF8))
    return draw.choice((b"\n", b"\r\n", b"\n\n")).join(lines) + draw.choice(
        (b"", b"\n")
    ), "odd lines"
