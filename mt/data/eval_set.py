"""Evaluation sets, and the text files that a config names."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mt.config.schema import CorpusConfig, DataConfig, EvalSetConfig
from mt.data.corpus import ParallelFiles
from mt.data.text import find_pair, read_lines
from mt.errors import DataError


class EvalSet(NamedTuple):
    """Source lines with one or several references for each."""

    name: str
    src: list[str]
    refs: list[list[str]]  # one list of lines for each reference file


def training_files(data: DataConfig) -> list[ParallelFiles]:
    """Return the two files of each training corpus, with the corpus's weight."""
    files = []
    for corpus in data.train:
        src, (tgt,) = find_files(corpus, data)
        files.append(ParallelFiles(src, tgt, corpus.weight))
    return files


def find_files(section: EvalSetConfig | CorpusConfig, data: DataConfig) -> tuple[Path, list[Path]]:
    """Return the source file and the target file or files of a corpus or set. Raises DataError."""
    if section.prefix is None:
        tgts = section.refs if isinstance(section, EvalSetConfig) else (section.tgt,)
        # The schema has checked that these are set when there is no prefix.
        return Path(section.src or ""), [Path(tgt or "") for tgt in tgts]
    src_lang = section.src_lang if isinstance(section, CorpusConfig) else None
    src, tgt = find_pair(section.prefix, src_lang=src_lang or data.src_lang, tgt_lang=data.tgt_lang)
    return src, [tgt]


def load_eval_set(section: EvalSetConfig, data: DataConfig) -> EvalSet:
    """Read one of the config's validation and test sets. Raises DataError."""
    src, refs = find_files(section, data)
    return read_eval_set(section.name, src, refs)


def read_eval_set(name: str, src: Path, refs: Sequence[Path]) -> EvalSet:
    """Read the files of a set. Raises DataError when their numbers of lines differ."""
    eval_set = EvalSet(name, list(read_lines(src)), [list(read_lines(ref)) for ref in refs])
    num_lines = len(eval_set.src)
    for path, lines in zip(refs, eval_set.refs, strict=True):
        if len(lines) != num_lines:
            raise DataError(
                f"{path}: {len(lines):,} lines, but {src} has {num_lines:,}; "
                "line i must be the translation of line i"
            )
    return eval_set
