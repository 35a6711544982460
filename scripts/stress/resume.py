#!/usr/bin/env python3
"""Kill training again and again, and see that each run ends as one that was left alone.

    .venv/bin/python -m scripts.stress.resume [--kills 100] [--forced 5] [--seed 1]

A small run (three epochs with dropout and BPE-dropout, a validation and two checkpoints in each) is killed by SIGKILL,
first at moments that are uniform in the time it takes, then at moments that are chosen for their danger, and is each
time started again with the same command until it ends. Then weights, optimizer, state, tokenizer and metrics must be
those of the uninterrupted run, byte for byte but for clocks. Each process is forked from this one, which has imported
PyTorch already, so that the kills fall into the run and not into its imports. Exit code 1 if any run ends differently.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads could not be forked

import mt.data.corpus
import mt.data.tokenizer
import mt.storage.atomic
import mt.storage.checkpoint
import mt.training.run  # before the first fork
from mt.cli.app import main as mt_main
from mt.training.metrics_log import MetricsFile

CONFIG = """\
data:
  {{src_lang: aa, tgt_lang: bb, max_length: 24, train: [{{prefix: {0}/train}}], valid: {{name: v, prefix: {0}/valid}}}}
tokenizer: {{vocab_size: 330, bpe_dropout: 0.2}}
model: {{d_model: 32, d_ff: 64, num_heads: 2, num_encoder_layers: 2, num_decoder_layers: 2, dropout: 0.2}}
train:
  {{device: cpu, precision: fp32, batch_tokens: 128, learning_rate: 5e-3, warmup_steps: 4, max_epochs: 3, log_every: 2,
  validate_every: 20, save_every: 7, keep_checkpoints: 1, metric: loss, num_samples: 1}}
