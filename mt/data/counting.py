"""A first reading of all training text: it finds broken files early, and counts the pairs."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from mt.config.choices import Normalization
from mt.data.chunk_encoder import FilterCounts
from mt.data.corpus import TrainingCorpus
from mt.data.normalization import is_blank_line
from mt.data.parallel_text import ParallelText, complete_pairs
from mt.data.progress import bytes_bar
from mt.data.text import OnBytes
from mt.errors import DataError
from mt.wording import count_of

logger = logging.getLogger(__name__)


class TextCounts(NamedTuple):
    """Numbers of pairs in a parallel text."""

    num_pairs: int  # blank ones included
    num_blank: int  # pairs with a blank side


def count_training_text(corpora: Sequence[TrainingCorpus], *, normalization: Normalization) -> None:
    """Read all corpora and log how many pairs they have; warn of incomplete rows.

    This takes seconds, while training a tokenizer and encoding take minutes for a large text.
    Raises DataError for what cannot be read or decoded, when the files of a pair differ in their
    number of lines, and when all pairs have a blank side.
    """
    paths = [path for corpus in corpora for path in corpus.text.paths]
    with bytes_bar("reading", paths) as on_bytes:
        counts = [
            count_pairs(corpus.text, normalization=normalization, on_bytes=on_bytes)
            for corpus in corpora
        ]
    num_pairs = sum(corpus_counts.num_pairs for corpus_counts in counts)
    num_blank = sum(corpus_counts.num_blank for corpus_counts in counts)
    if num_pairs == num_blank:
        names = ", ".join(corpus.text.name for corpus in corpora)
        raise DataError(f"{names}: no training pair is left: {FilterCounts(blank=num_blank)}")
    blank = f" ({num_blank:,} with a blank side)" if num_blank else ""
    logger.info(f"train: {count_of(num_pairs, 'pair')}{blank}")


def count_pairs(
    text: ParallelText, *, normalization: Normalization, on_bytes: OnBytes | None = None
) -> TextCounts:
    """Read a text to its end and count its pairs; warn of incomplete rows. Raises DataError."""
    num_pairs = 0
    num_blank = 0
    for src, tgt in complete_pairs(text, on_bytes=on_bytes):
        num_pairs += 1
        if is_blank_line(src, normalization) or is_blank_line(tgt, normalization):
            num_blank += 1
    return TextCounts(num_pairs, num_blank)
