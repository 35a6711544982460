"""Warnings about the text that is scored: no spaces, tokenized, lowercased, or seen in training."""

import logging
import re
from collections.abc import Mapping, Sequence

from mt.config.schema import DataConfig
from mt.data.eval_set import EvalSet, training_corpora
from mt.data.normalization import is_blank, normalize
from mt.data.words import lacks_spaces
from mt.errors import DataError
from mt.evaluation.metrics import WORD_TOKENIZERS, Scoring
from mt.wording import count_of

logger = logging.getLogger(__name__)

# What a tokenizer leaves in a text: a space before a comma or a full stop, a hyphen or a subword
# between signs, the mark of SentencePiece, and the names that Moses has for characters. French has
# spaces before other punctuation, so that is no sign.
_TOKENIZED = re.compile(
    r"\w [,.](?:\s|$)|@-@|@@(?:\s|$)|\u2581|&(?:apos|quot|amp|lt|gt|#124|#91|#93);"
)
# A text is probably tokenized if more than this fraction of its lines has such a sign. It was at
# least 87 % in the tokenized texts that were tried, and at most 3 % in the others.
TOKENIZED_FRACTION = 0.1

# Fewer letters say nothing about case.
MIN_LETTERS = 2000
# The largest fraction of capitals among the letters of a text that is probably lowercased.
MAX_CAPITALS = 0.0005
# Georgian has capitals in Unicode, but texts do not use them.
_GEORGIAN = re.compile("[\u10d0-\u10ff]")

# A larger training text is not searched for the sources of an evaluation set.
MAX_SEARCHED_BYTES = 200_000_000


def find_missing_spaces(name: str, references: Sequence[str], scoring: Scoring) -> str | None:
    """Return a warning if BLEU counts words between spaces, but the references have none.

    Translations are not looked at: those of a model that has learned little have few words.
    """
    if scoring.tokenize not in WORD_TOKENIZERS or not lacks_spaces(references):
        return None
    return (
        f"{name}: the references have about one word a line, and BLEU counts words between spaces "
        f"(tok:{scoring.tokenize}): use --tokenize zh or char, or evaluation.tokenize in a config"
    )


def warn_of_missing_spaces(name: str, references: Sequence[str], scoring: Scoring) -> None:
    """Log what `find_missing_spaces` finds."""
    problem = find_missing_spaces(name, references, scoring)
    if problem is not None:
        logger.warning(problem)


def find_tokenized(name: str, sides: Mapping[str, Sequence[str]], scoring: Scoring) -> str | None:
    """Return a warning about the sides that look tokenized, if BLEU tokenizes them again."""
    if scoring.tokenize == "none":
        return None
    tokenized = [side for side, lines in sides.items() if is_tokenized(lines)]
    if not tokenized:
        return None
    return (
        f"{name}: the {' and '.join(tokenized)} look tokenized (such as a space before a full "
        "stop); only scores of plain text can be compared with those of others"
    )


def find_lowercased(name: str, sides: Mapping[str, Sequence[str]], scoring: Scoring) -> str | None:
    """Return a warning about the sides without capitals, unless scores ignore case."""
    if scoring.lowercase:
        return None
    lowercased = [side for side, lines in sides.items() if is_lowercased(lines)]
    if not lowercased:
        return None
    remedy = (
        "use --lowercase, or evaluation.lowercase in a config, so that the signature says that "
        "case is ignored"
    )
    if len(lowercased) < len(sides):
        remedy += ", and the case of the other text does not count as an error"
    return f"{name}: the {' and '.join(lowercased)} have no capital letters; {remedy}"


def is_tokenized(lines: Sequence[str]) -> bool:
    """Return whether the lines look like the output of a tokenizer."""
    lines = [line for line in lines if not is_blank(line)]
    num_tokenized = sum(_TOKENIZED.search(line) is not None for line in lines)
    return num_tokenized > TOKENIZED_FRACTION * len(lines)


def is_lowercased(lines: Sequence[str]) -> bool:
    """Return whether the lines have many letters of a script with capitals, but no capitals."""
    num_small = 0
    num_capitals = 0
    for line in lines:
        line = _GEORGIAN.sub("", line)
        num_small += sum(character.islower() for character in line)
        num_capitals += sum(character.isupper() for character in line)
    has_text = num_small + num_capitals >= MIN_LETTERS
    return has_text and num_capitals <= MAX_CAPITALS * num_small


def find_text_problems(
    name: str, sides: Mapping[str, Sequence[str]], scoring: Scoring
) -> list[str]:
    """Return warnings about the text of a set, from all three functions above.

    `sides` maps a name to the lines of a set: "references", and one or more for the translations.
    """
    problems = [
        find_missing_spaces(name, sides["references"], scoring),
        find_tokenized(name, sides, scoring),
        find_lowercased(name, sides, scoring),
    ]
    return [problem for problem in problems if problem is not None]


def find_seen_sources(eval_sets: Sequence[EvalSet], data: DataConfig) -> list[list[int]]:
    """Return the numbers of the lines of each set whose source is in the training text.

    The numbers begin at 1. Texts are compared after normalization. Blank lines do not count. The
    result is empty if the training text is not there any more, or is large.
    """
    form = "nfc" if data.normalization == "none" else data.normalization
    normalized_sources = [[normalize(line, form) for line in item.src] for item in eval_sets]
    wanted = {line for lines in normalized_sources for line in lines if not is_blank(line)}
    seen: set[str] = set()
    try:
        texts = [corpus.text for corpus in training_corpora(data)]
        num_bytes = sum(path.stat().st_size for text in texts for path in text.paths)
        if num_bytes > MAX_SEARCHED_BYTES:
            logger.debug(f"training text of {num_bytes:,} bytes: not searched for test sources")
            return []
        for text in texts:
            for line in text.read_side("src"):
                normalized = normalize(line, form)
                if normalized in wanted:
                    seen.add(normalized)
    except (DataError, OSError) as error:
        logger.debug(f"not searched for test sources: {error}")
        return []
    return [
        [number for number, line in enumerate(lines, start=1) if line in seen]
        for lines in normalized_sources
    ]


def find_seen_source_problems(eval_sets: Sequence[EvalSet], data: DataConfig) -> list[str]:
    """Return a warning about each set with sources that are in the training text."""
    lines_by_set = find_seen_sources(eval_sets, data)
    problems = []
    for eval_set, numbers in zip(eval_sets, lines_by_set, strict=False):
        if numbers:
            fraction = len(numbers) / len(eval_set.src)
            problems.append(
                f"{eval_set.name}: in the training text too: {len(numbers):,} of "
                f"{count_of(len(eval_set.src), 'source')} ({fraction:.1%}; the first: line "
                f"{numbers[0]}), so the scores may be too high"
            )
    return problems
