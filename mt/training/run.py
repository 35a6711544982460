"""mt train: from two text files to a run directory that translates."""

import json
import logging
import os
import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from mt import experiment as prepare
from mt.config.load import diff_configs, dump_config, load_config, load_run_config
from mt.config.schema import Config
from mt.data.corpus import EncodedCorpus
from mt.data.eval_set import EvalSet, load_eval_set, training_files
from mt.data.tokenizer import Tokenizer
from mt.decoding.translator import Translator
from mt.distributed import Runtime, open_runtime
from mt.errors import ConfigError, DeviceError, RunDirError
from mt.evaluation.evaluate import score_set
from mt.storage.atomic import atomic_file
from mt.storage.checkpoint import CheckpointStore
from mt.storage.run_dir import RunDir
from mt.training.metrics_log import MetricsFile, Sample, Validation, clock
from mt.training.objective import Objective, mean_nll
from mt.training.state import WindowSums
from mt.training.trainer import Trainer

logger = logging.getLogger(__name__)

# What may differ when a run goes on, besides what it is tested on and how much at a time; not what it computes.
_BY_WHAT = ("run_dir", "device", "compile")
_HOW_LONG = ("max_epochs", "max_minutes", "patience")
_HOW_WATCHED = ("keep_checkpoints", "num_samples", "max_skipped")
FREE_KEYS = (
    "data.test",
    "search.batch_tokens",
    *(f"train.{key}" for key in (*_BY_WHAT, *_HOW_LONG, *_HOW_WATCHED)),
)


def read_config(
    path: Path, overrides: Sequence[str] = (), *, run_dir: Path | None, device: str | None
) -> Config:
    """The config at `path` with the command line's changes; unless something names it, its run is runs/<its name>."""
    changes = list(overrides)
    if run_dir is not None:
        changes.append(f"train.run_dir={json.dumps(str(run_dir), ensure_ascii=False)}")
    if device is not None:
        changes.append(f"train.device={device}")
    config = load_config(path, changes)
    if config.train.run_dir is None:
        return load_config(
            path, [*changes, f"train.run_dir={json.dumps(f'runs/{path.stem}', ensure_ascii=False)}"]
        )
    return config


def train(config: Config) -> Path:
    """Train as `config` says, from the start or from the last checkpoint; the run directory. Raises MtError."""
    if config.train.run_dir is None:
        raise ConfigError("train.run_dir: wanted a directory for the run, found null")
    run = RunDir(Path(config.train.run_dir))
    runtime = open_runtime(config.train.device)
    with run.lock() if runtime.is_main else nullcontext():
        # A run has begun once it has something to go on from; until then a mistake can be put right.
        before = runtime.broadcast(
            load_run_config(run.config) if (run.checkpoints / "last").is_file() else None
        )
        config, runtime = resolve_auto(config, before, runtime)
        if runtime.is_main:
            write_config(config, run, before)
        trainer = make_trainer(config, run, runtime, has_begun=before is not None)
        begin(trainer, run, runtime)
        reason = trainer.run()
        if runtime.is_main:
            say_goodbye(run, trainer, reason)
    runtime.close()
    return run.path


def resolve_auto(config: Config, before: Config | None, runtime: Runtime) -> tuple[Config, Runtime]:
    """The config with what `auto` stands for, which is measured once, when the run begins; and the runtime for it.

    DeviceError for what the device that `auto` found cannot do.
    """
    if config.train.compile and runtime.device.type == "cpu":
        raise DeviceError("train.compile is slower on a CPU: wanted false, or a CUDA device")
    precision = config.train.precision
    if precision == "auto" and before is not None:
        precision = before.train.precision
    runtime = runtime.with_precision(precision)
    settled = {"precision": runtime.precision, "device": runtime.device.type}
    return config.model_copy(update={"train": config.train.model_copy(update=settled)}), runtime


def forbidden_changes(before: Config, config: Config) -> list[str]:
    """What differs between two configs that no run may change on its way, one line a key."""
    free = FREE_KEYS if config.train.schedule == "cosine" else (*FREE_KEYS, "train.max_steps")
    return [line for line in diff_configs(before, config) if not line.startswith(free)]


def write_config(config: Config, run: RunDir, before: Config | None) -> None:
    """Keep the config in the run directory. Raises RunDirError when the run was begun with another one."""
    if before is not None and (changed := forbidden_changes(before, config)):
        listed = "\n  ".join(changed)
        raise RunDirError(
            f"{run.path}: begun with another config; choose another --run-dir, or undo:\n  {listed}"
        )
    with atomic_file(run.config) as file:
        file.write(dump_config(config).encode())


