"""mt translate: lines in, as many lines out, in the same order.

Memory holds the model, one batch of its search and one chunk of lines: CHUNK_SIZE of them, or fewer once they have
CHUNK_CHARS characters. A line has at most text.py's MAX_LINE_SIZE bytes, and takes about 70 for each of them while it
is translated; so memory is bounded whatever comes.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from tqdm import tqdm

from mt.cli.streams import read_input, write_lines
from mt.data.text import Errors, chunked
from mt.decoding.alignment import align_translations, format_alignment
from mt.decoding.translator import Translation, Translator
from mt.errors import DiskError

CHUNK_SIZE = 512  # lines sorted by length together
CHUNK_CHARS = 2**18
JSON_KEYS = (
    "text",
    "score",
    "log_prob",
    "num_parts",
    "alignment",
)  # of a translation; the last one if asked for

# (line number from 1, source, its translations) -> text to print
Format = Callable[[int, str, list[Translation]], str]


def best_line(number: int, src: str, translations: list[Translation]) -> str:
    """The best translation alone, or `text ||| alignment`."""
    return translations[0].text + _last_field(translations[0])


def moses_lines(number: int, src: str, translations: list[Translation]) -> str:
    """`line ||| text ||| log_prob ||| score`, a line for each translation, counting lines from 0 as Moses does.

    An alignment follows as the last field, as it does there.
    """
    return "\n".join(
        f"{number - 1} ||| {found.text} ||| log_prob={found.log_prob:.6f} ||| {found.score:.6f}{_last_field(found)}"
        for found in translations
    )


def json_line(number: int, src: str, translations: list[Translation]) -> str:
    """One JSON object: the source and its translations with scores."""
    found = [
        {key: value for key in JSON_KEYS if (value := getattr(each, key)) is not None}
        for each in translations
    ]
    return json.dumps({"line": number, "src": src, "translations": found}, ensure_ascii=False)


def translate(
    run_dir: Path,
    source: Path | None,
    output: Path | None,
    *,
    form: Format,
    n_best: int,
    alignments: bool,
    errors: Errors,
    checkpoint: str,
    device: str,
    beam_size: int | None,
    length_penalty: float | None,
    exact: bool,
) -> None:
    """Translate a file or stdin to a file or stdout; typed lines are answered one by one.

    An output file appears, or takes an old one's place, when the last line is translated.
    """
    refuse_overwriting_input(source, output)
    translator = Translator.load(
        run_dir,
        checkpoint=checkpoint,
        device=device,
        beam_size=beam_size,
        length_penalty=length_penalty,
        exact=exact,
    )
    if n_best > translator.search.beam_size:
        translator = replace(
            translator, search=translator.search.model_copy(update={"beam_size": n_best})
        )
    typed = source is None and sys.stdin is not None and sys.stdin.isatty()
    lines = read_input(source, errors=errors)
    size = 1 if typed else CHUNK_SIZE
    answers = translate_lines(
        translator, lines, form=form, n_best=n_best, alignments=alignments, chunk_size=size
    )
    is_shown = (
        output is None and sys.stdout is not None and sys.stdout.isatty()
    )  # a bar would stand between the lines
    write_lines(
        answers, output, with_bar=sys.stderr.isatty() and not typed and not is_shown, at_once=typed
    )


def translate_lines(
    translator: Translator,
    lines: Iterable[str],
    *,
    form: Format,
    n_best: int,
    alignments: bool,
    chunk_size: int,
) -> Iterator[str]:
    """What to print for each line, in order. A chunk size of 1 answers each line before the next is read."""
    numbers = count(1)
    for chunk in chunked(lines, size=chunk_size, num_chars=CHUNK_CHARS):
        answers = [translations[:n_best] for translations in translator.n_best(chunk)]
        if alignments:
            answers = align_translations(translator, chunk, answers)
        for line, translations in zip(chunk, answers, strict=True):
            number, num_parts = next(numbers), translations[0].num_parts
            if num_parts > 1:
                said = f"mt: line {number}: over {translator.max_length} tokens: translated in {num_parts} parts"
                tqdm.write(said, file=sys.stderr)
            yield form(number, line, translations)


def _last_field(found: Translation) -> str:
    return "" if found.alignment is None else f" ||| {format_alignment(found.alignment)}"


def refuse_overwriting_input(
    source: Path | None, output: Path | None, *, by: str = "its translation"
) -> None:
    """Raise DiskError when the output, if it is a file, would take the input's place."""
    if output is None or not output.is_file() or (source is not None and not source.exists()):
        return
    if os.path.samestat(os.stat(source or 0), output.stat()):
        raise DiskError(f"{output}: is the input too, and would be replaced by {by}")
