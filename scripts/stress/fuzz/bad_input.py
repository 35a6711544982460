"""Good input to be damaged, and kinds of damage that any file can have.

One part of each kind of bad input is damaged byte by byte, as by a faulty disk or download. The
other part keeps its form, so that the parser accepts it, and has an absurd or hostile content
(bad_text.py, bad_models.py). Everything is a function of a random number generator; runner.py runs
the result.
"""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml

from mt.config.keys import walk_keys
from mt.config.schema import Config

CANARY = "EXECUTED"  # the file that hostile input tries to create
MAX_STEPS = 2  # updates of the good run


class Case(NamedTuple):
    """A bad input: the files of an otherwise empty directory, and the command that is run in it."""

    description: str  # how the input is bad, in a few words
    files: dict[str, bytes]
    arguments: list[str]
    stdin: bytes = b""
    skip_training: bool = False  # a config that turns out to be valid is not trained with
    output: str = ""  # a file that may exist only after a success
    num_lines: int | None = None  # of stdout after a success


class GoodInput(NamedTuple):
    """The good input to be damaged: all files by relative name."""

    texts: dict[str, bytes]  # train.a, train.b, valid.a, valid.b
    config: dict[str, Any]
    run: dict[str, bytes]  # run/config.yaml and everything else that training wrote

    @property
    def tokenizer(self) -> bytes:
        return self.run["run/tokenizer.model"]

    @property
    def files(self) -> dict[str, bytes]:
        """All files, in a new dict."""
        return {**self.texts, **self.run, "good.yaml": as_yaml(self.config).encode()}


SENTENCES = [
    f"{article} {adjective} {noun} {verb}."
    for article in ("The", "A", "Ein")
    for adjective in ("old", "small", "übergroße")
    for noun in ("woman", "dog", "Hund", "Straßenbahn", "child", "中文", "horse")
    for verb in ("sees it", "schläft")
]


def good_texts() -> dict[str, bytes]:
    """Return a corpus to train on for a second. Each sentence is its own translation."""
    texts = {}
    for name, sentences in (("train", SENTENCES), ("valid", SENTENCES[::25])):
        text = "".join(f"{sentence}\n" for sentence in sentences)
        for lang in ("a", "b"):
            texts[f"{name}.{lang}"] = text.encode()
    return texts


def good_config() -> dict[str, Any]:
    """Return a config of the smallest model, with relative paths."""
    return {
        "data": {
            "src_lang": "a",
            "tgt_lang": "b",
            "max_length": 24,
            "train": [{"prefix": "train"}],
            "valid": {"name": "valid", "prefix": "valid"},
        },
        "tokenizer": {"vocab_size": 340},
        "model": {
            "d_model": 16,
            "d_ff": 16,
            "num_heads": 2,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
        },
        "train": {
            "run_dir": "run",
            "precision": "fp32",
            "batch_tokens": 256,
            "max_steps": MAX_STEPS,
            "log_every": 1,
            "device": "cpu",
        },
        "search": {"beam_size": 2, "max_length_factor": 1.0, "max_length_offset": 3},
    }


def read_good_input(directory: Path) -> GoodInput:
    """Return the good input, with the run that `mt train` made of it in `directory`."""
    files = [path for path in sorted((directory / "run").rglob("*")) if path.is_file()]
    run = {str(path.relative_to(directory)): path.read_bytes() for path in files}
    # Make its paths relative to the directory.
    run["run/config.yaml"] = run["run/config.yaml"].replace(f"{directory}/".encode(), b"")
    return GoodInput(good_texts(), good_config(), run)


# Damaged bytes

# fmt: off
INSERTIONS = (
    b"\0", b"\xff", b"\xff" * 4 + b"\x7f", b"\x80" * 9, b"\n", b"\r\n", b"\xef\xbb\xbf", b"{", b"[",
    b"-", b"'",
)
BYTE_DAMAGES = ("flip", "flip", "random", "cut", "insert", "double", "delete", "move", "zero")
# fmt: on


