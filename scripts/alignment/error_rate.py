"""Compute the alignment error rate of files, of baselines, and of the decoder layers of a run.

    python -m scripts.alignment.error_rate GOLD FILE.align ...
    python -m scripts.alignment.error_rate GOLD --src FILE --tgt FILE
        [--run-dir DIR] [--reverse-run-dir DIR]
        [--train-src FILE --train-tgt FILE] [--lines 0:250]

Gold links are `i-j` if sure and `ipj` if possible, source-target, counted from 0. A sure link is
possible, too. With links A, sure links S and possible links P, summed over all sentences (Och and
Ney 2003, section 5):

    AER = 1 - (|A & S| + |A & P|) / (|A| + |S|)
    precision = |A & P| / |A|
    recall = |A & S| / |S|

With --src and --tgt, the baselines are the diagonal, and IBM Model 1, trained on these sentences
and on those of --train-src and --train-tgt. For the runs, each decoder layer and step is scored;
`*` marks the default of `mt align`. With both directions, also their symmetric combinations (Koehn
et al. 2003) are scored. --lines says which sentences count, so that a choice made on some of them
can be tested on the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mt import Translator
from mt.decoding.alignment import AlignmentStep, align, default_layer
from mt.decoding.translation import Segment
from scripts.alignment.ibm1 import Links, ibm1, read_lines

STEPS: tuple[AlignmentStep, ...] = ("output", "input")
NamedLinks = Iterator[tuple[str, list[Links]]]  # a name, and the links of every sentence


class Gold(NamedTuple):
    """The links of one sentence pair, made by people."""

    sure: Links
    possible: Links  # including the sure ones


class Error(NamedTuple):
    """The error of alignments, compared with gold ones."""

    aer: float
    precision: float
    recall: float
    num_links: int


def read_gold(line: str) -> Gold:
    """Read a line such as `0-0 1p2`: the link 0-0 is sure, 1-2 is possible."""
    sure = set()
    possible = set()
    for word in line.split():
        if "-" in word:
            i, j = word.split("-")
            sure.add((int(i), int(j)))
        else:
            i, j = word.split("p")
        possible.add((int(i), int(j)))
    return Gold(sure, possible)


def alignment_error(alignments: Sequence[Links], gold: Sequence[Gold]) -> Error:
    """Return the error over all sentences together."""
    num_links = 0
    num_sure = 0
    num_links_in_sure = 0
    num_links_in_possible = 0
    for links, gold_links in zip(alignments, gold, strict=True):
        num_links += len(links)
        num_sure += len(gold_links.sure)
        num_links_in_sure += len(links & gold_links.sure)
        num_links_in_possible += len(links & gold_links.possible)
    return Error(
        aer=1 - (num_links_in_sure + num_links_in_possible) / (num_links + num_sure),
        precision=num_links_in_possible / max(num_links, 1),
        recall=num_links_in_sure / num_sure,
        num_links=num_links,
    )


# Baselines and symmetric combinations


def diagonal(src: str, tgt: str) -> Links:
    """Link each target word to the source word at the same relative position."""
    num_src = len(src.split())
    num_tgt = len(tgt.split())
    if num_src == 0:
        return set()
    return {(int((j + 0.5) * num_src / num_tgt), j) for j in range(num_tgt)}


def invert(alignments: Sequence[Links]) -> list[Links]:
    """Exchange source and target."""
    return [{(j, i) for i, j in links} for links in alignments]


def intersection(forward: Links, backward: Links) -> Links:
    return forward & backward


def union(forward: Links, backward: Links) -> Links:
    return forward | backward


def grow_diagonally(forward: Links, backward: Links) -> Links:
    """Return the links of both directions, and their neighbors that are links of one direction.

    A neighbor is chosen only if its source word or its target word has no link yet. Words that are
    not next to a chosen link stay without one (this is grow-diag without the step `final`).
    """
    chosen = forward & backward
    candidates = sorted(forward ^ backward)
    while True:
        num_before = len(chosen)
        for i, j in candidates:
            is_src_free = all(i != chosen_i for chosen_i, _ in chosen)
            is_tgt_free = all(j != chosen_j for _, chosen_j in chosen)
            is_neighbor = any(abs(i - a) <= 1 and abs(j - b) <= 1 for a, b in chosen)
            if (i, j) not in chosen and (is_src_free or is_tgt_free) and is_neighbor:
                chosen.add((i, j))
        if len(chosen) == num_before:
            return chosen


SYMMETRIES: dict[str, Callable[[Links, Links], Links]] = {
    "intersection": intersection,
    "grow-diag": grow_diagonally,
    "union": union,
}


# What is scored. Each function yields alignments with their names.


def combinations(name: str, forward: list[Links], backward: list[Links]) -> NamedLinks:
    """Yield the backward alignments, already inverted, and the combinations of both directions."""
    yield f"{name} reverse", backward
    for symmetry, combine in SYMMETRIES.items():
        combined = [combine(*pair) for pair in zip(forward, backward, strict=True)]
        yield f"{name} {symmetry}", combined


def file_alignments(paths: Sequence[Path]) -> NamedLinks:
    for path in paths:
        yield str(path), [read_gold(line).possible for line in read_lines(path)]


def baseline_alignments(
    src: list[str], tgt: list[str], *, train_src: list[str], train_tgt: list[str]
) -> NamedLinks:
    """Yield the diagonal, and IBM Model 1 in both directions."""
    yield "diagonal", [diagonal(*pair) for pair in zip(src, tgt, strict=True)]
    all_src = [*src, *train_src]
    all_tgt = [*tgt, *train_tgt]
    forward = ibm1(all_src, all_tgt)[: len(src)]
    yield "IBM 1", forward
    backward = invert(ibm1(all_tgt, all_src)[: len(src)])
    yield from combinations("IBM 1", forward, backward)


def layers_and_steps(run_dir: Path, src: Sequence[str], tgt: Sequence[str]) -> NamedLinks:
    """Yield the alignments by each layer of a run's decoder, at each step."""
    translator = Translator.load(run_dir)
    src_rows = translator.src_tokenizer.encode(src)
    tgt_rows = translator.tgt_tokenizer.encode(tgt)
    pairs = [Segment(*pair) for pair in zip(src_rows, tgt_rows, strict=True)]
    num_layers = len(translator.model.decoder_layers)
    for layer in range(num_layers):
        for step in STEPS:
            is_default = layer == default_layer(num_layers) and step == "output"
            mark = "*" if is_default else ""
            alignments = align(translator, pairs, layer=layer, step=step)
            yield f"layer {layer + 1} {step}{mark}", [set(links) for links in alignments]


