"""Score runs on a test set whose source text is changed in ways that a reader hardly notices.

    python -m scripts.benchmarks.changed_text RUN_DIR [RUN_DIR ...] --src FILE --ref FILE
        [--limit 500]

Each row of the table is one change of all source lines: other quotation marks, other spaces,
decomposed accents, a character that no training text has. The numbers are BLEU for each run. The
references stay as they are. Characters that a change adds are removed from the translations before
scoring; for those that should be copied, the share of lines that have them follows in brackets.
"""

from __future__ import annotations

import argparse
import unicodedata
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mt import Translator
from mt.data.text import read_lines
from mt.evaluation.metrics import score_corpus


class Change(NamedTuple):
    """A change of a source line."""

    name: str
    apply: Callable[[str], str]
    added: str = ""  # visible characters that the change adds
    is_copied: bool = False  # whether a translation should have the first of them


def in_middle(line: str, text: str) -> str:
    """Put a text between the words in the middle of a line."""
    words = line.split(" ")
    middle = (len(words) + 1) // 2
    return " ".join([*words[:middle], text, *words[middle:]])


def full_width(text: str) -> str:
    """Return a text with the full-width forms of its ASCII characters."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def full_width_word(line: str) -> str:
    """Write the first word in full-width letters."""
    word, space, rest = line.partition(" ")
    return full_width(word) + space + rest


CHANGES = (
    Change("none", lambda line: line),
    Change("curly quotes around the line", lambda line: f"\u201c{line}\u201d", '"\u201c\u201d'),
    Change("curly apostrophes", lambda line: line.replace("'", "\u2019")),
    Change("one no-break space", lambda line: line.replace(" ", "\u00a0", 1)),
    Change("all spaces no-break", lambda line: line.replace(" ", "\u00a0")),
    Change("one doubled space", lambda line: line.replace(" ", "  ", 1)),
    Change("all spaces doubled", lambda line: line.replace(" ", "  ")),
    Change("zero-width space in a word", lambda line: line.replace("e", "e\u200b", 1)),
    Change("decomposed accents (NFD)", lambda line: unicodedata.normalize("NFD", line)),
    Change("first word in full-width letters", full_width_word),
    Change("full-width full stop", lambda line: line.replace(".", "\uff0e")),
    Change("an accent never seen", lambda line: line.replace("e", "\u0113", 1)),
    Change("bullet in front", lambda line: f"\u2022 {line}", "\u2022", is_copied=True),
    Change("emoji at the end", lambda line: f"{line} \U0001f600", "\U0001f600", is_copied=True),
    Change("emoji in the middle", lambda line: in_middle(line, "\U0001f600"), "\U0001f600", True),
    Change("Chinese word at the end", lambda line: f"{line} \u4f60\u597d", "\u4f60\u597d", True),
    Change("Chinese word in the middle", lambda line: in_middle(line, "\u4f60\u597d"),
           "\u4f60\u597d", True),
)  # fmt: skip


def score(translator: Translator, change: Change, lines: Sequence[str], ref: Sequence[str]) -> str:
    """Return the BLEU of a run on the changed lines, and how often an added character is copied."""
    hypotheses = translator.translate([change.apply(line) for line in lines])
    removal = dict.fromkeys(map(ord, change.added))
    cleaned = [" ".join(hyp.translate(removal).split()) for hyp in hypotheses]
    (bleu,) = score_corpus(cleaned, [ref], metrics=("bleu",))
    text = f"{bleu.value:.1f}"
    if change.is_copied:
        share = sum(change.added[0] in hyp for hyp in hypotheses) / len(hypotheses)
        text += f" ({100 * share:.0f} %)"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--ref", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=500, help="lines from the start of the files")
    parser.add_argument("--beam-size", type=int, default=None)
    options = parser.parse_args()

    lines = list(islice(read_lines(options.src), options.limit))
    ref = list(islice(read_lines(options.ref), options.limit))
    translators = [
        Translator.load(run_dir, device="cpu", beam_size=options.beam_size)
        for run_dir in options.run_dirs
    ]
    print(f"{'BLEU':<34}" + "".join(f"{run_dir.name:>16}" for run_dir in options.run_dirs))
    for change in CHANGES:
        scores = [score(translator, change, lines, ref) for translator in translators]
        print(f"{change.name:<34}" + "".join(f"{text:>16}" for text in scores), flush=True)


if __name__ == "__main__":
    main()
