"""Kill training many times, and check that each run ends like one that was never interrupted.

    python -m scripts.stress.resume [--kills 100] [--forced 5] [--seed 1]

A small run (three epochs with dropout and BPE-dropout, with a validation and two checkpoints in
each) is killed by SIGKILL, first at moments drawn uniformly from the time it takes, then at the
moments most likely to do damage. After each kill it is started again with the same command, until
it ends. Then weights, optimizer, state, tokenizer and metrics must be those of the uninterrupted
run, byte for byte except for clocks.

Each process is forked from this one, which has already imported PyTorch, so that the kills hit the
run and not its imports. The exit code is 1 if any run ends differently.
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
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process with several threads cannot be forked safely

# Imported here, before the first fork, not in each process. The optimizers import torch._dynamo.
import torch._dynamo  # noqa: F401

import mt.data.tokenizer_training
import mt.storage.atomic
import mt.storage.checkpoint
import mt.training.run
from mt.cli.app import main as mt_main
from mt.data.corpus_writer import CorpusWriter
from mt.training.metrics_log import MetricsLog

CONFIG = """\
data:
  src_lang: aa
  tgt_lang: bb
  max_length: 24
  train: [{{prefix: {0}/train}}]
  valid: {{name: v, prefix: {0}/valid}}
tokenizer: {{vocab_size: 330, bpe_dropout: 0.2}}
model:
  d_model: 16
  d_ff: 32
  num_heads: 2
  num_encoder_layers: 1
  num_decoder_layers: 1
  dropout: 0.2
train:
  device: cpu
  precision: fp32
  batch_tokens: 128
  learning_rate: 5e-3
  ema_decay: 0.9
  warmup_steps: 4
  max_epochs: 3
  log_every: 2
  validate_every: 20
  save_every: 7
  keep_checkpoints: 1
  metric: loss
  num_samples: 1
