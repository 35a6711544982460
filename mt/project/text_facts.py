"""Facts about a parallel text that decide the settings of a model: amount, characters, words."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from mt.data.normalization import normalize
from mt.data.scripts import ScriptShare, find_scripts
from mt.data.words import split_words

# Letters in a row: SentencePiece makes at least one subword of each that is different. A longer row
# than 15 letters can be cut: a subword has 16 characters at most, the mark of a space included.
_LETTERS = re.compile(r"[^\W\d_]{2,15}")

# A text with more different words than this can fill the vocabulary of every model.
MAX_WORD_TYPES = 100_000

# Tokens of a word, the ends of sentences included. With 4,000 subwords on two languages, it is 1.5
# to 1.7 on Tatoeba and Multi30k, 2.0 on English and Swahili news, and 1.0 in Japanese, where each
# character counts as a word.
TOKENS_PER_WORD = 1.6

# The frequent characters are those that make up this share of the text, as SentencePiece counts it
# for `tokenizer.character_coverage`.
REDUCED_COVERAGE = 0.9995


@dataclass(frozen=True)
class SideFacts:
    """One side of a text."""

    num_words: int
    num_characters: int
    scripts: tuple[ScriptShare, ...]  # the most frequent ones, in this order

    def scaled(self, factor: float) -> Self:
        """Return the facts of a text that is `factor` times as long."""
        return replace(
            self,
            num_words=round(factor * self.num_words),
            num_characters=round(factor * self.num_characters),
        )


@dataclass(frozen=True)
class TextFacts:
    """A text as the rules in `mt.project.settings` see it."""

    num_pairs: int
    src: SideFacts
    tgt: SideFacts

    # On both sides together, without spaces: all characters, and those of REDUCED_COVERAGE.
    num_different_characters: int
    num_frequent_characters: int

    # Different rows of letters on both sides together, about MAX_WORD_TYPES at most.
    num_word_types: int

    @property
    def tokens_per_epoch(self) -> int:
        """About how many tokens the longer side has."""
        num_words = max(self.src.num_words, self.tgt.num_words)
        return max(1, round(num_words * TOKENS_PER_WORD))

    @property
    def tokens_per_pair(self) -> float:
        """About how many tokens the longer side of a pair has."""
        return self.tokens_per_epoch / max(1, self.num_pairs)

    def scaled(self, *, num_pairs: int) -> Self:
        """Return the facts of a text of `num_pairs`, of which this one is a sample."""
        factor = num_pairs / max(1, self.num_pairs)
        return replace(
            self, num_pairs=num_pairs, src=self.src.scaled(factor), tgt=self.tgt.scaled(factor)
        )


def measure_text(pairs: Iterable[tuple[str, str]]) -> TextFacts:
    """Read a text once and return its facts."""
    num_pairs = 0
    num_words = [0, 0]
    characters: list[Counter[str]] = [Counter(), Counter()]
    word_types: set[str] = set()
    for pair in pairs:
        num_pairs += 1
        for side, text in enumerate(pair):
            text = normalize(text, "nfc")
            num_words[side] += len(split_words(text))
            characters[side].update(text)
            if len(word_types) < MAX_WORD_TYPES:
                word_types.update(_LETTERS.findall(text))
    all_characters = characters[0] + characters[1]
    del all_characters[" "]
    src, tgt = (
        SideFacts(
            num_words=num_words[side],
            num_characters=characters[side].total(),
            scripts=find_scripts(characters[side]),
        )
        for side in (0, 1)
    )
    return TextFacts(
        num_pairs=num_pairs,
        src=src,
        tgt=tgt,
        num_different_characters=len(all_characters),
        num_frequent_characters=count_frequent(all_characters),
        num_word_types=len(word_types),
    )


def count_frequent(characters: Counter[str]) -> int:
    """Return how many characters, the most frequent ones, make up REDUCED_COVERAGE of a text."""
    wanted = REDUCED_COVERAGE * characters.total()
    num_frequent = 0
    num_covered = 0
    for _, count in characters.most_common():
        if num_covered >= wanted:
            break
        num_covered += count
        num_frequent += 1
    return num_frequent
