"""How often does the company of other lines decide a translation? Counted on real text and a trained run.

    python -m scripts.benchmarks.batch_invariance RUN_DIR --src FILE [--limit 1000] [--batch-sizes 1 7 64] [--beam-sizes 5 1]

The same lines are translated in batches of so many lines, whose shapes change the order of sums, and so their last
bits. Two hypotheses that score the same but for these may then change places. For each size: lines whose best
translation is another one than with the first size, lines of which any of the n-best list is, lines whose best score
has other bits, and the largest change of a score of equal texts. Each line that differs is shown, with both scores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from mt import Translator
from mt.data.text import read_lines
from mt.decoding.translator import Translation

Answers = list[list[Translation]]  # of each line, the best first


def translate_in_batches(
    translator: Translator, lines: Sequence[str], *, size: int, beam_size: int
) -> Answers:
    """All lines, in their order, `size` of them in each batch."""
    search = translator.search.model_copy(
        update={"beam_size": beam_size, "batch_tokens": 2**40}
    )  # all of a call at once
    translator = replace(translator, search=search)
    return [
        found
        for start in range(0, len(lines), size)
        for found in translator.n_best(lines[start : start + size])
    ]


def report(lines: Sequence[str], first: Answers, other: Answers) -> tuple[str, list[str]]:
    """A row of the table, and what is to be shown of each line that differs."""
    pairs = [(a[0], b[0]) for a, b in zip(first, other, strict=True)]
    differing = [
        f"  {line}\n    {a.score:.9f} {a.text}\n    {b.score:.9f} {b.text}"
        for line, (a, b) in zip(lines, pairs, strict=True)
        if a.text != b.text
    ]
    in_list = sum(
        [t.text for t in a] != [t.text for t in b] for a, b in zip(first, other, strict=True)
    )
    other_bits = sum(a.score != b.score for a, b in pairs)
    moved = max((abs(a.score - b.score) for a, b in pairs if a.text == b.text), default=0.0)
    return f"{len(differing):>7,} {in_list:>7,} {other_bits:>10,} {moved:>11.1e}", differing


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument(
        "--limit", type=int, default=1000, help="lines to take from the start of the file"
    )
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[1, 7, 64], help="the first is compared with"
    )
    parser.add_argument("--beam-sizes", type=int, nargs="+", default=[5, 1])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    lines = list(islice(read_lines(options.src), options.limit))
    translator = Translator.load(options.run_dir, device=options.device)
    print(
        f"{len(lines):,} lines, fp32, {options.device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    )
    print("beam  batch   texts  n-best  best score  score moves    lines/s")
    for beam_size in options.beam_sizes:
        first: Answers = []
        for size in options.batch_sizes:
            start = time.perf_counter()
            found = translate_in_batches(translator, lines, size=size, beam_size=beam_size)
            speed = len(lines) / (time.perf_counter() - start)
            first = first or found
            row, differing = report(lines, first, found)
            print(
                f"{beam_size:>4} {size:>6} {row} {speed:>10.1f}", *differing, sep="\n", flush=True
            )


if __name__ == "__main__":
    main()
