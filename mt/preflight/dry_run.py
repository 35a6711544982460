"""Dry run of a training: a few real updates, and what a whole run would cost."""

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mt.config.schema import Config, EvalSetConfig
from mt.data.corpus import EncodedCorpus
from mt.data.dataset import Epoch
from mt.data.eval_set import EvalSet, load_eval_set
from mt.data.normalization import Normalizer, normalize
from mt.data.tokenizer import Tokenizer
from mt.data.words import split_words
from mt.distributed import Runtime
from mt.experiment import Experiment, Tokenizers
from mt.preflight.file_checks import Finding, Level
from mt.preflight.plan_checks import DryRunFacts, check_plan
from mt.preflight.run_estimate import check_validation_time, describe_time, estimate_run
from mt.project.machine import NUM_WARM_UP_UPDATES, synchronized_time
from mt.storage.run_dir import RunDir
from mt.training.all_ranks import never_interrupting
from mt.training.memory_check import check_memory, largest_batches
from mt.training.optimizer import pack_optimizer
from mt.training.trainer import Trainer
from mt.training.validator import count_set_lines, sample_sets
from mt.wording import count_of

# The speed is measured over at least so many updates and at least MIN_SECONDS. Where updates are
# slow, MAX_SECONDS ends it earlier.
NUM_TIMED_UPDATES = 5
MIN_SECONDS = 1.0
MAX_SECONDS = 10.0

# Validation sentences to translate. The time of a validation is estimated from them. With fewer,
# the estimate is too long: a batch of 64 takes more than a quarter of the time of one of 256.
NUM_TRANSLATED = 256

# The following limits are rules of thumb, not measurements.

# Leaving out more than this fraction of the training pairs is a warning.
FILTERED_WARN_FRACTION = 0.1

# In a validation or test set, a larger percentage than this of tokens that are single bytes, or
# that never occur in the training text, is a warning.
UNFAMILIAR_WARN_PERCENTAGE = 1.0

# A run that may fill more than this fraction of the free disk space is a warning.
DISK_WARN_FRACTION = 0.8


def try_training(
    config: Config, runtime: Runtime, trial_dir: RunDir, *, run_dir: RunDir, reuse_tokenizers: bool
) -> Iterator[Finding]:
    """Do what `mt train` does, up to a few updates, in `trial_dir`; yield the findings.

    `run_dir` is the directory that `mt train` would use. Nothing in it is changed. Its tokenizers
    are copied if `reuse_tokenizers`, else new ones are trained. Raises MtError, for example when
    memory is too small.
    """
    experiment = Experiment(config, trial_dir)
    if reuse_tokenizers:
        copy_tokenizers(run_dir, trial_dir, joint=config.tokenizer.joint)
    else:
        experiment.train_tokenizers()
    corpus = experiment.training_data.corpus
    yield describe_filters(corpus)
    yield describe_lengths(corpus)
    yield from check_tokens(config, corpus, experiment.tokenizers)

    short = shorten_validation_set(config, trial_dir.path, num_lines=NUM_TRANSLATED)
    config = short.config
    config = limit_translation_length(config, corpus)
    memory_before = runtime.peak_memory()
    trainer = Trainer.from_experiment(Experiment(config, trial_dir), runtime)
    yield describe_model(trainer)

    start_time = time.monotonic()
    epoch = trainer.dataset.epoch(0, batch_tokens=config.train.batch_tokens)
    epoch_start_seconds = time.monotonic() - start_time
    yield try_largest_batches(trainer, epoch, memory_before=memory_before)
    speed = measure_speed(trainer, epoch)
    yield describe_speed(speed)

    validation_seconds = time_validation(trainer) * short.num_lines / short.num_kept
    num_batches = epoch.plan.num_batches
    updates_per_epoch = math.ceil(num_batches / config.train.gradient_accumulation)
    estimate = estimate_run(
        config.train,
        update_seconds=speed.update_seconds + epoch_start_seconds / updates_per_epoch,
        validation_seconds=validation_seconds,
        updates_per_epoch=updates_per_epoch,
    )
    yield describe_time(estimate, config.train)
    yield from check_validation_time(estimate, num_lines=short.num_lines)
    yield check_disk_space(trainer, trial_dir, run_dir)

    measured = DryRunFacts(
        num_parameters=trainer.objective.transformer.num_parameters,
        num_updates=estimate.num_updates,
        updates_per_epoch=updates_per_epoch,
        tokens_per_update=corpus.tgt_lengths[epoch.plan.order].sum() / updates_per_epoch,
    )
    yield from check_plan(config, corpus, experiment.tokenizers, measured)


