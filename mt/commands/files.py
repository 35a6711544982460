"""What a command reads, where its results go, and how it speaks while it works."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from mt.config import CorpusConfig, DataConfig, EvalSetConfig
from mt.data.corpus import ParallelFiles
from mt.data.text import Errors, decode_lines, find_pair, raw_lines, read_lines
from mt.disk import whole_file
from mt.errors import DataError, DiskError


class EvalSet(NamedTuple):
    """A set of lines to translate, with one or several references for each."""

    name: str
    src: list[str]
    refs: list[list[str]]  # one list of lines for each reference file


def training_files(data: DataConfig) -> list[ParallelFiles]:
    """The two files of each training corpus."""
    found = ((find_files(corpus, data), corpus.weight) for corpus in data.train)
    return [ParallelFiles(src, tgt, weight) for (src, (tgt,)), weight in found]


def find_files(section: EvalSetConfig | CorpusConfig, data: DataConfig) -> tuple[Path, list[Path]]:
    """A source file, and the target file or files that answer it. Raises DataError."""
    if section.prefix is None:
        tgts = section.refs if isinstance(section, EvalSetConfig) else (section.tgt,)
        return Path(section.src or ""), [Path(tgt or "") for tgt in tgts]  # never "": checked when the config was read
    src_lang = section.src_lang if isinstance(section, CorpusConfig) else None
    src, tgt = find_pair(section.prefix, src_lang=src_lang or data.src_lang, tgt_lang=data.tgt_lang)
    return src, [tgt]


def configured_set(section: EvalSetConfig, data: DataConfig) -> EvalSet:
    """Read one of the config's validation and test sets."""
    return read_set(section.name, *find_files(section, data))


def read_set(name: str, src: Path, refs: Sequence[Path]) -> EvalSet:
    """Read the files of a set. Raises DataError when their numbers of lines differ."""
    found = EvalSet(name, list(read_lines(src)), [list(read_lines(ref)) for ref in refs])
    for path, lines in zip(refs, found.refs, strict=True):
        if len(lines) != len(found.src):
            counts = f"{len(lines):,} lines, but {src} has {len(found.src):,}"
            raise DataError(f"{path}: {counts}; line i must answer line i")
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


def write_lines(
    lines: Iterable[str], output: Path | None = None, *, with_bar: bool = False, at_once: bool = False
) -> None:
    """Results, in UTF-8 whatever the terminal's habits, to stdout or to a file that appears when the last is there.

    `at_once` keeps none back until there are more.
    """
    with standard_output() if output is None else whole_file(output) as file:
        for line in tqdm(lines, unit="line", dynamic_ncols=True, disable=not with_bar):
            file.write(f"{line}\n".encode())
            if at_once:
                file.flush()


def say(line: str) -> None:
    """Speak to the user, on stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)
