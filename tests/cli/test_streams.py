"""Errors of stdout, and errors of the work that produces the lines."""

from collections.abc import Iterator

import pytest

from mt.cli.streams import write_lines


@pytest.mark.parametrize("error", [PermissionError, BrokenPipeError])
def test_error_of_the_work_is_not_reported_as_an_error_of_stdout(error: type[OSError]) -> None:
    def lines() -> Iterator[str]:
        yield "one"
        raise error(13, "no access", "/some/input")

    with pytest.raises(error, match="/some/input"):
        write_lines(lines())
