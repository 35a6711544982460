"""Training and validation data: for each epoch, a plan of batches and a way to make each batch."""

from dataclasses import dataclass

from mt.data.batching import Batch, BatchPlan, make_batch, plan_batches
from mt.data.corpus import EncodedCorpus, resample
from mt.data.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Epoch:
    """One pass over the data: `plan` says which pairs each batch has, `batch` makes one."""

    number: int
    plan: BatchPlan
    corpus: EncodedCorpus
    pad_id: int
    bos_id: int

    def batch(self, index: int) -> Batch:
        """Return the plan's batch number `index`, on the CPU."""
        indices = self.plan.indices(index)
        return make_batch(self.corpus, indices, pad_id=self.pad_id, bos_id=self.bos_id)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Encoded sentence pairs, and the tokenizers that BPE-dropout encodes them with in each epoch."""

    corpus: EncodedCorpus
    src_tokenizer: Tokenizer
    tgt_tokenizer: Tokenizer
    max_length: int  # tokens on a side; a sampled encoding that is longer is not used
    seed: int

    @property
    def digest(self) -> str:
        """What identifies the content: text, tokenizers and limits. A run resumes with the same only."""
        return self.corpus.digest

    def epoch(self, number: int, *, batch_tokens: int) -> Epoch:
        """Return epoch `number`, a pure function of (seed, number, batch_tokens) and the corpus.

        A batch has at most `batch_tokens` padded positions on its longer side.
        """
        src, tgt = self.src_tokenizer, self.tgt_tokenizer
        sampled = resample(self.corpus, src, tgt, epoch=number, max_length=self.max_length)
        plan = plan_batches(
            sampled.src.lengths,
            sampled.tgt.lengths,
            batch_tokens=batch_tokens,
            seed=self.seed,
            epoch=number,
            weights=sampled.weights,
        )
        return Epoch(number, plan, sampled, pad_id=src.pad_id, bos_id=tgt.bos_id)
