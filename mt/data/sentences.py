"""Places to cut a line of text: ends of sentences, other punctuation, spaces and graphemes.

The rules are the same for all languages, because a run knows no more of a language than its code.
A place where two languages disagree is not an end of a sentence: a translation of two sentences at
once is often right, and a translation of half a sentence is not. Thai, Lao and other scripts
without marks for the end of a sentence are cut at spaces only.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import regex

# Marks at the end of a sentence: those that a space follows, and those that need none.
SENTENCE_MARKS_WITH_SPACE = ".?!…‼⁇⁈⁉։"
SENTENCE_MARKS_WITHOUT_SPACE = "。！？｡؟۔।॥።፧។៕။"

# Abbreviations that stand before a capital letter or a number, without their dot and in small
# letters. Those that often end a sentence ("etc.", "Inc.", "Jr.") are left out, and so are those
# that are words as well.
ABBREVIATIONS = """
    mr mrs ms messrs dr prof st rev gen col capt lt sgt cmdr maj adm gov sen rep vs cf
    hr fr frl dipl ing bzw ca evtl ggf inkl exkl sog vgl geb gest
    mme mlle mgr sr sra srta dra sig dott avv dhr mevr mw drs resp tj np mudr judr mio mrd tsd
    mhe bw bi
    см ср проф акад ул гр डॉ श्री प्रो
"""
# Abbreviations before a number: "No. 5". Otherwise they may be words: "No. I do not."
NUMBER_ABBREVIATIONS = """
    no nos nr nrs núm num pp pg pag pág fig figs abb tab vol vols bd ch chap kap sec sect
    art arts abs par para approx tel ed
    jan feb mar apr jun jul aug sep sept oct nov dec рис табл гл стр ст
"""

MAX_WORD_LENGTH = 24  # characters before a mark that are looked at
MAX_GRAPHEME_LENGTH = 256  # code points; a letter can have any number of accents

_ABBREVIATIONS = frozenset(ABBREVIATIONS.split())
_NUMBER_ABBREVIATIONS = frozenset(NUMBER_ABBREVIATIONS.split())
_MARKS = SENTENCE_MARKS_WITH_SPACE + SENTENCE_MARKS_WITHOUT_SPACE
_CLOSING = r"""(?:["'\p{Pe}\p{Pf}] | \p{Pi}(?=\s))*+"""  # German closes a quote with one of Pi: „a“
_OPENING = r"""(?:["'\p{Ps}\p{Pi}\p{Pd}¿¡\s] | \p{Pf}(?=\w))*+"""  # and opens one with Pf: »a«
_GRAPHEME_START = r"(?=[^\s\p{M}\u200d])"  # a mark, or U+200D, belongs to the character before it

# The end of a sentence, if the further rules of `_ends_sentence` agree.
_SENTENCE_END = regex.compile(
    rf"""
    (?<![{_MARKS}])                    # from the first of several marks
    (?P<marks> [{_MARKS}]++ ) \p{{M}}*+
    (?P<closing> {_CLOSING} (?:\s»(?=\s))?+ )   # in French, a space stands before »
    (?P<gap> \s*+ )
    (?= {_OPENING} (?P<next> [\p{{L}}\p{{N}}] ) )
    """,
    regex.VERBOSE,
)
# Most texts have no such mark, and this finds it out faster.
_MARK_INSIDE = re.compile(rf"[{_MARKS}].*?[^\s{_MARKS}]", re.DOTALL)
_CLAUSE_END = regex.compile(
    rf"""
    (?: [;:,،؛፣፤] {_CLOSING} (?P<gap> \s++ ) | [，、；：] {_CLOSING} (?P<gap> \s*+ ) )
    {_GRAPHEME_START}
    """,
    regex.VERBOSE,
)
_SPACE = regex.compile(rf"(?<=\S)(?P<gap>\s++){_GRAPHEME_START}")
_GRAPHEME = regex.compile(r"\X")
_LAST_WORD = regex.compile(r"[\p{L}\p{M}\p{N}.]*\Z")
_LETTER_OR_NUMBER = regex.compile(r"[\p{L}\p{N}]")
_HIRAGANA = regex.compile(r"\p{Hiragana}")

# A single letter is an initial ("J. Smith") in scripts where a single letter is not a word.
_INITIAL = regex.compile(r"[\p{Lu}\p{Ll}\p{Lt}\p{Arabic}\p{Hebrew}]\p{M}*")
_DOTTED_ABBREVIATION = regex.compile(r"(?:\p{L}{1,2}\.)+\p{L}{1,2}")  # "z.B.", "U.S.", "Ph.D."
_TIME_OF_DAY = regex.compile(r"[ap]\.m")  # often ends a sentence
_ORDINAL = regex.compile(r"\p{Nd}{1,2}")  # "am 3. Oktober"

# The punctuation of these scripts is included: full-width forms and U+3000 to U+303F.
_SCRIPTS_WITHOUT_SPACES = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\u3000-\u303f\uff01-\uff65]"
)
_SCRIPTS_WITH_SPACES_BETWEEN_PHRASES = regex.compile(
    r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
)


class Cut(NamedTuple):
    """A place between two parts of a text: `text[: start]` and `text[stop :]`.

    The text between them is white space, or nothing.
    """

    start: int
    stop: int


