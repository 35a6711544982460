"""The command `mt split`."""

from pathlib import Path
from typing import Annotated

import typer

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
    from mt.cli.split_output import describe_split
    from mt.cli.streams import write_lines
    from mt.data.split_files import refuse_existing, split_directory, split_text

    refuse_existing(output)
    text = open_text(files, src_lang=src_lang, tgt_lang=tgt_lang, columns=columns)
    result = split_text(text, num_valid=num_valid, num_test=num_test, seed=seed)
    with split_directory(output, result, text, src_lang=src_lang, tgt_lang=tgt_lang):
        pass
    write_lines(describe_split(result, name=text.name, directory=output))