def run_alignments(
    run_dir: Path | None, reverse_run_dir: Path | None, src: list[str], tgt: list[str]
) -> NamedLinks:
    """Yield the alignments of a run, and their combinations with those of the reverse run."""
    if run_dir is None:
        return
    backward = {}
    if reverse_run_dir is not None:
        backward = dict(layers_and_steps(reverse_run_dir, tgt, src))
    for name, forward in layers_and_steps(run_dir, src, tgt):
        yield name, forward
        if name in backward:
            yield from combinations(name, forward, invert(backward[name]))


def all_alignments(options: argparse.Namespace) -> NamedLinks:
    """Yield everything that the options ask for."""
    yield from file_alignments(options.files)
    if options.src is None:
        return
    src = read_lines(options.src)
    tgt = read_lines(options.tgt)
    train_src = read_lines(options.train_src) if options.train_src else []
    train_tgt = read_lines(options.train_tgt) if options.train_tgt else []
    yield from baseline_alignments(src, tgt, train_src=train_src, train_tgt=train_tgt)
    yield from run_alignments(options.run_dir, options.reverse_run_dir, src, tgt)


def parse_range(text: str) -> slice:
    """Return the slice for text such as `0:250`, `250:` or `:`."""
    start, stop = text.split(":")
    return slice(int(start) if start else None, int(stop) if stop else None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gold", type=Path)
    parser.add_argument("files", type=Path, nargs="*")
    for name in ("src", "tgt", "train-src", "train-tgt", "run-dir", "reverse-run-dir"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument(
        "--lines",
        default=":",
        metavar="START:STOP",
        help="the first line that counts, and the first that does not, from 0",
    )
    options = parser.parse_args()

    counted = parse_range(options.lines)
    gold = [read_gold(line) for line in read_lines(options.gold)]
    print(f"{len(gold[counted]):,} sentences")
    print(f"{'':28}    AER  precision  recall   links")
    for name, alignments in all_alignments(options):
        error = alignment_error(alignments[counted], gold[counted])
        print(
            f"{name:28} {error.aer:6.3f} {error.precision:10.3f} {error.recall:7.3f} "
            f"{error.num_links:7,}",
            flush=True,
        )


if __name__ == "__main__":
    main()
