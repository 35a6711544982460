"""Compare the translation speed of `mt` on a CPU with that of CTranslate2, at the same work.

Both have the same weights, take text and return text, SentencePiece included, and compute in
float32. `mt` is `Translator.translate`; CTranslate2 translates an export of the same checkpoint
(`mt export`), and also one with int8 weights. `mt float32` and `mt int8` are what `mt translate`
does with these exports. All get the same sentences, in batches formed by the same rule with the
config's search.batch_tokens, and search with the same beam size, length penalty and limit on
length. (CTranslate2 alone does not exclude the ids that `mt` never writes, such as that of a
newline, which does not make its work smaller.)

Each runs in a process of its own with the given number of threads, loads its model (not counted),
and translates everything once to warm up. Then they take turns: one translates while the others
wait, so that all suffer the same from what else a shared machine does. Printed are, the ratios
first: the time of `mt` divided by that of CTranslate2, the median over pairs of neighboring
blocks, greedy and with beam size 5. Then for each: median sentences per second, BLEU, how many
translations are equal to those of `mt`, and the most memory of its process (as Linux reports it).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mt.cli.process import SETTINGS

BEAM_SIZES = (1, 5)
MT = "mt"
QUANTIZATIONS = ("float32", "int8")  # of the exports for CTranslate2
PAUSE = 0.3  # seconds between two blocks, until the threads of the previous process sleep

TranslateAll = Callable[[Sequence[str], int], list[str]]  # (texts, beam size) -> translations


class Measurement(NamedTuple):
    """The measurements of one contestant at one beam size."""

    seconds: list[float]  # of each block that counts
    translations: list[str]
    peak_bytes: int


# In the processes that translate. This module imports PyTorch only where it is needed, so that
# CTranslate2's process has none.


def load_mt(run_dir: str, num_threads: int) -> TranslateAll:
    import torch

    from mt import Translator

    torch.set_num_threads(num_threads)
    translators = {
        beam_size: Translator.load(run_dir, device="cpu", beam_size=beam_size)
        for beam_size in BEAM_SIZES
    }
    return lambda texts, beam_size: translators[beam_size].translate(texts)


def load_export(export_dir: str, num_threads: int) -> TranslateAll:
    import torch

    from mt.export.ctranslate2_translator import CTranslate2Translator

    torch.set_num_threads(num_threads)
    translators = {
        beam_size: CTranslate2Translator.load(Path(export_dir), device="cpu", beam_size=beam_size)
        for beam_size in BEAM_SIZES
    }

    def translate(texts: Sequence[str], beam_size: int) -> list[str]:
        chunks = translators[beam_size].translate_chunks(texts, chunk_size=len(texts))
        return [found[0].text for chunk in chunks for found in chunk.translations]

    return translate


def load_ctranslate2(
    export_dir: str, num_threads: int, search: dict[str, float], quantization: str
) -> TranslateAll:
    import ctranslate2
    import sentencepiece

    model = ctranslate2.Translator(
        export_dir, compute_type=quantization, inter_threads=1, intra_threads=num_threads
    )
    src_path, tgt_path = tokenizer_paths(Path(export_dir))
    src_tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(src_path))
    tgt_tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tgt_path))

    def translate(texts: Sequence[str], beam_size: int) -> list[str]:
        rows = src_tokenizer.encode(list(texts), out_type=str)
        batch_tokens = int(search["batch_tokens"] // beam_size)
        translations = [""] * len(rows)
        for indices in form_batches([len(row) for row in rows], batch_tokens=batch_tokens):
            longest = len(rows[indices[-1]]) + 1
            max_length = math.ceil(search["max_length_factor"] * longest)
            results = model.translate_batch(
                [rows[index] for index in indices],
                beam_size=beam_size,
                length_penalty=search["length_penalty"],
                max_input_length=0,
                min_decoding_length=0,
                max_decoding_length=max_length + int(search["max_length_offset"]),
            )
            decoded = tgt_tokenizer.decode([result.hypotheses[0] for result in results])
            for index, text in zip(indices, decoded, strict=True):
                translations[index] = text
        return translations

    return translate


def tokenizer_paths(export_dir: Path) -> tuple[Path, Path]:
    """Return the tokenizers of the source and the target, which may be the same file."""
    joint = export_dir / "tokenizer.model"
    if joint.exists():
        return joint, joint
    return export_dir / "tokenizer.src.model", export_dir / "tokenizer.tgt.model"


def form_batches(lengths: Sequence[int], *, batch_tokens: int) -> list[list[int]]:
    """Group sentences as `mt` does; return their indices in batches, the longest first.

    Sentences are sorted by length. A batch has at most `batch_tokens` padded positions.

    Each sentence has one token more than its length, for the end of the sentence.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        is_full = batches and (len(batches[-1]) + 1) * (lengths[index] + 1) > batch_tokens
        if not batches or is_full:
            batches.append([])
        batches[-1].append(index)
    return batches[::-1]


def serve(kind: str, directory: str, num_threads: int, search: dict[str, float]) -> None:
    """Answer the requests that come on stdin, one JSON object per line.

    A request {texts, beam_size} is answered by {seconds, texts, peak_bytes}.

    Args:
        kind: `mt`, the quantization of an export for CTranslate2, or both: `mt int8`.
        directory: the run directory, or the export.
    """
    if kind == MT:
        translate = load_mt(directory, num_threads)
    elif kind.startswith(MT):
        translate = load_export(directory, num_threads)
    else:
        translate = load_ctranslate2(directory, num_threads, search, kind)
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        texts = translate(request["texts"], request["beam_size"])
        seconds = time.perf_counter() - started
        answer = {"seconds": seconds, "texts": texts, "peak_bytes": peak_memory()}
        print(json.dumps(answer), flush=True)