def make_trainer(config: Config, run: RunDir, runtime: Runtime, *, has_begun: bool) -> Trainer:
    """All that training needs, from the files that the config names to a model."""
    files = training_files(config.data)
    valid = load_eval_set(config.data.valid, config.data)
    if runtime.is_main and not has_begun:
        prepare.make_tokenizers(config, run, files)
    runtime.broadcast(None)  # the others wait for the files
    src, tgt = prepare.load_tokenizers(config, run)
    if not runtime.is_main:
        runtime.broadcast(None)  # until rank 0 has filled the cache
    corpus = prepare.encode_training_set(config, run, files, src, tgt)
    if runtime.is_main:
        logger.info(f"train: {corpus.counts}")
        runtime.broadcast(None)
    model = prepare.make_model(config, src, tgt, runtime)
    plain_src, plain_tgt = (Tokenizer.load(path) for path in run.tokenizers(config.tokenizer.joint))
    translator = Translator(
        model.transformer, plain_src, plain_tgt, config.search, config.data.max_length
    )
    pairs = prepare.encode_validation_set(valid, plain_src, plain_tgt, config=config)
    return Trainer(
        model=model,
        config=config.train,
        runtime=runtime,
        open_epoch=lambda number, size: prepare.open_epoch(
            number, config, corpus, src, tgt, batch_tokens=size
        ),
        validate=lambda: validate(config, model, valid, pairs, translator, runtime),
        store=CheckpointStore(run.checkpoints, keep=config.train.keep_checkpoints),
        metrics=MetricsFile(run.metrics),
        data_digest=corpus.digest,
    )


def validate(
    config: Config,
    model: Objective,
    valid: EvalSet,
    pairs: EncodedCorpus,
    translator: Translator,
    runtime: Runtime,
) -> Validation:
    """Score the model on the validation set (`pairs` is the same as ids), the translations as `mt evaluate` would."""
    src, tgt, num_samples = (
        translator.src_tokenizer,
        translator.tgt_tokenizer,
        config.train.num_samples,
    )
    epoch = prepare.open_epoch(0, config, pairs, src, tgt, batch_tokens=config.train.batch_tokens)
    hypotheses = translator.translate(valid.src)
    scores = score_set(
        valid, hypotheses, tgt_lang=config.data.tgt_lang, metrics=("bleu", "chrf")
    ).scores
    shown = range(0, len(valid.src), max(1, len(valid.src) // max(1, num_samples)))[:num_samples]
    return Validation(
        loss=mean_nll(model, map(epoch.batch, range(epoch.plan.num_batches)), runtime),
        scores={score.name: score.value for score in scores},
        signatures={score.name: score.signature for score in scores},
        samples=[Sample(valid.src[i], valid.refs[0][i], hypotheses[i]) for i in shown],
    )


def begin(trainer: Trainer, run: RunDir, runtime: Runtime) -> None:
    """Go to the last good checkpoint if there is one, and say what is about to happen."""
    num_parameters = sum(p.numel() for p in trainer.model.parameters())
    where = f"{runtime.device.type}, {runtime.precision}" + (
        f", {runtime.world_size} ranks" * (runtime.world_size > 1)
    )
    if (run.checkpoints / "last").is_file():
        snapshot, damaged = trainer.store.load_newest()
        trainer.restore(snapshot)
        for error in damaged:
            trainer.report(f"{error}; going back to update {trainer.state.step:,}")
        if runtime.is_main:
            logger.info(f"{run.path}: going on from update {trainer.state.step:,} ({where})")
    elif runtime.is_main:
        trainer.metrics.truncate(0)  # of a run that was ended before its first checkpoint
        known = {"num_parameters": num_parameters, "environment": runtime.environment()}
        trainer.metrics.append("start", 0, known, {"unix_time": time.time()})
        trainer.metrics.sync()
        logger.info(f"{run.path}: {num_parameters:,} parameters ({where})")


def say_goodbye(run: RunDir, trainer: Trainer, reason: str) -> None:
    """What went wrong, where the model is, and what to do with it."""
    if incidents := trainer.metrics.incidents():
        logger.info("\n  ".join(["what went wrong:", *incidents]))
    state = trainer.state
    num_skipped = state.num_skipped + WindowSums(*trainer.window.save()).num_skipped
    updates = f"{state.step:,} updates" + (
        f", {num_skipped:,.0f} of them skipped," if num_skipped else ""
    )
    logger.info(
        f"{reason} after {updates} and {clock(state.elapsed_seconds)}; the model is in {run.path}"
    )
    if trainer.signals.name is not None:
        logger.info("the same command again goes on from here")
    elif (run.checkpoints / "best").is_file():
        path = shlex.quote(os.path.relpath(run.path))
        logger.info(f'next:\n  echo "a sentence" | mt translate {path}\n  mt evaluate {path}')
