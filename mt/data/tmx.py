"""Reading of translation memories (TMX 1.1 to 1.4), as a stream and safe with hostile files.

A unit (`tu`) has variants (`tuv`), each with a language and a segment (`seg`). Inside a segment,
the elements `bpt`, `ept`, `it`, `ph` and `ut` hold code of the document that was translated, such
as `<b>`. Their content is left out, and the text around them is kept.

No document type is loaded and no entity may be declared, so a small file cannot become a large one.
What is kept in memory is one unit, of at most MAX_LINE_SIZE characters.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from mt.data.text import MAX_LINE_SIZE, READ_SIZE, OnBytes, open_text, reading_errors
from mt.errors import DataError

CODE_ELEMENTS = frozenset({"bpt", "ept", "it", "ph", "ut"})
MAX_DEPTH = 100  # of elements in each other
MAX_LANGUAGES = 100  # that are counted for a message

# expat's words for a file that ends too early are unclear.
END_ERRORS = {expat.errors.XML_ERROR_NO_ELEMENTS, expat.errors.XML_ERROR_UNCLOSED_TOKEN}

_WORD = re.compile(r"[^ \t\r\n]+")  # separated by what is white space in XML

Unit = tuple[str, str] | None  # None: a row or unit without one of the sides; it is not used


def read_tmx(
    path: Path, *, src_lang: str, tgt_lang: str, on_bytes: OnBytes | None = None
) -> Iterator[Unit]:
    """Yield the pair of each unit, and None for a unit that lacks one of the languages.

    The language `en` matches `en`, `en-US` and `EN_us`. Of several variants that match, an equal
    code is preferred, and then the first one. White space in a segment becomes single spaces,
    because a segment may be written on several lines.

    Raises DataError for a file that cannot be read or is not TMX, and at its end if no unit has
    both languages.
    """
    parser = _TmxParser(path, src_lang, tgt_lang)
    with reading_errors(path, lambda: parser.line), open_text(path, on_bytes) as file:
        while chunk := file.read(READ_SIZE):
            parser.feed(chunk)
            yield from parser.take_units()
        parser.close()
        yield from parser.take_units()
    parser.check_languages()


def find_language(codes: list[str], lang: str) -> str | None:
    """Return the code of a language, or the first one of a variant of it, such as `en-US`."""
    wanted = _normalize_code(lang)
    for code in codes:
        if _normalize_code(code) == wanted:
            return code
    for code in codes:
        if _normalize_code(code).startswith(f"{wanted}-"):
            return code
    return None


def _normalize_code(code: str) -> str:
    return code.strip().lower().replace("_", "-")


class _TmxParser:
    """Collects the units of a file that is fed in pieces."""

    def __init__(self, path: Path, src_lang: str, tgt_lang: str) -> None:
        self._path = path
        self._src_lang = src_lang
        self._tgt_lang = tgt_lang
        self._units: list[Unit] = []
        self._num_units = 0
        self._num_pairs = 0
        self._languages: Counter[str] = Counter()

        self._depth = 0  # of elements in each other
        self._code_depth = 0  # of code elements in each other
        self._in_segment = False
        self._variants: dict[str, str] = {}  # text of the current unit, by language
        self._unit_size = 0  # characters
        self._lang = ""  # of the current variant
        self._text: list[str] = []  # of the current segment

        self._num_fed = 0  # bytes
        self._num_fed_at_event = 0  # bytes, when the parser last found something

        self._expat = expat.ParserCreate()
        self._expat.buffer_text = True
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._add_text
        self._expat.CommentHandler = self._pass_over
        self._expat.ProcessingInstructionHandler = self._pass_over
        self._expat.EntityDeclHandler = self._refuse_declaration
        self._expat.SkippedEntityHandler = self._refuse_entity

    @property
    def line(self) -> int:
        """The number of the line that is being read."""
        return self._expat.CurrentLineNumber

    def feed(self, chunk: bytes) -> None:
        """Parse the next part of the file. Raises DataError."""
        self._num_fed += len(chunk)
        self._parse(chunk, is_final=False)
        # The parser keeps a tag or a comment in memory until it ends.
        if self._num_fed - self._num_fed_at_event > MAX_LINE_SIZE:
            self._fail(f"wanted tags of at most {MAX_LINE_SIZE:,} bytes, found a longer one")

    def close(self) -> None:
        """Check that the file is complete. Raises DataError."""
        self._parse(b"", is_final=True)

    def take_units(self) -> list[Unit]:
        """Return the units that were completed since the last call."""
        units = self._units
        self._units = []
        return units

    def check_languages(self) -> None:
        """Raise DataError when no unit has both languages."""
        if self._num_pairs > 0:
            return
        if not self._languages:
            raise DataError(f"{self._path}: there is no translation unit in this TMX file")
        found = ", ".join(f"{lang} ({n:,})" for lang, n in self._languages.most_common(10))
        raise DataError(
            f"{self._path}: wanted units in {self._src_lang} and {self._tgt_lang}, found none; "
            f"the languages of its {self._num_units:,} units are {found}"
        )

    def _parse(self, data: bytes, *, is_final: bool) -> None:
        try:
            self._expat.Parse(data, is_final)
        except expat.ExpatError as error:
            problem = expat.ErrorString(error.code)
            if problem in END_ERRORS:
                problem = "the file ends too early"
            raise DataError(
                f"{self._path}:{error.lineno}: not TMX: {problem} (column {error.offset + 1})"
            ) from error
        except (LookupError, ValueError) as error:  # of an encoding that expat does not know
            raise DataError(
                f"{self._path}:1: the encoding cannot be read: {error!s:.100} "
                "(convert the file to UTF-8)"
            ) from error

    def _fail(self, problem: str) -> None:
        raise DataError(f"{self._path}:{self.line}: {problem}")

    # What the parser calls

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._num_fed_at_event = self._num_fed
        if self._depth == 0 and name != "tmx":
            self._fail(f"wanted a TMX file, found XML with the root element {name!r:.80}")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"wanted elements in at most {MAX_DEPTH} others, found more")
        if name == "tu":
            self._variants = {}
            self._unit_size = 0
        elif name == "tuv":
            self._lang = attributes.get("xml:lang", attributes.get("lang", ""))
            self._add_size(len(self._lang))
        elif name == "seg":
            self._in_segment = True
            self._text = []
        elif name in CODE_ELEMENTS:
            self._code_depth += 1

    def _end(self, name: str) -> None:
        self._num_fed_at_event = self._num_fed
        self._depth -= 1
        if name == "tu":
            self._end_unit()
        elif name == "seg":
            self._in_segment = False
            self._variants.setdefault(self._lang, " ".join(_WORD.findall("".join(self._text))))
        elif name in CODE_ELEMENTS:
            self._code_depth -= 1

    def _end_unit(self) -> None:
        codes = list(self._variants)
        # With pt and pt-BR, the code pt-BR is the second language, not a variant of the first.
        tgt_lang = _normalize_code(self._tgt_lang)
        not_tgt = [code for code in codes if _normalize_code(code) != tgt_lang]
        src_code = find_language(not_tgt, self._src_lang)
        not_src = [code for code in codes if code != src_code]
        tgt_code = find_language(not_src, self._tgt_lang)
        self._num_units += 1
        for code in codes:
            if code in self._languages or len(self._languages) < MAX_LANGUAGES:
                self._languages[code] += 1
        if src_code is None or tgt_code is None or src_code == tgt_code:
            self._units.append(None)
            return
        self._num_pairs += 1
        self._units.append((self._variants[src_code], self._variants[tgt_code]))

    def _add_text(self, text: str) -> None:
        self._num_fed_at_event = self._num_fed
        if self._in_segment and self._code_depth == 0:
            self._add_size(len(text))
            self._text.append(text)

    def _add_size(self, num_chars: int) -> None:
        self._unit_size += num_chars
        if self._unit_size > MAX_LINE_SIZE:
            self._fail(f"wanted units of at most {MAX_LINE_SIZE:,} characters, found a longer one")

    def _pass_over(self, *_: str) -> None:
        self._num_fed_at_event = self._num_fed

    def _refuse_declaration(self, name: str, *_: object) -> None:
        self._fail(f"declares the entity {name!r:.80}, which TMX does not need and mt refuses")

    def _refuse_entity(self, name: str, _: object) -> None:
        self._fail(f"uses the entity {name!r:.80}, which is not known")
