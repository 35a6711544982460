"""Compute BLEU scores on the toy test sets that a translator must exceed to have learned anything.

    python -m scripts.toy.baselines [RUN_DIR]

Nearest neighbor: the translation of the most similar training sentence. Several similarities are
tried and scored, and the best score counts. With RUN_DIR also this model with the output of its
cross-attention set to zero, so that it writes German without seeing the English.
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

ROOT = Path(__file__).resolve().parents[2]
NUM_CANDIDATES = 100
FloatArray = npt.NDArray[np.float64]
Tokens = list[str]


def tokenize(text: str) -> Tokens:
    return re.findall(r"[\w'-]+|[.,?]", text.lower())


class InvertedIndex:
    """An index of training sentences by the words that they have."""

    def __init__(self, sentences: list[Tokens]) -> None:
        self.num_lines = len(sentences)
        word_sets = [dict.fromkeys(sentence) for sentence in sentences]  # in a fixed order
        lines_of: dict[str, list[int]] = {}
        for line, words in enumerate(word_sets):
            for word in words:
                lines_of.setdefault(word, []).append(line)
        self.lines_of: dict[str, npt.NDArray[np.int64]] = {}
        self.idf: dict[str, float] = {}  # inverse document frequency
        for word, lines in lines_of.items():
            self.lines_of[word] = np.array(lines)
            self.idf[word] = float(np.log(self.num_lines / len(lines)))
        # The lengths of the word vectors, with and without weights.
        self.weighted_norms = np.array(
            [sum(self.idf[word] ** 2 for word in words) ** 0.5 for words in word_sets]
        )
        self.plain_norms = np.array([len(words) ** 0.5 for words in word_sets])

    def cosine(self, sentence: Tokens, *, weighted: bool) -> FloatArray:
        """Return the similarity to every line, (num_lines,), up to a constant factor.

        It is the cosine between the sets of words, where rare words weigh more if `weighted`.
        """
        scores: FloatArray = np.zeros(self.num_lines)
        for word in set(sentence) & self.lines_of.keys():
            scores[self.lines_of[word]] += self.idf[word] ** 2 if weighted else 1.0
        scores /= self.weighted_norms if weighted else self.plain_norms
        return scores


def edit_similarity(left: Tokens, right: Tokens) -> float:
    return SequenceMatcher(None, left, right, autojunk=False).ratio()


def bigram_overlap(left: Tokens, right: Tokens) -> float:
    """Return the share of words and word pairs in common, which is close to what BLEU measures."""
    left_grams = Counter(left) + Counter(pairwise(left))
    right_grams = Counter(right) + Counter(pairwise(right))
    num_common = (left_grams & right_grams).total()
    return 2 * num_common / (left_grams.total() + right_grams.total())


RARE_WORDS = "rare shared words"
SIMILARITIES: dict[str, Callable[[Tokens, Tokens], float]] = {
    "edit distance": edit_similarity,
    "words and word pairs": bigram_overlap,
}


def nearest_lines(sentence: Tokens, index: InvertedIndex, train: list[Tokens]) -> dict[str, int]:
    """Return the most similar training line by each similarity.

    The slow similarities are computed for the lines that have the most words in common.
    """
    weighted = index.cosine(sentence, weighted=True)
    plain = index.cosine(sentence, weighted=False)
    candidates: set[int] = set()
    for scores in (weighted, plain):
        best = np.argsort(-scores, kind="stable")[:NUM_CANDIDATES]
        candidates.update(int(line) for line in best)
    nearest = {RARE_WORDS: int(weighted.argmax())}
    for name, similarity in SIMILARITIES.items():
        best_score = -1.0
        for line in sorted(candidates):  # of equal ones, the first line counts
            score = similarity(sentence, train[line])
            if score > best_score:
                best_score = score
                nearest[name] = line
    return nearest


def score_nearest_neighbors(directory: Path, name: str, bleu: BLEU) -> dict[str, float]:
    """Return the BLEU of a test set by the similarity that chooses the training sentences."""
    train = [tokenize(line) for line in read_lines(directory / "train.en")]
    train_targets = read_lines(directory / "train.de")
    references = read_lines(directory / f"{name}.de")
    index = InvertedIndex(train)
    sentences = [tokenize(line) for line in read_lines(directory / f"{name}.en")]
    nearest = [nearest_lines(sentence, index, train) for sentence in sentences]
    scores = {}
    for similarity in (RARE_WORDS, *SIMILARITIES):
        translations = [train_targets[lines[similarity]] for lines in nearest]
        scores[similarity] = bleu.corpus_score(translations, [references]).score
    return scores


def translate_without_source(run_dir: Path, sources: list[str]) -> list[str]:
    """Translate with the run's best model, with its cross-attention set to zero."""
    translator = Translator.load(run_dir)
    for name, parameter in translator.model.named_parameters():
        if ".cross_attention.output." in name:
            torch.nn.init.zeros_(parameter)
    return translator.translate(sources)


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "toy")
    options = parser.parse_args()

    bleu = BLEU()
    for name in ("test", "test_unseen"):
        scores = score_nearest_neighbors(options.data, name, bleu)
        listed = ", ".join(f"{score:.1f} by {similarity}" for similarity, score in scores.items())
        print(f"nearest neighbor, {name}: BLEU {max(scores.values()):.1f} ({listed})")
    if options.run_dir is not None:
        sources = read_lines(options.data / "test.en")
        references = read_lines(options.data / "test.de")
        translations = translate_without_source(options.run_dir, sources)
        score = bleu.corpus_score(translations, [references]).score
        print(f"cross-attention set to zero, test: BLEU {score:.1f}")
    print(f"signature: {bleu.get_signature()}")


if __name__ == "__main__":
    main()
