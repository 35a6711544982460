"""Count how often the other lines of a batch change a translation, on real text with a trained run.

    python -m scripts.benchmarks.batch_invariance RUN_DIR --src FILE
        [--limit 1000] [--batch-sizes 1 7 64] [--beam-sizes 5 1]

The same lines are translated in batches of several sizes. The shape of a batch changes the order of
additions, and so the last bits of sums. Two hypotheses with nearly the same score may then change
places.

For each batch size, the table compares with the first size: the number of lines with another best
translation, with another n-best list, and with other bits in the best score; and the largest change
of a score of equal texts. Each line with another best translation is shown with both scores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from mt import Translator
from mt.data.text import read_lines
from mt.decoding.translation import Translation

NBestLists = list[list[Translation]]  # for each line, the best translation first


class Comparison(NamedTuple):
    """How the translations with one batch size differ from those with another."""

    differing_lines: list[str]  # each with both translations and their scores
    num_differing_lists: int
    num_differing_scores: int
    largest_change: float  # of a score, where the texts are equal


def translate_in_batches(
    translator: Translator, lines: Sequence[str], *, batch_size: int, beam_size: int
) -> NBestLists:
    """Translate all lines, `batch_size` of them at a time."""
    # With this many batch_tokens, all texts of a call are in one batch.
    search = translator.search.model_copy(update={"beam_size": beam_size, "batch_tokens": 2**40})
    translator = replace(translator, search=search)
    translations: NBestLists = []
    for start in range(0, len(lines), batch_size):
        translations += translator.n_best(lines[start : start + batch_size])
    return translations


def compare(lines: Sequence[str], expected: NBestLists, found: NBestLists) -> Comparison:
    """Compare two n-best lists for each line."""
    differing_lines = []
    num_differing_lists = 0
    num_differing_scores = 0
    largest_change = 0.0
    for line, first_list, second_list in zip(lines, expected, found, strict=True):
        first = first_list[0]
        second = second_list[0]
        if [each.text for each in first_list] != [each.text for each in second_list]:
            num_differing_lists += 1
        if first.score != second.score:
            num_differing_scores += 1
        if first.text == second.text:
            largest_change = max(largest_change, abs(first.score - second.score))
        else:
            differing_lines.append(
                f"  {line}\n"
                f"    {first.score:.9f} {first.text}\n"
                f"    {second.score:.9f} {second.text}"
            )
    return Comparison(differing_lines, num_differing_lists, num_differing_scores, largest_change)


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
        "--batch-sizes",
        type=int,
        nargs="+",
        default=[1, 7, 64],
        help="the others are compared with the first",
    )
    parser.add_argument("--beam-sizes", type=int, nargs="+", default=[5, 1])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    lines = list(islice(read_lines(options.src), options.limit))
    translator = Translator.load(options.run_dir, device=options.device)
    print(
        f"{len(lines):,} lines, fp32, {options.device}, {torch.get_num_threads()} threads, "
        f"PyTorch {torch.__version__}"
    )
    print("beam  batch   texts  n-best  best score  largest change    lines/s")
    for beam_size in options.beam_sizes:
        expected: NBestLists | None = None
        for batch_size in options.batch_sizes:
            started = time.perf_counter()
            found = translate_in_batches(
                translator, lines, batch_size=batch_size, beam_size=beam_size
            )
            speed = len(lines) / (time.perf_counter() - started)
            if expected is None:
                expected = found
            comparison = compare(lines, expected, found)
            print(
                f"{beam_size:>4} {batch_size:>6} {len(comparison.differing_lines):>7,} "
                f"{comparison.num_differing_lists:>7,} {comparison.num_differing_scores:>11,} "
                f"{comparison.largest_change:>15.1e} {speed:>10.1f}",
                flush=True,
            )
            for line in comparison.differing_lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
