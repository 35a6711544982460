"""Models with random weights, a server that offers them, and a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Browser, open_browser
from invented_words import invented_text
from serving import RecordingSearch, RunningServer, make_models, running_server

from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.serve.models import ServedModels


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    texts = [invented_text(i, 1 + i % 6) for i in range(100)]
    train_tokenizer(texts, path, kind="bpe", vocab_size=330)
    return Tokenizer.load(path)


@pytest.fixture(scope="session")
def models(tokenizer: Tokenizer) -> ServedModels:
    return make_models(
        tokenizer, ("small", "en", "sv"), ("back", "sv", "en"), ("other", "en", "sv")
    )


@pytest.fixture(scope="session")
def server(models: ServedModels) -> Iterator[RunningServer]:
    with running_server(models) as running:
        yield running


@pytest.fixture
def calls() -> list[list[str]]:
    """The texts of each batch that is translated from now on."""
    RecordingSearch.calls.clear()
    return RecordingSearch.calls


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser
