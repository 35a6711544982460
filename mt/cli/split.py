"""The command `mt split`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mt.cli.logs import escape_control_chars
from mt.cli.options import QuietOption, VerboseOption
from mt.cli.text_options import (
    ColumnsOption,
    FilesArgument,
    NumTestOption,
    NumValidOption,
    SeedOption,
    SrcLangOption,
    TgtLangOption,
    open_text,
)

if TYPE_CHECKING:
    from mt.data.parallel_text import ParallelText
    from mt.data.split import Split

MAX_SHOWN_CHARACTERS = 100  # of a sentence


def split(
    files: FilesArgument,
    src_lang: SrcLangOption,
    tgt_lang: TgtLangOption,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="new directory for the files")
    ],
    num_valid: NumValidOption = None,
    num_test: NumTestOption = None,
    columns: ColumnsOption = None,
    seed: SeedOption = 1,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Set aside validation and test text that has no sentence in common with the training text."""
    from mt.cli.streams import write_lines
    from mt.data.split_files import refuse_existing, split_directory, split_text

    refuse_existing(output)
    text = open_text(files, src_lang=src_lang, tgt_lang=tgt_lang, columns=columns)
    result = split_text(text, num_valid=num_valid, num_test=num_test, seed=seed)
    with split_directory(output, result, text, src_lang=src_lang, tgt_lang=tgt_lang):
        pass
    write_lines(describe_first_pair(text, src_lang=src_lang, tgt_lang=tgt_lang))
    write_lines(describe_split(result, name=text.name, directory=output))


def describe_first_pair(text: "ParallelText", *, src_lang: str, tgt_lang: str) -> Iterator[str]:
    """Yield the first pair. It shows swapped languages, and a header that was read as a pair."""
    from mt.data.parallel_text import read_pairs

    for language, sentence in zip((src_lang, tgt_lang), next(read_pairs(text)), strict=True):
        yield f"first pair, {language}: {escape_control_chars(sentence[:MAX_SHOWN_CHARACTERS])}"


def describe_split(split: "Split", *, name: str, directory: Path) -> Iterator[str]:
    """Yield lines about how many pairs there are, where they are now, and what a leak would be."""
    from mt.data.split import Part
    from mt.data.split_files import FILE_NAMES

    yield f"{len(split.parts):9,} pairs in {name}"
    yield f"{split.count(Part.BLANK):9,} with a blank side, left out"
    yield f"{split.count(Part.DUPLICATE):9,} the same as another one, left out"
    if split.count(Part.LEAK) > 0:
        yield f"{split.count(Part.LEAK):9,} with a source or target of the held-out text, left out"
    for part, file_name in FILE_NAMES.items():
        if split.count(part) == 0:
            continue
        yield f"{split.count(part):9,} in {directory / file_name}"
    if split.count(Part.VALID) + split.count(Part.TEST) > 0:
        yield (
            "No held-out source or target is in the training text. A random split would have left "
            f"{split.random_src_leak:.0%} of the sources and {split.random_tgt_leak:.0%} of the "
            "targets there."
        )
