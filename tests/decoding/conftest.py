"""A tokenizer of a few words, for random models."""

from __future__ import annotations

import pytest
from invented_words import INVENTED_WORDS

from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(INVENTED_WORDS, path, kind="bpe", vocab_size=330)
    return Tokenizer.load(path)