# Preparation


def copy_tokenizers(run_dir: RunDir, trial_dir: RunDir, *, joint: bool) -> None:
    """Create the trial directory with copies of a run's tokenizers."""
    trial_dir.path.mkdir()
    for path in set(run_dir.tokenizer_paths(joint)):
        shutil.copyfile(path, trial_dir.path / path.name)


class ShortValidation(NamedTuple):
    """A config whose validation set has a part of the lines that a validation translates."""

    config: Config
    num_kept: int
    num_lines: int  # that a validation of the whole run translates


def shorten_validation_set(config: Config, directory: Path, *, num_lines: int) -> ShortValidation:
    """Write at most `num_lines` of the lines that a validation translates to files in `directory`.

    The config that is returned has these files as its validation set. Only the first reference is
    kept.
    """
    full_sets = [load_eval_set(section, config.data) for section in config.data.valid]
    eval_sets = sample_sets(full_sets, config.train.validation_lines)
    kept_sets = sample_sets(eval_sets, num_lines)
    sections = []
    for index, kept in enumerate(kept_sets):
        src_path = directory / f"valid.{index}.src"
        ref_path = directory / f"valid.{index}.ref"
        _write_lines(src_path, kept.src)
        _write_lines(ref_path, kept.refs[0])
        sections.append(
            EvalSetConfig(
                name=kept.name, src=str(src_path), refs=(str(ref_path),), tgt_lang=kept.tgt_lang
            )
        )
    data = config.data.model_copy(update={"valid": tuple(sections)})
    short_config = config.model_copy(update={"data": data})
    return ShortValidation(short_config, count_set_lines(kept_sets), count_set_lines(eval_sets))


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")


def limit_translation_length(config: Config, corpus: EncodedCorpus) -> Config:
    """Return the config with translations no longer than real ones are on average.

    A model that was never trained does not know when to stop, and validation would seem slow.
    """
    length_ratio = len(corpus.tgt.ids) / len(corpus.src.ids)
    limits = {"max_length_factor": length_ratio, "max_length_offset": 1}
    return config.model_copy(update={"search": config.search.model_copy(update=limits)})


# Use of the trainer


def update_batches(trainer: Trainer, epoch: Epoch) -> Iterator[range]:
    """Yield the indices of the batches of each update, through the epoch again and again."""
    stride = trainer.config.gradient_accumulation
    num_batches = epoch.plan.num_batches
    for start in cycle(range(0, num_batches, stride)):
        yield range(start, min(start + stride, num_batches))


def time_validation(trainer: Trainer) -> float:
    """Return the seconds that one validation takes, translations included."""
    start_time = time.monotonic()
    trainer.objective.eval()
    trainer.validate(trainer.objective, interrupting=never_interrupting)
    return time.monotonic() - start_time


