"""The OpenAPI document of the API: the parameters and the answers of each endpoint."""

from typing import Any

import mt
from mt.serve.requests import MAX_ALTERNATIVES, MAX_LINES

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
ALTERNATIVES: Schema = {
    "type": "integer",
    "minimum": 0,
    "maximum": MAX_ALTERNATIVES,
    "default": 0,
    "description": "further translations that are wanted",
}

ERRORS = {
    400: "A parameter is missing or wrong, or no model fits",
    403: "The API key is missing or wrong, or pages of this origin may not use the server",
    408: "The body came too slowly",
    413: "The text is too long",
    415: "The Content-Type is neither JSON nor a form",
    500: "The model failed",
    503: "Too much waits to be translated; Retry-After says when to try again",
}


def openapi_document(*, max_chars: int) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the API."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mt serve",
            "version": mt.__version__,
            "description": "Translates text with the models of one server. The endpoints "
            "/translate, /languages, /health and /frontend/settings are LibreTranslate's. "
            f"A request has at most {max_chars} characters and {MAX_LINES} lines.",
        },
        "paths": {
            "/translate": {"post": _translate_operation()},
            "/details": {"post": _details_operation()},
            "/attention": {"post": _attention_operation()},
            "/languages": {
                "get": _operation("List the languages", _list(_ref("Language")), errors=())
            },
            "/models": {"get": _operation("List the models", _list(_ref("Model")), errors=())},
            "/health": {"get": _operation("Tell that the server is up", _ref("Health"), errors=())},
            "/frontend/settings": {
                "get": _operation("Tell the limits", {"type": "object"}, errors=())
            },
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _translate_operation() -> Schema:
    request = _request_schema(
        q={"oneOf": [TEXT, _list(TEXT)], "description": "a text, or a list of texts"},
        alternatives=ALTERNATIVES,
        format={"type": "string", "enum": ["text"], "default": "text"},
    )
    return _operation("Translate", _ref("Translated"), request=request)


def _details_operation() -> Schema:
    request = _request_schema(q=TEXT, alternatives=ALTERNATIVES)
    return _operation("Translate, and describe each word", _ref("Details"), request=request)


def _attention_operation() -> Schema:
    request = _request_schema(
        q={"type": "string", "description": "one sentence"},
        translation={
            "type": "string",
            "description": "of the sentence; without it, the model translates the sentence",
        },
    )
    operation = _operation("Show the attention of a sentence as a page", TEXT, request=request)
    operation["responses"]["200"]["content"] = {"text/html": {"schema": TEXT}}
    return operation


def _request_schema(**own: Schema) -> Schema:
    """Return the schema of a body: the parameters of all requests and those of one endpoint."""
    return {
        "type": "object",
        "required": ["q", "source", "target"],
        "properties": {
            **own,
            "source": {
                "type": "string",
                "description": "code of a language, or auto: the only source language of the "
                "models into the target language",
            },
            "target": {"type": "string", "description": "code of a language"},
            "model": {
                "type": "string",
                "description": "name of a model; without it, the first one that fits",
            },
            "api_key": {"type": "string", "description": "needed if the server has keys"},
        },
    }


def _operation(
    summary: str,
    answer: Schema,
    *,
    request: Schema | None = None,
    errors: tuple[int, ...] = tuple(ERRORS),
) -> Schema:
    """Return the description of an endpoint."""
    responses: dict[str, Any] = {
        "200": {"description": "Success", "content": {"application/json": {"schema": answer}}}
    }
    for status in errors:
        responses[str(status)] = {
            "description": ERRORS[status],
            "content": {"application/json": {"schema": _ref("Error")}},
        }
    operation: Schema = {"summary": summary, "responses": responses}
    if request is not None:
        media_types = (
            "application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
        )
        content = {media_type: {"schema": request} for media_type in media_types}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _schemas() -> dict[str, Schema]:
    """Return the schemas of the answers."""
    detected = _object(language=TEXT, confidence=NUMBER)
    source_word = _object(before=TEXT, text=TEXT)
    word = _object(
        before={"type": "string", "description": "white space before the word"},
        text=TEXT,
        probability={
            "type": "number",
            "description": "product of the probabilities of its subwords",
        },
        sources={"description": "indices of the source words it comes from", **_list(COUNT)},
        sentence={"description": "index in sentences", **COUNT},
    )
    translation = _object(
        text=TEXT,
        logProb={"type": "number", "description": "natural logarithm of the probability"},
        words=_list(word),
        sentences=_list(_object(source=TEXT, target=TEXT)),
    )
    line = _object(sourceWords=_list(source_word), translations=_list(translation))
    translated = _object(
        translatedText={"oneOf": [TEXT, _list(TEXT)]},
        alternatives={"oneOf": [_list(TEXT), _list(_list(TEXT))]},
        detectedLanguage={"oneOf": [detected, _list(detected)]},
    )
    translated["required"] = ["translatedText"]
    return {
        "Error": _object(error=TEXT),
        "Language": _object(code=TEXT, name=TEXT, targets=_list(TEXT)),
        "Model": _object(model=TEXT, source=TEXT, target=TEXT),
        "Health": _object(status=TEXT, waitingCharacters=COUNT),
        "Translated": translated,
        "Details": _object(model=TEXT, source=TEXT, target=TEXT, lines=_list(line)),
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