search: {{beam_size: 2, max_length_factor: 1.0, max_length_offset: 2}}
"""
NUM_EPOCHS = 3
NUM_TRAINING_LINES = 400
WORDS = ["balo", "deru", "fimi", "gona", "hupe", "jasi", "kelo", "mavu", "nira", "potu"]

Prepare = Callable[[], None]  # is called in a new process before it trains


def write_copy_task(directory: Path) -> Path:
    """Write a corpus of sentences that translate to themselves; return the path of its config."""
    rng = random.Random(1)
    for name, num_lines in (("train", NUM_TRAINING_LINES), ("valid", 12)):
        lines = []
        for _ in range(num_lines):
            words = rng.choices(WORDS, k=rng.randint(1, 5))
            lines.append(" ".join(words) + "\n")
        for lang in ("aa", "bb"):
            (directory / f"{name}.{lang}").write_text("".join(lines), encoding="utf-8")
    config = directory / "copy.yaml"
    config.write_text(CONFIG.format(directory), encoding="utf-8")
    return config


# Starting and killing processes


def do_nothing() -> None:
    pass


def start(config: Path, run_dir: Path, prepare: Prepare = do_nothing) -> int:
    """Fork a process that calls `prepare` and then runs `mt train`; return its id."""
    process_id = os.fork()
    if process_id == 0:
        run_mt_train(config, run_dir, prepare)
    return process_id


def run_mt_train(config: Path, run_dir: Path, prepare: Prepare) -> None:
    """Run `mt train` in a forked process, and end that process, whatever happens."""
    with open(log_path(run_dir), "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = ["mt", "train", "--config", str(config), "--run-dir", str(run_dir)]
    try:
        prepare()
        mt_main()
        os._exit(0)
    except SystemExit as exit_:
        os._exit(int(exit_.code or 0))
    except BaseException:
        traceback.print_exc()
        os._exit(3)


def log_path(run_dir: Path) -> Path:
    """Return the file with what all processes of a run printed."""
    return run_dir.with_suffix(".log")


def wait(process_id: int, *, timeout: float = 600.0) -> int | None:
    """Return the exit code of a process, negative for a signal.

    After `timeout` seconds, kill it and return None.
    """
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        ended_id, status = os.waitpid(process_id, os.WNOHANG)
        if ended_id:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process_id, signal.SIGKILL)
    os.waitpid(process_id, 0)
    return None


def finish(config: Path, run_dir: Path) -> None:
    """Start a run again, and let it end."""
    exit_code = wait(start(config, run_dir))
    if exit_code != 0:
        fail(run_dir, exit_code)


def fail(run_dir: Path, exit_code: int | None) -> None:
    sys.exit(f"{run_dir}: ended with {exit_code}:\n{log_path(run_dir).read_text()}")


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Comparing runs


def read_result(run_dir: Path) -> dict[str, Any]:
    """Return the content of a finished run by file, without its clocks."""
    checkpoints = run_dir / "checkpoints"
    result: dict[str, Any] = {}
    for pointer in ("last", "best"):
        name = (checkpoints / pointer).read_text()
        directory = checkpoints / name.strip()
        meta = json.loads((directory / "meta.json").read_text())
        del meta["state"]["elapsed_seconds"]
        del meta["pace"]
        del meta["metrics_size"]
        result[pointer] = name
        result[f"{pointer}/meta.json"] = meta
        for path in directory.glob("*.safetensors"):
            result[f"{pointer}/{path.name}"] = path.read_bytes()

    entries = []
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        entry.pop("timing", None)
        entries.append(entry)
    result["metrics.jsonl"] = entries
    result["tokenizer.model"] = (run_dir / "tokenizer.model").read_bytes()
    return result


def find_differences(expected: dict[str, Any], run_dir: Path) -> list[str]:
    """Return the files that differ from the expected ones, and leftover partial files."""
    result = read_result(run_dir)
    differing = [name for name in expected if expected[name] != result[name]]
    leftovers = [str(path.relative_to(run_dir)) for path in run_dir.rglob("*.partial")]
    return differing + leftovers


def describe_progress(run_dir: Path) -> str:
    """Return how far a run has come, judged by its files."""
    if not (run_dir / "tokenizer.model").exists():
        return "before the tokenizer"
    cache_entries = [path for path in (run_dir / "cache").glob("*") if path.name[0] != "."]
    if not cache_entries:
        return "before the cache"
    checkpoints = run_dir / "checkpoints"
    try:
        name = (checkpoints / "last").read_text().strip()
        meta = json.loads((checkpoints / name / "meta.json").read_text())
    except FileNotFoundError:
        return "before a checkpoint"
    epoch = meta["state"]["epoch"]
    return f"epoch {epoch + 1}" if epoch < NUM_EPOCHS else "at the end"


# Critical moments. Each function draws one moment of its kind and returns a `Prepare` that replaces
# a function of mt, so that the process kills itself at this moment.


class Countdown:
    """Counts calls, and is due at one of them: the first has number 0."""

    def __init__(self, due: int) -> None:
        self.due = due
        self.number = 0

    def is_due(self) -> bool:
        """Count a call; return whether it is the one."""
        is_due = self.number == self.due
        self.number += 1
        return is_due


def in_tokenizer_training(rng: random.Random) -> Prepare:
    """Between two of the sentences that the tokenizer is trained on, or when it is written."""
    num_sentences = 2 * NUM_TRAINING_LINES
    number = rng.randrange(num_sentences + 2)

    def prepare() -> None:
        original = mt.data.tokenizer_training.escape
        countdown = Countdown(number)

        def escape(text: str) -> str:
            if countdown.is_due():
                kill_this_process()
            return original(text)

        mt.data.tokenizer_training.escape = escape
        if number >= num_sentences:
            mt.data.tokenizer_training.atomic_file = (  # type: ignore[assignment]
                lambda path: kill_this_process()  # type: ignore[return-value]
            )

    return prepare


def in_cache_writing(rng: random.Random) -> Prepare:
    """Before the ids of a side are written, or before the corpus is finished."""
    name = rng.choice(["_append_side", "finish"])
    number = rng.randrange(2) if name == "_append_side" else 0

    def prepare() -> None:
        original = getattr(CorpusWriter, name)
        countdown = Countdown(number)

        def write(*arguments: Any, **options: Any) -> Any:
            if countdown.is_due():
                kill_this_process()
            return original(*arguments, **options)

        setattr(CorpusWriter, name, write)

    return prepare


def around_checkpoint_rename(rng: random.Random, *, after: bool) -> Prepare:
    """Just before or just after a checkpoint's directory is renamed to its final name."""
    number = rng.randrange(1, 5)

    def prepare() -> None:
        original = Path.replace
        countdown = Countdown(number)

        def replace(self: Path, target: Path) -> Path:
            is_due = Path(target).name.startswith("step_") and countdown.is_due()
            if is_due and not after:
                kill_this_process()
            replaced = original(self, target)
            if is_due:
                kill_this_process()
            return replaced

        Path.replace = replace  # type: ignore[method-assign, assignment]

    return prepare


def in_pruning(rng: random.Random) -> Prepare:
    """When some files of an old checkpoint are deleted and others are not."""
    number = rng.randrange(3)
    num_deleted = rng.randrange(4)

    def prepare() -> None:
        original = mt.storage.checkpoint.remove
        countdown = Countdown(number)

        def remove(path: Path) -> None:
            if countdown.is_due():
                for file in sorted(path.iterdir())[:num_deleted]:
                    file.unlink()
                kill_this_process()
            original(path)

        mt.storage.checkpoint.remove = remove

    return prepare