def peak_memory() -> int:
    """Return the most bytes of memory that this process ever had."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            kibibytes = int(line.split()[1])
            return kibibytes * 1024
    raise AssertionError("/proc/self/status has no VmHWM")


# In the process that compares them


def start(
    kind: str, directory: Path, num_threads: int, search: dict[str, float]
) -> subprocess.Popen[str]:
    """Start a process that runs `serve`."""
    command = [
        sys.executable,
        __file__,
        json.dumps([kind, str(directory), num_threads, search]),
    ]
    # Both use GNU OpenMP, whose threads lose time beside another process if they wait actively for
    # long.
    settings = SETTINGS if kind.startswith(MT) else {"GOMP_SPINCOUNT": SETTINGS["GOMP_SPINCOUNT"]}
    environment = {**settings, **os.environ, "OMP_NUM_THREADS": str(num_threads)}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def request(process: subprocess.Popen[str], texts: list[str], beam_size: int) -> dict[str, Any]:
    """Let a process translate the texts, and return its answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    time.sleep(PAUSE)
    process.stdin.write(json.dumps({"texts": texts, "beam_size": beam_size}) + "\n")
    process.stdin.flush()
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def measure(
    processes: dict[str, subprocess.Popen[str]],
    texts: list[str],
    *,
    beam_size: int,
    num_blocks: int,
) -> dict[str, Measurement]:
    """Let the processes translate in turns; the first block of each is a warm-up."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in processes}
    for _ in range(1 + num_blocks):
        for name, process in processes.items():
            answers[name].append(request(process, texts, beam_size))
    measurements = {}
    for name, (_, *counted) in answers.items():
        last = counted[-1]
        seconds = [answer["seconds"] for answer in counted]
        measurements[name] = Measurement(seconds, last["texts"], last["peak_bytes"])
    return measurements


def compare(
    run_dir: Path, texts: list[str], *, num_threads: int, num_blocks: int
) -> dict[int, dict[str, Measurement]]:
    """Return measurements by beam size, then by name: `mt`, or CTranslate2's quantization."""
    from mt.config.load import load_run_config
    from mt.export.ctranslate2 import export
    from mt.storage.run_dir import open_run_dir

    search = load_run_config(open_run_dir(run_dir).config_path).search.model_dump()
    with tempfile.TemporaryDirectory() as directory:
        processes = {MT: start(MT, run_dir, num_threads, search)}
        for quantization in QUANTIZATIONS:
            exported = Path(directory, quantization)
            export(run_dir, exported, quantization=quantization)
            for kind in (quantization, f"{MT} {quantization}"):
                processes[kind] = start(kind, exported, num_threads, search)
        try:
            return {
                beam_size: measure(processes, texts, beam_size=beam_size, num_blocks=num_blocks)
                for beam_size in BEAM_SIZES
            }
        finally:
            for process in processes.values():
                process.communicate()  # closes its stdin, which ends it


def print_ratio(beam_size: int, measurements: dict[str, Measurement]) -> None:
    ratios = []
    for ours, theirs in zip(measurements[MT].seconds, measurements["float32"].seconds, strict=True):
        ratios.append(ours / theirs)
    search = "greedy" if beam_size == 1 else f"beam {beam_size}"
    print(
        f"{search}: mt takes {statistics.median(ratios):.2f} x the time of CTranslate2 "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def print_rows(
    beam_size: int, measurements: dict[str, Measurement], refs: list[str], *, tgt_lang: str
) -> None:
    from mt.evaluation.metrics import Scoring, score_corpus

    for name, measurement in measurements.items():
        translations = measurement.translations
        (bleu,) = score_corpus(
            translations, [refs], metrics=("bleu",), scoring=Scoring.for_language(tgt_lang)
        )
        num_equal = 0
        for ours, theirs in zip(measurements[MT].translations, translations, strict=True):
            num_equal += ours == theirs
        speed = len(translations) / statistics.median(measurement.seconds)
        megabytes = measurement.peak_bytes / 1e6
        label = name if name.startswith(MT) else f"CTranslate2 {name}"
        print(
            f"{label:<20} {beam_size:>4} {speed:>12.1f} {bleu.value:>6.2f} "
            f"{num_equal:>6,} {megabytes:>8.0f}"
        )


# The command line


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py translate`."""
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--ref", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2, help="[default: 2]")
    parser.add_argument(
        "--limit", type=int, help="sentences to take from the start of the file  [default: all]"
    )
    parser.add_argument("--repeats", type=int, default=5, help="blocks that count  [default: 5]")


def main(options: argparse.Namespace) -> None:
    """Run `benchmark.py translate`."""
    from mt.config.load import load_run_config
    from mt.data.eval_set import read_eval_set

    tgt_lang = load_run_config(options.run_dir / "config.yaml").data.tgt_lang
    eval_set = read_eval_set(options.src.name, options.src, [options.ref])
    texts = list(islice(eval_set.src, options.limit))
    refs = list(islice(eval_set.refs[0], options.limit))
    results = compare(
        options.run_dir, texts, num_threads=options.threads, num_blocks=options.repeats
    )

    for beam_size, measurements in results.items():
        print_ratio(beam_size, measurements)
    print(
        f"{len(texts):,} sentences of {options.src.name}, {options.threads} threads, float32, "
        f"{options.repeats} blocks each"
    )
    print(f"{'':<20} {'beam':>4} {'sentences/s':>12} {'BLEU':>6} {'equal':>6} {'peak MB':>8}")
    for beam_size, measurements in results.items():
        print_rows(beam_size, measurements, refs, tgt_lang=tgt_lang)


if __name__ == "__main__":  # as a process started by `start`
    serve(*json.loads(sys.argv[1]))
