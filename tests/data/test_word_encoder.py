"""Tests of encoding word by word: it must give what SentencePiece gives for the whole text."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

import mt.data.word_encoder
from mt.data.tokenizer import ESCAPE, SPACE_SYMBOL, Tokenizer
from mt.data.tokenizer_training import TokenizerKind, train_tokenizer
from mt.data.word_encoder import WordEncoder

SENTENCES = [f"the old {noun} sees {number} small dogs ." for noun in "abcd" for number in range(9)]


def make_tokenizer(directory: Path, kind: TokenizerKind = "bpe") -> Tokenizer:
    path = directory / f"{kind}.model"
    train_tokenizer(SENTENCES, path, kind=kind, vocab_size=302)
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return make_tokenizer(tmp_path_factory.mktemp("model"))


words = st.sampled_from(["the", "old", "dogs", "dog", "ogsees", "é語", SPACE_SYMBOL, ESCAPE, "<s>"])
texts_of_words = st.lists(words, min_size=1, max_size=6).map(" ".join)
any_texts = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=20)


@given(texts=st.lists(texts_of_words | any_texts, max_size=8))
def test_ids_are_those_of_the_whole_texts(tokenizer: Tokenizer, texts: list[str]) -> None:
    encoder = WordEncoder(tokenizer)
    assert encoder.encode(texts).rows() == tokenizer.encode(texts)
    assert encoder.encode(texts).rows() == tokenizer.encode(texts)  # with all words known


def test_each_different_word_is_encoded_once(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded_words: list[str] = []

    def recording_encode(words: list[str]) -> list[list[int]]:
        encoded_words.extend(words)
        return Tokenizer.encode_words(tokenizer, words)

    monkeypatch.setattr(tokenizer, "encode_words", recording_encode)
    encoder = WordEncoder(tokenizer)
    encoder.encode(["the old dog", "the dog"])
    encoder.encode(["old dogs"])
    assert encoded_words == ["the", "old", "dog", "dogs"]


def test_number_of_remembered_words_is_bounded(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mt.data.word_encoder, "MAX_WORDS", 5)
    encoder = WordEncoder(tokenizer)
    for number in range(100):
        texts = [f"dog{number} cat{number}"]
        assert encoder.encode(texts).rows() == tokenizer.encode(texts)
        assert len(encoder._numbers) < 10
        assert len(encoder._encoded) == len(encoder._numbers)


def test_unigram_texts_are_encoded_as_a_whole(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path, "unigram")
    assert not tokenizer.encodes_words_alone
    assert WordEncoder(tokenizer).encode(SENTENCES).rows() == tokenizer.encode(SENTENCES)


@pytest.mark.parametrize(
    "settings",
    [
        {"user_defined_symbols": ["dog"]},
        {"add_dummy_prefix": False},
        {"treat_whitespace_as_suffix": True},
    ],
)
def test_models_with_other_rules_for_words_are_noticed(settings: dict[str, Any]) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type="bpe",
        vocab_size=295,
        normalization_rule_name="identity",
        byte_fallback=True,
        minloglevel=2,
        **settings,
    )
    assert not Tokenizer(model.getvalue()).encodes_words_alone