def in_metrics_append(rng: random.Random) -> Prepare:
    """When part of a line of metrics.jsonl is written."""
    number = rng.randrange(30)
    share = rng.random()

    def prepare() -> None:
        original = MetricsLog._write_pending
        countdown = Countdown(number)

        def write(self: MetricsLog) -> None:
            is_due = countdown.is_due()
            if is_due:
                self._pending = self._pending[: int(share * len(self._pending))]
            original(self)
            if is_due:
                kill_this_process()

        MetricsLog._write_pending = write  # type: ignore[method-assign]

    return prepare


CRITICAL_MOMENTS: dict[str, Callable[[random.Random], Prepare]] = {
    "tokenizer training": in_tokenizer_training,
    "cache writing": in_cache_writing,
    "checkpoint, before its rename": lambda rng: around_checkpoint_rename(rng, after=False),
    "checkpoint, after its rename": lambda rng: around_checkpoint_rename(rng, after=True),
    "pruning": in_pruning,
    "metrics append": in_metrics_append,
}


# The experiments. Each yields the directory of a run when it has ended.


def kill_at_uniform_moments(
    config: Path, directory: Path, *, num_kills: int, seconds: float, rng: random.Random
) -> Iterator[Path]:
    """Kill runs `num_kills` times in all, within `seconds` after the start of a process."""
    kills_by_tenth = Counter[int]()
    kills_by_progress = Counter[str]()
    num_done = 0
    num_runs = 0
    while num_done < num_kills:
        run_dir = directory / f"run{num_runs}"
        num_runs += 1
        while num_done < num_kills:
            moment = rng.uniform(0.0, seconds)
            exit_code = wait(start(config, run_dir), timeout=moment)
            if exit_code == 0:
                break
            if exit_code is not None:
                fail(run_dir, exit_code)
            kills_by_tenth[int(10 * moment / seconds)] += 1
            kills_by_progress[describe_progress(run_dir)] += 1
            num_done += 1
        finish(config, run_dir)
        yield run_dir

    print(f"{num_kills} kills in {num_runs} runs, by the time since the process began:")
    for tenth in range(10):
        count = kills_by_tenth[tenth]
        print(f"  {tenth * seconds / 10:5.2f} s  {count:3}  {'#' * count}")
    print("and by the files that the run had:")
    for progress, count in sorted(kills_by_progress.items()):
        print(f"  {progress:<20} {count:3}  {'#' * count}")


def kill_at_critical_moments(
    config: Path, directory: Path, *, num_kills: int, rng: random.Random
) -> Iterator[Path]:
    """Kill `num_kills` runs at each kind of critical moment, each run once."""
    for name, draw_moment in CRITICAL_MOMENTS.items():
        for number in range(num_kills):
            run_dir = directory / f"{name.replace(' ', '-')}{number}"
            exit_code = wait(start(config, run_dir, draw_moment(rng)))
            if exit_code != -signal.SIGKILL:
                sys.exit(f"{run_dir}: should be killed in {name}, but ended with {exit_code}")
            finish(config, run_dir)
            yield run_dir
        print(f"  {name:<30} {num_kills:3}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="kills at uniform moments")
    parser.add_argument("--forced", type=int, default=5, help="kills at each critical moment")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)

    num_runs = 0
    different: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = write_copy_task(directory)
        started = time.monotonic()
        finish(config, directory / "uninterrupted")
        seconds = time.monotonic() - started
        expected = read_result(directory / "uninterrupted")
        state = expected["last/meta.json"]["state"]
        print(
            f"uninterrupted: {state['step']} updates, {state['epoch']} epochs, {seconds:.2f} s",
            flush=True,
        )

        uniform = kill_at_uniform_moments(
            config, directory, num_kills=options.kills, seconds=seconds, rng=rng
        )
        critical = kill_at_critical_moments(config, directory, num_kills=options.forced, rng=rng)
        for heading, run_dirs in (("", uniform), ("kills at critical moments:", critical)):
            print(heading, flush=True)
            for run_dir in run_dirs:
                num_runs += 1
                differences = find_differences(expected, run_dir)
                if differences:
                    different.append(f"{run_dir.name}: {', '.join(differences)}")
                shutil.rmtree(run_dir)

    print(f"\n{num_runs - len(different)} of {num_runs} runs ended like the uninterrupted one")
    for line in different:
        print(line)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
