"""Words of a text, also of a text in a script that is written without spaces.

Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and some other languages have no spaces
between words. There, each character counts as a word of its own.
"""

import re
import unicodedata
from collections.abc import Sequence

# The first and last characters of the Unicode blocks of scripts without spaces between words, and
# of the punctuation that belongs to them.
_RANGES = (
    ("\u0e00", "\u0fff"),  # Thai, Lao, Tibetan
    ("\u1000", "\u109f"),  # Myanmar
    ("\u1780", "\u17ff"),  # Khmer
    ("\u1950", "\u19ff"),  # Tai Le, New Tai Lue, Khmer symbols
    ("\u1a20", "\u1aaf"),  # Tai Tham
    ("\u2e80", "\u2fff"),  # radicals of Chinese characters
    ("\u3001", "\u312f"),  # CJK punctuation, hiragana, katakana, bopomofo
    ("\u3190", "\u4dbf"),  # marks, strokes and enclosed characters, Chinese characters (A)
    ("\u4e00", "\u9fff"),  # Chinese characters
    ("\ua9e0", "\ua9ff"),  # Myanmar (B)
    ("\uaa60", "\uaadf"),  # Myanmar (A), Tai Viet
    ("\uf900", "\ufaff"),  # compatibility forms of Chinese characters
    ("\ufe30", "\ufe4f"),  # compatibility forms of CJK punctuation
    ("\uff01", "\uff9f"),  # full-width forms and half-width katakana
    ("\U0001b000", "\U0001b16f"),  # rare kana
    ("\U00020000", "\U0003ffff"),  # rare Chinese characters
)


def _is_combining(character: str) -> bool:
    """Return whether a character is a combining mark, such as an accent or a vowel sign."""
    return unicodedata.category(character).startswith("M")


def _combining_marks() -> str:
    """Return the combining marks of all ranges but the last, which is large and has none."""
    characters = (chr(c) for first, last in _RANGES[:-1] for c in range(ord(first), ord(last) + 1))
    return "".join(character for character in characters if _is_combining(character))


# Parts of a regular expression, to be put between [ and ].
UNSPACED = "".join(f"{first}-{last}" for first, last in _RANGES)
UNSPACED_MARKS = _combining_marks() + "\u200b-\u200d\ufe00-\ufe0f"  # joiners, variation selectors

_UNSPACED_WORD = f"[{UNSPACED}][{UNSPACED_MARKS}]*"
_SPACED_CHARACTER = rf"[^ \t\n\r\x0b\x0c{UNSPACED}]"
_WORD = re.compile(
    f"{_UNSPACED_WORD}|{_SPACED_CHARACTER}(?:{_SPACED_CHARACTER}|[{UNSPACED_MARKS}])*"
)
_UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")

# A text with fewer words a line than this seems to have no spaces between words.
MIN_WORDS_PER_LINE = 1.5
# A text with more characters of scripts without spaces a word than this seems to have none, either.
# Where somebody has put spaces between words of Chinese, Japanese or Thai, the words have 2 to 5
# characters.
MAX_UNSPACED_CHARACTERS_PER_WORD = 8.0


def find_words(text: str) -> list[re.Match[str]]:
    """Return the place of each word: what is between ASCII white space, as in Moses and fast_align.

    A character of a script without spaces, with its combining marks, is a word of its own.
    """
    return list(_WORD.finditer(text))


def split_words(text: str) -> list[str]:
    """Return the words of a text: see `find_words`."""
    return _WORD.findall(text)


def lacks_spaces(lines: Sequence[str]) -> bool:
    """Return whether the lines seem to have no spaces between words.

    They have about one word a line, or words with many characters of scripts without spaces. Blank
    lines do not count.
    """
    lines = [line for line in lines if line.strip()]
    num_words = sum(len(line.split()) for line in lines)
    num_unspaced = sum(len(_UNSPACED_CHARACTER.findall(line)) for line in lines)
    is_one_word_a_line = num_words < MIN_WORDS_PER_LINE * len(lines)
    has_long_words = num_unspaced > MAX_UNSPACED_CHARACTERS_PER_WORD * num_words
    return is_one_word_a_line or has_long_words
