"""The alignment error rate of word alignments against gold ones: of files, of baselines, of a run's layers and steps.

    python -m scripts.alignment.error_rate GOLD FILE.align ...
    python -m scripts.alignment.error_rate GOLD --src FILE --tgt FILE [--run-dir DIR] [--reverse-run-dir DIR]
        [--train-src FILE --train-tgt FILE] [--lines 0:250]

Gold links are `i-j` where sure and `ipj` where possible, source-target, counted from 0; a sure one is possible too.
Och and Ney (2003), section 5, with links A, sure S and possible P, summed over all sentences:

    AER = 1 - (|A & S| + |A & P|) / (|A| + |S|)        precision = |A & P| / |A|        recall = |A & S| / |S|

Beside them stand the diagonal, IBM Model 1 trained on the sentences themselves and on --train-src and --train-tgt, and
each layer and step of the runs (`*`: what `mt align` does if not told otherwise), both directions and symmetrised
(Koehn et al. 2003). --lines says which sentences count, so that what one part has chosen can be tried on the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mt import Translator
from mt.decoding.alignment import AlignmentStep, align, default_layer
from mt.decoding.translator import Segment
from scripts.alignment.ibm1 import Links, ibm1

STEPS: tuple[AlignmentStep, ...] = ("output", "input")


class Gold(NamedTuple):
    """The links of one sentence pair that people have made."""

    sure: Links
    possible: Links  # the sure ones among them


class Error(NamedTuple):
    """How far alignments are from the gold ones."""

    aer: float
    precision: float
    recall: float
    num_links: int


def read_gold(line: str) -> Gold:
    """`0-0 1p2`: the link 0-0 is sure, 1-2 possible."""
    sure = {_link(word, "-") for word in line.split() if "-" in word}
    return Gold(sure, sure | {_link(word, "p") for word in line.split() if "p" in word})


def _link(word: str, mark: str) -> tuple[int, int]:
    i, j = word.split(mark)
    return int(i), int(j)


def alignment_error(found: Sequence[Links], gold: Sequence[Gold]) -> Error:
    """The error rate over all sentences together."""
    pairs = list(zip(found, gold, strict=True))
    num_links, num_sure = sum(map(len, found)), sum(len(each.sure) for each in gold)
    in_sure = sum(len(links & each.sure) for links, each in pairs)
    in_possible = sum(len(links & each.possible) for links, each in pairs)
    aer = 1 - (in_sure + in_possible) / (num_links + num_sure)
    return Error(aer, in_possible / max(num_links, 1), in_sure / num_sure, num_links)


# Baselines and symmetry


def diagonal(src: str, tgt: str) -> Links:
    """Each target word linked to the source word that stands at the same share of the sentence."""
    num_src, num_tgt = len(src.split()), len(tgt.split())
    return {(int((j + 0.5) * num_src / num_tgt), j) for j in range(num_tgt) if num_src}


def turned(links: Links) -> Links:
    return {(j, i) for i, j in links}


def grow_diagonally(forward: Links, backward: Links) -> Links:
    """The links of both directions, and of one only where they stand beside a chosen one and link a word without any.

    Without `final`: a word that has no neighbour stays without a link.
    """
    chosen, rest = forward & backward, sorted(forward ^ backward)
    while True:
        before = len(chosen)
        for i, j in rest:
            is_new = all(i != a for a, _ in chosen) or all(j != b for _, b in chosen)
            if (
                (i, j) not in chosen
                and is_new
                and any(abs(i - a) <= 1 and abs(j - b) <= 1 for a, b in chosen)
            ):
                chosen.add((i, j))
        if len(chosen) == before:
            return chosen


SYMMETRIES: dict[str, Callable[[Links, Links], Links]] = {
    "intersection": lambda forward, backward: forward & backward,
    "grow-diag": grow_diagonally,
    "union": lambda forward, backward: forward | backward,
}

# What is scored

Answers = Iterator[tuple[str, list[Links]]]  # a name and the links of every sentence


def both_ways(name: str, forward: list[Links], backward: list[Links]) -> Answers:
    """Two directions, the second turned already, and what can be made of both."""
    yield f"{name} reverse", backward
    for symmetry, join in SYMMETRIES.items():
        yield f"{name} {symmetry}", list(map(join, forward, backward))


def layers_and_steps(
    run_dir: Path, src: Sequence[str], tgt: Sequence[str]
) -> Iterator[tuple[str, list[Links]]]:
    """The links by each layer of a run's decoder at each step."""
    translator = Translator.load(run_dir)
    sides = translator.src_tokenizer.encode(src), translator.tgt_tokenizer.encode(tgt)
    pairs = [Segment(*pair) for pair in zip(*sides, strict=True)]
    num_layers = len(translator.model.decoder_layers)
    for layer in range(num_layers):
        for step in STEPS:
            mark = "*" if (layer, step) == (default_layer(num_layers), "output") else ""
            yield (
                f"layer {layer + 1} {step}{mark}",
                [set(links) for links in align(translator, pairs, layer=layer, step=step)],
            )


def all_answers(options: argparse.Namespace, src: list[str], tgt: list[str]) -> Answers:
    """The baselines, then the runs."""
    yield "diagonal", list(map(diagonal, src, tgt))
    train = [_read(path) if path else [] for path in (options.train_src, options.train_tgt)]
    forward = ibm1([*src, *train[0]], [*tgt, *train[1]])[: len(src)]
    yield "IBM 1", forward
    yield from both_ways(
        "IBM 1", forward, list(map(turned, ibm1([*tgt, *train[1]], [*src, *train[0]])[: len(src)]))
    )
    runs = [(options.run_dir, src, tgt), (options.reverse_run_dir, tgt, src)]
    found = [dict(layers_and_steps(*run)) if run[0] else {} for run in runs]
    for name, links in found[0].items():
        yield name, links
        if name in found[1]:
            yield from both_ways(name, links, list(map(turned, found[1][name])))


def _read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


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
        help="the first line that counts, and the first that does not, from 0",
    )
    options = parser.parse_args()

    gold = [read_gold(line) for line in _read(options.gold)]
    counted = slice(*(int(number) if number else None for number in options.lines.split(":")))
    answers: list[tuple[str, list[Links]]] = []
    print(f"{len(gold[counted]):,} sentences\n{'':28}    AER  precision  recall   links")
    answers = (
        (str(path), [set(read_gold(line).possible) for line in _read(path)])
        for path in options.files
    )
    for source in (
        answers,
        all_answers(options, _read(options.src), _read(options.tgt)) if options.src else (),
    ):
        for name, links in source:
            error = alignment_error(links[counted], gold[counted])
            print(
                f"{name:28} {error.aer:6.3f} {error.precision:10.3f} {error.recall:7.3f} {error.num_links:7,}",
                flush=True,
            )


if __name__ == "__main__":
    main()
