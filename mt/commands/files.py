"""What a command reads, where its results go, and how it speaks while it works."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mt.config import DataConfig, EvalSetConfig
from mt.data.corpus import ParallelFiles
from mt.data.text import Errors, decode_lines, find_pair, raw_lines, read_lines
from mt.errors import DataError, DiskError


class EvalSet(NamedTuple):
    """A set of lines to translate, with one or several references for each."""

    name: str
    src: list[str]
    refs: list[list[str]]  # one list of lines for each reference file


def training_files(data: DataConfig) -> list[ParallelFiles]:
    """The two files of each training corpus."""
    files = []
    for corpus in data.train:
        pair = Path(corpus.src or ""), Path(corpus.tgt or "")  # never "": checked when the config was read
        if corpus.prefix is not None:
            pair = find_pair(corpus.prefix, src_lang=corpus.src_lang or data.src_lang, tgt_lang=data.tgt_lang)
        files.append(ParallelFiles(*pair, corpus.weight))
    return files


def configured_set(section: EvalSetConfig, data: DataConfig) -> EvalSet:
    """Read one of the config's validation and test sets."""
    src, refs = Path(section.src or ""), [Path(ref) for ref in section.refs]
    if section.prefix is not None:
        src, *refs = find_pair(section.prefix, src_lang=data.src_lang, tgt_lang=data.tgt_lang)
    return read_set(section.name, src, refs)


def read_set(name: str, src: Path, refs: Sequence[Path]) -> EvalSet:
    """Read the files of a set. Raises DataError when their numbers of lines differ."""
    found = EvalSet(name, list(read_lines(src)), [list(read_lines(ref)) for ref in refs])
    for path, lines in zip(refs, found.refs, strict=True):
        if len(lines) != len(found.src):
            raise DataError(
                f"{path}: {len(lines):,} lines, but {src} has {len(found.src):,}; line i must answer line i"
            )
    return found


def read_input(path: Path | None, *, errors: Errors = "strict") -> Iterator[str]:
    """The lines of a file, which may have none, or of stdin as they come. Raises DataError."""
    if path is not None:
        yield from read_lines(path, errors=errors, may_be_empty=True)
    elif sys.stdin is None:
        raise DataError("stdin: it is closed (--input names a file to read)")
    else:
        try:
            yield from decode_lines(raw_lines(sys.stdin.buffer), name="stdin", errors=errors)
        except OSError as error:
            raise DataError(f"stdin: cannot read: {error.strerror}") from error


@contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Stdout, all of it written in the end; DiskError when that is closed or full.

    When the reader has left, as `head` does, the command ends quietly with the exit code of any filter.
    """
    if sys.stdout is None:
        raise DiskError("stdout: cannot write: it is closed")
    try:
        yield sys.stdout.buffer
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # lest Python try again when it leaves
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        raise DiskError(f"stdout: cannot write: {error.strerror}") from error


def write_lines(lines: Iterable[str]) -> None:
    """Results, to stdout, in UTF-8 whatever the terminal's habits."""
    with standard_output() as file:
        for line in lines:
            file.write(f"{line}\n".encode())


def say(line: str) -> None:
    """Speak to the user, on stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)
