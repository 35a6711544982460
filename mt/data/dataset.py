"""Training data: for each epoch, a plan of batches and a way to make each batch."""

from dataclasses import dataclass

from mt.data.batching import Batch, BatchPlan, make_batch, plan_batches
from mt.data.corpus import EncodedCorpus, resample
from mt.data.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Epoch:
    """One pass over the data: `plan` says which pairs are in each batch, `batch` makes one."""

    number: int
    plan: BatchPlan
    corpus: EncodedCorpus
    pad_id: int
    bos_id: int

    def batch(self, index: int) -> Batch:
        """Return batch number `index` of the plan, on the CPU."""
        indices = self.plan.indices(index)
        return make_batch(self.corpus, indices, pad_id=self.pad_id, bos_id=self.bos_id)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Encoded sentence pairs, and the tokenizers that sample their encodings in each epoch."""

    corpus: EncodedCorpus
    src_tokenizer: Tokenizer
    tgt_tokenizer: Tokenizer
    max_length: int  # tokens on a side; a longer sampled encoding is not used
    seed: int

    @property
    def digest(self) -> str:
        """Return what identifies the text, the tokenizers and the limits; it must not change."""
        return self.corpus.digest

    def epoch(self, number: int, *, batch_tokens: int) -> Epoch:
        """Return epoch `number`, a pure function of (seed, number, batch_tokens) and the corpus.

        A batch has at most `batch_tokens` padded positions on its longer side.
        """
        corpus = resample(
            self.corpus,
            self.src_tokenizer,
            self.tgt_tokenizer,
            epoch=number,
            max_length=self.max_length,
        )
        plan = plan_batches(
            corpus.src.lengths,
            corpus.tgt.lengths,
            batch_tokens=batch_tokens,
            seed=self.seed,
            epoch=number,
            weights=corpus.weights,
        )
        return Epoch(
            number, plan, corpus, pad_id=self.src_tokenizer.pad_id, bos_id=self.tgt_tokenizer.bos_id
        )
