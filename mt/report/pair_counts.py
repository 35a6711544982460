"""The numbers of sentence pairs that a run was trained on."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from mt.data.corpus import FilterCounts
from mt.errors import CheckpointError
from mt.storage.checkpoint import find_checkpoint, load_meta
from mt.storage.run_dir import RunDir


class PairCounts(NamedTuple):
    """How many pairs the filters kept, by training corpus, and why the others were left out."""

    kept: Sequence[int]  # by corpus, in the order of the config
    total: FilterCounts


def read_pair_counts(run: RunDir) -> PairCounts | None:
    """Read the pair counts from the run's cache; None if the cache is deleted or damaged.

    The last checkpoint names the cache entry. Without a checkpoint the answer is None too, because
    an entry could come from an earlier attempt with other corpora.
    """
    try:
        digest = load_meta(find_checkpoint(run.checkpoints_dir, "last"))["data_digest"]
        text = (run.cache_dir / digest / "meta.json").read_text(encoding="utf-8")
        meta = json.loads(text)
        return PairCounts(meta["num_pairs"], FilterCounts(**meta["counts"]))
    except (CheckpointError, OSError, ValueError, KeyError, TypeError):
        return None
