"""IBM Model 1 (Brown et al. 1993, section 4.3): what a word is translated as, from counting alone; a plain baseline.

    python -m scripts.alignment.ibm1 --src FILE --tgt FILE [--iterations 10] > FILE.align

Words are what stands between spaces. A target word is made from one word of its source sentence, or from none (NULL),
each equally likely beforehand: p(tgt | src) = prod_j sum_i t(tgt_j | src_i) / (num_src + 1). EM from a uniform t climbs
to the best t there is. The alignment of a target word is the most probable source word, or none where that is NULL.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Links = set[tuple[int, int]]  # (source word, target word), from 0
IntArray = npt.NDArray[np.int64]


def ibm1(src: Sequence[str], tgt: Sequence[str], *, iterations: int = 10) -> list[Links]:
    """The alignments of all pairs, by a model trained on these very pairs."""
    sides = [_number(src), _number(tgt)]
    # An entry is a source word, NULL being number 0, that may have made a target word. Those of one target word stand
    # together, and begin at `starts`.
    entries, lengths = [], []
    for src_ids, tgt_ids in zip(*sides, strict=True):
        src_ids = np.concatenate(([0], src_ids))
        entries.append(np.stack((np.tile(src_ids, len(tgt_ids)), np.repeat(tgt_ids, len(src_ids)))))
        lengths += [len(src_ids)] * len(tgt_ids)
    src_of, tgt_of = np.concatenate(entries, axis=1)
    repeats = np.array(lengths)
    starts = np.cumsum(repeats) - repeats
    pairs, pair_of = np.unique(src_of * (tgt_of.max() + 1) + tgt_of, return_inverse=True)
    src_of_pair = pairs // (tgt_of.max() + 1)
    t = np.ones(len(pairs))
    for _ in range(iterations):
        share = t[pair_of]
        share /= np.repeat(np.add.reduceat(share, starts), repeats)  # the posterior of each entry
        counts = np.bincount(pair_of, weights=share)
        t = counts / np.bincount(src_of_pair, weights=counts)[src_of_pair]
    best = _argmax(t[pair_of], starts, repeats)  # 0: NULL
    found, first = [], 0
    for tgt_ids in sides[1]:
        chosen = best[first : first + len(tgt_ids)]
        found.append({(int(i) - 1, j) for j, i in enumerate(chosen) if i > 0})
        first += len(tgt_ids)
    return found


def _number(lines: Sequence[str]) -> list[IntArray]:
    """The words of each line as numbers from 1."""
    numbers: dict[str, int] = {}
    return [
        np.array([numbers.setdefault(w, len(numbers) + 1) for w in line.split()], np.int64)
        for line in lines
    ]


def _argmax(values: npt.NDArray[np.float64], starts: IntArray, repeats: IntArray) -> IntArray:
    """The place of the largest value of each stretch, counted from its start; of equals the last, so NULL loses."""
    largest = np.repeat(np.maximum.reduceat(values, starts), repeats)
    places = np.arange(len(values)) - np.repeat(starts, repeats)
    return np.maximum.reduceat(np.where(values == largest, places, -1), starts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--tgt", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=10)
    options = parser.parse_args()
    src, tgt = (
        path.read_text(encoding="utf-8").split("\n")[:-1] for path in (options.src, options.tgt)
    )
    for links in ibm1(src, tgt, iterations=options.iterations):
        sys.stdout.write(" ".join(f"{i}-{j}" for i, j in sorted(links)) + "\n")


if __name__ == "__main__":
    main()
