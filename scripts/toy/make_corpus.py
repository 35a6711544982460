"""Write the toy corpus: English-German sentence pairs from a small grammar, with gold alignments.

    python -m scripts.toy.make_corpus            # writes data/toy, byte for byte the same
    everywhere python -m scripts.toy.make_corpus --help

lexicon.py has the words, grammar.py says a planned sentence in both languages, author.py plans
sentences at random. This script divides them into train, valid and test, so that some combinations
of a verb and a noun are only in test.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from scripts.toy.author import Author, RandomChoices, Sentence
from scripts.toy.grammar import Line, write_line
from scripts.toy.lexicon import NAMES, NEW_NAMES, VERBS, nouns_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = (
    "The old woman sees a small dog."  # the example of the README, which is in none of the sets
)
MAX_GERMAN_WORDS = 16
MIN_COUNT = 5  # of a word in train, for it to be used in valid and test

Combination = tuple[str, str, str]  # verb, role of the noun (subject, acc or dat), noun

# The kinds of sentences that are distributed to the sets in different ways.
PLAIN = "plain"
UNSEEN = "unseen"  # has a combination that train and valid do not have
NEW_NAME = "new_name"  # has a name that train and valid do not have


class Corpus(NamedTuple):
    train: list[Line]
    valid: list[Line]
    test: list[Line]
    unseen: list[Line]  # the lines of test with a combination that train and valid do not have


def choose_held_out(choices: RandomChoices, share: float = 0.1) -> set[Combination]:
    """Choose combinations of a verb with its subject or object that train and valid never have."""
    held_out = set()
    for verb in VERBS.values():
        roles = [("subject", verb.subjects)]
        roles += [(slot.case, slot.kinds) for slot in verb.slots]
        for role, kinds in roles:
            for noun in nouns_of(kinds):
                if choices.chance(share):
                    held_out.add((verb.english, role, noun.english))
    return held_out


def bare_words(text: str) -> list[str]:
    """Return the words in lower case, without punctuation and without the s of an owner's name."""
    names = {name.lower() for name in (*NAMES, *NEW_NAMES)}
    words = []
    for word in text.split():
        word = word.strip(".,?").lower()
        stem = word.removesuffix("s").removesuffix("'")
        words.append(stem if stem in names else word)
    return words


def words_of_line(line: Line) -> list[str]:
    return bare_words(line.src) + bare_words(line.tgt)


def has_held_out(sentence: Sentence, held_out: set[Combination]) -> bool:
    for clause in sentence.clauses:
        for combination in clause.combinations():
            if combination in held_out:
                return True
    return False


def distinct_lines(
    choices: RandomChoices, held_out: set[Combination]
) -> Iterator[tuple[str, Line]]:
    """Yield lines without end, each with its kind: PLAIN, UNSEEN or NEW_NAME.

    No source comes twice.
    """
    author = Author(choices)
    new_names = {name.lower() for name in NEW_NAMES}
    target_of: dict[str, str] = {}  # by source
    while True:
        sentence = author.sentence()
        line = write_line(sentence.phrase, sentence.end)
        if len(line.tgt.split()) > MAX_GERMAN_WORDS or line.src == EXAMPLE:
            continue
        if line.src in target_of:
            assert target_of[line.src] == line.tgt, (
                f"two translations: {line}, {target_of[line.src]!r}"
            )
            continue
        target_of[line.src] = line.tgt

        is_unseen = has_held_out(sentence, held_out)
        has_new_name = not new_names.isdisjoint(bare_words(line.src))
        if is_unseen and has_new_name:
            continue
        if is_unseen:
            yield UNSEEN, line
        elif has_new_name:
            yield NEW_NAME, line
        else:
            yield PLAIN, line


def make_corpus(seed: int, *, train: int = 20_000, valid: int = 500, test: int = 500) -> Corpus:
    """Make a corpus with these numbers of lines.

    30 % of test has a held-out combination, 2 % has a new name. All other words of valid and test
    are frequent in train.
    """
    choices = RandomChoices(seed)
    lines = distinct_lines(choices, choose_held_out(choices))
    training_lines = list(islice((line for kind, line in lines if kind == PLAIN), train))

    counts = Counter(word for line in training_lines for word in words_of_line(line))
    known_words = {word for word, count in counts.items() if count >= MIN_COUNT}
    known_words |= {name.lower() for name in NEW_NAMES}

    num_unseen = test * 3 // 10
    num_new_name = test // 50
    wanted = {
        UNSEEN: num_unseen,
        NEW_NAME: num_new_name,
        PLAIN: valid + test - num_unseen - num_new_name,
    }
    drawn: dict[str, list[Line]] = {kind: [] for kind in wanted}
    while any(len(drawn[kind]) < wanted[kind] for kind in wanted):
        kind, line = next(lines)
        is_wanted = len(drawn[kind]) < wanted[kind]
        if is_wanted and known_words.issuperset(words_of_line(line)):
            drawn[kind].append(line)

    test_lines = drawn[PLAIN][valid:] + drawn[UNSEEN] + drawn[NEW_NAME]
    choices.shuffle(test_lines)
    unseen_lines = [line for line in test_lines if line in drawn[UNSEEN]]
    return Corpus(training_lines, drawn[PLAIN][:valid], test_lines, unseen_lines)


def write_corpus(corpus: Corpus, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    sets = {
        "train": corpus.train,
        "valid": corpus.valid,
        "test": corpus.test,
        "test_unseen": corpus.unseen,
    }
    for name, lines in sets.items():
        write_lines(directory / f"{name}.en", [line.src for line in lines])
        write_lines(directory / f"{name}.de", [line.tgt for line in lines])
    for name in ("valid", "test"):
        write_lines(directory / f"{name}.align", [format_links(line) for line in sets[name]])


def format_links(line: Line) -> str:
    """Return the alignment of a line in the Pharaoh format."""
    return " ".join(f"{i}-{j}" for i, j in line.links)


def write_lines(path: Path, lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(text.encode())  # as bytes, so that no system changes the line breaks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "toy")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    write_corpus(make_corpus(options.seed), options.out)


if __name__ == "__main__":
    main()
