"""Start or resume a run: what `mt train` does."""

import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from mt.config.load import dump_config, fill_unset_keys, load_config, load_run_config
from mt.config.schema import Config, FilePath
from mt.data.corpus import report_equal_sides
from mt.data.eval_set import texts_of_two_languages, warn_of_unnormalized_references
from mt.data.tags import choose_tags, translatable_languages
from mt.distributed import (
    TRAINING_TIMEOUT,
    Runtime,
    lost_rank_as_error,
    may_be_restarted,
    open_runtime,
)
from mt.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    PackageError,
    RunDirError,
    TokenizerError,
)
from mt.evaluation.evaluate import scoring_of_run
from mt.evaluation.languages import bleu_tokenizer
from mt.evaluation.text_warnings import warn_of_missing_spaces
from mt.experiment import Experiment
from mt.storage.atomic import atomic_file, remove
from mt.storage.checkpoint import has_checkpoint, newest_meta
from mt.storage.run_dir import RunDir
from mt.training.init_from import inherit_from_parent
from mt.training.metrics_log import OnEvent
from mt.training.resume_rules import (
    OTHER_RUN_HINT,
    check_same_text,
    check_same_tokenizers,
    forbidden_changes,
)
from mt.training.teacher import require_teachers
from mt.training.tensorboard_file import require_tensorboard
from mt.training.trainer import Trainer

logger = logging.getLogger(__name__)

# Errors that the user can correct, after which the same command starts from the beginning.
MISTAKES = (
    ConfigError,
    DataError,
    CheckpointError,
    TokenizerError,
    RunDirError,
    DeviceError,
    PackageError,
)


def read_config(
    path: Path, overrides: Sequence[str] = (), *, run_dir: Path | None, device: str | None
) -> Config:
    """Return the config at `path` with the command line's changes.

    The default run directory is `runs/<name of the file>`. When `path` is a run directory, the
    config is that of the run, and the default run directory is `path`. Raises ConfigError when it
    is another directory.
    """
    changes = list(overrides)
    if path.is_dir():
        changes.insert(0, _override_of_path("train.run_dir", path))
        path = _config_of_run(path)
    if run_dir is not None:
        changes.append(_override_of_path("train.run_dir", run_dir))
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


def _override_of_path(key: str, path: Path) -> str:
    # Quoted as JSON, which is also YAML. Without quotes a path such as 2024 would be a number.
    return f"{key}={json.dumps(str(path), ensure_ascii=False)}"


def _config_of_run(directory: Path) -> Path:
    config_path = RunDir(directory).config_path
    if not config_path.is_file():
        raise ConfigError(
            f"{directory}: wanted a config file or a run directory, found a directory without "
            f"{config_path.name}"
        )
    return config_path


class TrainingEnd(NamedTuple):
    """How a training ended."""

    run_dir: Path
    stop_reason: str  # such as "max_steps 2300 reached"
    stop_signal: str | None  # the name of the signal that stopped training early


def run_training(
    config: Config,
    *,
    fresh: bool = False,
    start_time: float | None = None,
    on_event: OnEvent | None = None,
) -> TrainingEnd:
    """Train with `config`, from the start or from the run's last checkpoint. Raises MtError.

    With `fresh`, a run that the directory holds is moved aside first, and moved back when a mistake
    keeps the new one from beginning. `train.max_minutes` counts from `start_time` of
    `time.monotonic`; by default, from now. `on_event` gets each line of metrics.jsonl when it is
    written, on rank 0.
    """
    if start_time is None:
        start_time = time.monotonic()
    if config.train.run_dir is None:
        raise ConfigError("train.run_dir: wanted a directory for the run, found null")
    run_dir = RunDir(Path(config.train.run_dir))
    if fresh and may_be_restarted():
        raise RunDirError(
            f"{run_dir.path}: torchrun with --max-restarts starts the same command again, and "
            "--fresh would begin again each time; leave out one of them"
        )
    if run_dir.is_export:
        raise RunDirError(
            f"{run_dir.path}: an export cannot be trained further; another run can start from a "
            "bundle: train.init_from"
        )
    runtime = open_runtime(config.train.device)
    old_run = None
    if fresh:
        with lost_rank_as_error(runtime.rank, runtime.world_size):
            old_run = _move_aside(run_dir, runtime)
    is_new = runtime.is_main and not run_dir.path.exists()
    lock = run_dir.lock() if runtime.is_main else nullcontext()
    with lost_rank_as_error(runtime.rank, runtime.world_size), lock:
        try:
            experiment, runtime = prepare_run(config, run_dir, runtime)
            runtime = runtime.with_timeout(TRAINING_TIMEOUT)
            trainer = Trainer.from_experiment(experiment, runtime, start_time=start_time)
        except MISTAKES:
            if is_new:
                remove(run_dir.path)  # nothing has begun
            if old_run is not None:
                old_run.rename(run_dir.path)
                logger.info(f"{run_dir.display_path}: the earlier run is here again")
            raise
        trainer.log.metrics.on_event = on_event
        stop_reason = trainer.fit()
        runtime.close()
    return TrainingEnd(run_dir.path, stop_reason, trainer.stop_signal)


