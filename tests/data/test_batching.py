"""Tests of batches: sentence pairs as padded tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from lengths import random_lengths
from torch.nn.utils.rnn import pad_sequence

from mt.data.batching import make_batch
from mt.data.chunk_encoder import FilterCounts
from mt.data.corpus import EncodedCorpus
from mt.data.token_array import TokenArray

PAD_ID = 0
BOS_ID = 2
EOS_ID = 3


def random_token_array(lengths: np.ndarray) -> TokenArray:
    """Return sequences of random ids that end in eos."""
    offsets = np.cumsum([0, *lengths])
    ids = np.random.default_rng(2).integers(4, 1000, offsets[-1]).astype(np.int32)
    ids[offsets[1:] - 1] = EOS_ID
    return TokenArray(ids, offsets)


def random_corpus(num_pairs: int) -> EncodedCorpus:
    src_lengths, tgt_lengths = random_lengths(num_pairs)
    return EncodedCorpus(
        src=random_token_array(src_lengths),
        tgt=random_token_array(tgt_lengths),
        weights=np.ones(num_pairs, np.float32),
        counts=FilterCounts(kept=num_pairs),
    )


def padded(rows: list[list[int]]) -> torch.Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=PAD_ID)


@pytest.mark.parametrize("indices", [[5], [3, 99, 0, 42, 3], list(range(100))])
def test_batch_equals_its_rows_padded_one_by_one(indices: list[int]) -> None:
    corpus = random_corpus(100)
    batch = make_batch(corpus.pairs(np.array(indices)), pad_id=PAD_ID, bos_id=BOS_ID)
    src_rows = [corpus.src[i].tolist() for i in indices]
    tgt_rows = [corpus.tgt[i].tolist() for i in indices]
    assert torch.equal(batch.src, padded(src_rows))
    assert torch.equal(batch.tgt_in, padded([[BOS_ID, *row[:-1]] for row in tgt_rows]))
    assert torch.equal(batch.tgt_out, padded(tgt_rows))
    assert batch.num_tokens == sum(len(row) for row in tgt_rows)
    assert {batch.src.dtype, batch.tgt_in.dtype, batch.tgt_out.dtype} == {torch.long}


def test_batch_has_the_prefixes_in_front() -> None:
    corpus = random_corpus(6)
    tagged = replace(corpus, num_pairs=(2, 4), src_prefixes=((7, 8), ()))
    indices = np.array([3, 1, 0])
    batch = make_batch(tagged.pairs(indices), pad_id=PAD_ID, bos_id=BOS_ID)
    plain = make_batch(corpus.pairs(indices), pad_id=PAD_ID, bos_id=BOS_ID)
    rows = [corpus.src[3].tolist(), [7, 8, *corpus.src[1]], [7, 8, *corpus.src[0]]]
    assert torch.equal(batch.src, padded(rows))
    assert torch.equal(batch.tgt_in, plain.tgt_in)
    assert torch.equal(batch.tgt_out, plain.tgt_out)
    assert batch.num_tokens == plain.num_tokens


def test_repeated_batch_has_all_rows_again() -> None:
    batch = make_batch(random_corpus(5).pairs(np.arange(5)), pad_id=PAD_ID, bos_id=BOS_ID)
    repeated = batch.repeat(2)
    assert torch.equal(repeated.src, torch.cat([batch.src, batch.src]))
    assert torch.equal(repeated.tgt_in, torch.cat([batch.tgt_in, batch.tgt_in]))
    assert torch.equal(repeated.tgt_out, torch.cat([batch.tgt_out, batch.tgt_out]))
    assert repeated.num_tokens == 2 * batch.num_tokens
