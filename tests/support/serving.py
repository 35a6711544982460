"""A server on a thread of the tests, and a small HTTP client."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

import torch

from mt.config.schema import ModelConfig, SearchConfig
from mt.data.tokenizer import Tokenizer
from mt.decoding.segment_search import SegmentSearch, SourceSegment
from mt.decoding.translator import Translator
from mt.model.transformer import Transformer
from mt.serve.access import Access
from mt.serve.app import make_app
from mt.serve.models import ServedModel, ServedModels
from mt.serve.server import make_server, open_socket
from mt.serve.translation_queue import TranslationQueue

SHAPE = ModelConfig(d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
TIMEOUT_SECONDS = 120


class RecordingSearch(SegmentSearch):
    """A search that remembers the texts that it translates together."""

    calls: list[list[str]] = []  # noqa: RUF012 (of all searches; tests clear it)

    def n_best(self, segments: Sequence[SourceSegment], num_translations: int) -> Any:
        self.calls.append(self.tgt_tokenizer.decode([segment.ids for segment in segments]))
        return super().n_best(segments, num_translations)


class RecordingTranslator(Translator):
    """A translator with such a search."""

    @cached_property
    def segment_search(self) -> SegmentSearch:
        return RecordingSearch(
            self.models,
            tgt_tokenizer=self.tgt_tokenizer,
            settings=self.search,
            max_positions=self.max_positions,
        )


def make_translator(tokenizer: Tokenizer, src_lang: str, tgt_lang: str) -> Translator:
    """Return a translator with random weights, and one tokenizer for both languages.

    In float64, two sums of the same numbers do not round to different translations.
    """
    torch.manual_seed(1)
    model = Transformer(
        SHAPE,
        src_vocab_size=tokenizer.vocab_size,
        tgt_vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
    )
    model = model.double().eval()
    model.compute_dtype = torch.float64
    search = SearchConfig(beam_size=2, max_length_factor=1.0, max_length_offset=2)
    return RecordingTranslator(
        model,
        src_tokenizer=tokenizer,
        tgt_tokenizer=tokenizer,
        search=search,
        max_length=24,
        src_lang=src_lang,
        tgt_lang=tgt_lang,
    )


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True)
class RunningServer:
    """A server and its address."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, "/" + path.removeprefix("/"), body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(
        self, path: str, headers: Mapping[str, str] | None = None, **parameters: Any
    ) -> Answer:
        """Send a JSON object."""
        all_headers = {"Content-Type": "application/json", **(headers or {})}
        return self.request("POST", path, json.dumps(parameters).encode(), all_headers)

    def post_form(self, path: str, **parameters: Any) -> Answer:
        """Send a form."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.request("POST", path, urlencode(parameters, doseq=True).encode(), headers)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=TIMEOUT_SECONDS)


@contextmanager
def running_server(
    models: ServedModels,
    *,
    access: Access | None = None,
    max_chars: int = 10_000,
    queue: TranslationQueue | None = None,
) -> Iterator[RunningServer]:
    """Run a server on a thread, on a free port of 127.0.0.1."""
    if queue is None:
        queue = TranslationQueue(max_chars=200_000)
    app = make_app(models, queue, access=access or Access(), max_chars=max_chars)
    server = make_server(app)
    listener = open_socket("127.0.0.1", 0)
    listener.listen()
    host, port = listener.getsockname()
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield RunningServer(host, port)
    finally:
        server.should_exit = True
        thread.join()


def make_models(tokenizer: Tokenizer, *directions: tuple[str, str, str]) -> ServedModels:
    """Return models with random weights: their names, source and target languages are given."""
    return ServedModels(
        tuple(
            ServedModel(name, make_translator(tokenizer, src_lang, tgt_lang))
            for name, src_lang, tgt_lang in directions
        )
    )
