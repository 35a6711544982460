"""mt translate: lines in, as many lines out, in bounded memory."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path

from tqdm import tqdm

from mt.commands.files import chunks, read_input
from mt.decoding.translator import Translation, Translator
from mt.disk import whole_file

CHUNK_SIZE = 512  # lines sorted by length together; what bounds the memory

# (line number from 1, source, its translations) -> text to print
Format = Callable[[int, str, list[Translation]], str]


def best_line(number: int, src: str, translations: list[Translation]) -> str:
    """The best translation alone."""
    return translations[0].text


def moses_lines(number: int, src: str, translations: list[Translation]) -> str:
    """`line ||| text ||| log_prob ||| score`, a line for each translation, counting lines from 0 as Moses does."""
    return "\n".join(
        f"{number - 1} ||| {found.text} ||| log_prob={found.log_prob:.6f} ||| {found.score:.6f}"
        for found in translations
    )


def json_line(number: int, src: str, translations: list[Translation]) -> str:
    """One JSON object: the source and its translations with scores."""
    found = [translation._asdict() for translation in translations]
    return json.dumps({"line": number, "src": src, "translations": found}, ensure_ascii=False)


def translate(
    run_dir: Path,
    source: Path | None,
    output: Path | None,
    *,
    form: Format,
    n_best: int = 1,
    checkpoint: str = "best",
    device: str = "auto",
    beam_size: int | None = None,
    length_penalty: float | None = None,
) -> None:
    """Translate a file or stdin to a file or stdout; typed lines are answered one by one."""
    typed = source is None and sys.stdin.isatty()
    translator = Translator.load(
        run_dir, checkpoint=checkpoint, device=device, beam_size=beam_size, length_penalty=length_penalty
    )
    if n_best > translator.search.beam_size:
        translator = replace(translator, search=translator.search.model_copy(update={"beam_size": n_best}))
    chunk_size = 1 if typed else CHUNK_SIZE
    answers = translate_lines(translator, read_input(source), form=form, n_best=n_best, chunk_size=chunk_size)
    hidden = typed or not sys.stderr.isatty() or (output is None and sys.stdout.isatty())
    with nullcontext(sys.stdout.buffer) if output is None else whole_file(output) as file:
        for answer in tqdm(answers, unit="line", dynamic_ncols=True, disable=hidden):
            file.write(f"{answer}\n".encode())
            if typed:
                file.flush()


def translate_lines(
    translator: Translator, lines: Iterable[str], *, form: Format, n_best: int = 1, chunk_size: int = CHUNK_SIZE
) -> Iterator[str]:
    """What to print for each line, in order. A chunk size of 1 answers each line before the next is read."""
    numbers = count(1)
    for chunk in chunks(lines, chunk_size):
        for line, translations in zip(chunk, translator.n_best(chunk), strict=True):
            number, num_parts = next(numbers), translations[0].num_parts
            if num_parts > 1:
                tqdm.write(
                    f"mt: line {number}: over {translator.max_length} tokens: translated in {num_parts} parts",
                    file=sys.stderr,
                )
            yield form(number, line, translations[:n_best])
