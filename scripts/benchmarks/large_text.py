"""Measure how reading, encoding and planning grow with the amount of text. Nothing is trained.

    python -m scripts.benchmarks.large_text --pairs 100000 1000000 [--directory DIR] [--plot FILE]

Generates parallel text of random words, with Zipf's frequencies and about 15 words a sentence, in a
temporary directory, which is deleted at the end. Each step runs in a process of its own: count the
pairs, train the tokenizer, encode, load what was encoded (the second start of a run), plan an
epoch, and make batches with BPE-dropout. For each step it prints the seconds, the processor
seconds, the pairs per processor second, and the largest private memory of its processes, above that
of a process which has only imported the same modules, PyTorch among them. Pages of mapped files do
not count: the system takes them back when it needs them. Linux only.

The step `sentencepiece` encodes both sides of a sample in memory with SentencePiece alone. The last
line compares the rates of both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LANGUAGES = ("xx", "yy")
NUM_WORDS = 200_000  # different words of a language
MEAN_LENGTH = 15  # words of a sentence
ZIPF_EXPONENT = 1.05
PAIRS_PER_BLOCK = 100_000
SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeioä"]

VOCAB_SIZE = 16_000
MAX_SENTENCES = 1_000_000  # for the tokenizer
SAMPLE_SIZE = 100_000  # pairs for SentencePiece alone
NUM_BATCHES = 512
BATCH_TOKENS = 4096
STEPS = ("count", "tokenizer", "sentencepiece", "encode", "load", "plan", "batches")
POLL_SECONDS = 0.02  # between two looks at the memory


class Measurement(NamedTuple):
    """What a step took."""

    step: str
    num_pairs: int  # that it worked on
    seconds: float
    cpu_seconds: float  # of all its processes
    megabytes: float  # private memory of all its processes at its maximum, without the imports

    @property
    def pairs_per_cpu_second(self) -> float:
        return self.num_pairs / max(self.cpu_seconds, 1e-6)


# Generated text


def make_words(generator: np.random.Generator) -> list[str]:
    """Return different random words; frequent ones are shorter."""
    words: dict[str, None] = {}
    while len(words) < NUM_WORDS:
        num_syllables = 1 + int(np.log2(1 + len(words)) / 4) + int(generator.integers(0, 3))
        syllables = generator.integers(0, len(SYLLABLES), num_syllables)
        words["".join(SYLLABLES[index] for index in syllables)] = None
    return list(words)


def generate_text(directory: Path, num_pairs: int, *, seed: int = 1) -> None:
    """Write random sentences to text.xx, and as many of similar lengths to text.yy."""
    generator = np.random.default_rng(seed)
    vocabularies = [make_words(generator) for _ in LANGUAGES]
    for start in range(0, num_pairs, PAIRS_PER_BLOCK):
        num_block_pairs = min(PAIRS_PER_BLOCK, num_pairs - start)
        src_lengths = 1 + generator.poisson(MEAN_LENGTH - 1, num_block_pairs)
        tgt_lengths = 1 + generator.binomial(2 * src_lengths, 0.5)
        write_sentences(directory / "text.xx", vocabularies[0], src_lengths, generator)
        write_sentences(directory / "text.yy", vocabularies[1], tgt_lengths, generator)


def write_sentences(
    path: Path, words: Sequence[str], lengths: np.ndarray, generator: np.random.Generator
) -> None:
    """Append random sentences of the given numbers of words to a file."""
    weights = np.arange(2, len(words) + 2) ** -ZIPF_EXPONENT
    cumulative = np.cumsum(weights / weights.sum())
    indices = np.searchsorted(cumulative[:-1], generator.random(lengths.sum()))
    drawn = [words[index] for index in indices.tolist()]
    bounds = [0, *np.cumsum(lengths).tolist()]
    with path.open("a", encoding="utf-8") as file:
        for start, end in pairwise(bounds):
            file.write(" ".join(drawn[start:end]) + ".\n")


# A step, in a process of its own


def run_step(step: str, directory: Path) -> dict[str, Any]:
    """Run a step and return what it took, except for its memory."""
    import torch  # noqa: F401  (part of the memory that is not counted)

    from mt.data.counting import count_pairs
    from mt.data.dataset import Dataset
    from mt.data.parallel_text import TwoFiles
    from mt.data.tokenizer import Tokenizer
    from mt.data.tokenizer_training import sample_sentences, train_tokenizer

    text = TwoFiles(directory / "text.xx", directory / "text.yy")
    model = directory / "tokenizer.model"
    memory_before = private_memory(["self"])
    start = Clock()
    if step == "count":
        num_pairs = count_pairs(text, normalization="nfc").num_pairs
    elif step == "tokenizer":
        sides = [text.read_side("src"), text.read_side("tgt")]
        sentences = sample_sentences(sides, max_sentences=MAX_SENTENCES)
        train_tokenizer(sentences, model, kind="bpe", vocab_size=VOCAB_SIZE, normalization="nfc")
        num_pairs = MAX_SENTENCES // 2
    elif step == "sentencepiece":
        tokenizer = Tokenizer.load(model)
        sides = list(zip(*islice(text.read_units(), SAMPLE_SIZE), strict=True))
        start = Clock()
        for side in sides:
            tokenizer.encode(side)
        num_pairs = len(sides[0])
    else:
        tokenizer = Tokenizer.load(model, bpe_dropout=0.1)
        corpus = encode(text, tokenizer, directory / "cache")
        num_pairs = len(corpus)
        if step in ("plan", "batches"):
            start = Clock()
            dataset = Dataset(
                corpus, tokenizer, tokenizer, max_length=256, seed=1, batching="pools"
            )
            epoch = dataset.epoch(1, batch_tokens=BATCH_TOKENS)
        if step == "batches":
            start = Clock()
            num_batches = min(NUM_BATCHES, epoch.plan.num_batches)
            for index in range(num_batches):
                epoch.batch(index)
            num_pairs = int(epoch.plan.starts[num_batches])
    return {"num_pairs": num_pairs, "memory_before": memory_before, **start.elapsed()}


def encode(text: Any, tokenizer: Any, cache_dir: Path) -> Any:
    """Encode the text, or load it if it is encoded."""
    from mt.data.corpus import TrainingCorpus, encode_corpus

    return encode_corpus(
        [TrainingCorpus(text)],
        tokenizer,
        tokenizer,
        max_length=256,
        max_length_ratio=9.0,
        cache_dir=cache_dir,
        normalization="nfc",
    )


class Clock:
    """Seconds since it was made, and processor seconds of this process and those that it waited
    for.
    """

    def __init__(self) -> None:
        self._start = (time.perf_counter(), cpu_seconds())

    def elapsed(self) -> dict[str, float]:
        seconds, cpu = self._start
        return {
            "seconds": time.perf_counter() - seconds,
            "cpu_seconds": cpu_seconds() - cpu,
        }


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


# Memory of a step, as its parent sees it


def private_memory(pids: Sequence[str]) -> int:
    """Return the memory in bytes that belongs to processes alone; 0 for those that have ended."""
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        except OSError:
            continue
        lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
        total += sum(int(line.split()[1]) * 1024 for line in lines)
    return total


def with_children(pid: str) -> list[str]:
    """Return the numbers of a process and of those that it has started."""
    children = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += path.read_text(encoding="utf-8").split()
        except OSError:
            continue
    return [pid, *children]


def measure(step: str, directory: Path) -> Measurement:
    """Run a step in another process and return what it took."""
    command = [sys.executable, "-m", "scripts.benchmarks.large_text", "--step", step]
    command += ["--directory", str(directory)]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, private_memory(with_children(str(process.pid))))
            time.sleep(POLL_SECONDS)
        assert process.stdout is not None
        result = json.load(process.stdout)
    return Measurement(
        step=step,
        num_pairs=result["num_pairs"],
        seconds=result["seconds"],
        cpu_seconds=result["cpu_seconds"],
        megabytes=(peak - result["memory_before"]) / 1e6,
    )


# The whole


def measure_all(num_pairs: int, parent: Path | None) -> list[Measurement]:
    """Generate a text, measure all steps and print them."""
    with tempfile.TemporaryDirectory(prefix="mt-large-text-", dir=parent) as name:
        directory = Path(name)
        generate_text(directory, num_pairs)
        size = sum(path.stat().st_size for path in directory.iterdir())
        print(f"\n{num_pairs:,} pairs, {size / 1e6:,.0f} MB of text", flush=True)
        print(f"{'step':14}{'seconds':>9}{'cpu s':>9}{'pairs/cpu s':>13}{'MB':>8}")
        measurements = []
        for step in STEPS:
            result = measure(step, directory)
            measurements.append(result)
            print(
                f"{step:14}{result.seconds:9.1f}{result.cpu_seconds:9.1f}"
                f"{result.pairs_per_cpu_second:13,.0f}{result.megabytes:8,.0f}",
                flush=True,
            )
    rates = {result.step: result.pairs_per_cpu_second for result in measurements}
    ratio = rates["encode"] / rates["sentencepiece"]
    print(f"rate of encode / rate of SentencePiece alone, per processor second: {ratio:.2f}")
    return measurements


def plot(results: dict[int, list[Measurement]], path: Path) -> None:
    """Write an image of the seconds and the memory of each step against the number of pairs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    sizes = sorted(results)
    for index, step in enumerate(STEPS):
        if step == "sentencepiece":
            continue
        of_step = [results[size][index] for size in sizes]
        seconds = [result.seconds for result in of_step]
        megabytes = [result.megabytes for result in of_step]
        time_axes.loglog(sizes, seconds, marker="o", label=step)
        memory_axes.semilogx(sizes, megabytes, marker="o", label=step)
    time_axes.set(xlabel="pairs", ylabel="seconds")
    memory_axes.set(xlabel="pairs", ylabel="private memory above the imports, MB", ylim=0)
    time_axes.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--directory", type=Path, help="where the text is generated")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write an image")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step is not None:
        print(json.dumps(run_step(arguments.step, arguments.directory)))
        return
    results = {
        num_pairs: measure_all(num_pairs, arguments.directory) for num_pairs in arguments.pairs
    }
    if arguments.plot is not None:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
