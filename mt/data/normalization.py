"""Normalization: the form of a text before tokenization, in training and translation alike.

Texts that look the same can differ in their characters: an accented letter is one character or two,
a space may be a no-break space, and a character of width zero may stand anywhere. A model knows
only the characters that it was trained with, so all texts are brought into one form.
"""

import re
import sys
import unicodedata
from collections import Counter
from typing import Literal

from mt.config.choices import Normalization
from mt.data.tokenizer import Tokenizer
from mt.wording import count_of

# Characters of width zero that have no meaning: soft hyphen, word joiner and byte order mark
# anywhere, and U+200B except in scripts of South-East Asia, where it separates words.
WITHOUT_MEANING = re.compile(
    "[\u00ad\u2060\ufeff]|(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b"
)

# The joiners U+200C and U+200D change letters of Persian and of Indic scripts, and join emoji. They
# have no meaning after a Latin, Greek or Cyrillic letter with its accents, punctuation or a space.
JOINERS = "\u200c\u200d"
ACCENTS = "\u0300-\u036f\u0483-\u0489\u20d0-\u20ff"
JOINABLE = "\u0590-\u167f\u1681-\u1dff\u2190-\u2fff\u3001-\ufefe\uff00-\U0010ffff"
_NOT_JOINED = re.compile(f"(?:^|[^{JOINABLE}{ACCENTS}{JOINERS}])[{ACCENTS}{JOINERS}]+")

# Few texts have one of these. The others need no further look.
_ZERO_WIDTH = re.compile(f"[\u00ad\u200b\u2060\ufeff{JOINERS}]")

# Invisible characters: those of these categories (control and format characters,
# and spaces), fillers, the empty Braille cell, and variation selectors.
_INVISIBLE_CATEGORIES = {"Cc", "Cf", "Zs", "Zl", "Zp"}
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)

# Characters that can stand for each other. A character without a piece is replaced by the
# first one of its group that has a piece. If none of the group has a piece, a quotation mark is
# deleted and a dash becomes a space.
_DOUBLE_QUOTES = '"\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033'
_SINGLE_QUOTES = "'\u2019\u2018\u201a\u201b\u2039\u203a`\u00b4\u02bc\u2032"
_DASHES = "-\u2010\u2011\u2013\u2014\u2012\u2015\u2212"
_SUBSTITUTES = {
    **dict.fromkeys(_DOUBLE_QUOTES, (*_DOUBLE_QUOTES, "")),
    **dict.fromkeys(_SINGLE_QUOTES, (*_SINGLE_QUOTES, "")),
    **dict.fromkeys(_DASHES, (*_DASHES, " ")),
}

# Unicode's names of the forms.
_UNICODE_FORMS: dict[str, Literal["NFC", "NFKC"]] = {"nfc": "NFC", "nfkc": "NFKC"}

NUM_SHOWN = 5  # characters that a message names

_ACCENT = re.compile(f"[{ACCENTS}]")


def normalize(text: str, form: Normalization) -> str:
    """Return the text in a Unicode normalization form, with single spaces and none at its ends.

    Characters of width zero that have no meaning are removed. The form "none" changes nothing.
    """
    if form == "none":
        return text
    if not text.isascii():
        unicode_form = _UNICODE_FORMS[form]
        text = unicodedata.normalize(unicode_form, text)
        if _ZERO_WIDTH.search(text):
            # A letter and an accent may meet where a character is removed.
            text = unicodedata.normalize(unicode_form, remove_zero_width(text))
    return " ".join(text.split())


