"""Good input that can be spoilt, and what any file can suffer. `bad_text.py` and `bad_models.py` spoil by kind.

One part of each kind is spoilt byte by byte, as a disk or a download would do it. The other keeps its form, so that the
parser takes it, and says something absurd or hostile. All is a function of the dice; `fuzz.py` runs what is made.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml

from mt.config.keys import walk_keys
from mt.config.schema import Config

CANARY = "EXECUTED"  # the file that hostile input tries to make
MAX_STEPS = 2  # updates of the good run


class Case(NamedTuple):
    """One bad input: the files that lie in an otherwise empty directory, and the command that is run there."""

    how: str  # how it was spoilt, in a few words
    files: dict[str, bytes]
    arguments: list[str]
    stdin: bytes = b""
    is_dry: bool = False  # a config that turns out to be valid is not trained with
    output: str = ""  # a file that may be there only after a success
    num_lines: int | None = None  # in stdout after a success


class Good(NamedTuple):
    """The good input that is spoilt: all files by relative name."""

    texts: dict[str, bytes]  # train.a train.b valid.a valid.b
    config: dict[str, Any]
    run: dict[str, bytes]  # run/config.yaml and all else that training made

    @property
    def tokenizer(self) -> bytes:
        return self.run["run/tokenizer.model"]

    @property
    def files(self) -> dict[str, bytes]:
        """All of it, in a new dict."""
        return {**self.texts, **self.run, "good.yaml": as_yaml(self.config).encode()}


SENTENCES = [
    f"{article} {adjective} {noun} {verb}."
    for article in ("The", "A", "Ein")
    for adjective in ("old", "small", "übergroße")
    for noun in ("woman", "dog", "Hund", "Straßenbahn", "child", "中文", "horse")
    for verb in ("sees it", "schläft")
]


def good_texts() -> dict[str, bytes]:
    """Texts to train on for a second: what is to be translated is to be repeated."""
    train, valid = (
        "".join(f"{line}\n" for line in lines) for lines in (SENTENCES, SENTENCES[::25])
    )
    return {
        f"{name}.{lang}": text.encode()
        for name, text in (("train", train), ("valid", valid))
        for lang in "ab"
    }


def good_config() -> dict[str, Any]:
    """A config of the smallest model; paths are relative to the directory that each case has to itself."""
    corpora = {"train": [{"prefix": "train"}], "valid": {"name": "valid", "prefix": "valid"}}
    return {
        "data": {"src_lang": "a", "tgt_lang": "b", "max_length": 24, **corpora},
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
            "device": "cpu",
        },
        "search": {"beam_size": 2, "max_length_factor": 1.0, "max_length_offset": 3},
    }


def read_good(directory: Path) -> Good:
    """What `mt train` made of the good config in `directory`; paths become relative again."""
    files = [path for path in sorted((directory / "run").rglob("*")) if path.is_file()]
    run = {str(path.relative_to(directory)): path.read_bytes() for path in files}
    run["run/config.yaml"] = run["run/config.yaml"].replace(f"{directory}/".encode(), b"")
    return Good(good_texts(), good_config(), run)


# ---- bytes

LANDMARKS = (
    b"\0",
    b"\xff",
    b"\xff" * 4 + b"\x7f",
    b"\x80" * 9,
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"{",
    b"[",
    b"-",
    b"'",
)


def spoil_bytes(draw: Random, content: bytes) -> bytes:
    """Flip, cut, insert, double or move some bytes, up to four times."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        start = draw.randrange(len(content) + 1)
        end = min(len(content), start + draw.choice((1, 2, 8, 64, 1000)))
        before, part, after = content[:start], content[start:end], content[end:]
        kind = draw.choice(
            ("flip", "flip", "random", "cut", "insert", "double", "delete", "move", "zero")
        )
        if kind == "flip":
            content = (
                before
                + bytes([byte ^ 1 << draw.randrange(8) for byte in part[:1]])
                + part[1:]
                + after
            )
        elif kind == "random":
            content = before + draw.randbytes(len(part)) + after
        elif kind == "cut":
            content = before
        elif kind == "insert":
            content = (
                before
                + draw.choice((*LANDMARKS, draw.randbytes(draw.randrange(1, 9))))
                + part
                + after
            )
        elif kind == "double":
            content = before + part * draw.choice((2, 2, 50)) + after
        elif kind == "delete":
            content = before + after
        elif kind == "move":
            rest = before + after
            place = draw.randrange(len(rest) + 1)
            content = rest[:place] + part + rest[place:]
        else:
            content = before + bytes(len(part)) + after
    return content


class _Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {CANARY}",)


def pickled_bomb() -> bytes:
    """What runs a command when it is unpickled."""
    return pickle.dumps(_Bomb())


# ---- values

# fmt: off
ABSURD: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 10**9, 10**9 + 1, 10**18, 2**31, 2**63, 10**30, -(10**30), int("9" * 200),
    0.5, 1.5, -0.5, 1e308, 1e-320, -1e308, float("inf"), float("-inf"), float("nan"),
    "", "x", "no", "null", "4", "a\nb", "a\0b", "../../x", "/dev/zero", "/dev/null", "/", "~", ".", "x" * 5000,
    "é\u2028", "\U0001f600", "\x1b[31mred", "%s{0}{x}", "{problem}",
    True, False, None, [], {}, [1, 2], ["a", "b"], [[]],
    [None], {"a": {"b": 1}}, [{"prefix": "train"}] * 3, {"name": "x"}, {"prefix": "train"}, {"": ""}, [[[[[[[1]]]]]]],
)
RUNNABLE: tuple[Any, ...] = (0, 1, 2, 3, 7, 10**9, 1000, 0.5, 0.99, 1e-320, 1e-30, 100, 65_536, True, False, None, "no")
CHOICES = (
    "pre", "post", "relu", "gelu", "all", "none", "decoder", "bpe", "unigram", "cosine", "constant", "fp32", "bf16",
    "fp16", "adam", "chrf", "loss", "additive", "dense_synthesizer", "dot_product", "cuda", "auto",
)
# fmt: on


def place_in(draw: Random, config: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """One of all keys there are: the section that holds it, or should, and its name."""
    if draw.random() < 0.1:
        return config, draw.choice((*config, "extra"))
    *path, key = draw.choice([key for key, _ in walk_keys(Config)]).split(".")
    section: Any = config
    try:
        for name, after in zip(path, [*path[1:], key], strict=True):
            section = (
                section[0]
                if name == "N"
                else section.setdefault(name, [{}] if after == "N" else {})
            )
    except (AttributeError, LookupError, TypeError):  # what was set there before holds no keys
        return config, path[0]
    return (section, key) if isinstance(section, dict) else (config, path[0])


def as_yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, allow_unicode=True, sort_keys=False, width=10_000)


def copied(config: dict[str, Any]) -> dict[str, Any]:
    """A copy that shares nothing."""
    return json.loads(json.dumps(config))