def checkpoint_size(trainer: Trainer) -> int:
    """Return the bytes of a checkpoint's tensors: weights and optimizer."""
    tensors = [
        *trainer.objective.transformer.state_dict().values(),
        *pack_optimizer(trainer.optimizer, trainer.objective.transformer).values(),
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# Findings about the encoded text


def describe_filters(corpus: EncodedCorpus) -> Finding:
    """Report how many training pairs the filters leave out."""
    counts = corpus.counts
    is_common = counts.kept < (1 - FILTERED_WARN_FRACTION) * counts.total
    level: Level = "warning" if is_common else "ok"
    return Finding(level, "filters", "", f"train: {counts}", vars(counts))


def describe_lengths(corpus: EncodedCorpus) -> Finding:
    """Report how long the training sentences are in tokens."""
    src_lengths = corpus.src_lengths
    tgt_lengths = corpus.tgt_lengths
    medians = f"{np.median(src_lengths):,.0f} / {np.median(tgt_lengths):,.0f}"
    longest = f"{np.max(src_lengths):,.0f} / {np.max(tgt_lengths):,.0f}"
    text = f"train: median line {medians} tokens, longest {longest} (source / target)"
    return Finding("ok", "tokens", "", text)


def check_tokens(
    config: Config, corpus: EncodedCorpus, tokenizers: Tokenizers
) -> Iterator[Finding]:
    """Report how well vocabulary and training text cover each validation and test set."""
    src_is_seen = np.bincount(corpus.src.ids, minlength=tokenizers.src.vocab_size) > 0
    tgt_is_seen = np.bincount(corpus.tgt.ids, minlength=tokenizers.tgt.vocab_size) > 0
    if config.tokenizer.joint:
        src_is_seen = src_is_seen | tgt_is_seen
        tgt_is_seen = src_is_seen
    for section in (*config.data.valid, *config.data.test):
        eval_set = load_eval_set(section, config.data)
        normalization = config.data.normalization
        src_normalizer = Normalizer(normalization, tokenizers.src)
        src_lines = [src_normalizer(line) for line in eval_set.src]
        tgt_lines = [normalize(line, normalization) for line in eval_set.refs[0]]
        src = measure_tokens(src_lines, tokenizers.src, src_is_seen)
        tgt = measure_tokens(tgt_lines, tokenizers.tgt, tgt_is_seen)
        yield describe_tokens(eval_set, src, tgt)


class TokenRates(NamedTuple):
    """How the lines of one file look in tokens."""

    tokens_per_word: float
    byte_percentage: float  # of tokens that are a single byte of an unknown character
    unseen_percentage: float  # of tokens that do not occur in the training text


def measure_tokens(
    lines: Sequence[str], tokenizer: Tokenizer, is_seen: NDArray[np.bool_]
) -> TokenRates:
    """Encode the lines of a file and return their rates.

    `is_seen`, (vocab_size,), is true for the tokens that occur in the training text.
    """
    encoded = tokenizer.encode(lines)
    ids = np.concatenate([np.array(row[:-1], np.int64) for row in encoded])  # without eos
    is_byte = np.isin(ids, tokenizer.ordinary_pieces.byte_ids)
    num_words = sum(len(split_words(line)) for line in lines)
    return TokenRates(
        tokens_per_word=len(ids) / num_words,
        byte_percentage=100 * is_byte.mean(),
        unseen_percentage=100 * (~is_seen[ids]).mean(),
    )


def describe_tokens(eval_set: EvalSet, src: TokenRates, tgt: TokenRates) -> Finding:
    """Report the rates of a validation or test set: high ones suggest text of another kind."""
    largest_percentage = max(
        src.byte_percentage, src.unseen_percentage, tgt.byte_percentage, tgt.unseen_percentage
    )
    level: Level = "warning" if largest_percentage > UNFAMILIAR_WARN_PERCENTAGE else "ok"
    tokens_per_word = f"{src.tokens_per_word:.2f} / {tgt.tokens_per_word:.2f}"
    in_bytes = f"{src.byte_percentage:.2f} / {tgt.byte_percentage:.2f}"
    unseen = f"{src.unseen_percentage:.2f} / {tgt.unseen_percentage:.2f}"
    text = (
        f"{eval_set.name}: {tokens_per_word} tokens a word, {in_bytes} % of them bytes, "
        f"{unseen} % not in train"
    )
    return Finding(level, "tokens", "", text)


# Findings about the training


def describe_model(trainer: Trainer) -> Finding:
    """Report the size of the model, and where and how it is computed."""
    runtime = trainer.runtime
    num_parameters = trainer.objective.transformer.num_parameters
    text = f"{num_parameters:,} parameters, on {runtime.device.type} in {runtime.precision}"
    return Finding("ok", "model", "", text, {"parameters": num_parameters})


def try_largest_batches(trainer: Trainer, epoch: Epoch, *, memory_before: int) -> Finding:
    """Run the batches that need most memory, and report how much they need.

    Raises DeviceError, with a batch size that would fit, when memory is too small.
    """
    check_memory(
        trainer.objective,
        trainer.dataset,
        epoch,
        batch_tokens=trainer.config.batch_tokens,
        runtime=trainer.runtime,
    )
    peak = trainer.runtime.peak_memory()
    growth = peak - memory_before

    sizes = []
    for index in largest_batches(epoch.plan):
        batch = epoch.batch_for_memory_check(index)
        num_pairs, src_length = batch.src.shape
        lengths = f"{src_length:,} + {batch.tgt_out.size(1):,} tokens"
        sizes.append(f"{count_of(num_pairs, 'pair')} of {lengths}")
    text = (
        f"{format_bytes(peak)} at the peak, at least {format_bytes(growth)} of it for the model "
        f"and the largest batch ({', or '.join(sizes)})"
    )
    return Finding("ok", "memory", "", text, {"peak_bytes": peak, "growth_bytes": growth})


class Speed(NamedTuple):
    """How fast updates are."""

    num_updates: int  # that were timed
    update_seconds: float  # of one update
    tokens_per_second: float  # target tokens


def measure_speed(trainer: Trainer, epoch: Epoch) -> Speed:
    """Do a few real updates, and return their speed."""
    batches = update_batches(trainer, epoch)
    trainer.wrapped_objective.train()
    for _ in range(NUM_WARM_UP_UPDATES):
        trainer.update(epoch, next(batches))

    tokens_before = trainer.state.tokens_seen
    start_time = synchronized_time(trainer.runtime)
    num_updates = 0
    seconds = 0.0
    while seconds < MIN_SECONDS or (num_updates < NUM_TIMED_UPDATES and seconds < MAX_SECONDS):
        trainer.update(epoch, next(batches))
        num_updates += 1
        seconds = synchronized_time(trainer.runtime) - start_time

    num_tokens = trainer.state.tokens_seen - tokens_before
    return Speed(num_updates, seconds / num_updates, num_tokens / seconds)


def describe_speed(speed: Speed) -> Finding:
    """Report the speed of updates."""
    text = (
        f"{speed.tokens_per_second:,.0f} target tokens/s, {speed.update_seconds:.3g} s an update, "
        f"over {speed.num_updates} updates"
    )
    numbers = {
        "update_seconds": speed.update_seconds,
        "tokens_per_second": speed.tokens_per_second,
    }
    return Finding("ok", "speed", "", text, numbers)


def check_disk_space(trainer: Trainer, trial_dir: RunDir, run_dir: RunDir) -> Finding:
    """Compare what the run directory will hold at most with the free disk space."""
    checkpoint = checkpoint_size(trainer)
    # Besides those to keep: the best one, and the next one while it is written.
    num_checkpoints = trainer.config.keep_checkpoints + 2
    cache = sum(path.stat().st_size for path in trial_dir.cache_dir.rglob("*") if path.is_file())
    needed = num_checkpoints * checkpoint + cache

    candidates = (run_dir.path, *run_dir.path.parents)
    existing_dir = next(path for path in candidates if path.is_dir())
    free = shutil.disk_usage(existing_dir).free
    level: Level = "ok"
    if needed > free:
        level = "error"
    elif needed > DISK_WARN_FRACTION * free:
        level = "warning"
    text = (
        f"{format_bytes(needed)} at most ({num_checkpoints} checkpoints of "
        f"{format_bytes(checkpoint)}, cache {format_bytes(cache)}), "
        f"{format_bytes(free)} free in {existing_dir}"
    )
    return Finding(level, "disk", "", text, {"needed_bytes": needed, "free_bytes": free})


def format_bytes(num_bytes: int) -> str:
    """Return "1.23MB" for 1234567."""
    return tqdm.format_sizeof(num_bytes, suffix="B")
