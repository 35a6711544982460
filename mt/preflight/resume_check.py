"""Does a killed run go on to the same bits? `mt check --resume` tries it with the user's own config and machine."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mt.config.load import dump_config
from mt.config.schema import Config, TokenizerConfig
from mt.distributed import Runtime
from mt.errors import TrainingError
from mt.preflight.checks import Finding
from mt.preflight.dry_run import cut_validation
from mt.storage.checkpoint import MODEL, OPTIMIZER, find_checkpoint
from mt.storage.run_dir import RunDir

logger = logging.getLogger(__name__)

NUM_UPDATES, VALIDATE_EVERY, SAVE_EVERY, LOG_EVERY = (
    8,
    4,
    2,
    3,
)  # a line of the log is under way when a run is killed
NUM_LINES = 4  # of the validation set
NUM_TRIES = 3  # to kill a run before it is done


def prove_resume(
    config: Config, runtime: Runtime, trial: RunDir, *, directory: Path
) -> Iterator[Finding]:
    """Train a few updates at once, and again with a kill in between; compare all that a run is.

    `trial` lends its tokenizers and its cache.
    """
    runtime.release_memory()  # the processes to come need it
    path = directory / "probe.yaml"
    path.write_text(dump_config(make_probe(config, runtime, trial, directory)), encoding="utf-8")
    whole = RunDir(directory / "whole")
    logger.info(f"resume: training {NUM_UPDATES} updates at once")
    run_to_end(path, whole, trial)
    for number in range(NUM_TRIES):
        killed = RunDir(directory / ("killed" + "-again" * number))
        logger.info("resume: training them again, with a kill in between")
        if (killed_at := run_and_kill(path, killed, trial)) is not None:
            break
    else:
        yield Finding(
            "warning",
            "resume",
            "",
            f"all {NUM_UPDATES} updates were done before a run could be killed",
        )
        return
    run_to_end(path, killed, trial)
    text = (
        f"{NUM_UPDATES} updates at once, and the same killed by SIGKILL, going on from {killed_at}:"
    )
    yield Finding("ok", "resume", "", text)
    at_once, with_kill = digests(whole), digests(killed)
    for name, one, other in zip(
        ("weights", "optimizer", "metrics"), at_once, with_kill, strict=True
    ):
        text = f"equal, SHA-256 {one}" if one == other else f"{one} at once, {other} with a kill"
        yield Finding("ok" if one == other else "error", "resume", "", f"{name}: {text}")
    if at_once != with_kill and runtime.device.type == "cuda":
        again = RunDir(directory / "whole-again")
        run_to_end(path, again, trial)
        if digests(again) != at_once:
            yield Finding(
                "note",
                "resume",
                "",
                "nor are two unkilled runs equal: this GPU does not repeat itself",
            )


def make_probe(config: Config, runtime: Runtime, trial: RunDir, directory: Path) -> Config:
    """The user's config, but for how long it runs, what it validates on, and tokenizers that are there already."""
    section, (src, tgt) = config.tokenizer, trial.tokenizers(config.tokenizer.joint)
    named = {"model": str(src)} if section.joint else {"src_model": str(src), "tgt_model": str(tgt)}
    tokenizer = TokenizerConfig(joint=section.joint, bpe_dropout=section.bpe_dropout).model_copy(
        update=named
    )
    config, _ = cut_validation(config, directory, num_lines=NUM_LINES)
    train: dict[str, object] = {
        "max_steps": NUM_UPDATES,
        "max_epochs": None,
        "max_minutes": None,
        "patience": None,
    }
    train |= {"validate_every": VALIDATE_EVERY, "save_every": SAVE_EVERY, "log_every": LOG_EVERY}
    train |= {"device": runtime.device.type, "precision": runtime.precision}
    train |= {"warmup_steps": min(config.train.warmup_steps, NUM_UPDATES // 2)}
    sections = {"data": config.data.model_copy(update={"test": ()}), "tokenizer": tokenizer}
    return config.model_copy(update={**sections, "train": config.train.model_copy(update=train)})


def run_to_end(config: Path, run: RunDir, trial: RunDir) -> None:
    """`mt train`, as anyone would start it. Raises TrainingError when it fails."""
    process = start(config, run, trial)
    try:
        process.wait()
    finally:
        process.kill()  # when we are interrupted; one that has ended is not harmed
    if process.returncode != 0:
        lines = (
            (run.path / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        )
        raise TrainingError(
            f"mt train ended with exit code {process.returncode}: {lines[-1] if lines else 'no word'}"
        )


def run_and_kill(config: Path, run: RunDir, trial: RunDir) -> str | None:
    """Kill the training once it has a checkpoint to go on from; its name, or None when the training was quicker."""
    process, last = start(config, run, trial), run.checkpoints / "last"
    try:
        while process.poll() is None and not last.is_file():
            time.sleep(0.002)
    finally:
        process.kill()
    return last.read_text(encoding="utf-8").strip() if process.wait() < 0 else None


def start(config: Path, run: RunDir, trial: RunDir) -> "subprocess.Popen[bytes]":
    """`mt train` in a process of its own, the text being encoded already."""
    run.path.mkdir(exist_ok=True)
    if not run.cache.exists():
        os.symlink(trial.cache, run.cache)
    command = [
        sys.executable,
        "-m",
        "mt",
        "train",
        "--config",
        str(config),
        "--run-dir",
        str(run.path),
    ]
    with (run.path / "log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def digests(run: RunDir) -> list[str]:
    """SHA-256 of the last weights, of the optimizer, and of all that was measured but by a clock."""
    last = find_checkpoint(run.checkpoints, "last")
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()
    ]
    timeless = json.dumps(
        [{key: value for key, value in line.items() if key != "timing"} for line in lines]
    )
    contents = [(last / MODEL).read_bytes(), (last / OPTIMIZER).read_bytes(), timeless.encode()]
    return [hashlib.sha256(content).hexdigest() for content in contents]
