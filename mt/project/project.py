"""A new project from a parallel text: held-out sets, and a config that fits text and machine."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mt.config.schema import eval_set_name
from mt.data.normalization import is_blank
from mt.data.parallel_text import ParallelText, read_pairs, text_of_names
from mt.data.progress import bytes_bar
from mt.data.split import Part, Split
from mt.data.split_files import FILE_NAMES, refuse_existing, split_directory, split_text
from mt.distributed import Runtime, open_runtime
from mt.errors import DataError
from mt.project.config_text import DataFiles, config_text
from mt.project.machine import measure_update
from mt.project.settings import (
    REFERENCE_SIZE,
    REFERENCE_VOCAB_SIZE,
    MachineFacts,
    RunLength,
    Settings,
    choose_settings,
    plan_length,
)
from mt.project.text_facts import TextFacts, measure_text
from mt.storage.atomic import atomic_file

logger = logging.getLogger(__name__)

# The facts of a larger text are those of about so many of its training pairs.
NUM_SAMPLED_PAIRS = 200_000


@dataclass(frozen=True)
class ProjectRequest:
    """Input of `mt init`."""

    text: ParallelText
    src_lang: str
    tgt_lang: str
    minutes: float  # of training
    device: str  # "auto", "cpu" or "cuda"
    num_valid: int | None  # None: see `held_out_size`
    num_test: int | None
    # Held-out text that exists already, as in `data.valid: PATH`; None: it is made from `text`.
    valid_text: str | None
    test_text: str | None
    seed: int
    config_path: Path
    data_dir: Path
    command: str  # the command line, for a comment


@dataclass(frozen=True)
class Project:
    """Result of `mt init`: facts about the text and the machine, and the chosen settings."""

    split: Split
    text: TextFacts  # of the training text
    machine: MachineFacts
    settings: Settings
    length: RunLength


def create_project(request: ProjectRequest) -> Project:
    """Split the text, measure it and the machine, choose settings; write the config and the sets.

    Raises DiskError when a file would be replaced, DataError and DeviceError. After an error,
    nothing is left behind.
    """
    refuse_existing(request.config_path)
    refuse_existing(request.data_dir)
    held_out_text = open_held_out_text(request)
    logger.info(f"reading {request.text.name}")
    split = split_text(
        request.text,
        num_valid=request.num_valid if request.valid_text is None else 0,
        num_test=request.num_test if request.test_text is None else 0,
        seed=request.seed,
        held_out_text=held_out_text,
    )
    text = measure_training_text(request.text, split)

    logger.info("measuring this machine")
    runtime = open_runtime(request.device, "auto")
    machine = measure_machine(runtime, tokens_per_pair=text.tokens_per_pair)
    settings = choose_settings(text, machine, request.minutes)
    update_seconds = measure_update(
        settings.size,
        runtime,
        vocab_size=settings.vocab_size,
        batch_tokens=settings.batch_tokens,
        tokens_per_pair=text.tokens_per_pair,
    )
    length = plan_length(settings, update_seconds=update_seconds, minutes=request.minutes)

    project = Project(split, text, machine, settings, length)
    write_project(request, project)
    return project


def open_held_out_text(request: ProjectRequest) -> list[ParallelText]:
    """Return the held-out text that exists already.

    Raises DataError for a text without sentence pairs, and for two sets of one name.
    """
    valid_path = request.valid_text or FILE_NAMES[Part.VALID]
    test_path = request.test_text or FILE_NAMES[Part.TEST]
    name = eval_set_name(valid_path)
    if eval_set_name(test_path) == name:
        raise DataError(f"validation and test text are both called {name}; rename one of them")
    texts = []
    for path in (request.valid_text, request.test_text):
        if path is None:
            continue
        text = text_of_names([path], src_lang=request.src_lang, tgt_lang=request.tgt_lang)
        if not any(not is_blank(src) and not is_blank(tgt) for src, tgt in read_pairs(text)):
            raise DataError(f"{text.name}: wanted sentence pairs, found blank lines only")
        texts.append(text)
    return texts


def measure_training_text(text: ParallelText, split: Split) -> TextFacts:
    """Return the facts of the pairs that are left for training, from a sample of a large text."""
    stride = math.ceil(split.count(Part.TRAIN) / NUM_SAMPLED_PAIRS)
    with bytes_bar("looking at the text", text.paths) as on_bytes:
        pairs = read_pairs(text, on_bytes=on_bytes)
        sample = measure_text(_every_training_pair(pairs, split, stride))
    return sample.scaled(num_pairs=split.count(Part.TRAIN))


def _every_training_pair(
    pairs: Iterator[tuple[str, str]], split: Split, stride: int
) -> Iterator[tuple[str, str]]:
    """Yield every `stride`-th training pair."""
    num_seen = 0
    for value, pair in zip(split.parts.tolist(), pairs, strict=False):
        if value == Part.TRAIN:
            if num_seen % stride == 0:
                yield pair
            num_seen += 1


def measure_machine(runtime: Runtime, *, tokens_per_pair: float) -> MachineFacts:
    """Return how fast the reference model trains on sentences of this length."""
    batch_tokens = REFERENCE_SIZE.batch_tokens
    update_seconds = measure_update(
        REFERENCE_SIZE,
        runtime,
        vocab_size=REFERENCE_VOCAB_SIZE,
        batch_tokens=batch_tokens,
        tokens_per_pair=tokens_per_pair,
    )
    return MachineFacts(runtime.device.type, batch_tokens / update_seconds)


def write_project(request: ProjectRequest, project: Project) -> None:
    """Write the held-out sets, the training text and the config."""
    prefixes = {part: str(request.data_dir / name) for part, name in FILE_NAMES.items()}
    test = request.test_text
    if test is None and project.split.count(Part.TEST) > 0:
        test = prefixes[Part.TEST]
    files = DataFiles(
        request.src_lang,
        request.tgt_lang,
        train=prefixes[Part.TRAIN],
        valid=request.valid_text or prefixes[Part.VALID],
        test=test,
    )
    config = config_text(
        files,
        project.text,
        project.machine,
        project.settings,
        project.length,
        minutes=request.minutes,
        device=request.device,
        command=request.command,
    )
    directory = split_directory(
        request.data_dir,
        project.split,
        request.text,
        src_lang=request.src_lang,
        tgt_lang=request.tgt_lang,
    )
    with directory, atomic_file(request.config_path) as file:
        file.write(config.encode())
