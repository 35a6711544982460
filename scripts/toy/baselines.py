"""What a toy translator must beat: BLEU on the test set without understanding, and without looking at the source.

    python -m scripts.toy.baselines [RUN_DIR]

Nearest neighbour: the translation of the most similar training sentence. Several notions of similarity are tried, and
each is scored, so that the best of them stands for the lookup. With a RUN_DIR also that model with the output of its
cross-attention set to zero, so that it writes German without having seen the English.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sacrebleu.metrics.bleu import BLEU

from mt import Translator

DATA = Path(__file__).resolve().parents[2] / "data" / "toy"
NUM_CANDIDATES = 100
FloatArray = npt.NDArray[np.float64]


def tokens(text: str) -> list[str]:
    return re.findall(r"[\w'-]+|[.,?]", text.lower())


class Index:
    """Training sources as word counts, turned around: word -> the lines that hold it."""

    def __init__(self, sources: list[list[str]]) -> None:
        self.num_lines = len(sources)
        word_sets = [dict.fromkeys(source) for source in sources]
        lines_of: dict[str, list[int]] = {}
        for line, words in enumerate(word_sets):
            for word in words:
                lines_of.setdefault(word, []).append(line)
        self.lines_of = {word: np.array(lines) for word, lines in lines_of.items()}
        self.idf = {
            word: float(np.log(self.num_lines / len(lines))) for word, lines in lines_of.items()
        }
        self.norms = np.array(
            [sum(self.idf[word] ** 2 for word in words) ** 0.5 for words in word_sets]
        )
        self.roots = np.array([len(words) ** 0.5 for words in word_sets])

    def cosine(self, source: list[str], *, weighted: bool) -> FloatArray:
        """Similarity to every line, (num_lines,): the cosine of word sets, rare words first if `weighted`."""
        scores: FloatArray = np.zeros(self.num_lines)
        for word in set(source) & self.lines_of.keys():
            scores[self.lines_of[word]] += self.idf[word] ** 2 if weighted else 1.0
        scores /= self.norms if weighted else self.roots
        return scores


def edit_similarity(left: list[str], right: list[str]) -> float:
    return SequenceMatcher(None, left, right, autojunk=False).ratio()


def bigram_overlap(left: list[str], right: list[str]) -> float:
    """The shared share of words and word pairs: what BLEU would like."""
    grams = [Counter(side) + Counter(pairwise(side)) for side in (left, right)]
    return 2 * (grams[0] & grams[1]).total() / (grams[0].total() + grams[1].total())


SIMILARITIES: dict[str, Callable[[list[str], list[str]], float]] = {
    "edit distance": edit_similarity,
    "words and word pairs": bigram_overlap,
}


def look_up(source: list[str], index: Index, train: list[list[str]]) -> dict[str, int]:
    """The most similar training line by each similarity; the best hundred by shared words are looked at closely."""
    weighted, plain = index.cosine(source, weighted=True), index.cosine(source, weighted=False)
    candidates = sorted(
        {int(i) for s in (weighted, plain) for i in np.argsort(-s, kind="stable")[:NUM_CANDIDATES]}
    )
    found = {"rare shared words": int(weighted.argmax())}
    for name, similarity in SIMILARITIES.items():
        found[name] = max(candidates, key=lambda line: similarity(source, train[line]))
    return found


def translate_blindly(run_dir: Path, sources: list[str]) -> list[str]:
    """Translate with the run's best model, its cross-attention adding nothing."""
    translator = Translator.load(run_dir)
    for name, parameter in translator.model.named_parameters():
        if ".cross_attention.output." in name:
            torch.nn.init.zeros_(parameter)
    return translator.translate(sources)


def read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    data = arguments.data
    train, targets = [tokens(line) for line in read(data / "train.en")], read(data / "train.de")
    index, bleu = Index(train), BLEU()
    for name in ("test", "test_unseen"):
        found = [look_up(tokens(line), index, train) for line in read(data / f"{name}.en")]
        references = [read(data / f"{name}.de")]
        scores = {
            by: bleu.corpus_score([targets[f[by]] for f in found], references).score
            for by in found[0]
        }
        listed = ", ".join(f"{score:.1f} by {by}" for by, score in scores.items())
        print(f"nearest neighbour, {name}: BLEU {max(scores.values()):.1f} ({listed})")
    if arguments.run_dir is not None:
        blind = translate_blindly(arguments.run_dir, read(data / "test.en"))
        score = bleu.corpus_score(blind, [read(data / "test.de")]).score
        print(f"cross-attention zeroed, test: BLEU {score:.1f}")
    print(f"signature: {bleu.get_signature()}")


if __name__ == "__main__":
    main()
