"""Strict reading of parallel text from a table: one pair a row, columns separated by tabs."""

from collections.abc import Iterator
from pathlib import Path

from mt.data.text import Errors, OnBytes, read_lines
from mt.errors import DataError

# A file in which a larger fraction of the rows lacks a column is another kind of file.
MAX_INCOMPLETE_FRACTION = 0.01


def read_tsv(
    path: Path,
    columns: tuple[int, int] | tuple[str, str],
    *,
    errors: Errors = "strict",
    on_bytes: OnBytes | None = None,
) -> Iterator[tuple[str, str] | None]:
    """Yield the pair of each row, and None for a row that lacks one of the columns.

    Columns are numbers, counted from 1, or names in the first row, which is then not yielded. A
    quotation mark has no meaning.

    Raises DataError as `read_lines` does; for a name that is not in the first row; and for a file
    in which the first row, or more than MAX_INCOMPLETE_FRACTION of all rows, lack a column.
    """
    rows = enumerate(read_lines(path, errors=errors, on_bytes=on_bytes), start=1)
    numbers = columns
    if isinstance(columns[0], str):
        _, header = next(rows)
        numbers = _find_columns(path, header.split("\t"), columns)
    src_index, tgt_index = (int(number) - 1 for number in numbers)
    num_wanted = max(src_index, tgt_index) + 1

    num_rows = 0
    num_incomplete = 0
    first_problem = ""
    for line_number, row in rows:
        num_rows += 1
        fields = row.split("\t")
        if len(fields) >= num_wanted:
            yield fields[src_index], fields[tgt_index]
            continue
        num_incomplete += 1
        if not first_problem:
            first_problem = (
                f"{path}:{line_number}: wanted {num_wanted} columns separated by tabs, "
                f"found {len(fields)}"
            )
        if num_rows == 1:
            raise DataError(first_problem)
        yield None
    if num_rows == 0:
        raise DataError(f"{path}: there are no rows below the names of the columns")
    if num_incomplete > MAX_INCOMPLETE_FRACTION * num_rows:
        raise DataError(f"{first_problem}; so have {num_incomplete:,} of {num_rows:,} rows")


def _find_columns(
    path: Path, header: list[str], names: tuple[int, int] | tuple[str, str]
) -> tuple[int, int]:
    """Return the numbers of the columns with the given names. Raises DataError."""
    known_names = [name.strip() for name in header]
    numbers = []
    for name in names:
        if known_names.count(str(name)) != 1:
            raise DataError(
                f"{path}:1: wanted one column with the name {name!r}, found the names "
                f"{', '.join(known_names)!r:.200}"
            )
        numbers.append(known_names.index(str(name)) + 1)
    return numbers[0], numbers[1]
