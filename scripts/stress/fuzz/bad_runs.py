"""Bad input for the commands that look into a finished run: report, attention, align and export."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from scripts.stress.fuzz.bad_input import ABSURD_VALUES, SENTENCES, Case, GoodInput, damage_bytes
from scripts.stress.fuzz.bad_models import NUMBERS, WHOLE_JSON, choose_value, damage_run
from scripts.stress.fuzz.bad_text import (
    CHECKPOINTS,
    NOT_UTF8,
    ODD_LINES,
    arbitrary_text,
    damage_gzip,
)

METRICS = "run/metrics.jsonl"
KINDS = ("start", "train", "valid", "incident", "", "x", None, 3, [], {})
LINE_DAMAGES = ("value", "value", "value", "number", "gone", "kind", "whole", "bytes", "added")
ARGUMENTS = tuple(line for line in ODD_LINES if "\0" not in line and len(line) < 50_000)
SHORT_ARGUMENTS = tuple(line for line in ARGUMENTS if 0 < len(line) < 8)
LAYERS = ("1", "2", "0", "-1", "9" * 30, "x", "")


def report_case(rng: Random, good: GoodInput) -> Case:
    """Make a run whose records are wrong: metrics.jsonl, the cache, or something else."""
    files = good.files
    description = damage_metrics(rng, files) if rng.random() < 0.6 else damage_run(rng, files)
    arguments = ["report", "run", "--quiet", "--output", "out.html", *checkpoint_option(rng)]
    return Case(description, files, arguments, output="out.html")


def attention_case(rng: Random, good: GoodInput) -> Case:
    """Make an odd sentence and an odd target, or a damaged run."""
    files = good.files
    description = damage_run(rng, files) if rng.random() < 0.4 else "odd sentence"
    odd_sentences = rng.choice((SHORT_ARGUMENTS, SHORT_ARGUMENTS, ARGUMENTS, ("a\nb", "a\udcffb")))
    sentence = rng.choice((*SENTENCES[:5], *odd_sentences))
    outputs = ("out.html", "out.json", "none/out.html") * 5 + ("out.txt", ".", "/dev/full")
    output = rng.choice(outputs)
    arguments = ["attention", "run", "--output", output, *checkpoint_option(rng)]
    if rng.random() < 0.5:
        arguments += ["--target", rng.choice((*SENTENCES[:5], *odd_sentences))]
    return Case(f"{description} {output}", files, [*arguments, "--", sentence], output=output)


def align_case(rng: Random, good: GoodInput) -> Case:
    """Make two texts that do not fit, or a damaged run."""
    files = good.files
    description, arguments = _damage_pair_or_run(rng, files, good)
    arguments = ["align", *arguments]
    if rng.random() < 0.15:
        arguments += ["--layer", rng.choice(LAYERS)]
    if rng.random() < 0.5:
        arguments += ["--output", "out.txt"]
    return Case(description, files, arguments, output="out.txt")


def score_case(rng: Random, good: GoodInput) -> Case:
    """Make two texts that do not fit, or a damaged run."""
    files = good.files
    description, arguments = _damage_pair_or_run(rng, files, good)
    arguments = ["score", *arguments]
    if rng.random() < 0.5:
        arguments += ["--jsonl"]
    if rng.random() < 0.5:
        arguments += ["--output", "out.txt"]
    return Case(description, files, arguments, output="out.txt")


def _damage_pair_or_run(
    rng: Random, files: dict[str, bytes], good: GoodInput
) -> tuple[str, list[str]]:
    """Damage two texts or the run; return what was done, and the arguments that name all three."""
    if rng.random() < 0.4:
        description = damage_run(rng, files)
        files["in.a"] = good.texts["valid.a"]
        files["in.b"] = good.texts["valid.b"]
    else:
        description = damage_pair(rng, files, good)
    src = rng.choice(("in.a",) * 25 + ("none", ".", "/dev/null"))
    return description, ["run", "--src", src, "--tgt", "in.b", *checkpoint_option(rng)]


def export_case(rng: Random, good: GoodInput) -> Case:
    """Make a damaged run, and a directory that must not be replaced."""
    files = good.files
    description = damage_run(rng, files)
    directory = rng.choice(("out",) * 15 + ("none/out", "full", "good.yaml", "run", ".", "/"))
    files["full/file"] = b""
    arguments = ["export", "run", "--to", "ctranslate2", *checkpoint_option(rng), directory]
    output = directory if directory in ("out", "none/out") else ""
    return Case(f"{description}, to {directory}", files, arguments, output=output)


def checkpoint_option(rng: Random) -> list[str]:
    if rng.random() < 0.95:
        return []
    return ["--checkpoint", rng.choice([name for name in CHECKPOINTS if "\0" not in name])]


def damage_metrics(rng: Random, files: dict[str, bytes]) -> str:
    """Change some lines of metrics.jsonl; return a description."""
    lines = files[METRICS].splitlines()
    incident = {"kind": "incident", "step": 2, "text": "the disk was full", "timing": {}}
    lines.append(json.dumps(incident).encode())
    damages = []
    for _ in range(rng.choice((1, 1, 2, 5))):
        index = rng.randrange(len(lines))
        lines[index], damage = damage_metrics_line(rng, lines[index])
        damages.append(damage)
    if rng.random() < 0.2:
        lines[-1] = lines[-1][: rng.randrange(len(lines[-1]) + 1)]
        damages.append("cut")
    files[METRICS] = b"\n".join(lines) + rng.choice((b"", b"\n"))
    return f"metrics.jsonl {' '.join(damages)}"


def damage_metrics_line(rng: Random, line: bytes) -> tuple[bytes, str]:
    """Return a damaged line of metrics.jsonl, and a description of the damage."""
    try:
        values: Any = json.loads(line)
    except ValueError:  # it is damaged already
        return damage_bytes(rng, line), "bytes"
    damage = rng.choice(LINE_DAMAGES)
    if damage == "bytes" or not isinstance(values, dict) or not values:
        return damage_bytes(rng, line), "bytes"
    if damage == "whole":
        return rng.choice(WHOLE_JSON).encode(), damage
    parent, path = choose_value(rng, values)
    if damage == "gone":
        del parent[path[-1]]
    elif damage == "kind":
        values["kind"] = rng.choice(KINDS)
    elif damage == "added":
        values[rng.choice(("signatures", "samples", "text", "BLEU", "nll", "is_best", "extra"))] = (
            rng.choice((*ABSURD_VALUES, {"BLEU": "x"}, [{"src": 1, "ref": "b", "hyp": "c"}]))
        )
    elif damage == "number":
        parent[path[-1]] = rng.choice(NUMBERS)
    else:
        parent[path[-1]] = rng.choice(ABSURD_VALUES)
    return json.dumps(values).encode(), f"{damage} of {'.'.join(map(str, path))[:40]}"


def damage_pair(rng: Random, files: dict[str, bytes], good: GoodInput) -> str:
    """Write in.a and in.b, one of them damaged or of another length; return a description."""
    names = ["in.a", "in.b"]
    rng.shuffle(names)
    bad_name, good_name = names
    lines = [rng.choice((*SENTENCES, *ODD_LINES)).encode() for _ in range(4)]
    files[good_name] = b"".join(line + b"\n" for line in lines)
    damage = rng.choice(("text", *("odd",) * 6, "longer", "not UTF-8", "gzip"))
    if damage == "text":
        files[bad_name], _ = arbitrary_text(rng, good)
        return damage
    other_lines = [rng.choice((*SENTENCES, *ODD_LINES)).encode() for _ in lines]
    if damage == "longer":
        other_lines += other_lines
    elif damage == "not UTF-8":
        other_lines[rng.randrange(4)] = rng.choice(NOT_UTF8)
    files[bad_name] = b"".join(line + b"\n" for line in other_lines)
    if damage == "gzip":
        files[bad_name], _ = damage_gzip(rng, files[bad_name])
    return damage