def damage_bytes(rng: Random, content: bytes) -> bytes:
    """Flip, cut, insert, double or move some bytes, up to four times."""
    num_damages = rng.choice((1, 1, 1, 2, 4))
    for _ in range(num_damages):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice((1, 2, 8, 64, 1000)))
        content = damage_range(rng, content, start, end)
    return content


def damage_range(rng: Random, content: bytes, start: int, end: int) -> bytes:
    """Damage the bytes from `start` to `end`, in one way."""
    before = content[:start]
    part = content[start:end]
    after = content[end:]
    damage = rng.choice(BYTE_DAMAGES)
    if damage == "flip":
        flipped = bytes([byte ^ 1 << rng.randrange(8) for byte in part[:1]])
        return before + flipped + part[1:] + after
    if damage == "random":
        return before + rng.randbytes(len(part)) + after
    if damage == "cut":
        return before
    if damage == "insert":
        inserted = rng.choice((*INSERTIONS, rng.randbytes(rng.randrange(1, 9))))
        return before + inserted + part + after
    if damage == "double":
        return before + part * rng.choice((2, 2, 50)) + after
    if damage == "delete":
        return before + after
    if damage == "move":
        rest = before + after
        position = rng.randrange(len(rest) + 1)
        return rest[:position] + part + rest[position:]
    return before + bytes(len(part)) + after  # zero


class _Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {CANARY}",)


def pickled_bomb() -> bytes:
    """Return a pickle that runs a command, which creates CANARY, when it is loaded."""
    return pickle.dumps(_Bomb())


# Bad values

# fmt: off
ABSURD_VALUES: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 10**9, 10**9 + 1, 10**18, 2**31, 2**63, 10**30, -(10**30), int("9" * 200),
    0.5, 1.5, -0.5, 1e308, 1e-320, -1e308, float("inf"), float("-inf"), float("nan"), "", "x", "no",
    "null", "4", "a\nb", "a\0b", "../../x", "/dev/zero", "/dev/null", "/", "~", ".", "x" * 5000,
    "é\u2028", "\U0001f600", "\x1b[31mred", "%s{0}{x}", "{problem}", True, False, None, [], {},
    [1, 2], ["a", "b"], [[]], [None], {"a": {"b": 1}}, [{"prefix": "train"}] * 3, {"name": "x"},
    {"prefix": "train"}, {"": ""}, [[[[[[[1]]]]]]],
)
PLAUSIBLE_VALUES: tuple[Any, ...] = (
    0, 1, 2, 3, 7, 10**9, 1000, 0.5, 0.99, 1e-320, 1e-30, 100, 65_536, True, False, None, "no",
)
CHOICES = (
    "pre", "post", "relu", "gelu", "all", "none", "decoder", "bpe", "unigram", "cosine", "constant",
    "fp32", "bf16", "fp16", "adam", "chrf", "loss", "additive", "dense_synthesizer", "dot_product",
    "cuda", "auto",
)
# fmt: on


def choose_key(rng: Random, config: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Choose one of all config keys; return the section where it belongs, and its name there."""
    if rng.random() < 0.1:
        return config, rng.choice((*config, "extra"))
    *path, key = rng.choice([key for key, _ in walk_keys(Config)]).split(".")
    section: Any = config
    try:
        for name, next_name in zip(path, [*path[1:], key], strict=True):
            if name == "N":  # an element of a list
                section = section[0]
                continue
            section = section.setdefault(name, [{}] if next_name == "N" else {})
    except (AttributeError, LookupError, TypeError):  # an earlier change put a plain value there
        return config, path[0]
    if not isinstance(section, dict):
        return config, path[0]
    return section, key


def as_yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, allow_unicode=True, sort_keys=False, width=10_000)


def copy_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy."""
    return copy.deepcopy(config)
