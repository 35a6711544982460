"""The bodies of requests: they are read within limits, and their parameters are checked.

The names and errors of `/translate` are those of LibreTranslate, so that its clients work.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

BODY_SECONDS = 10.0  # to receive a body
MAX_LINES = 1000  # of all texts of a request
MAX_ALTERNATIVES = 10
MAX_PARAMETERS = MAX_LINES + 10  # of a form; it may repeat q
# A character takes at most 12 bytes: a pair of surrogates as \uXXXX in JSON, or 4 bytes as %XX.
MAX_BYTES_PER_CHAR = 12
BODY_BYTES_BESIDE_TEXT = 2**16

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class TranslateRequest:
    """The checked parameters of a request to translate."""

    texts: tuple[str, ...]
    is_list: bool  # q was a list, so the answer has lists too
    source: str
    target: str
    num_alternatives: int
    model: str | None  # a name; None: the first one that fits

    @property
    def num_translations(self) -> int:
        """How many translations of each line are wanted."""
        return self.num_alternatives + 1

    @property
    def lines(self) -> list[str]:
        """The lines of all texts."""
        return [line for text in self.texts for line in text.split("\n")]

    def single_text(self) -> str:
        """Return the text. Raises HTTPException for a list of texts."""
        if self.is_list:
            raise HTTPException(400, "q: wanted one text")
        (text,) = self.texts
        return text


async def read_parameters(request: Request, *, max_chars: int) -> Parameters:
    """Return the parameters in a body: a JSON object or a form.

    Raises HTTPException for a body that is too large, too slow or not readable, and
    ClientDisconnect when the client goes away.
    """
    body = await _read_body(
        request, max_bytes=MAX_BYTES_PER_CHAR * max_chars + BODY_BYTES_BESIDE_TEXT
    )
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise HTTPException(400, f"the body is not UTF-8 at byte {error.start + 1}") from error
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type == "application/json":
        return _parse_json(text)
    if media_type == "application/x-www-form-urlencoded":
        return _parse_form(text)
    if media_type == "multipart/form-data":
        return await _parse_multipart(request, body)
    raise HTTPException(415, "Content-Type: wanted application/json, a form or multipart/form-data")


async def _read_body(request: Request, *, max_bytes: int) -> bytes:
    """Return the body. Raises HTTPException if it is too large or takes too long."""
    too_large = HTTPException(413, f"the body is larger than {max_bytes} bytes")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large
    chunks = []
    num_bytes = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                num_bytes += len(chunk)
                if num_bytes > max_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError as error:
        raise HTTPException(408, f"the body took more than {BODY_SECONDS:g} seconds") from error
    return b"".join(chunks)


def _parse_json(text: str) -> Parameters:
    try:
        parameters = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is not JSON") from error
    if not isinstance(parameters, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return parameters


def _parse_form(text: str) -> Parameters:
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError as error:
        raise HTTPException(
            400, f"the body is not a form in UTF-8 with at most {MAX_PARAMETERS} fields"
        ) from error
    return _join_pairs(pairs)


async def _parse_multipart(request: Request, body: bytes) -> Parameters:
    async def receive_body() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    form_request = Request(request.scope, receive_body)  # the body of `request` is already read
    try:
        form = await form_request.form(
            max_files=0, max_fields=MAX_PARAMETERS, max_part_size=len(body) + 1
        )
    except (HTTPException, MultiPartException, ClientDisconnect) as error:
        raise HTTPException(400, "the body is not a form of text fields") from error
    return _join_pairs(form.multi_items())


def _join_pairs(pairs: Iterable[tuple[str, Any]]) -> Parameters:
    """Return the fields of a form; a field that is repeated becomes a list."""
    parameters: dict[str, Any] = {}
    for name, value in pairs:
        if isinstance(value, str):
            value = value.replace("\r\n", "\n")  # as browsers send the line ends of a form
        if name not in parameters:
            parameters[name] = value
        elif isinstance(parameters[name], list):
            parameters[name].append(value)
        else:
            parameters[name] = [parameters[name], value]
    return parameters


def parse_translate(parameters: Parameters, *, max_chars: int) -> TranslateRequest:
    """Check the parameters that all endpoints share with `/translate`.

    Raises HTTPException with status 400 or 413.
    """
    q = parameters.get("q")
    if not q:
        raise HTTPException(400, "Invalid request: missing q parameter")
    is_list = isinstance(q, list)
    texts = q if is_list else [q]
    text_format = parameters.get("format") or "text"
    if text_format != "text":
        raise HTTPException(400, "format: only text is supported")
    request = TranslateRequest(
        texts=tuple(check_text(text, name="q") for text in texts),
        is_list=is_list,
        source=required_text(parameters, "source"),
        target=required_text(parameters, "target"),
        num_alternatives=_parse_alternatives(parameters.get("alternatives", 0)),
        model=optional_text(parameters, "model"),
    )
    num_chars = sum(len(text) for text in request.texts)
    if num_chars > max_chars:
        raise HTTPException(413, f"q: {num_chars} characters exceed the limit of {max_chars}")
    if len(request.lines) > MAX_LINES:
        raise HTTPException(413, f"q: {len(request.lines)} lines exceed the limit of {MAX_LINES}")
    return request


def required_text(parameters: Parameters, name: str) -> str:
    """Return a parameter that is a text and not empty. Raises HTTPException."""
    value = optional_text(parameters, name)
    if value is None:
        raise HTTPException(400, f"Invalid request: missing {name} parameter")
    return value


def optional_text(parameters: Parameters, name: str) -> str | None:
    """Return a parameter that is a text; None if it is missing or empty. Raises HTTPException."""
    value = parameters.get(name)
    if not value:
        return None
    return check_text(value, name=name)


def check_text(value: object, *, name: str) -> str:
    """Return a value that is a text without half of a surrogate pair. Raises HTTPException."""
    if not isinstance(value, str):
        raise HTTPException(400, f"{name}: wanted a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise HTTPException(
            400, f"{name}: half of a surrogate pair at character {error.start + 1}"
        ) from error
    return value


def _parse_alternatives(value: object) -> int:
    """Return the number of alternatives, which forms write as text. Raises HTTPException."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    is_text = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
    if not is_number and not is_text:
        raise HTTPException(400, "alternatives: wanted a whole number")
    number = int(str(value))
    if not 0 <= number <= MAX_ALTERNATIVES:
        raise HTTPException(400, f"alternatives: wanted 0 to {MAX_ALTERNATIVES}")
    return number
