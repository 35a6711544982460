"""The training part of `mt check`: tokenizers, model and a few real updates, and what a whole run would cost."""

import math
import shutil
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mt.config.schema import Config, EvalSetConfig, TrainConfig
from mt.data.corpus import EncodedCorpus
from mt.data.dataset import Epoch
from mt.data.eval_set import EvalSet, load_eval_set, training_files
from mt.data.tokenizer import Tokenizer
from mt.distributed import Runtime
from mt.experiment import encode_training_set, load_tokenizers, make_tokenizers
from mt.preflight.checks import Finding, Level
from mt.storage.run_dir import RunDir
from mt.training.memory_check import check_memory, largest_batches
from mt.training.metrics_log import clock
from mt.training.optimizer import pack_optimizer
from mt.training.run import make_trainer
from mt.training.trainer import Trainer

NUM_WARM_UPS, NUM_UPDATES = 2, 5  # before the clock starts, and at least while it runs
LEAST_SECONDS, MOST_SECONDS = 1.0, 10.0  # that it runs
NUM_TRANSLATED = 64  # validation sentences that are translated to see how long all take
MANY_LEFT_OUT, MANY_STRANGE = (
    0.1,
    1.0,
)  # share of pairs, and percentage of tokens, that are worth a warning
FULL = 0.8  # share of the free disk space, likewise
human_size = partial(tqdm.format_sizeof, suffix="B")  # 1234567 -> 1.23MB


def try_training(
    config: Config, runtime: Runtime, trial: RunDir, *, real: RunDir, has_begun: bool
) -> Iterator[Finding]:
    """Do all that `mt train` does, up to a few updates, in the directory `trial`, and tell what was seen.

    A run that has begun lends its tokenizers; nothing else of `real` is touched.
    """
    files = training_files(config.data)
    if has_begun:
        trial.path.mkdir()
        for path in set(real.tokenizers(config.tokenizer.joint)):
            shutil.copyfile(path, trial.path / path.name)
    else:
        make_tokenizers(config, trial, files)
    src, tgt = load_tokenizers(config, trial)
    corpus = encode_training_set(config, trial, files, src, tgt)
    yield from look_at_tokens(config, corpus, src, tgt)

    config, part = cut_validation(config, trial.path, num_lines=NUM_TRANSLATED)
    # A model that was never trained does not know when to stop: it is held to the length of real translations.
    factor = len(corpus.tgt.ids) / len(corpus.src.ids)
    search = config.search.model_copy(update={"max_length_factor": factor, "max_length_offset": 1})
    config = config.model_copy(update={"search": search})
    before = runtime.peak_memory()
    trainer = make_trainer(config, trial, runtime, has_begun=True)
    num_parameters = sum(weight.numel() for weight in trainer.model.parameters())
    text = f"{num_parameters:,} parameters, on {runtime.device.type} in {runtime.precision}"
    yield Finding("ok", "model", "", text, {"parameters": num_parameters})
    began = time.monotonic()
    epoch = trainer.open_epoch(0, config.train.batch_tokens)
    epoch_start = time.monotonic() - began
    yield look_at_memory(trainer, epoch, before=before)
    yield (speed := measure_speed(trainer, epoch))
    began = time.monotonic()
    trainer.model.eval()
    trainer.validate()
    validation = (time.monotonic() - began) / part
    update, per_epoch = (
        speed.numbers["update_seconds"],
        math.ceil(epoch.plan.num_batches / config.train.gradient_accumulation),
    )
    yield estimate_time(
        config.train, update + epoch_start / per_epoch, validation, per_epoch=per_epoch
    )
    yield look_at_disk(trainer, trial, real)


def cut_validation(config: Config, directory: Path, *, num_lines: int) -> tuple[Config, float]:
    """The config with a validation set of some lines from everywhere in it, and the share of it that they are."""
    valid = load_eval_set(config.data.valid, config.data)
    stride = math.ceil(len(valid.src) / num_lines)
    paths = [directory / "valid.src", directory / "valid.ref"]
    for path, lines in zip(paths, (valid.src, valid.refs[0]), strict=True):
        path.write_text(
            "".join(f"{line}\n" for line in lines[::stride]), encoding="utf-8", newline=""
        )
    section = EvalSetConfig(name=valid.name, src=str(paths[0]), refs=(str(paths[1]),))
    data = config.data.model_copy(update={"valid": section})
    return config.model_copy(update={"data": data}), len(valid.src[::stride]) / len(valid.src)


def look_at_tokens(
    config: Config, corpus: EncodedCorpus, src: Tokenizer, tgt: Tokenizer
) -> Iterator[Finding]:
    """What the filters leave out, how long sentences are in tokens, and whether the vocabulary covers the text."""
    counts, sides, tokenizers = corpus.counts, (corpus.src, corpus.tgt), (src, tgt)
    many = counts.kept < (1 - MANY_LEFT_OUT) * sum(vars(counts).values())
    yield Finding("warning" if many else "ok", "filters", "", f"train: {counts}", vars(counts))
    medians, longest = (
        " / ".join(f"{f(side.lengths):,.0f}" for side in sides) for f in (np.median, np.max)
    )
    yield Finding(
        "ok",
        "tokens",
        "",
        f"train: median line {medians} tokens, longest {longest} (source / target)",
    )
    seen = [
        np.bincount(side.ids, minlength=each.vocab_size) > 0
        for side, each in zip(sides, tokenizers, strict=True)
    ]
    if config.tokenizer.joint:
        seen = [seen[0] | seen[1]] * 2
    for section in (config.data.valid, *config.data.test):
        yield describe_tokens(load_eval_set(section, config.data), tokenizers, seen)


