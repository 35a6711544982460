"""Separate words from punctuation, as the gold alignments of German-English Europarl do.

    python -m scripts.alignment.tokenize < train.de > train.words.de

Line i of the output is line i of the input. Each punctuation mark is a word, except hyphens and
periods inside of a word. A period at the end of a word is a word, except in an abbreviation, and
except in an ordinal number that is not at the end of its line. The English 's is a word.
"""

from __future__ import annotations

import re
import sys

ABBREVIATIONS = {"bzw", "usw", "etc", "Mio", "Mrd", "ca", "vgl", "evtl"}
SOFT_HYPHEN = "\u00ad"
MARK = re.compile(r"([^\w\s.'-])")
WORD_WITH_PERIOD = re.compile(r"(\S*[^\s.])\.(?=\s|$)")
POSSESSIVE = re.compile(r"(?<=\w) ?'s\b")
# Besides ABBREVIATIONS: numbers, single letters, and words with a period inside.
KEEPS_PERIOD = re.compile(r"\d+|[^\W\d]|.*\..*")


def split_words(line: str) -> str:
    """Return the words and marks of a line, separated by single spaces."""
    line = line.replace(SOFT_HYPHEN, "-")  # Europarl has soft hyphens for dashes
    line = MARK.sub(r" \1 ", line)
    line = POSSESSIVE.sub(" \0s ", line)  # \0 stands for an apostrophe that is not separated
    line = line.replace("'", " ' ")
    line = line.replace("\0", "'")
    line = WORD_WITH_PERIOD.sub(separate_period, line.rstrip())
    return " ".join(line.split())


def separate_period(match: re.Match[str]) -> str:
    word = match[1]
    rest_of_line = match.string[match.end() :].strip(" \"')")
    is_abbreviation = word in ABBREVIATIONS or KEEPS_PERIOD.fullmatch(word)
    if rest_of_line and is_abbreviation:
        return match[0]
    return f"{word} ."


def main() -> None:
    for line in sys.stdin:
        print(split_words(line))


if __name__ == "__main__":
    main()