search: {{beam_size: 2, max_length_factor: 1.0, max_length_offset: 2}}
"""
WORDS = ["balo", "deru", "fimi", "gona", "hupe", "jasi", "kelo", "mavu", "nira", "potu"]
EXACT = ("model.safetensors", "optimizer.safetensors")


def make_task(directory: Path) -> Path:
    """A language whose sentences translate to themselves, and a config for it."""
    draw = random.Random(1)
    for name, num_lines in (("train", 400), ("valid", 12)):
        text = "".join(
            " ".join(draw.choices(WORDS, k=draw.randint(1, 5))) + "\n" for _ in range(num_lines)
        )
        for lang in ("aa", "bb"):
            (directory / f"{name}.{lang}").write_text(text, encoding="utf-8")
    config = directory / "copy.yaml"
    config.write_text(CONFIG.format(directory), encoding="utf-8")
    return config


# Starting and killing


def start(config: Path, run_dir: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Fork a process that runs `mt train`, after `prepare`; its id."""
    child = os.fork()
    if child == 0:
        with open(run_dir.with_suffix(".log"), "ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.argv = ["mt", "train", "--config", str(config), "--run-dir", str(run_dir)]
        try:
            prepare()
            mt_main()
            os._exit(0)
        except SystemExit as end:
            os._exit(int(end.code or 0))
        except BaseException:  # whatever it is, it must not go on in the copy of this program
            import traceback

            traceback.print_exc()
            os._exit(3)
    return child


def wait(child: int, *, at_most: float = 600.0) -> int | None:
    """Its exit status, negative for a signal; None, and it is killed, when it takes longer."""
    end = time.monotonic() + at_most
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def finish(config: Path, run_dir: Path) -> None:
    """Start the same command, and let it end."""
    if (status := wait(start(config, run_dir))) != 0:
        sys.exit(f"{run_dir}: ended with {status}:\n{run_dir.with_suffix('.log').read_text()}")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# What has to be the same


def fingerprint(run_dir: Path) -> dict[str, Any]:
    """All that a run is, without its clocks."""
    checkpoints = run_dir / "checkpoints"
    found: dict[str, Any] = {name: (checkpoints / name).read_text() for name in ("last", "best")}
    for name in ("last", "best"):
        directory = checkpoints / found[name].strip()
        meta = json.loads((directory / "meta.json").read_text())
        del meta["state"]["elapsed_seconds"], meta["metrics_size"]
        found |= {f"{name}/{file}": (directory / file).read_bytes() for file in EXACT} | {
            f"{name}/meta.json": meta
        }
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    found["metrics.jsonl"] = [
        {key: value for key, value in line.items() if key != "timing"} for line in lines
    ]
    found["tokenizer.model"] = (run_dir / "tokenizer.model").read_bytes()
    return found


def compare(wanted: dict[str, Any], run_dir: Path) -> list[str]:
    """What differs, and what was left lying about."""
    found = fingerprint(run_dir)
    left = [str(path.relative_to(run_dir)) for path in run_dir.rglob("*.partial")]
    return [name for name in wanted if wanted[name] != found[name]] + left


def phase(run_dir: Path) -> str:
    """How far a run had come, by what is on the disk."""
    if not (run_dir / "tokenizer.model").exists():
        return "before the tokenizer"
    if not any(path.name[0] != "." for path in (run_dir / "cache").glob("*")):
        return "before the cache"
    try:
        name = (run_dir / "checkpoints" / "last").read_text().strip()
        state = json.loads((run_dir / "checkpoints" / name / "meta.json").read_text())["state"]
    except FileNotFoundError:
        return "before a checkpoint"
    return f"epoch {state['epoch'] + 1}" if state["epoch"] < 3 else "at the end"


# Moments of danger: each is a function that makes the process kill itself there


def in_tokenizer(draw: random.Random) -> Callable[[], None]:
    """Between two sentences that the tokenizer is trained on, or when it is written."""
    number = draw.randrange(802)  # of 800 sentences

    def prepare() -> None:
        original = mt.data.tokenizer._escape
        counts = iter(range(10**9))

        def escape(text: str) -> str:
            if next(counts) == number:
                die()
            return original(text)

        mt.data.tokenizer._escape = escape
        if number >= 800:
            mt.data.tokenizer.atomic_file = lambda path: die()  # type: ignore[assignment, return-value]

    return prepare


def in_cache(draw: random.Random) -> Callable[[], None]:
    """Before one of the four files of ids and offsets is written to."""
    name, number = draw.choice(["_flatten", "_offsets"]), draw.randrange(2)

    def prepare() -> None:
        original, counts = getattr(mt.data.corpus, name), iter(range(10**9))

        def write(*args: Any) -> Any:
            if next(counts) == number:
                die()
            return original(*args)

        setattr(mt.data.corpus, name, write)

    return prepare


def around_rename(draw: random.Random, *, after: bool) -> Callable[[], None]:
    """Just before or just after a checkpoint takes its name."""
    number = draw.randrange(1, 5)

    def prepare() -> None:
        original, counts = Path.replace, iter(range(10**9))

        def replace(self: Path, target: Path) -> Path:
            is_due = Path(target).name.startswith("step_") and next(counts) == number
            if is_due and not after:
                die()
            replaced = original(self, target)
            if is_due:
                die()
            return replaced

        Path.replace = replace  # type: ignore[method-assign, assignment]

    return prepare


def in_pruning(draw: random.Random) -> Callable[[], None]:
    """When some files of an old checkpoint are gone and some are not."""
    number, num_gone = draw.randrange(3), draw.randrange(4)

    def prepare() -> None:
        original, counts = mt.storage.checkpoint.remove, iter(range(10**9))

        def remove(path: Path) -> None:
            if next(counts) == number:
                for file in sorted(path.iterdir())[:num_gone]:
                    file.unlink()
                die()
            original(path)

        mt.storage.checkpoint.remove = remove

    return prepare


def in_append(draw: random.Random) -> Callable[[], None]:
    """When a part of a line of metrics.jsonl is written."""
    number, share = draw.randrange(30), draw.random()

    def prepare() -> None:
        original, counts = MetricsFile._write, iter(range(10**9))

        def write(self: MetricsFile) -> None:
            if next(counts) == number:
                self._waiting = self._waiting[: int(share * len(self._waiting))]
                original(self)
                die()
            original(self)

        MetricsFile._write = write  # type: ignore[method-assign]

    return prepare


POINTS: dict[str, Callable[[random.Random], Callable[[], None]]] = {
    "tokenizer training": in_tokenizer,
    "cache writing": in_cache,
    "checkpoint, before its rename": lambda draw: around_rename(draw, after=False),
    "checkpoint, after its rename": lambda draw: around_rename(draw, after=True),
    "pruning": in_pruning,
    "metrics append": in_append,
}


# The trials


def uniform_kills(
    config: Path, place: Path, *, num_kills: int, seconds: float, draw: random.Random
) -> Iterator[Path]:
    """Kill until `num_kills` are done; yields each run when it has ended."""
    moments, phases = Counter[int](), Counter[str]()
    num_runs = 0
    while sum(phases.values()) < num_kills:
        run_dir = place / f"run{num_runs}"
        num_runs += 1
        while sum(phases.values()) < num_kills:
            moment = draw.uniform(0.0, seconds)
            status = wait(start(config, run_dir), at_most=moment)
            if status == 0:
                break
            if status is not None:
                sys.exit(
                    f"{run_dir}: ended with {status}:\n{run_dir.with_suffix('.log').read_text()}"
                )
            moments[int(10 * moment / seconds)] += 1
            phases[phase(run_dir)] += 1
        finish(config, run_dir)
        yield run_dir
    print(f"{num_kills} kills over {num_runs} runs, by the time since the process began:")
    for tenth in range(10):
        print(f"  {tenth * seconds / 10:5.2f} s  {moments[tenth]:3}  {'#' * moments[tenth]}")
    print("and by what was on the disk:")
    for name, count in sorted(phases.items()):
        print(f"  {name:<20} {count:3}  {'#' * count}")


def forced_kills(config: Path, place: Path, *, count: int, draw: random.Random) -> Iterator[Path]:
    """Kill at each point of danger `count` times; yields each run when it has ended."""
    for name, point in POINTS.items():
        for number in range(count):
            run_dir = place / f"{name.replace(' ', '-')}{number}"
            if (status := wait(start(config, run_dir, point(draw)))) != -signal.SIGKILL:
                sys.exit(f"{run_dir}: was to be killed in {name}, but ended with {status}")
            finish(config, run_dir)
            yield run_dir
        print(f"  {name:<30} {count:3}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="kills at uniform moments")
    parser.add_argument("--forced", type=int, default=5, help="kills at each point of danger")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    num_runs, different = 0, []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        config = make_task(place)
        began = time.monotonic()
        finish(config, place / "uninterrupted")
        seconds = time.monotonic() - began
        wanted = fingerprint(place / "uninterrupted")
        state = wanted["last/meta.json"]["state"]
        print(
            f"uninterrupted: {state['step']} updates, {state['epoch']} epochs, {seconds:.2f} s",
            flush=True,
        )
        uniform = uniform_kills(config, place, num_kills=options.kills, seconds=seconds, draw=draw)
        forced = forced_kills(config, place, count=options.forced, draw=draw)
        for heading, trials in (("", uniform), ("kills forced in:", forced)):
            print(heading, flush=True)
            for run_dir in trials:
                num_runs += 1
                if differences := compare(wanted, run_dir):
                    different.append(f"{run_dir.name}: {', '.join(differences)}")
                shutil.rmtree(run_dir)
    print(
        "\n".join(
            [
                f"\n{num_runs - len(different)} of {num_runs} runs ended as the uninterrupted one",
                *different,
            ]
        )
    )
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
