"""Training data: for each epoch, a plan of batches and a way to make each batch."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from random import Random
from threading import Event

import numpy as np

from mt.config.schema import Batching
from mt.data.batch_plan import BatchPlan, plan_batches, split_evenly
from mt.data.batching import Batch, make_batch
from mt.data.bpe_dropout import Draw
from mt.data.corpus import EncodedCorpus, EncodedPairs
from mt.data.token_array import TokenArray
from mt.data.tokenizer import Tokenizer
from mt.data.unseen import UNSEEN_BATCH_FRACTION, insert_unseen_characters


@dataclass(frozen=True, eq=False)
class Dataset:
    """Encoded sentence pairs, and the tokenizers that sample other encodings of them."""

    corpus: EncodedCorpus
    src_tokenizer: Tokenizer
    tgt_tokenizer: Tokenizer
    max_length: int  # tokens on a side; a longer sampled encoding is not used
    seed: int
    batching: Batching
    unseen_character_fraction: float = (
        0.0  # fraction of the sources that get some, see `mt.data.unseen`
    )

    @property
    def digest(self) -> str:
        """A hash of the text, the tokenizers and the limits.

        A run can resume only if this hash has not changed.
        """
        return self.corpus.digest

    @property
    def has_bpe_dropout(self) -> bool:
        """Whether each epoch has other encodings of the same pairs."""
        return max(self.src_tokenizer.bpe_dropout, self.tgt_tokenizer.bpe_dropout) > 0.0

    def epoch(self, number: int, *, batch_tokens: int) -> "Epoch":
        """Return epoch `number`, a pure function of (seed, number, batch_tokens) and the corpus.

        A batch has at most `batch_tokens` positions on its longer side, padding included. With
        BPE-dropout, which makes sentences longer, it may have more: a quarter more at a dropout of
        0.1.
        """
        plan = plan_batches(
            self.corpus.src_lengths,
            self.corpus.tgt_lengths,
            batch_tokens=batch_tokens,
            seed=self.seed,
            epoch=number,
            batching=self.batching,
            weights=self.corpus.weights,
        )
        return Epoch(number, plan, self)


@dataclass(frozen=True, eq=False)
class Epoch:
    """One pass over the data: `plan` says which pairs are in each batch, `batch` makes one."""

    number: int
    plan: BatchPlan
    dataset: Dataset
    # A cache of the last sampled group. The key is the number of its first batch.
    _latest_group: dict[int, list[EncodedPairs]] = field(default_factory=dict)
    _cancelled: Event = field(default_factory=Event)

    def batch(self, index: int) -> Batch:
        """Return batch number `index`, on the CPU.

        Without BPE-dropout, it has the pairs that the plan says. With BPE-dropout, it is a pure
        function of the seed, the epoch and `index`, and the pairs of a group of batches are
        distributed over these in another way (see `_sample_group`).
        """
        pairs = self._chosen_pairs(index)
        return self._make_batch(self._insert_unseen(pairs, seed=f"unseen {index}"))

    def _chosen_pairs(self, index: int) -> EncodedPairs:
        """Return the pairs of batch number `index`, with sampled encodings for BPE-dropout."""
        if not self.dataset.has_bpe_dropout:
            return self._planned_pairs(index, index + 1)
        start, end = self.plan.find_group(index)
        batches = self._latest_group.get(start)
        if batches is None:
            batches = self._sample_group(start, end)
            self._latest_group.clear()
            self._latest_group[start] = batches
        return batches[index - start]

    def cancel(self) -> None:
        """Stop sampling in another thread: it raises CancelledError at the next sentence."""
        self._cancelled.set()

    def batch_for_memory_check(self, index: int) -> Batch:
        """Return planned batch `index` with more padding than a training batch usually has.

        With BPE-dropout, the pairs have sampled encodings, but are not sorted again by their
        lengths. Unseen characters are inserted in any case.
        """
        pairs = self._planned_pairs(index, index + 1)
        pairs = self._sample(pairs, seed=f"widest {index}")
        return self._make_batch(
            self._insert_unseen(pairs, seed=f"widest unseen {index}", always=True)
        )

    def _planned_pairs(self, start: int, end: int) -> EncodedPairs:
        """Return the pairs of the planned batches from `start` to before `end`."""
        return self.dataset.corpus.pairs(self.plan.indices(start, end))

    def _sample_group(self, start: int, end: int) -> list[EncodedPairs]:
        """Return the pairs of the batches from `start` to before `end`, with sampled encodings.

        Encodings of sentences of one length are sampled with different lengths, so the planned
        batches would need much padding. Therefore the pairs of all these batches are sorted by
        their new lengths and distributed again. The number of batches stays the same.
        """
        pairs = self._sample(self._planned_pairs(start, end), seed=f"group {start}")
        generator = np.random.default_rng([self.dataset.seed, self.number, start])
        batches = split_evenly(
            pairs.src_lengths,
            pairs.tgt.lengths,
            end - start,
            generator,
            batching=self.dataset.batching,
        )
        return [pairs.take(indices) for indices in batches]

    def _sample(self, pairs: EncodedPairs, *, seed: str) -> EncodedPairs:
        """Return the pairs with random encodings, a pure function of the epoch and `seed`."""
        dataset = self.dataset
        seed = f"{dataset.seed} {self.number} {seed}"
        src_limits = [dataset.max_length - len(prefix) for prefix in pairs.src_prefixes]
        tgt_limits = [dataset.max_length] * len(pairs.tgt)
        src = self._sample_rows(
            pairs.src, dataset.src_tokenizer, Random(f"{seed} src").random, src_limits
        )
        tgt = self._sample_rows(
            pairs.tgt, dataset.tgt_tokenizer, Random(f"{seed} tgt").random, tgt_limits
        )
        return pairs._replace(src=src, tgt=tgt)

    def _sample_rows(
        self, rows: TokenArray, tokenizer: Tokenizer, draw: Draw, limits: Sequence[int]
    ) -> TokenArray:
        """Decode the rows to text, and return random encodings of this text.

        An encoding of more tokens than its limit is not used: the row stays as it is.
        """
        if tokenizer.bpe_dropout == 0.0:
            return rows
        plain_rows = rows.rows()
        texts = self._check_cancelled(tokenizer.decode(plain_rows))
        sampled_rows = tokenizer.sample(texts, draw)
        chosen = []
        for plain, sampled, limit in zip(plain_rows, sampled_rows, limits, strict=True):
            chosen.append(sampled if len(sampled) <= limit else plain)
        return TokenArray.from_rows(chosen)

    def _check_cancelled(self, texts: Iterable[str]) -> Iterator[str]:
        """Yield the texts. Raises CancelledError when `cancel` was called."""
        for text in texts:
            if self._cancelled.is_set():
                raise CancelledError
            yield text

    def _insert_unseen(
        self, pairs: EncodedPairs, *, seed: str, always: bool = False
    ) -> EncodedPairs:
        """Return the pairs of a batch; in some batches, with unseen characters in some sources.

        `always` inserts them into any batch. This is a pure function of the pairs, the epoch and
        `seed`.
        """
        dataset = self.dataset
        fraction = dataset.unseen_character_fraction
        batch_fraction = max(UNSEEN_BATCH_FRACTION, fraction)
        draw = Random(f"{dataset.seed} {self.number} {seed}").random
        if fraction == 0.0 or (draw() >= batch_fraction and not always):
            return pairs
        return insert_unseen_characters(
            pairs,
            dataset.src_tokenizer,
            fraction=fraction / batch_fraction,
            draw=draw,
            max_length=dataset.max_length,
        )

    def _make_batch(self, pairs: EncodedPairs) -> Batch:
        dataset = self.dataset
        return make_batch(
            pairs, pad_id=dataset.src_tokenizer.pad_id, bos_id=dataset.tgt_tokenizer.bos_id
        )
