"""How fast does `mt` translate on a CPU? Measured beside CTranslate2, with the same weights, at the same work.

Both are text in, text out, SentencePiece included, in float32: ours is `Translator.translate`, the other translates an
export of the same checkpoint (`mt export`), and one of its int8 weights besides. All get the same sentences, in batches
cut by the same rule and by the config's search.batch_tokens, and search with the same beam, length penalty and longest
translation. (CTranslate2 is not told of the ids that ours never writes, such as that of a newline: it has no less to do
for that.)

Each has a process of its own with so many threads, loads its model (not counted), translates all once to warm up, and
then they take turns, a block each while the other waits, so that both meet the same weather of a shared machine. It
prints, the ratios first: our time over CTranslate2's, the median over pairs of neighbouring blocks, greedy and with
beam 5; then of each side the median of sentences a second, BLEU, how many translations are equal to ours, and the most
memory that its process ever had (as the kernel of Linux tells).
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

REST = 0.3  # seconds between two blocks, for the threads of the one before to fall asleep
TranslateAll = Callable[[Sequence[str], int], list[str]]  # (texts, beam size) -> translations


class Side(NamedTuple):
    """What one side came to at one beam size: seconds of each block, its translations, and its memory."""

    seconds: list[float]
    texts: list[str]
    peak_bytes: int


# What runs in the two processes


def load_ours(run_dir: str, threads: int) -> TranslateAll:
    import torch

    from mt import Translator

    torch.set_num_threads(threads)
    translators = {beam: Translator.load(run_dir, device="cpu", beam_size=beam) for beam in (1, 5)}
    return lambda texts, beam_size: translators[beam_size].translate(texts)


def load_ctranslate2(
    export_dir: str, threads: int, search: dict[str, float], numbers: str
) -> TranslateAll:
    """In batches cut as `group_by_length` cuts them: sorted, and no more padded positions than the budget."""
    import ctranslate2
    import sentencepiece

    model = ctranslate2.Translator(
        export_dir, compute_type=numbers, inter_threads=1, intra_threads=threads
    )
    joint = Path(export_dir, "tokenizer.model")
    paths = (
        [joint, joint]
        if joint.exists()
        else [Path(export_dir, f"tokenizer.{side}.model") for side in ("src", "tgt")]
    )
    src, tgt = (sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in paths)

    def translate(texts: Sequence[str], beam_size: int) -> list[str]:
        rows = src.encode(list(texts), out_type=str)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        groups: list[list[int]] = []
        for i in order:  # each has one token more, eos
            if (
                not groups
                or (len(groups[-1]) + 1) * (len(rows[i]) + 1) > search["batch_tokens"] // beam_size
            ):
                groups.append([])
            groups[-1].append(i)
        answers = [""] * len(rows)
        for group in reversed(groups):
            longest = search["max_length_factor"] * (len(rows[group[-1]]) + 1)
            found = model.translate_batch(
                [rows[i] for i in group],
                beam_size=beam_size,
                length_penalty=search["length_penalty"],
                max_input_length=0,
                min_decoding_length=0,
                max_decoding_length=math.ceil(longest) + int(search["max_length_offset"]),
            )
            for i, text in zip(
                group, tgt.decode([each.hypotheses[0] for each in found]), strict=True
            ):
                answers[i] = text
        return answers

    return translate


def serve(kind: str, directory: str, threads: int, search: dict[str, float]) -> None:
    """Answer each line of stdin, `{texts, beam_size}`, with `{seconds, texts, peak_bytes}`."""
    translate = (
        load_ours(directory, threads)
        if kind == "ours"
        else load_ctranslate2(directory, threads, search, kind)
    )
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        texts = translate(request["texts"], request["beam_size"])
        seconds = time.perf_counter() - start
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        (kibibytes,) = [
            int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM:")
        ]
        print(
            json.dumps({"seconds": seconds, "texts": texts, "peak_bytes": kibibytes * 1024}),
            flush=True,
        )


# What asks them


def start(
    kind: str, directory: Path, threads: int, search: dict[str, float]
) -> subprocess.Popen[str]:
    """A process that answers (see `serve`); with no torch in CTranslate2's, whoever imports this module."""
    command = [sys.executable, __file__, json.dumps([kind, str(directory), threads, search])]
    # Threads of GNU OpenMP, which both use, that spin for long lose their time beside another process.
    settings = SETTINGS if kind == "ours" else {"GOMP_SPINCOUNT": SETTINGS["GOMP_SPINCOUNT"]}
    environment = {**settings, **os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def ask(process: subprocess.Popen[str], texts: list[str], beam_size: int) -> dict[str, Any]:
    assert process.stdin is not None, process
    assert process.stdout is not None, process
    time.sleep(REST)
    process.stdin.write(json.dumps({"texts": texts, "beam_size": beam_size}) + "\n")
    process.stdin.flush()
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def race(
    run_dir: Path, texts: list[str], *, threads: int, repeats: int
) -> dict[tuple[int, str], Side]:
    """All sides, greedy and with beam 5, by (beam size, "ours" or CTranslate2's number format)."""
    from mt.config.load import load_config
    from mt.export.ctranslate2 import export
    from mt.storage.run_dir import open_run_dir

    search = load_config(open_run_dir(run_dir).config).search.model_dump()
    sides = {}
    with tempfile.TemporaryDirectory() as directory:
        processes = {"ours": start("ours", run_dir, threads, search)}
        for numbers in ("float32", "int8"):
            exported = Path(directory, numbers)
            export(run_dir, exported, quantization=numbers)
            processes[numbers] = start(numbers, exported, threads, search)
        try:
            for beam_size in (1, 5):
                blocks: dict[str, list[dict[str, Any]]] = {name: [] for name in processes}
                for _ in range(repeats + 1):
                    for name, process in processes.items():
                        blocks[name].append(ask(process, texts, beam_size))
                for name, (_, *counted) in blocks.items():
                    seconds = [block["seconds"] for block in counted]
                    sides[beam_size, name] = Side(
                        seconds, counted[-1]["texts"], counted[-1]["peak_bytes"]
                    )
        finally:
            for process in processes.values():
                process.communicate()  # it ends with its stdin
    return sides


def add_options(parser: argparse.ArgumentParser) -> None:
    """What may be asked on the command line; `main` answers it."""
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--ref", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2, help="[default: 2]")
    parser.add_argument(
        "--limit", type=int, help="sentences to take from the start of the file  [default: all]"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="blocks of each side that count  [default: 5]"
    )


def main(options: argparse.Namespace) -> None:
    """Race, and print what came of it."""
    from mt.config.load import load_config
    from mt.data.eval_set import read_eval_set
    from mt.evaluation.metrics import bleu_tokenizer, score_corpus

    lang = load_config(options.run_dir / "config.yaml").data.tgt_lang
    found = read_eval_set(options.src.name, options.src, [options.ref])
    texts, refs = list(islice(found.src, options.limit)), list(islice(found.refs[0], options.limit))
    sides = race(options.run_dir, texts, threads=options.threads, repeats=options.repeats)
    for beam_size in (1, 5):
        pairs = zip(
            sides[beam_size, "ours"].seconds, sides[beam_size, "float32"].seconds, strict=True
        )
        ratios = [ours / theirs for ours, theirs in pairs]
        words = f"beam {beam_size}" if beam_size > 1 else "greedy"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"{words}: ours takes {statistics.median(ratios):.2f} x the time of CTranslate2 ({spread})"
        )
    blocks = f"{options.threads} threads, float32, {options.repeats} blocks each"
    print(f"{len(texts):,} sentences of {options.src.name}, {blocks}")
    print(f"{'':<20} {'beam':>4} {'sentences/s':>12} {'BLEU':>6} {'equal':>6} {'peak MB':>8}")
    for (beam_size, name), side in sides.items():
        (bleu,) = score_corpus(side.texts, [refs], metrics=("bleu",), tokenize=bleu_tokenizer(lang))
        equal = sum(a == b for a, b in zip(side.texts, sides[beam_size, "ours"].texts, strict=True))
        speed = len(texts) / statistics.median(side.seconds)
        words = name if name == "ours" else f"CTranslate2 {name}"
        print(
            f"{words:<20} {beam_size:>4} {speed:>12.1f} {bleu.value:>6.2f} {equal:>6,} {side.peak_bytes / 1e6:>8.0f}"
        )


if __name__ == "__main__":  # as a child of `start`
    serve(*json.loads(sys.argv[1]))
