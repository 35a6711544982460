"""Tests of epochs: batches of plain encodings, and of those that BPE-dropout samples."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import mt.data.batch_plan
from mt.config.schema import Batching
from mt.data.batching import Batch
from mt.data.bpe_dropout import Draw
from mt.data.corpus import EncodedCorpus, encode_pairs
from mt.data.dataset import Dataset, Epoch
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer

PAIRS = [
    (f"The {adjective} dog sees {number}{tail}", f"Der {adjective} Hund sieht {number}{tail}")
    for adjective in ("old", "small", "red")
    for number in range(40)
    for tail in (".", " cats in the garden.", " times, and then it runs away.")
]
BATCH_TOKENS = 200


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an epoch of this small data set have several groups of batches."""
    monkeypatch.setattr(mt.data.batch_plan, "POOL_SIZE", 12)
    monkeypatch.setattr(mt.data.batch_plan, "FIRST_GROUP_SIZE", 3)
    monkeypatch.setattr(mt.data.batch_plan, "GROUP_SIZE", 24)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    train_tokenizer([text for pair in PAIRS for text in pair], path, kind="bpe", vocab_size=340)
    return path


def encode(tokenizer: Tokenizer, *, src_prefix: tuple[int, ...] = ()) -> EncodedCorpus:
    src_texts, tgt_texts = zip(*PAIRS, strict=True)
    return encode_pairs(
        src_texts,
        tgt_texts,
        src_tokenizer=tokenizer,
        tgt_tokenizer=tokenizer,
        src_prefix=src_prefix,
    )


def make_dataset(
    model: Path,
    *,
    bpe_dropout: float = 0.3,
    max_length: int = 90,
    seed: int = 1,
    num_tags: int = 0,
    unseen_character_fraction: float = 0.0,
    batching: Batching = "pools",
) -> Dataset:
    """Return a data set of PAIRS, of which only the sources have BPE-dropout."""
    src_tokenizer = Tokenizer.load(model, bpe_dropout=bpe_dropout)
    tgt_tokenizer = Tokenizer.load(model)
    corpus = encode(tgt_tokenizer, src_prefix=src_tokenizer.tag_ids[:num_tags])
    return Dataset(
        corpus, src_tokenizer, tgt_tokenizer, max_length, seed, batching, unseen_character_fraction
    )


def all_batches(epoch: Epoch) -> list[Batch]:
    return [epoch.batch(index) for index in range(epoch.plan.num_batches)]


def rows_without_padding(side: Tensor) -> list[list[int]]:
    return [row[row != Tokenizer.pad_id].tolist() for row in side]


def decode_batches(batches: list[Batch], tokenizer: Tokenizer) -> list[tuple[str, str]]:
    pairs = []
    for batch in batches:
        src = tokenizer.decode(rows_without_padding(batch.src))
        tgt = tokenizer.decode(rows_without_padding(batch.tgt_out))
        pairs += list(zip(src, tgt, strict=True))
    return pairs


