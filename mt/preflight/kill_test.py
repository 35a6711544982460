"""Check that a killed training resumes to the same weights, with the user's own config.

It runs `mt train` in processes of its own, as the user would, and kills one of them.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mt.config.load import dump_config
from mt.config.schema import Config, TokenizerConfig
from mt.distributed import Runtime
from mt.errors import TrainingError
from mt.preflight.dry_run import shorten_validation_set
from mt.preflight.file_checks import Finding
from mt.storage.checkpoint import EMA, MODEL, OPTIMIZER, find_checkpoint
from mt.storage.run_dir import RunDir

logger = logging.getLogger(__name__)

# A training this short has checkpoints and validations to resume between. LOG_EVERY divides neither
# of the other intervals, so that a run is also killed with a line of the log half collected.
NUM_UPDATES = 8
VALIDATE_EVERY = 4
SAVE_EVERY = 2
LOG_EVERY = 3

# Lines of the validation set that are used.
NUM_VALIDATION_LINES = 4

# A training may end before it is killed; then another one is started, up to so many in all.
MAX_TRIES = 3

# Between two looks for a first checkpoint.
POLL_SECONDS = 0.002


class RunDigests(NamedTuple):
    """SHA-256 of the results of a run."""

    weights: str
    averages: str  # of ema.safetensors; of no bytes if the run has no such file
    optimizer: str
    metrics: str  # without what depends on a clock


class KilledRun(NamedTuple):
    """A run that was killed, and the checkpoint that it will resume from."""

    run_dir: RunDir
    checkpoint: str


def check_resume(
    config: Config, runtime: Runtime, trial_dir: RunDir, *, directory: Path
) -> Iterator[Finding]:
    """Train a few updates, then again with a kill in between, and compare the two results.

    The trainings run in new folders of `directory`, with the tokenizers and the encoded text of
    `trial_dir`. Raises TrainingError when one of them fails.
    """
    runtime.release_memory()  # the trainings are other processes, and need it
    config_path = directory / "short.yaml"
    short_config = make_short_config(config, runtime, trial_dir, directory)
    config_path.write_text(dump_config(short_config), encoding="utf-8")

    whole_dir = RunDir(directory / "whole")
    logger.info(f"resume: training {NUM_UPDATES} updates without a kill")
    train_to_end(config_path, whole_dir, trial_dir)
    killed = train_until_killed(config_path, directory, trial_dir)
    if killed is None:
        text = f"not checked: all {NUM_UPDATES} updates were done before a run could be killed"
        yield Finding("warning", "resume", "", text)
        return
    train_to_end(config_path, killed.run_dir, trial_dir)
    text = (
        f"{NUM_UPDATES} updates, and the same with the training killed by SIGKILL and resumed "
        f"from {killed.checkpoint}:"
    )
    yield Finding("ok", "resume", "", text)

    whole = digest_run(whole_dir)
    resumed = digest_run(killed.run_dir)
    yield from compare_runs(whole, resumed)
    if whole != resumed and runtime.device.type == "cuda":
        again_dir = RunDir(directory / "whole-again")
        train_to_end(config_path, again_dir, trial_dir)
        if digest_run(again_dir) != whole:
            text = "two uninterrupted runs also differ: this GPU is not deterministic"
            yield Finding("note", "resume", "", text)


def make_short_config(
    config: Config, runtime: Runtime, trial_dir: RunDir, directory: Path
) -> Config:
    """Return the config with a short training, few validation lines and the trial's tokenizers.

    Writes the validation lines to files in `directory`.
    """
    config = shorten_validation_set(config, directory, num_lines=NUM_VALIDATION_LINES).config
    tokenizer = config.tokenizer
    freeze = config.train.freeze
    if config.train.init_from is None:  # else `mt train` copies the tokenizers of that run
        tokenizer = _existing_tokenizers(config.tokenizer, trial_dir)
        freeze = ()
    train = {
        "freeze": freeze,
        "max_steps": NUM_UPDATES,
        "max_epochs": None,
        "max_minutes": None,
        "patience": None,
        "validate_every": VALIDATE_EVERY,
        "save_every": SAVE_EVERY,
        "log_every": LOG_EVERY,
        "device": runtime.device.type,
        "precision": runtime.precision,
        "warmup_steps": min(config.train.warmup_steps, NUM_UPDATES // 2),
    }
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"test": ()}),
            "tokenizer": tokenizer,
            "train": config.train.model_copy(update=train),
        }
    )


def _existing_tokenizers(section: TokenizerConfig, trial_dir: RunDir) -> TokenizerConfig:
    """Return a section that names the tokenizers of `trial_dir`."""
    src_model, tgt_model = trial_dir.tokenizer_paths(section.joint)
    models = {"src_model": str(src_model), "tgt_model": str(tgt_model)}
    if section.joint:
        models = {"model": str(src_model)}
    plain = TokenizerConfig(joint=section.joint, bpe_dropout=section.bpe_dropout)
    return plain.model_copy(update=models)


def train_to_end(config_path: Path, run_dir: RunDir, trial_dir: RunDir) -> None:
    """Run `mt train` to its end, resuming if it was killed. Raises TrainingError if it fails."""
    process = start_training(config_path, run_dir, trial_dir)
    try:
        process.wait()
    finally:
        process.kill()  # in case we are interrupted; does nothing to a process that has ended
    if process.returncode != 0:
        log = log_path(run_dir).read_text(encoding="utf-8", errors="replace")
        lines = log.strip().splitlines()
        last_line = lines[-1] if lines else "it printed nothing"
        raise TrainingError(f"mt train ended with exit code {process.returncode}: {last_line}")


def train_until_killed(config_path: Path, directory: Path, trial_dir: RunDir) -> KilledRun | None:
    """Start trainings in new folders until one can be killed; return None if all end too soon."""
    for number in range(MAX_TRIES):
        run_dir = RunDir(directory / f"killed-{number}")
        logger.info("resume: training them again, with a kill in between")
        checkpoint = train_and_kill(config_path, run_dir, trial_dir)
        if checkpoint is not None:
            return KilledRun(run_dir, checkpoint)
    return None


def train_and_kill(config_path: Path, run_dir: RunDir, trial_dir: RunDir) -> str | None:
    """Run `mt train` and kill it once it has a checkpoint; return the checkpoint's name.

    Return None when the training ended before that.
    """
    process = start_training(config_path, run_dir, trial_dir)
    last = run_dir.checkpoints_dir / "last"
    try:
        while process.poll() is None and not last.is_file():
            time.sleep(POLL_SECONDS)
    finally:
        process.kill()
    was_killed = process.wait() < 0
    return last.read_text(encoding="utf-8").strip() if was_killed else None


def start_training(
    config_path: Path, run_dir: RunDir, trial_dir: RunDir
) -> "subprocess.Popen[bytes]":
    """Start `mt train` in a process of its own, with the trial's encoded text as its cache."""
    run_dir.path.mkdir(exist_ok=True)
    if not run_dir.cache_dir.exists():
        os.symlink(trial_dir.cache_dir, run_dir.cache_dir)
    command = [sys.executable, "-m", "mt", "train"]
    options = ["--config", str(config_path), "--run-dir", str(run_dir.path)]
    with log_path(run_dir).open("ab") as log:
        return subprocess.Popen(
            [*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def log_path(run_dir: RunDir) -> Path:
    """Return the file with what the training in `run_dir` prints."""
    return run_dir.path / "log"


def digest_run(run_dir: RunDir) -> RunDigests:
    """Return the digests of a run's last checkpoint and of its metrics."""
    checkpoint = find_checkpoint(run_dir.checkpoints_dir, "last")
    metrics: list[dict[str, Any]] = []
    for line in run_dir.metrics_path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        values.pop("timing", None)
        metrics.append(values)
    return RunDigests(
        weights=_sha256((checkpoint / MODEL).read_bytes()),
        averages=_sha256((checkpoint / EMA).read_bytes() if (checkpoint / EMA).exists() else b""),
        optimizer=_sha256((checkpoint / OPTIMIZER).read_bytes()),
        metrics=_sha256(json.dumps(metrics).encode()),
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def compare_runs(whole: RunDigests, resumed: RunDigests) -> Iterator[Finding]:
    """Yield a finding about each result of the two runs, an error for one that differs."""
    for name, whole_digest, resumed_digest in zip(RunDigests._fields, whole, resumed, strict=True):
        if whole_digest == resumed_digest:
            text = f"{name}: equal, SHA-256 {whole_digest}"
            yield Finding("ok", "resume", "", text)
        else:
            text = f"{name}: different, {whole_digest} without a kill, {resumed_digest} with one"
            yield Finding("error", "resume", "", text)
