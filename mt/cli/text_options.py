"""Options of the commands that take parallel text: its files, languages and held-out sets."""

from typing import TYPE_CHECKING, Annotated

import typer

from mt.cli.logs import escape_control_chars

if TYPE_CHECKING:
    from mt.data.parallel_text import ParallelText

FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FILES",
        help="a TSV or TMX file; two files of lines, source and target; or their common prefix. "
        "Each may end in .gz or .zst",
    ),
]
SrcLangOption = Annotated[str, typer.Option("--src-lang", help="source language, such as en")]
TgtLangOption = Annotated[str, typer.Option("--tgt-lang", help="target language, such as sv")]
NumValidOption = Annotated[
    int | None,
    typer.Option(
        "--valid",
        min=0,
        help="pairs for validation  [default: 5 %, at least 200 but at most a tenth of the pairs, "
        "and at most 1,000]",
    ),
]
NumTestOption = Annotated[
    int | None, typer.Option("--test", min=0, help="pairs for testing  [default: the same]")
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="SRC,TGT",
        help="columns of a TSV file: numbers, or names in its first line  [default: 1,2]",
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="another number draws other pairs")]


def open_text(
    files: list[str], *, src_lang: str, tgt_lang: str, columns: str | None
) -> "ParallelText":
    """Return the text that FILES name.

    Raises DataError for the files, and BadParameter for options that no text can have.
    """
    from pydantic import TypeAdapter, ValidationError

    from mt.config.schema import Name
    from mt.data.parallel_text import text_of_names

    for option, language in (("--src-lang", src_lang), ("--tgt-lang", tgt_lang)):
        try:
            TypeAdapter(Name).validate_python(language)
        except ValidationError:
            raise typer.BadParameter(
                f"wanted a name such as en or zh-Hans, found {language!r}", param_hint=option
            ) from None
    if src_lang == tgt_lang:
        raise typer.BadParameter(
            f"wanted another language than --src-lang, found {tgt_lang}", param_hint="--tgt-lang"
        )
    refuse_swapped_files(files, src_lang=src_lang, tgt_lang=tgt_lang)
    return text_of_names(
        files, src_lang=src_lang, tgt_lang=tgt_lang, columns=parse_columns(columns)
    )


def refuse_swapped_files(files: list[str], *, src_lang: str, tgt_lang: str) -> None:
    """Raise BadParameter if the first of two files ends in `tgt_lang`, the second in `src_lang`."""
    endings = [name.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2] for name in files]
    if endings == [tgt_lang, src_lang]:
        src, tgt = escape_control_chars(files[1]), escape_control_chars(files[0])
        raise typer.BadParameter(
            f"the names of the files say that {tgt} is {tgt_lang} and {src} is {src_lang}; "
            f"name the source first: {src} {tgt}",
            param_hint="FILES",
        )


def parse_columns(text: str | None) -> tuple[int | str, int | str] | None:
    """Return the columns that `1,2` or `english,swedish` names. Raises BadParameter."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    are_numbers = [name.isdecimal() for name in names]
    if len(names) != 2 or not all(names) or are_numbers[0] != are_numbers[1]:
        raise _bad_columns("wanted two numbers or two names, such as 1,2", text)
    if names[0] == names[1]:
        raise _bad_columns("wanted two different columns", text)
    if not are_numbers[0]:
        return names[0], names[1]
    if int(names[0]) == 0 or int(names[1]) == 0:
        raise _bad_columns("columns are counted from 1", text)
    return int(names[0]), int(names[1])


def _bad_columns(problem: str, text: str) -> typer.BadParameter:
    """Return the error for a wrong value of --columns."""
    return typer.BadParameter(f"{problem}; found {text!r}", param_hint="--columns")
