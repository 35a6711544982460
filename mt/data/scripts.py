"""The scripts of a text, such as Latin, and their shares of its letters."""

import unicodedata
from collections import Counter
from functools import cache
from typing import NamedTuple

MIN_SCRIPT_FRACTION = 0.01  # of the letters; a script with less is not worth a line


class ScriptShare(NamedTuple):
    """A script, such as "Latin", and its share of the letters of a text."""

    name: str
    share: float


def find_scripts(characters: Counter[str]) -> tuple[ScriptShare, ...]:
    """Return the scripts of the letters in a text and their shares, the most frequent one first."""
    counts: Counter[str] = Counter()
    for character, count in characters.items():
        if character.isalpha():
            counts[script_of_letter(character)] += count
    total = counts.total()
    return tuple(
        ScriptShare(name, count / total)
        for name, count in counts.most_common()
        if count >= MIN_SCRIPT_FRACTION * total
    )


@cache
def script_of_letter(letter: str) -> str:
    """Return the script of a letter, such as "Latin".

    Python knows no scripts, so this is the first word of the letter's Unicode name.
    """
    name = unicodedata.name(letter, "unknown").split()[0]
    return "CJK" if name == "CJK" else name.capitalize()
