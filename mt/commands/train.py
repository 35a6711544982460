"""mt train: from two text files to a run directory that translates."""

import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mt.checkpoint import CheckpointStore, find_checkpoint, load_snapshot
from mt.commands.evaluate import score_set
from mt.commands.files import EvalSet, configured_set, say, training_files
from mt.commands.tokenizer import train_from_files
from mt.config import Config, diff_configs, dump_config, load_config
from mt.data.batching import make_batch, plan_batches
from mt.data.corpus import EncodedCorpus, ParallelFiles, encode_corpus, encode_pairs, resample
from mt.data.tokenizer import Tokenizer
from mt.decoding.translator import Translator
from mt.disk import whole_file
from mt.errors import ConfigError, RunDirError
from mt.model.transformer import Transformer
from mt.rundir import RunDir
from mt.runtime import Runtime, open_runtime
from mt.training.loss import TrainingModel, mean_nll
from mt.training.progress import MetricsFile, Sample, Validation, clock
from mt.training.trainer import Epoch, Trainer

# What may differ when a run goes on: how long and how watched it is, and what it is tested on, not what it computes.
_FREE = ("run_dir", "device", "max_epochs", "max_minutes", "patience", "keep_checkpoints", "num_samples")
FREE_KEYS = ("data.test", *(f"train.{key}" for key in _FREE))


def read_config(path: Path, overrides: Sequence[str] = (), *, run_dir: Path | None, device: str | None) -> Config:
    """The config at `path` with the command line's changes; unless something names it, its run is runs/<its name>."""
    changes = list(overrides)
    if run_dir is not None:
        changes.append(f"train.run_dir={json.dumps(str(run_dir), ensure_ascii=False)}")
    if device is not None:
        changes.append(f"train.device={device}")
    config = load_config(path, changes)
    if config.train.run_dir is None:
        return load_config(path, [*changes, f"train.run_dir={json.dumps(f'runs/{path.stem}', ensure_ascii=False)}"])
    return config


def train(config: Config) -> Path:
    """Train as `config` says, from the start or from the last checkpoint; the run directory. Raises MtError."""
    if config.train.run_dir is None:
        raise ConfigError("train.run_dir: wanted a directory for the run, found null")
    run = RunDir(Path(config.train.run_dir))
    # A run has begun once it has something to go on from; until then a mistake can be put right.
    before = load_config(run.config) if (run.checkpoints / "last").is_file() else None
    precision = config.train.precision
    if precision == "auto" and before is not None:
        precision = before.train.precision  # measured once, when the run began
    runtime = open_runtime(config.train.device, precision)
    settled = {"precision": runtime.precision, "device": runtime.device.type}
    config = config.model_copy(update={"train": config.train.model_copy(update=settled)})
    if runtime.is_main:
        write_config(config, run, before)
    files = training_files(config.data)
    valid = configured_set(config.data.valid, config.data)
    paths = run.tokenizers(config.tokenizer.joint)
    if runtime.is_main and before is None:
        make_tokenizers(config, run, files)
    runtime.broadcast(None)  # the others wait for the files
    sampling, seed = config.tokenizer.sampling, config.train.seed
    src, tgt = (Tokenizer.load(path, sampling=sampling, seed=seed) for path in paths)
    if not runtime.is_main:
        runtime.broadcast(None)  # until rank 0 has filled the cache
    corpus = encode_training_set(config, run, files, src, tgt)
    if runtime.is_main:
        say(f"train: {corpus.counts}")
        runtime.broadcast(None)

    torch.manual_seed(seed)
    sizes = {"src_vocab_size": src.vocab_size, "tgt_vocab_size": tgt.vocab_size}
    transformer = Transformer(config.model, **sizes, pad_id=src.pad_id).to(runtime.device)
    torch.manual_seed(seed + 1 + runtime.rank)  # dropout differs from rank to rank
    model = TrainingModel(transformer, label_smoothing=config.train.label_smoothing, dtype=runtime.dtype)
    plain_src, plain_tgt = (Tokenizer.load(path) for path in paths)
    translator = Translator(transformer, plain_src, plain_tgt, config.search, config.data.max_length)
    trainer = Trainer(
        model=model,
        config=config.train,
        runtime=runtime,
        open_epoch=lambda number: open_epoch(number, config, corpus, src, tgt),
        validate=lambda: validate(config, model, valid, translator, runtime),
        store=CheckpointStore(run.checkpoints, keep=config.train.keep_checkpoints),
        metrics=MetricsFile(run.metrics),
        data_digest=corpus.digest,
    )
    begin(trainer, run, runtime)
    reason = trainer.run()
    if runtime.is_main:
        say_goodbye(run, trainer, reason)
    runtime.close()
    return run.path


def write_config(config: Config, run: RunDir, before: Config | None) -> None:
    """Keep the config in the run directory. Raises RunDirError when the run was begun with another one."""
    free = FREE_KEYS if config.train.schedule == "cosine" else (*FREE_KEYS, "train.max_steps")
    changed = [] if before is None else diff_configs(before, config)
    if changed := [line for line in changed if not line.startswith(free)]:
        listed = "\n  ".join(changed)
        raise RunDirError(f"{run.path}: begun with another config; choose another --run-dir, or undo:\n  {listed}")
    with whole_file(run.config) as file:
        file.write(dump_config(config).encode())


