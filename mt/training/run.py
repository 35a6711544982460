"""Start or resume a run: `mt.train`."""

import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mt.config.load import (
    dump_config,
    fill_unset_keys,
    load_config,
    load_run_config,
)
from mt.config.schema import Config, FilePath
from mt.data.eval_set import EvalSet, warn_of_other_form
from mt.distributed import Runtime, open_runtime
from mt.errors import ConfigError, DeviceError, RunDirError
from mt.evaluation.evaluate import find_missing_spaces, scoring_of_run
from mt.evaluation.languages import bleu_tokenizer
from mt.evaluation.metrics import Scoring
from mt.experiment import Experiment
from mt.storage.atomic import atomic_file
from mt.storage.checkpoint import has_checkpoint
from mt.storage.run_dir import RunDir
from mt.training.resume_rules import forbidden_changes
from mt.training.trainer import Trainer

logger = logging.getLogger(__name__)


def read_config(
    path: Path, overrides: Sequence[str] = (), *, run_dir: Path | None, device: str | None
) -> Config:
    """Return the config at `path` with the command line's changes.

    The default run directory is `runs/<name of the file>`.
    """
    changes = list(overrides)
    # Quoted as JSON, which is also YAML. Without quotes a path such as 2024 would be a number.
    if run_dir is not None:
        changes.append(f"train.run_dir={json.dumps(str(run_dir), ensure_ascii=False)}")
    if device is not None:
        changes.append(f"train.device={device}")
    config = load_config(path, changes)
    if config.train.run_dir is not None:
        return config
    try:
        default_run_dir = TypeAdapter(FilePath).validate_python(f"runs/{path.stem}")
    except ValidationError:
        raise ConfigError(
            f"train.run_dir: wanted a directory for the run: no name can be made from {str(path)!r}"
        ) from None
    train_config = config.train.model_copy(update={"run_dir": default_run_dir})
    return config.model_copy(update={"train": train_config})


def train(config: Config) -> Path:
    """Train with `config`, from the start or from the run's last checkpoint.

    Returns the run directory. Raises MtError.
    """
    if config.train.run_dir is None:
        raise ConfigError("train.run_dir: wanted a directory for the run, found null")
    run_dir = RunDir(Path(config.train.run_dir))
    runtime = open_runtime(config.train.device)
    with run_dir.lock() if runtime.is_main else nullcontext():
        experiment, runtime = prepare_run(config, run_dir, runtime)
        Trainer.from_experiment(experiment, runtime).fit()
    runtime.close()
    return run_dir.path


def prepare_run(config: Config, run_dir: RunDir, runtime: Runtime) -> tuple[Experiment, Runtime]:
    """Return the experiment, with tokenizers and encoded text written to the run directory.

    `auto` is resolved in its config. The runtime returned has the precision of the config. Raises
    RunDirError when the run began with a config that differs in a key that must not change.
    """
    # A run without a checkpoint has nothing to resume, so its config may still be changed.
    can_resume = has_checkpoint(run_dir.checkpoints_dir)
    run_config = runtime.broadcast(load_run_config(run_dir.config_path) if can_resume else None)
    if run_config is not None:
        config = fill_unset_keys(config, run_config)
    config, runtime = resolve_auto(config, run_config, runtime)
    experiment = Experiment(config, run_dir)
    if runtime.is_main:
        write_config(config, run_dir, run_config)
        # A missing file or package should show before the tokenizer is trained.
        _warn_of_missing_spaces(experiment.validation_set, scoring_of_run(config))
        warn_of_other_form(experiment.validation_set, config.data.normalization)
        if run_config is None:
            experiment.train_tokenizers()
            experiment.measure_sources()
        logger.info(f"train: {experiment.training_data.corpus.counts}")
    runtime.barrier()  # the other ranks wait here for tokenizers and encoded text
    return experiment, runtime


def _warn_of_missing_spaces(valid: EvalSet, scoring: Scoring) -> None:
    problem = find_missing_spaces(valid.name, {"references": valid.refs[0]}, scoring)
    if problem is not None:
        logger.warning(problem)


def resolve_auto(
    config: Config, run_config: Config | None, runtime: Runtime
) -> tuple[Config, Runtime]:
    """Return the config without `auto`, and the runtime with its precision.

    Two choices are made once, when a run begins, and kept in `run_config`: the precision, for which
    the speed of bf16 is measured, and BLEU's tokenizer, which depends on the packages installed.
    Raises DeviceError for a precision or `train.compile` that the device does not support.
    """
    if config.train.compile and runtime.device.type == "cpu":
        raise DeviceError("train.compile is slower on a CPU: use false, or a CUDA device")
    precision = config.train.precision
    if precision == "auto" and run_config is not None:
        precision = run_config.train.precision
    runtime = runtime.with_precision(precision)
    tokenize: str = config.evaluation.tokenize
    if tokenize == "auto" and run_config is not None:
        tokenize = run_config.evaluation.tokenize  # of an old run it is still auto
    elif tokenize == "auto":
        tokenize = bleu_tokenizer(config.data.tgt_lang)
    resolved = {"precision": runtime.precision, "device": runtime.device.type}
    sections = {
        "train": config.train.model_copy(update=resolved),
        "evaluation": config.evaluation.model_copy(update={"tokenize": tokenize}),
    }
    return config.model_copy(update=sections), runtime


def write_config(config: Config, run_dir: RunDir, run_config: Config | None) -> None:
    """Write the config into the run directory. Raises RunDirError for a forbidden change."""
    changes = forbidden_changes(run_config, config) if run_config is not None else []
    if changes:
        listed = "\n  ".join(changes)
        raise RunDirError(
            f"{run_dir.path}: the run began with another config; "
            f"choose another --run-dir, or undo:\n  {listed}"
        )
    with atomic_file(run_dir.config_path) as file:
        file.write(dump_config(config).encode())