def sentence_cuts(text: str) -> list[Cut]:
    """Return the cuts between the sentences of a text, in order; none if it is one sentence."""
    if not _MARK_INSIDE.search(text):
        return []
    has_case = text != text.lower()
    return [
        Cut(*match.span("gap"))
        for match in _SENTENCE_END.finditer(text)
        if _ends_sentence(match, has_case=has_case)
    ]


def _ends_sentence(match: regex.Match[str], *, has_case: bool) -> bool:
    """Return whether a match of _SENTENCE_END is the end of a sentence.

    In a text with capital letters (`has_case`), no sentence begins with a small one.
    """
    text = match.string
    marks = match["marks"]
    next_char = match["next"]
    start = match.start()
    if not _LETTER_OR_NUMBER.search(text, max(0, start - MAX_WORD_LENGTH), start):
        return False
    if has_case and next_char.islower():
        return False
    if marks == "." and _is_abbreviation(text[max(0, start - MAX_WORD_LENGTH) : start], next_char):
        return False
    if match["gap"]:
        return True
    # Japanese quotes a whole sentence inside another: 「行きます。」と言った。
    is_quoted = bool(match["closing"]) and _HIRAGANA.match(text, match.end())
    return not is_quoted and not set(marks).isdisjoint(SENTENCE_MARKS_WITHOUT_SPACE)


def _is_abbreviation(before: str, next_char: str) -> bool:
    """Return whether a dot after the text `before` may belong to an abbreviation or a number."""
    last_word = _LAST_WORD.search(before)
    assert last_word is not None, "matches the empty word, too"
    word = last_word[0].casefold()
    if _DOTTED_ABBREVIATION.fullmatch(word):
        return not _TIME_OF_DAY.fullmatch(word)
    if word in _NUMBER_ABBREVIATIONS:
        return next_char.isnumeric()
    return word in _ABBREVIATIONS or bool(_INITIAL.fullmatch(word) or _ORDINAL.fullmatch(word))


def middle_cut(text: str) -> Cut | None:
    """Return the best cut near the middle of a text; None if the text is a single character.

    This is the cut nearest to the middle: of those after punctuation in the middle half of the
    text, else of those at spaces, else of those between graphemes. A grapheme is what a reader
    takes for one character, such as a letter with its accents, or a flag.
    """
    quarter = len(text) // 4
    return (
        _nearest_to_middle(_CLAUSE_END, text, quarter, len(text) - quarter)
        or _nearest_to_middle(_SPACE, text, quarter, len(text) - quarter)
        or _nearest_to_middle(_SPACE, text, 0, len(text))
        or _cut_between_graphemes(text)
    )


def _nearest_to_middle(pattern: regex.Pattern[str], text: str, start: int, stop: int) -> Cut | None:
    """Return the cut in `text[start:stop]` that is nearest to the middle of the text.

    Of two that are equally near, the left one is taken.
    """
    middle = len(text) // 2
    cuts = [Cut(*match.span("gap")) for match in pattern.finditer(text, start, stop)]
    return min(cuts, key=lambda cut: abs(cut.start - middle), default=None)


def _cut_between_graphemes(text: str) -> Cut | None:
    """Return the cut between graphemes that is nearest to the middle of the text, if it has two."""
    middle = len(text) // 2
    best: Cut | None = None
    for end in _grapheme_ends(text):
        if end < len(text) and (best is None or abs(end - middle) < abs(best.start - middle)):
            best = Cut(end, end)
        if end >= middle:
            break
    return best


def _grapheme_ends(text: str) -> Iterator[int]:
    """Yield the end of each grapheme of a text; of an endless one, every MAX_GRAPHEME_LENGTH."""
    start = 0
    while start < len(text):
        # In windows, because the time for a run of flags grows with the square of its length.
        window = text[start : start + MAX_GRAPHEME_LENGTH]
        ends = [start + grapheme.end() for grapheme in _GRAPHEME.finditer(window)]
        if len(ends) > 1 and ends[-1] < len(text):
            ends.pop()  # this grapheme may go on behind the window
        yield from ends
        start = ends[-1]


def separator(text: str, cut: Cut, left: str, right: str) -> str:
    """Return the separator to join two translations with: a space or nothing.

    `left` and `right` are the translations of the two parts at a cut in `text`. The separator is
    what stood at the cut, with two exceptions: a language with spaces gets a space where the source
    has none because of its script, and Chinese and Japanese get none.
    """
    if not left or not right:
        return ""
    translated_seam = left[-1] + right[0]
    if _SCRIPTS_WITHOUT_SPACES.search(translated_seam):
        return ""
    if cut.start < cut.stop:
        return " "
    if _SCRIPTS_WITH_SPACES_BETWEEN_PHRASES.search(translated_seam):
        return ""
    source_seam = text[cut.start - 1 : cut.stop + 1]
    source_needs_no_space = (
        _SCRIPTS_WITHOUT_SPACES.search(source_seam)
        or _SCRIPTS_WITH_SPACES_BETWEEN_PHRASES.search(source_seam)
        or not set(source_seam).isdisjoint(SENTENCE_MARKS_WITHOUT_SPACE)
    )
    return " " if source_needs_no_space else ""
