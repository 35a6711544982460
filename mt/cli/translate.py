"""The command `mt translate`: translate lines of a file or of stdin, and print them in a format."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mt.cli.streams import read_input, refuse_overwriting_input, write_lines
from mt.data.text import Errors
from mt.decoding.alignment import align_translations, format_alignment
from mt.decoding.translator import CHUNK_SIZE, Translation, Translator

# Returns what to print for a line: (line number from 1, source, its translations) -> text
Format = Callable[[int, str, list[Translation]], str]


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
    """Translate a file, or stdin if `source` is None, to a file, or stdout if `output` is None.

    An output file appears, or replaces an older one, when the last line is translated. Lines that
    are typed at a terminal are translated one by one. Raises MtError.
    """
    refuse_overwriting_input(source, output, written="its translation")
    translator = Translator.load(
        run_dir,
        checkpoint=checkpoint,
        device=device,
        beam_size=beam_size,
        length_penalty=length_penalty,
        exact=exact,
    )
    if n_best > translator.search.beam_size:
        search = translator.search.model_copy(update={"beam_size": n_best})
        translator = replace(translator, search=search)

    input_is_terminal = source is None and sys.stdin is not None and sys.stdin.isatty()
    output_is_terminal = output is None and sys.stdout is not None and sys.stdout.isatty()
    # On a terminal, a progress bar would get between the lines.
    with_bar = sys.stderr.isatty() and not input_is_terminal and not output_is_terminal
    formatted = translate_lines(
        translator,
        read_input(source, errors=errors),
        form=form,
        n_best=n_best,
        alignments=alignments,
        chunk_size=1 if input_is_terminal else CHUNK_SIZE,
    )
    write_lines(formatted, output, with_bar=with_bar, at_once=input_is_terminal)


def translate_lines(
    translator: Translator,
    lines: Iterable[str],
    *,
    form: Format,
    n_best: int,
    alignments: bool,
    chunk_size: int,
) -> Iterator[str]:
    """Yield what to print for each line, in order.

    With a chunk size of 1, each line is translated before the next one is read.
    """
    number = 0
    for chunk in translator.translate_chunks(lines, n_best=n_best, chunk_size=chunk_size):
        n_best_lists = chunk.translations
        if alignments:
            n_best_lists = align_translations(translator, chunk.lines, n_best_lists)
        for line, translations in zip(chunk.lines, n_best_lists, strict=True):
            number += 1
            yield form(number, line, translations)


def best_line(number: int, src: str, translations: list[Translation]) -> str:
    """Return the best translation alone, as `text` or `text ||| alignment`."""
    best = translations[0]
    return " ||| ".join([best.text, *_alignment_field(best)])


def moses_lines(number: int, src: str, translations: list[Translation]) -> str:
    """Return an n-best list in the format of Moses, with a line for each translation.

    A line is `number ||| text ||| log_prob=... ||| score` with the line number counted from 0. An
    alignment is one more field at the end.
    """
    lines = []
    for translation in translations:
        fields = [
            str(number - 1),
            translation.text,
            f"log_prob={translation.log_prob:.6f}",
            f"{translation.score:.6f}",
            *_alignment_field(translation),
        ]
        lines.append(" ||| ".join(fields))
    return "\n".join(lines)


def json_line(number: int, src: str, translations: list[Translation]) -> str:
    """Return one JSON object with the line number from 1, the source, and its translations."""
    objects = [_json_object(translation) for translation in translations]
    return json.dumps({"line": number, "src": src, "translations": objects}, ensure_ascii=False)


def _json_object(translation: Translation) -> dict[str, Any]:
    """Return a translation as JSON writes it; `alignment` is there only if it was computed."""
    fields: dict[str, Any] = {
        "text": translation.text,
        "score": translation.score,
        "log_prob": translation.log_prob,
        "num_parts": len(translation.segments),
    }
    if translation.alignment is not None:
        fields["alignment"] = translation.alignment
    return fields


def _alignment_field(translation: Translation) -> list[str]:
    """Return the alignment as a list of one field, or no field if it was not computed."""
    if translation.alignment is None:
        return []
    return [format_alignment(translation.alignment)]