def make_tokenizers(config: Config, run: RunDir, files: list[ParallelFiles]) -> None:
    """Train the run's tokenizers, or copy those that the config names."""
    section, (src, tgt) = config.tokenizer, run.tokenizers(config.tokenizer.joint)
    src_texts, tgt_texts = [pair.src for pair in files], [pair.tgt for pair in files]
    jobs = [(src, section.src_model, src_texts), (tgt, section.tgt_model, tgt_texts)]
    for path, existing, texts in [(src, section.model, src_texts + tgt_texts)] if section.joint else jobs:
        if existing is not None:
            Tokenizer.load(Path(existing), sampling=section.sampling)  # no other tokenizer than ours goes further
            with whole_file(path) as file:
                file.write(Path(existing).read_bytes())
        else:
            say(f"tokenizer: training {section.kind} of {section.vocab_size:,} tokens on {len(texts)} files")
            size, coverage = section.vocab_size, section.character_coverage
            train_from_files(texts, path, kind=section.kind, vocab_size=size, character_coverage=coverage)


def encode_training_set(
    config: Config, run: RunDir, files: list[ParallelFiles], src: Tokenizer, tgt: Tokenizer
) -> EncodedCorpus:
    """The training pairs, from the run's cache or into it."""
    longest, ratio = config.data.max_length, config.data.max_length_ratio
    return encode_corpus(files, src, tgt, max_length=longest, max_length_ratio=ratio, cache_dir=run.cache)


def open_epoch(number: int, config: Config, corpus: EncodedCorpus, src: Tokenizer, tgt: Tokenizer) -> Epoch:
    """The batches of epoch `number`: a function of (seed, number) and the corpus."""
    sampled = resample(corpus, src, tgt, epoch=number, max_length=config.data.max_length)
    plan = plan_batches(
        sampled.src.lengths,
        sampled.tgt.lengths,
        max_tokens=config.train.max_tokens,
        seed=config.train.seed,
        epoch=number,
        weights=sampled.weights,
    )
    return Epoch(plan, lambda index: make_batch(sampled, plan.indices(index), pad_id=src.pad_id, bos_id=tgt.bos_id))


def validate(
    config: Config, model: TrainingModel, valid: EvalSet, translator: Translator, runtime: Runtime
) -> Validation:
    """Score the model on the validation set, the translations as `mt evaluate` would."""
    src, tgt, num_samples = translator.src_tokenizer, translator.tgt_tokenizer, config.train.num_samples
    pairs = encode_pairs(valid.src, valid.refs[0], src_tokenizer=src, tgt_tokenizer=tgt)
    epoch = open_epoch(0, config, pairs, src, tgt)
    hypotheses = translator.translate(valid.src)
    scores = score_set(valid, hypotheses, tgt_lang=config.data.tgt_lang, metrics=("bleu", "chrf")).scores
    shown = range(0, len(valid.src), max(1, len(valid.src) // max(1, num_samples)))[:num_samples]
    return Validation(
        loss=mean_nll(model, map(epoch.make, range(epoch.plan.num_batches)), runtime),
        scores={score.name: score.value for score in scores},
        signatures={score.name: score.signature for score in scores},
        samples=[Sample(valid.src[i], valid.refs[0][i], hypotheses[i]) for i in shown],
    )


def begin(trainer: Trainer, run: RunDir, runtime: Runtime) -> None:
    """Go to the last checkpoint if there is one, and say what is about to happen."""
    num_parameters = sum(p.numel() for p in trainer.model.parameters())
    where = f"{runtime.device.type}, {runtime.precision}" + (f", {runtime.world_size} ranks" * (runtime.world_size > 1))
    if (run.checkpoints / "last").is_file():
        trainer.restore(load_snapshot(find_checkpoint(run.checkpoints, "last")))
        if runtime.is_main:
            say(f"{run.path}: going on from update {trainer.state.step:,} ({where})")
    elif runtime.is_main:
        trainer.metrics.truncate(0)  # of a run that was ended before its first checkpoint
        trainer.metrics.append("start", 0, {"num_parameters": num_parameters}, {"unix_time": time.time()})
        say(f"{run.path}: {num_parameters:,} parameters ({where})")


def say_goodbye(run: RunDir, trainer: Trainer, reason: str) -> None:
    """Where the model is, and what to do with it."""
    state = trainer.state
    say(f"{reason} after {state.step:,} updates and {clock(state.elapsed_seconds)}; the model is in {run.path}")
    if state.num_skipped:
        say(f"{state.num_skipped:,} updates were skipped: their gradients were not finite")
    if trainer.signal_name is not None:
        say("the same command again goes on from here")
    elif (run.checkpoints / "best").is_file():
        path = shlex.quote(os.path.relpath(run.path))
        say(f'next:\n  echo "a sentence" | mt translate {path}\n  mt evaluate {path}')