def assert_same_batches(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for batch, other in zip(first, second, strict=True):
        assert torch.equal(batch.src, other.src)
        assert torch.equal(batch.tgt_in, other.tgt_in)
        assert torch.equal(batch.tgt_out, other.tgt_out)
        assert batch.num_tokens == other.num_tokens


@pytest.mark.parametrize("batching", ["pools", "sorted"])
@pytest.mark.parametrize("bpe_dropout", [0.0, 0.3])
def test_epoch_has_every_pair_once(model: Path, bpe_dropout: float, batching: Batching) -> None:
    dataset = make_dataset(model, bpe_dropout=bpe_dropout, batching=batching)
    epoch = dataset.epoch(1, batch_tokens=BATCH_TOKENS)
    batches = all_batches(epoch)
    assert sorted(decode_batches(batches, dataset.tgt_tokenizer)) == sorted(PAIRS)
    assert len(epoch.plan.group_starts) > 3, "several groups"


def test_plan_does_not_depend_on_bpe_dropout(model: Path) -> None:
    plain = make_dataset(model, bpe_dropout=0.0).epoch(1, batch_tokens=BATCH_TOKENS)
    sampled = make_dataset(model).epoch(1, batch_tokens=BATCH_TOKENS)
    assert plain.plan.order.tolist() == sampled.plan.order.tolist()
    assert plain.plan.starts.tolist() == sampled.plan.starts.tolist()


def test_without_bpe_dropout_batches_are_the_planned_ones(model: Path) -> None:
    dataset = make_dataset(model, bpe_dropout=0.0)
    epoch = dataset.epoch(1, batch_tokens=BATCH_TOKENS)
    for index, batch in enumerate(all_batches(epoch)):
        indices = epoch.plan.indices(index, index + 1)
        assert rows_without_padding(batch.src) == [dataset.corpus.src[i].tolist() for i in indices]
        assert batch.num_tokens == dataset.corpus.tgt.lengths[indices].sum()
        assert_same_batches([batch], [epoch.batch_for_memory_check(index)])


def test_batches_are_a_function_of_seed_epoch_and_index(model: Path) -> None:
    expected = all_batches(make_dataset(model).epoch(1, batch_tokens=BATCH_TOKENS))
    epoch = make_dataset(model).epoch(1, batch_tokens=BATCH_TOKENS)
    backwards = [epoch.batch(index) for index in reversed(range(len(expected)))]
    assert_same_batches(backwards[::-1], expected)

    indices = [len(expected) - 1, 0, 20, 20, 7, 8]
    assert_same_batches([epoch.batch(index) for index in indices], [expected[i] for i in indices])

    other_epoch = make_dataset(model).epoch(2, batch_tokens=BATCH_TOKENS)
    other_seed = make_dataset(model, seed=2).epoch(1, batch_tokens=BATCH_TOKENS)
    for other in (other_epoch, other_seed):
        assert src_lengths_by_pair(other) != src_lengths_by_pair(epoch)


def src_lengths_by_pair(epoch: Epoch) -> dict[tuple[str, str], int]:
    """Return the number of source tokens of each pair."""
    lengths = [len(row) for batch in all_batches(epoch) for row in rows_without_padding(batch.src)]
    pairs = decode_batches(all_batches(epoch), epoch.dataset.tgt_tokenizer)
    return dict(zip(pairs, lengths, strict=True))


def test_only_sides_with_bpe_dropout_are_sampled(model: Path) -> None:
    epoch = make_dataset(model).epoch(1, batch_tokens=BATCH_TOKENS)
    plain = make_dataset(model, bpe_dropout=0.0).epoch(1, batch_tokens=BATCH_TOKENS)
    src_lengths = src_lengths_by_pair(epoch)
    plain_lengths = src_lengths_by_pair(plain)
    assert sum(src_lengths.values()) > 1.1 * sum(plain_lengths.values())
    assert all(src_lengths[pair] >= plain_lengths[pair] for pair in PAIRS)
    num_tgt_tokens = sum(batch.num_tokens for batch in all_batches(epoch))
    assert num_tgt_tokens == plain.dataset.corpus.tgt.lengths.sum()


def test_too_long_sampled_encoding_falls_back_to_the_plain(model: Path) -> None:
    longest = int(make_dataset(model).corpus.src.lengths.max())
    dataset = make_dataset(model, bpe_dropout=1.0, max_length=longest)
    epoch = dataset.epoch(0, batch_tokens=BATCH_TOKENS)
    lengths = src_lengths_by_pair(epoch)
    assert max(lengths.values()) <= longest
    plain_lengths = src_lengths_by_pair(
        make_dataset(model, bpe_dropout=0.0).epoch(0, batch_tokens=BATCH_TOKENS)
    )
    num_plain = sum(lengths[pair] == plain_lengths[pair] for pair in PAIRS)
    assert 0 < num_plain < len(PAIRS)


@pytest.mark.parametrize("bpe_dropout", [0.0, 0.3])
def test_tags_survive_sampling(model: Path, bpe_dropout: float) -> None:
    dataset = make_dataset(model, bpe_dropout=bpe_dropout, num_tags=2)
    (prefix,) = dataset.corpus.src_prefixes
    epoch = dataset.epoch(0, batch_tokens=BATCH_TOKENS)
    batches = all_batches(epoch)
    for batch in batches:
        assert {tuple(row[:2].tolist()) for row in batch.src} == {prefix}
    assert sorted(decode_batches(batches, dataset.tgt_tokenizer)) == sorted(PAIRS)


def test_prefix_counts_in_the_plan_and_in_max_length(model: Path) -> None:
    longest = int(make_dataset(model).corpus.src.lengths.max())
    dataset = make_dataset(model, bpe_dropout=1.0, max_length=longest + 2, num_tags=2)
    epoch = dataset.epoch(0, batch_tokens=BATCH_TOKENS)
    assert max(src_lengths_by_pair(epoch).values()) == longest + 2
    lengths = dataset.corpus.src.lengths[epoch.plan.order]
    assert epoch.plan.src_lengths.tolist() == [
        2 + max(lengths[start:end])
        for start, end in zip(epoch.plan.starts[:-1], epoch.plan.starts[1:], strict=True)
    ]


def test_sampled_batches_have_little_padding_and_similar_sizes(model: Path) -> None:
    dataset = make_dataset(model, bpe_dropout=0.1)
    dataset = replace(dataset, tgt_tokenizer=dataset.src_tokenizer)
    epoch = dataset.epoch(0, batch_tokens=BATCH_TOKENS)
    batches = all_batches(epoch)
    num_tokens = sum(int((side != 0).sum()) for b in batches for side in (b.src, b.tgt_out))
    num_positions = sum(batch.src.numel() + batch.tgt_out.numel() for batch in batches)
    assert num_tokens / num_positions > 0.85
    largest = max(batch.src.numel() + batch.tgt_out.numel() for batch in batches)
    sizes = np.diff(epoch.plan.starts) * (epoch.plan.src_lengths + epoch.plan.tgt_lengths)
    assert largest < 1.6 * sizes.max()
    widest = epoch.batch_for_memory_check(int(sizes.argmax()))
    assert widest.src.numel() + widest.tgt_out.numel() > sizes.max()


def test_cancelled_sampling_ends_at_the_next_sentence(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = make_dataset(model).epoch(0, batch_tokens=BATCH_TOKENS)
    sampled: list[str] = []

    def sample(texts: Iterable[str], draw: Draw) -> list[list[int]]:
        for text in texts:
            sampled.append(text)
            if len(sampled) == 2:
                epoch.cancel()
        return [[Tokenizer.eos_id]] * len(sampled)

    monkeypatch.setattr(epoch.dataset.src_tokenizer, "sample", sample)
    with pytest.raises(CancelledError):
        epoch.batch(0)
    assert len(sampled) == 2


# Unseen characters


@pytest.mark.parametrize("bpe_dropout", [0.0, 0.3])
def test_some_batches_have_unseen_characters(model: Path, bpe_dropout: float) -> None:
    def make_epoch(number: int = 1) -> Epoch:
        dataset = make_dataset(model, bpe_dropout=bpe_dropout, unseen_character_fraction=0.1)
        return dataset.epoch(number, batch_tokens=BATCH_TOKENS)

    batches = all_batches(make_epoch())
    tokenizer = Tokenizer.load(model)
    num_noisy = []  # of the pairs of each batch
    for batch in batches:
        texts = tokenizer.decode(rows_without_padding(batch.src))
        num_noisy.append(sum(has_unseen(text, tokenizer) for text in texts))
    assert 0.05 < sum(num_noisy) / len(PAIRS) < 0.2
    assert num_noisy.count(0) > len(batches) / 2

    # The targets and the other batches are as without the noise.
    plain = all_batches(
        make_dataset(model, bpe_dropout=bpe_dropout).epoch(1, batch_tokens=BATCH_TOKENS)
    )
    for batch, plain_batch, num in zip(batches, plain, num_noisy, strict=True):
        assert torch.equal(batch.tgt_out, plain_batch.tgt_out)
        assert torch.equal(batch.src, plain_batch.src) is (num == 0)

    epoch = make_epoch()
    backwards = [epoch.batch(index) for index in reversed(range(len(batches)))]
    assert_same_batches(backwards[::-1], batches)
    # The memory for the widest batch is tried with the noise.
    widest = make_epoch().batch_for_memory_check(0)
    assert any(
        has_unseen(text, tokenizer) for text in tokenizer.decode(rows_without_padding(widest.src))
    )


def has_unseen(text: str, tokenizer: Tokenizer) -> bool:
    return not all(tokenizer.has_piece(character) for character in text)
