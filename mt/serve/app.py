"""The web application: the page and the API of `mt serve`.

    GET  /                   the page
    POST /translate          as LibreTranslate defines it, with the parameter `model` added
    POST /details            translations with the probability and the source words of each word
    POST /attention          the attention page of a sentence
    GET  /languages          as LibreTranslate defines it
    GET  /models             the models by name
    GET  /runs/NAME/FILE     the report and the attention page in a run directory
    GET  /health, /frontend/settings, /openapi.json

All answers but the pages are JSON. An error is {"error": TEXT}.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mt.decoding.translation import Translation
from mt.errors import DataError, MtError
from mt.report.attention_maps import attention_maps
from mt.report.attention_page import attention_page
from mt.report.template import PageLink
from mt.serve.access import Access, bearer_key
from mt.serve.models import AUTO, ServedModel, ServedModels
from mt.serve.openapi import openapi_document
from mt.serve.page import Page, sandbox_policy
from mt.serve.requests import (
    Parameters,
    TranslateRequest,
    optional_text,
    parse_translate,
    read_parameters,
)
from mt.serve.run_pages import run_page_links, run_page_path
from mt.serve.translation_queue import Job, QueueClosedError, QueueFullError, TranslationQueue
from mt.serve.word_details import line_details
from mt.storage.run_dir import REPORT_FILE

logger = logging.getLogger(__name__)

# Details take memory for each word, and a person looks at the details of short texts only.
MAX_DETAIL_CHARS = 2000
RETRY_AFTER_SECONDS = 5
FRONTEND_TIMEOUT_MS = 500  # from the last key to the request, in LibreTranslate's page
MAX_LOGGED_PATH = 80  # characters
NOT_STORED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
CLIENT_GONE = 499  # nginx's status for a closed connection; only the log has it


@dataclass(frozen=True)
class Service:
    """The models, the queue and the limits behind the endpoints."""

    models: ServedModels
    queue: TranslationQueue
    access: Access
    max_chars: int  # of a request
    max_detail_chars: int  # of a request for details or attention
    page: Page

    async def show_page(self, request: Request) -> Response:
        """Return the page."""
        headers = {"Content-Security-Policy": self.page.policy, "Referrer-Policy": "same-origin"}
        return HTMLResponse(self.page.html, headers=headers | NOT_STORED)

    async def list_languages(self, request: Request) -> Response:
        """Return all languages, each with its target languages."""
        targets = self.models.targets_by_source()
        return _json(
            [
                {"code": language, "name": language, "targets": targets.get(language, [])}
                for language in self.models.languages
            ]
        )

    async def list_models(self, request: Request) -> Response:
        """Return the name and the languages of each model."""
        return _json([model.facts for model in self.models])

    async def report_health(self, request: Request) -> Response:
        """Return that the server is up, and how many characters wait to be translated."""
        return _json({"status": "ok", "waitingCharacters": self.queue.num_pending_chars})

    async def show_frontend_settings(self, request: Request) -> Response:
        """Return the settings that clients of LibreTranslate read."""
        first, *_ = self.models
        return _json(
            {
                "charLimit": self.max_chars,
                "frontendTimeout": FRONTEND_TIMEOUT_MS,
                "apiKeys": self.access.needs_key,
                "keyRequired": self.access.needs_key,
                "suggestions": False,
                "filesTranslation": False,
                "supportedFilesFormat": [],
                "language": {
                    "source": {"code": first.source, "name": first.source},
                    "target": {"code": first.target, "name": first.target},
                },
            }
        )

    async def show_openapi(self, request: Request) -> Response:
        """Return the description of the API."""
        return _json(openapi_document(max_chars=self.max_chars))

    async def translate(self, request: Request) -> Response:
        """Translate a text, or a list of texts."""
        parameters = await self._accepted_parameters(request)
        translation_request = parse_translate(parameters, max_chars=self.max_chars)
        model = self._find_model(translation_request)
        job = Job(model, translation_request.lines, translation_request.num_translations, _identity)
        n_best_lists = await self._run_job(request, job)
        return _json(_libretranslate_answer(translation_request, model, n_best_lists))

    async def describe_words(self, request: Request) -> Response:
        """Translate a text, and describe the words of each translation."""
        parameters = await self._accepted_parameters(request)
        translation_request = parse_translate(parameters, max_chars=self.max_detail_chars)
        lines = translation_request.single_text().split("\n")
        model = self._find_model(translation_request)
        translator = model.detailed_translator()

        def describe(n_best_lists: list[list[Translation]]) -> list[dict[str, Any]]:
            return line_details(translator, lines, n_best_lists)

        job = Job(model, lines, translation_request.num_translations, describe)
        details = await self._run_job(request, job)
        return _json(model.facts | {"lines": details})

    async def show_attention(self, request: Request) -> Response:
        """Return the attention page of a sentence and the given translation, or the model's."""
        parameters = await self._accepted_parameters(request)
        translation_request = parse_translate(parameters, max_chars=self.max_detail_chars)
        sentence = translation_request.single_text()
        translation = optional_text(parameters, "translation")
        if translation is not None and len(translation) > self.max_detail_chars:
            raise HTTPException(
                413, f"translation: the limit is {self.max_detail_chars} characters"
            )
        model = self._find_model(translation_request)
        links = [PageLink("Translate", "./"), *run_page_links(model, [REPORT_FILE])]
        translator = model.detailed_translator()

        def draw(n_best_lists: list[list[Translation]]) -> str:
            maps = attention_maps(translator, sentence, target=translation, name=model.name)
            return attention_page(maps, links=links)

        # The job has no lines: `draw` translates the sentence, if no translation is given.
        html = await self._run_job(request, Job(model, [], 1, draw))
        return HTMLResponse(html, headers=_sandbox_headers())

    async def show_run_page(self, request: Request) -> Response:
        """Return the report or the attention page in a run directory."""
        for model in self.models:
            if model.name == request.path_params["name"]:
                path = run_page_path(model, request.path_params["file_name"])
                if path is not None:
                    return FileResponse(path, media_type="text/html", headers=_sandbox_headers())
        raise HTTPException(404)

    async def _accepted_parameters(self, request: Request) -> Parameters:
        """Return the parameters of a request that may use the server. Raises HTTPException."""
        if not self.access.accepts_origin(request):
            raise HTTPException(403, "pages of this origin may not use the server: --allow-origin")
        parameters = await read_parameters(request, max_chars=self.max_chars)
        key = parameters.get("api_key") or bearer_key(request)
        if not self.access.accepts_key(key):
            raise HTTPException(403, "api_key: missing or wrong")
        return parameters

    def _find_model(self, translation_request: TranslateRequest) -> ServedModel:
        """Return the model that a request asks for. Raises DataError."""
        return self.models.find(
            translation_request.source, translation_request.target, translation_request.model
        )

    async def _run_job(self, request: Request, job: Job) -> Any:
        """Put a job into the queue, and return its result.

        Raises HTTPException when the queue takes no job. When the client closes the connection
        before the result is there, the job is cancelled, and this raises ClientDisconnect.
        """
        try:
            self.queue.submit(job)
        except QueueFullError as error:
            raise HTTPException(
                503, "too much waits to be translated; try again later", _retry_later()
            ) from error
        except QueueClosedError as error:
            raise HTTPException(503, "the server is shutting down", _retry_later()) from error
        result = asyncio.wrap_future(job.future)
        disconnected = asyncio.ensure_future(_wait_until_disconnected(request))
        try:
            await asyncio.wait({result, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnected.cancel()
            if not result.done():
                result.cancel()
        if result.cancelled():
            raise ClientDisconnect
        try:
            return result.result()
        except MtError:
            raise
        except Exception as error:  # the queue has logged it
            raise HTTPException(500, "internal error") from error


def make_app(
    models: ServedModels, queue: TranslationQueue, *, access: Access, max_chars: int
) -> ASGIApp:
    """Return the application. It starts the queue when it starts, and closes it when it ends."""
    max_detail_chars = min(MAX_DETAIL_CHARS, max_chars)
    page = Page.make(
        models,
        needs_key=access.needs_key,
        max_chars=max_chars,
        max_detail_chars=max_detail_chars,
    )
    service = Service(models, queue, access, max_chars, max_detail_chars, page)

    @asynccontextmanager
    async def run_queue(app: Starlette) -> AsyncIterator[None]:
        queue.start()
        yield
        await asyncio.to_thread(queue.close)

    starlette = Starlette(
        lifespan=run_queue,
        routes=_routes(service),
        exception_handlers={
            HTTPException: _answer_http_error,
            MtError: _answer_mt_error,
            ClientDisconnect: _answer_disconnected,
            Exception: _answer_bug,
        },
    )
    with_cors = CORSMiddleware(
        starlette,
        allow_origins=access.allowed_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type"],
    )
    return RequestLog(with_cors)


def _routes(service: Service) -> list[Route]:
    return [
        Route("/", service.show_page, methods=["GET"]),
        Route("/languages", service.list_languages, methods=["GET"]),
        Route("/models", service.list_models, methods=["GET"]),
        Route("/health", service.report_health, methods=["GET"]),
        Route("/runs/{name}/{file_name}", service.show_run_page, methods=["GET"]),
        Route("/frontend/settings", service.show_frontend_settings, methods=["GET"]),
        Route("/openapi.json", service.show_openapi, methods=["GET"]),
        Route("/translate", service.translate, methods=["POST"]),
        Route("/details", service.describe_words, methods=["POST"]),
        Route("/attention", service.show_attention, methods=["POST"]),
    ]


@dataclass(frozen=True)
class RequestLog:
    """Logs one line for each request: method, path, status, time; never the text."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application and log the request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start_time = time.perf_counter()
        status = CLIENT_GONE

        async def send_and_remember(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_remember)
        finally:
            milliseconds = 1000 * (time.perf_counter() - start_time)
            path = scope["path"][:MAX_LOGGED_PATH]
            logger.info(f"{scope['method']} {path} {status} {milliseconds:.0f} ms")


async def _wait_until_disconnected(request: Request) -> None:
    """Wait until the client closes the connection. The body must have been read before."""
    message = await request.receive()
    while message["type"] != "http.disconnect":
        message = await request.receive()


def _identity(n_best_lists: list[list[Translation]]) -> list[list[Translation]]:
    return n_best_lists


def _libretranslate_answer(
    translation_request: TranslateRequest,
    model: ServedModel,
    n_best_lists: Sequence[Sequence[Translation]],
) -> dict[str, Any]:
    """Return the answer to `/translate` from the translations of all lines."""
    remaining_lists = iter(n_best_lists)
    translated = []
    alternatives = []
    for text in translation_request.texts:
        lists_of_text = [next(remaining_lists) for _ in text.split("\n")]
        candidates = _join_lines(lists_of_text)
        translated.append(candidates[0])
        alternatives.append(candidates[1:])
    answer: dict[str, Any] = {"translatedText": translated}
    if translation_request.num_alternatives > 0:
        answer["alternatives"] = alternatives
    if translation_request.source == AUTO:
        # The language is not detected: it is the only source language into the target language.
        language = {"language": model.source, "confidence": 0.0}
        answer["detectedLanguage"] = [language for _ in translation_request.texts]
    if translation_request.is_list:
        return answer
    return {name: values[0] for name, values in answer.items()}


def _join_lines(n_best_lists: Sequence[Sequence[Translation]]) -> list[str]:
    """Return the translations of a text: the k-th joins the k-th of each line.

    A line can have fewer translations than another: a blank line has one. Its last translation
    is then repeated.
    """
    num_candidates = max(len(translations) for translations in n_best_lists)
    candidates = []
    for rank in range(num_candidates):
        lines = [
            translations[min(rank, len(translations) - 1)].text for translations in n_best_lists
        ]
        candidates.append("\n".join(lines))
    return candidates


def _sandbox_headers() -> dict[str, str]:
    return {
        "Content-Security-Policy": sandbox_policy(),
        "Referrer-Policy": "no-referrer",
    } | NOT_STORED


def _json(content: object) -> Response:
    return JSONResponse(content, headers=NOT_STORED)


def _retry_later() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_SECONDS)}


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers=NOT_STORED | (headers or {}))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not read
    return _error(error.status_code, error.detail, headers)


async def _answer_mt_error(request: Request, error: Exception) -> Response:
    status = 400 if isinstance(error, DataError) else 500
    return _error(status, str(error))


async def _answer_disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _answer_bug(request: Request, error: Exception) -> Response:
    return _error(500, "internal error")