def _move_aside(run_dir: RunDir, runtime: Runtime) -> Path | None:
    """Move the run in `run_dir` aside, and say where it is now.

    Return its new path; None if there is no run, and on all ranks but the first.
    """
    new_path = run_dir.move_aside() if runtime.is_main else None
    runtime.barrier()  # the other ranks look into the directory only when it has been moved
    if new_path is not None:
        moved = RunDir(new_path)
        logger.info(f"{run_dir.display_path}: the earlier run is now in {moved.display_path}")
    return new_path


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
    else:
        config = inherit_from_parent(config)
    precision = runtime.compute_on_main(lambda: recorded_precision(run_dir, runtime))
    config, runtime = resolve_auto(config, runtime, run_config=run_config, run_precision=precision)
    experiment = Experiment(config, run_dir)
    if runtime.is_main:
        if config.train.tensorboard:
            require_tensorboard()
        if run_config is not None:
            refuse_changes(run_config, experiment)
        write_config(config, run_dir)
        if run_config is None:
            prepare_text(experiment)
        logger.info(f"train: {experiment.training_data.corpus.counts}")
    runtime.barrier()  # the other ranks wait here for tokenizers and encoded text
    return experiment, runtime


def prepare_text(experiment: Experiment) -> None:
    """Check the files of a new run, train its tokenizers, and measure its sources.

    A missing file or package shows before the tokenizers are trained.
    """
    config = experiment.config
    require_teachers(config.train)
    for valid in experiment.validation_sets:
        scoring = scoring_of_run(config, tgt_lang=valid.tgt_lang)
        warn_of_missing_spaces(valid.name, valid.refs[0], scoring)
        warn_of_unnormalized_references(valid, config.data.normalization)
    report_equal_sides(texts_of_two_languages(config.data))
    experiment.count_training_text()
    experiment.train_tokenizers()
    experiment.measure_sources()


def recorded_precision(run_dir: RunDir, runtime: Runtime) -> str | None:
    """Return the precision in the run's config, which a resumed run uses for `auto`.

    This also holds for a run without a checkpoint, if it was on the same kind of device.
    None if there is no config that can be read.
    """
    if not run_dir.config_path.is_file():
        return None
    try:
        train_config = load_run_config(run_dir.config_path).train
    except ConfigError:
        return None
    can_resume = has_checkpoint(run_dir.checkpoints_dir)
    if can_resume or train_config.device == runtime.device.type:
        return train_config.precision
    return None


def resolve_auto(
    config: Config, runtime: Runtime, *, run_config: Config | None, run_precision: str | None
) -> tuple[Config, Runtime]:
    """Return the config without `auto`, and the runtime with its precision.

    Three choices are made once, when a run begins:

    - the tags;
    - the precision, for which the speed of bf16 is measured;
    - BLEU's tokenizer, which depends on the packages installed. It stays `auto` with several target
      languages, because each may need another one.

    In a resumed run, `auto` means the recorded values: `run_precision`, and the tokenizer in
    `run_config`. Raises DeviceError for a precision or `train.compile` that the device does not
    support.
    """
    if config.train.compile and runtime.device.type == "cpu":
        raise DeviceError("train.compile is slower on a CPU: use false, or a CUDA device")
    precision: str = config.train.precision
    if precision == "auto" and run_precision is not None:
        precision = run_precision
    runtime = runtime.with_precision(precision)
    tokenize: str = config.evaluation.tokenize
    if tokenize == "auto" and run_config is not None:
        tokenize = run_config.evaluation.tokenize  # in the config of an old run, this is auto
    elif tokenize == "auto" and len(translatable_languages(config.data)) == 1:
        tokenize = bleu_tokenizer(config.data.tgt_lang)
    resolved = {"precision": runtime.precision, "device": runtime.device.type}
    sections = {
        "data": config.data.model_copy(update={"tags": choose_tags(config.data)}),
        "train": config.train.model_copy(update=resolved),
        "evaluation": config.evaluation.model_copy(update={"tokenize": tokenize}),
    }
    return config.model_copy(update=sections), runtime


def refuse_changes(run_config: Config, experiment: Experiment) -> None:
    """Raise RunDirError or CheckpointError when a resumed run would differ from what it was."""
    run_dir = experiment.run_dir
    changes = forbidden_changes(run_config, experiment.config)
    if changes:
        listed = "\n  ".join(changes)
        raise RunDirError(
            f"{run_dir.path}: the run began with another config; undo these changes, or "
            f"{OTHER_RUN_HINT}:\n  {listed}"
        )
    check_same_tokenizers(experiment)
    check_same_text(newest_meta(run_dir.checkpoints_dir), experiment)


def write_config(config: Config, run_dir: RunDir) -> None:
    """Write the config into the run directory."""
    with atomic_file(run_dir.config_path) as file:
        file.write(dump_config(config).encode())