def remove_zero_width(text: str) -> str:
    """Return the text without the characters of width zero that have no meaning."""
    text = WITHOUT_MEANING.sub("", text)
    return _NOT_JOINED.sub(lambda match: re.sub(f"[{JOINERS}]", "", match[0]), text)


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character."""
    return all(_is_invisible(character) for character in text)


def is_blank_line(text: str, form: Normalization) -> bool:
    """Return whether a line of training text is left out because it has no visible character.

    Before normalization existed, mt left out only lines of white space. An old run must resume with
    the same data, so the form "none" keeps that rule.
    """
    if form == "none":
        return not text.strip()
    return is_blank(text)


class Normalizer:
    """Prepares texts for a model: normalizes them, and replaces characters without a piece.

    The model has learned little about the bytes of a character without a piece. So it is replaced
    by characters that have a piece, if there are any of the same meaning. All other characters stay
    as they are. With the form "none", the text does not change.
    """

    def __init__(self, form: Normalization, tokenizer: Tokenizer) -> None:
        self.form = form
        self._tokenizer = tokenizer
        self._replacements: dict[str, str] = {}  # of the characters seen so far

    def __call__(self, text: str) -> str:
        if self.form == "none":
            return text
        text = normalize(text, self.form)
        unseen = self._without_piece(text)
        if not unseen:
            return text
        for character in unseen:
            if character not in self._replacements:
                self._replacements[character] = self._replace(character)
        replaced = "".join(
            self._replacements[character] if character in unseen else character
            for character in text
        )
        return normalize(replaced, self.form)  # where a character vanished, two spaces may meet

    def unseen_characters(self, text: str) -> set[str]:
        """Return the characters without a piece that the text has once it is normalized."""
        return self._without_piece(normalize(text, self.form))

    def replaced_characters(self) -> dict[str, str]:
        """Return the replacement of each character that has no piece and is replaced.

        Characters that Unicode's form replaces are left out.
        """
        if self.form == "none":
            return {}
        replaced = {}
        for character in filter(_may_be_replaced, map(chr, range(sys.maxunicode + 1))):
            is_stable = unicodedata.normalize(_UNICODE_FORMS[self.form], character) == character
            if self._is_known(character) or not is_stable:
                continue
            replacement = self._replace(character)
            if replacement != character:
                replaced[character] = replacement
        return replaced

    def _without_piece(self, text: str) -> set[str]:
        """Return the characters of a normalized text that have no piece."""
        return {character for character in set(text) if not self._is_known(character)}

    def _replace(self, character: str) -> str:
        """Return what a character without a piece becomes; itself if nothing fits."""
        if _is_invisible(character):
            return ""
        compatible = unicodedata.normalize("NFKC", character)
        without_accent = _ACCENT.sub("", unicodedata.normalize("NFD", character))
        candidates = (
            self._substitute(character),
            "".join(self._substitute(part) for part in compatible),
            without_accent,
        )
        return next(filter(self._is_known, candidates), character)

    def _substitute(self, character: str) -> str:
        """Return the first known substitute of a character; itself if it is known or has none."""
        if self._is_known(character):
            return character
        return next(filter(self._is_known, _SUBSTITUTES.get(character, ())), character)

    def _is_known(self, text: str) -> bool:
        """Return whether all characters of a text have pieces."""
        return all(self._tokenizer.has_piece(character) for character in text)


def describe_characters(counts: Counter[str]) -> str:
    """Return the most frequent characters, each with its code and its number of lines."""
    texts = []
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for character, num_lines in ranked[:NUM_SHOWN]:
        code = f"U+{ord(character):04X}"
        name = f"{character} ({code})" if character.isprintable() else code
        texts.append(f"{name} in {count_of(num_lines, 'line')}")
    if len(counts) > NUM_SHOWN:
        texts.append("...")
    return ", ".join(texts)


def _may_be_replaced(character: str) -> bool:
    """Return whether a character has other characters of the same meaning, or none."""
    is_composed = unicodedata.decomposition(character) != ""
    is_accent = _ACCENT.match(character) is not None
    return is_composed or is_accent or character in _SUBSTITUTES or _is_invisible(character)


def _is_invisible(character: str) -> bool:
    """Return whether a character is drawn as nothing."""
    is_format = unicodedata.category(character) in _INVISIBLE_CATEGORIES
    return is_format or _INVISIBLE.match(character) is not None
