"""Part words from punctuation, as the gold alignments of ../shared/data/align-gold-deen have them parted.

    python -m scripts.alignment.tokenize < train.de > train.words.de

Line i out is line i in. Marks stand alone, but for hyphens and periods inside a word; the period at the end of a word
stands alone unless it ends an abbreviation, or an ordinal number inside a line; the English 's is a word.
"""

from __future__ import annotations

import re
import sys

ABBREVIATIONS = {"bzw", "usw", "etc", "Mio", "Mrd", "ca", "vgl", "evtl"}
MARK = re.compile(r"([^\w\s.'-])")
PERIOD = re.compile(r"(\S*[^\s.])\.(?=\s|$)")
POSSESSIVE = re.compile(r"(?<=\w) ?'s\b")


def split_words(line: str) -> str:
    """The words and marks of a line, parted by single spaces."""
    line = MARK.sub(r" \1 ", line.replace("\u00ad", "-"))  # Europarl has soft hyphens for dashes
    line = POSSESSIVE.sub(" \0s ", line)
    line = line.replace("'", " ' ").replace("\0", "'")
    return " ".join(PERIOD.sub(_split_period, line.rstrip()).split())


def _split_period(found: re.Match[str]) -> str:
    word, ends_line = found[1], not found.string[found.end() :].strip(" \"')")
    kept = word in ABBREVIATIONS or re.fullmatch(r"\d+|[^\W\d]|.*\..*", word)
    return f"{word} ." if ends_line or not kept else found[0]


def main() -> None:
    for line in sys.stdin:
        print(split_words(line))


if __name__ == "__main__":
    main()
