"""Evaluation sets, and the text files that the `data` section of a config names."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mt.config.choices import Normalization
from mt.config.schema import DataConfig, EvalSetConfig
from mt.data.corpus import TrainingCorpus
from mt.data.normalization import normalize
from mt.data.parallel_text import ParallelText, TwoFiles, complete_pairs, parallel_texts
from mt.data.tags import corpus_prefix
from mt.data.text import read_lines
from mt.errors import DataError
from mt.wording import count_of

logger = logging.getLogger(__name__)


class EvalSet(NamedTuple):
    """Source lines with one or more reference translations of each."""

    name: str
    src: list[str]
    refs: list[list[str]]  # one list of lines for each reference file
    # None: those of the model that translates the set.
    src_lang: str | None = None
    tgt_lang: str | None = None

    @property
    def digest(self) -> str:
        """A hash of the lines, wherever they were read."""
        return hashlib.sha256(json.dumps([self.src, self.refs]).encode()).hexdigest()[:32]

    def sample(self, num_lines: int) -> "EvalSet":
        """Return a fixed sample of `num_lines` lines, in their order.

        The lines with the smallest hashes are taken. So the sample depends on the lines alone, it
        does not follow a regular order of the set, and a smaller sample is part of a larger one.
        """
        if num_lines >= len(self.src):
            return self
        smallest = sorted(range(len(self.src)), key=self._line_hash)[:num_lines]
        indices = sorted(smallest)
        return self._replace(
            src=[self.src[index] for index in indices],
            refs=[[lines[index] for index in indices] for lines in self.refs],
        )

    def _line_hash(self, index: int) -> bytes:
        """Return a hash of a line with its references and its number."""
        lines = [str(index), self.src[index], *(lines[index] for lines in self.refs)]
        return hashlib.sha256(json.dumps(lines).encode()).digest()


def training_corpora(
    data: DataConfig, *, ids_by_tag: Mapping[str, int] | None = None
) -> list[TrainingCorpus]:
    """Return the training corpora of a config, with the tags in `ids_by_tag`.

    Raises DataError when a file that a prefix stands for does not exist.
    """
    corpora = []
    for section in data.train:
        (text,) = parallel_texts(section, data)
        src_prefix = corpus_prefix(section, data, ids_by_tag or {})
        corpora.append(TrainingCorpus(text, section.weight, src_prefix))
    return corpora


def texts_of_two_languages(data: DataConfig) -> list[ParallelText]:
    """Return the texts of the training corpora that have two languages.

    Both sides of copied monolingual text are in one language. Raises DataError as
    `training_corpora` does.
    """
    languages = map(data.languages, data.train)
    return [
        corpus.text
        for corpus, (src_lang, tgt_lang) in zip(training_corpora(data), languages, strict=True)
        if src_lang != tgt_lang
    ]


def load_eval_set(section: EvalSetConfig, data: DataConfig) -> EvalSet:
    """Read one of the config's validation and test sets.

    Raises DataError as `parallel_texts` and the readers do.
    """
    texts = parallel_texts(section, data)
    languages = data.languages(section)
    two_files = [text for text in texts if isinstance(text, TwoFiles)]
    if two_files:
        refs = [text.tgt for text in two_files]
        eval_set = read_eval_set(section.name, two_files[0].src, refs)
    else:
        (text,) = texts
        pairs = list(complete_pairs(text))
        eval_set = EvalSet(section.name, [src for src, _ in pairs], [[tgt for _, tgt in pairs]])
    return eval_set._replace(src_lang=languages.src, tgt_lang=languages.tgt)


def read_eval_set(name: str, src: Path, refs: Sequence[Path]) -> EvalSet:
    """Read the files of an evaluation set.

    Raises DataError for a file that cannot be read, and for a reference file with another number of
    lines than the source file.
    """
    src_lines = list(read_lines(src))
    eval_set = EvalSet(name, src_lines, [list(read_lines(ref)) for ref in refs])
    num_lines = len(eval_set.src)
    for path, lines in zip(refs, eval_set.refs, strict=True):
        if len(lines) != num_lines:
            raise DataError(
                f"{path}: {count_of(len(lines), 'line')}, but {src} has {num_lines:,}; "
                "line i must be the translation of line i"
            )
    return eval_set


def warn_of_unnormalized_references(eval_set: EvalSet, normalization: Normalization) -> None:
    """Warn of references that are not normalized. Translations are, because the training text is.

    References are scored as they are. Differences in spaces are ignored, because no score depends
    on them.
    """
    if normalization == "none":
        return
    numbers = []
    for lines in eval_set.refs:
        for number, line in enumerate(lines, start=1):
            if normalize(line, normalization) != " ".join(line.split()):
                numbers.append(number)
    if numbers:
        logger.warning(
            f"{eval_set.name}: reference lines that are not in the form of translations "
            f"(data.normalization: {normalization}): {len(numbers):,}, the first is line "
            f"{numbers[0]}; references are scored as they are, so each such difference counts as "
            "an error"
        )