def describe_tokens(
    each: EvalSet, tokenizers: tuple[Tokenizer, Tokenizer], seen: list[NDArray[np.bool_]]
) -> Finding:
    """How a set that is not trained on looks in tokens: many bytes or new tokens say that it is other text.

    `seen` tells for each side which ids occur in the training text.
    """
    rates = []  # one row a side
    for texts, tokenizer, is_seen in zip((each.src, each.refs[0]), tokenizers, seen, strict=True):
        ids = np.concatenate([np.array(row[:-1], np.int64) for row in tokenizer.encode(texts)])
        pieces = [tokenizer.piece(token_id) for token_id in range(tokenizer.vocab_size)]
        is_byte = np.array(
            [piece.startswith("<0x") and len(piece) == 6 for piece in pieces]
        )  # such as "<0x41>"
        num_words = sum(len(text.split()) for text in texts)
        rates.append(
            (len(ids) / num_words, 100 * is_byte[ids].mean(), 100 * (~is_seen[ids]).mean())
        )
    level: Level = "warning" if max(max(row[1:]) for row in rates) > MANY_STRANGE else "ok"
    per_word, in_bytes, new = (
        " / ".join(f"{rate:.2f}" for rate in side) for side in zip(*rates, strict=True)
    )
    text = (
        f"{each.name}: {per_word} tokens a word, {in_bytes} % of them bytes, {new} % not in train"
    )
    return Finding(level, "tokens", "", text)


def look_at_memory(trainer: Trainer, epoch: Epoch, *, before: int) -> Finding:
    """Try the largest batches; DeviceError, with a size that would do, when memory is too small."""
    reopen, batch_tokens = partial(trainer.open_epoch, 0), trainer.config.batch_tokens
    check_memory(trainer.model, epoch, trainer.runtime, reopen=reopen, batch_tokens=batch_tokens)
    after = trainer.runtime.peak_memory()
    plan, rows = epoch.plan, np.diff(epoch.plan.starts)
    sizes = [
        f"{rows[i]:,} pairs of {plan.src_lengths[i]:,} and {plan.tgt_lengths[i]:,}"
        for i in largest_batches(plan)
    ]
    text = f"{human_size(after)} at the peak, at least {human_size(after - before)} of it for the model and "
    text += f"the largest batch ({' or '.join(sizes)} tokens)"
    return Finding("ok", "memory", "", text, {"peak_bytes": after, "growth_bytes": after - before})


def measure_speed(trainer: Trainer, epoch: Epoch) -> Finding:
    """A few real updates, the clock running after the first ones."""
    stride, num_batches = trainer.config.gradient_accumulation, epoch.plan.num_batches
    batches = (
        range(start, min(start + stride, num_batches))
        for start in cycle(range(0, num_batches, stride))
    )
    trainer.wrapped.train()
    for _ in range(NUM_WARM_UPS):
        trainer.update(epoch, next(batches))
    before, began, seconds, num_updates = trainer.state.tokens_seen, now(trainer), 0.0, 0
    while seconds < LEAST_SECONDS or (num_updates < NUM_UPDATES and seconds < MOST_SECONDS):
        trainer.update(epoch, next(batches))
        seconds, num_updates = now(trainer) - began, num_updates + 1
    update, rate = seconds / num_updates, (trainer.state.tokens_seen - before) / seconds
    text = f"{rate:,.0f} target tokens/s, {update:.3g} s an update, over {num_updates} updates"
    return Finding("ok", "speed", "", text, {"update_seconds": update, "tokens_per_second": rate})


def now(trainer: Trainer) -> float:
    """The time once the device has done all that it was given."""
    trainer.window.save()  # its sums come from there
    return time.monotonic()


def estimate_time(
    train: TrainConfig, update: float, validation: float, *, per_epoch: int
) -> Finding:
    """How long a run takes to the first of its limits, from the seconds of an update and of a validation."""
    ends = [
        end
        for end in (train.max_steps, train.max_epochs and train.max_epochs * per_epoch)
        if end is not None
    ]
    if train.max_minutes is not None:
        ends.append(
            max(1, int(train.max_minutes * 60 / (update + validation / train.validate_every)))
        )
    num_updates = min(ends)
    num_validations = math.ceil(num_updates / train.validate_every)
    total = num_updates * update + num_validations * validation
    text = (
        f"about {clock(total)} for {num_updates:,} updates ({num_updates / per_epoch:.1f} epochs), "
    )
    text += f"{clock(num_validations * validation)} of it for {num_validations:,} validations with translating"
    text += "; patience may end it sooner" * (train.patience is not None)
    return Finding(
        "ok",
        "time",
        "",
        text,
        {"seconds": total, "updates": num_updates, "validation_seconds": validation},
    )


def look_at_disk(trainer: Trainer, trial: RunDir, real: RunDir) -> Finding:
    """What the run directory will hold at most, against what is free."""
    tensors = [
        *trainer.model.transformer.state_dict().values(),
        *pack_optimizer(trainer.optimizer, trainer.model.transformer).values(),
    ]
    checkpoint = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    kept = trainer.config.keep_checkpoints + 2  # the best one, and the next one while it is written
    cache = sum(path.stat().st_size for path in trial.cache.rglob("*") if path.is_file())
    needed = kept * checkpoint + cache
    parent = next(path for path in (real.path, *real.path.parents) if path.is_dir())
    free = shutil.disk_usage(parent).free
    text = f"{human_size(needed)} at most ({kept} checkpoints of {human_size(checkpoint)}, cache {human_size(cache)}), "
    text += f"{human_size(free)} free in {parent}"
    level: Level = "error" if needed > free else "warning" if needed > FULL * free else "ok"
    return Finding(level, "disk", "", text, {"needed_bytes": needed, "free_bytes": free})
