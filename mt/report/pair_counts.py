"""The numbers of sentence pairs that a run was trained on."""

from collections.abc import Sequence
from typing import NamedTuple

from mt.data.chunk_encoder import FilterCounts
from mt.data.corpus import load_pair_numbers
from mt.errors import CheckpointError, DataError
from mt.storage.checkpoint import find_checkpoint, load_meta
from mt.storage.run_dir import RunDir


class PairCounts(NamedTuple):
    """How many pairs the filters kept, by training corpus, and why the others were left out."""

    kept: Sequence[int]  # by corpus, in the order of the config
    total: FilterCounts


def read_pair_counts(run: RunDir, *, num_corpora: int) -> PairCounts | None:
    """Read the pair counts from the run's cache; None if the cache is deleted or damaged.

    The last checkpoint names the cache entry. Without a checkpoint the answer is None too, because
    an entry could come from an earlier attempt with other corpora.
    """
    try:
        digest = load_meta(find_checkpoint(run.checkpoints_dir, "last")).get("data_digest")
        numbers = load_pair_numbers(run.cache_dir / str(digest))
    except (CheckpointError, DataError):
        return None
    if len(numbers.num_pairs) != num_corpora:
        return None
    return PairCounts(numbers.num_pairs, numbers.counts)
