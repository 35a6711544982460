"""Tests of the noise of unseen characters in training sources."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from mt.data.corpus import EncodedPairs, encode_pairs
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.data.unseen import MAX_INSERTED, insert_unseen_characters

PAIRS = [(f"the old dog {i}", f"der alte Hund {i}") for i in range(400)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer([text for pair in PAIRS for text in pair], path, kind="bpe", vocab_size=330)
    return Tokenizer.load(path)


def encode(tokenizer: Tokenizer, *, src_prefix: tuple[int, ...] = ()) -> EncodedPairs:
    src_texts, tgt_texts = zip(*PAIRS, strict=True)
    corpus = encode_pairs(
        src_texts,
        tgt_texts,
        src_tokenizer=tokenizer,
        tgt_tokenizer=tokenizer,
        src_prefix=src_prefix,
    )
    prefixes = [src_prefix] * len(PAIRS)
    return EncodedPairs(corpus.src, corpus.tgt, prefixes)


def noisy_texts(
    tokenizer: Tokenizer,
    pairs: EncodedPairs,
    *,
    fraction: float,
    max_length: int = 90,
    seed: int = 1,
) -> list[str]:
    """Return the sources with noise; the targets must be as they were."""
    noisy = insert_unseen_characters(
        pairs, tokenizer, fraction=fraction, draw=Random(seed).random, max_length=max_length
    )
    assert noisy.tgt.rows() == pairs.tgt.rows()
    assert noisy.src_prefixes == pairs.src_prefixes
    return tokenizer.decode(noisy.src.rows())


def test_a_fraction_of_the_sources_gets_unseen_characters(tokenizer: Tokenizer) -> None:
    texts = noisy_texts(tokenizer, encode(tokenizer), fraction=0.25)
    num_noisy = 0
    for text, (src, _) in zip(texts, PAIRS, strict=True):
        unseen = [character for character in text if not tokenizer.has_piece(character)]
        known = "".join(character for character in text if tokenizer.has_piece(character))
        assert known.split() == src.split() or " ".join(known.split()) == src
        assert len(unseen) <= MAX_INSERTED
        num_noisy += bool(unseen)
    assert 70 < num_noisy < 130


def test_noise_trains_the_byte_pieces(tokenizer: Tokenizer) -> None:
    texts = noisy_texts(tokenizer, encode(tokenizer), fraction=1.0)
    unseen = {
        character for text in texts for character in text if not tokenizer.has_piece(character)
    }
    lengths = {len(character.encode()) for character in unseen}
    assert lengths == {1, 2, 3, 4}
    assert len({byte for character in unseen for byte in character.encode()}) > 150


def test_noise_is_a_function_of_the_random_numbers(tokenizer: Tokenizer) -> None:
    pairs = encode(tokenizer)
    texts = noisy_texts(tokenizer, pairs, fraction=0.5)
    assert noisy_texts(tokenizer, pairs, fraction=0.5) == texts
    assert noisy_texts(tokenizer, pairs, fraction=0.5, seed=2) != texts
    assert noisy_texts(tokenizer, pairs, fraction=0.0) == [src for src, _ in PAIRS]


def test_source_that_would_be_too_long_stays_as_it_is(tokenizer: Tokenizer) -> None:
    pairs = encode(tokenizer, src_prefix=tokenizer.tag_ids[:2])
    longest = int(pairs.src_lengths.max())
    assert noisy_texts(tokenizer, pairs, fraction=1.0, max_length=5) == [src for src, _ in PAIRS]
    noisy = insert_unseen_characters(
        pairs, tokenizer, fraction=1.0, draw=Random(1).random, max_length=longest
    )
    assert noisy.src_lengths.max() <= longest


def test_noise_keeps_bpe_dropout(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    train_tokenizer([text for pair in PAIRS for text in pair], path, kind="bpe", vocab_size=330)
    sampling = Tokenizer.load(path, bpe_dropout=0.9)
    pairs = encode(tokenizer)
    plain = insert_unseen_characters(
        pairs, tokenizer, fraction=1.0, draw=Random(1).random, max_length=90
    )
    sampled = insert_unseen_characters(
        pairs, sampling, fraction=1.0, draw=Random(1).random, max_length=90
    )
    assert len(sampled.src.ids) > 1.3 * len(plain.src.ids)
