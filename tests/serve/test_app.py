"""The API: what LibreTranslate's clients send is answered, and nothing else does harm."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jsonschema
import pytest
from invented_words import invented_text
from libretranslatepy import LibreTranslateAPI
from serving import TIMEOUT_SECONDS, Answer, RunningServer, running_server

from mt.decoding.scoring import PairScore, TokenScore, score_pairs
from mt.serve import requests
from mt.serve.access import Access
from mt.serve.app import MAX_DETAIL_CHARS
from mt.serve.models import ServedModels
from mt.serve.requests import MAX_ALTERNATIVES, MAX_LINES
from mt.serve.translation_queue import Job, TranslationQueue

EN_SV = {"source": "en", "target": "sv"}
TEXT = "balo deru.\n\nFimi gona! \u2028 hupe"


def translation_of(models: ServedModels, text: str, index: int = 0) -> str:
    lines = models.models[index].translator.translate(text.split("\n"))
    return "\n".join(lines)


# /translate


def test_a_text_is_translated_line_by_line(server: RunningServer, models: ServedModels) -> None:
    answer = server.post("translate", q=TEXT, **EN_SV)
    assert answer.status == 200
    assert answer.json == {"translatedText": translation_of(models, TEXT)}
    assert answer.json["translatedText"].count("\n") == 2


def test_a_list_of_texts_gets_a_list(server: RunningServer, models: ServedModels) -> None:
    texts = [TEXT, "balo", " "]
    answer = server.post("translate", q=texts, **EN_SV)
    assert answer.json == {"translatedText": [translation_of(models, text) for text in texts]}


def test_alternatives_are_the_other_translations(
    server: RunningServer, models: ServedModels
) -> None:
    answer = server.post("translate", q="balo deru", alternatives=2, **EN_SV)
    n_best = models.models[0].translator.n_best("balo deru", num_translations=3)
    texts = [translation.text for translation in n_best]
    assert answer.json == {"translatedText": texts[0], "alternatives": texts[1:]}
    answer = server.post("translate", q=["balo deru", ""], alternatives="2", **EN_SV)
    assert answer.json == {"translatedText": [texts[0], ""], "alternatives": [texts[1:], []]}


def test_a_model_is_chosen_by_languages_and_name(server: RunningServer) -> None:
    assert server.post("translate", q="balo", source="sv", target="en").status == 200
    assert server.post("translate", q="balo", model="other", **EN_SV).status == 200
    unknown = server.post("translate", q="balo", model="back", **EN_SV)
    assert unknown.status == 400
    assert "en to sv (small)" in unknown.json["error"]


def test_the_only_source_language_need_not_be_named(server: RunningServer) -> None:
    answer = server.post("translate", q=["balo", "deru"], source="auto", target="sv")
    detected = {"language": "en", "confidence": 0.0}
    assert answer.json["detectedLanguage"] == [detected, detected]
    assert (
        server.post("translate", q="balo", source="auto", target="sv").json["detectedLanguage"]
        == detected
    )


def test_forms_are_as_good_as_json(server: RunningServer, models: ServedModels) -> None:
    expected = {"translatedText": translation_of(models, TEXT)}
    assert server.post_form("translate", q=TEXT.replace("\n", "\r\n"), **EN_SV).json == expected
    lines = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in {"q": TEXT, **EN_SV}.items()
    ]
    body = ("".join(lines) + "--b--\r\n").encode()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert server.request("POST", "translate", body, headers).json == expected


def test_the_client_of_libretranslate_works(server: RunningServer, models: ServedModels) -> None:
    client = LibreTranslateAPI(server.url)
    assert client.translate("balo deru å", "en", "sv") == translation_of(models, "balo deru å")
    assert client.languages() == [
        {"code": "en", "name": "en", "targets": ["sv"]},
        {"code": "sv", "name": "sv", "targets": ["en"]},
    ]
    with running_server(models, access=Access(api_keys=("secret",))) as guarded:
        client = LibreTranslateAPI(guarded.url, api_key="secret")
        assert client.translate("balo", "en", "sv") == translation_of(models, "balo")


# What is refused


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"source": "en", "target": "sv"}, 400),
        ({"q": "", "source": "en", "target": "sv"}, 400),
        ({"q": [], "source": "en", "target": "sv"}, 400),
        ({"q": None, "source": "en", "target": "sv"}, 400),
        ({"q": 7, "source": "en", "target": "sv"}, 400),
        ({"q": ["a", 7], "source": "en", "target": "sv"}, 400),
        ({"q": {"a": 1}, "source": "en", "target": "sv"}, 400),
        ({"q": "a\ud800", "source": "en", "target": "sv"}, 400),
        ({"q": "a", "target": "sv"}, 400),
        ({"q": "a", "source": ["en"], "target": "sv"}, 400),
        ({"q": "a", "source": "en"}, 400),
        ({"q": "a", "source": "en", "target": "fr"}, 400),
        ({"q": "a", "source": "en", "target": "en"}, 400),
        ({"q": "a", "source": "en", "target": "sv", "model": 3}, 400),
        ({"q": "a", "source": "en", "target": "sv", "format": "html"}, 400),
        ({"q": "a", "source": "en", "target": "sv", "alternatives": "many"}, 400),
        ({"q": "a", "source": "en", "target": "sv", "alternatives": -1}, 400),
        ({"q": "a", "source": "en", "target": "sv", "alternatives": True}, 400),
        ({"q": "a", "source": "en", "target": "sv", "alternatives": 1.5}, 400),
        ({"q": "a", "source": "en", "target": "sv", "alternatives": "9" * 5000}, 400),
        ({"q": "a", "source": "en", "target": "sv", "alternatives": MAX_ALTERNATIVES + 1}, 400),
        ({"q": "a" * 10_001, "source": "en", "target": "sv"}, 413),
        ({"q": ["a" * 5001, "a" * 5000], "source": "en", "target": "sv"}, 413),
        ({"q": "\n" * MAX_LINES, "source": "en", "target": "sv"}, 413),
    ],
)
def test_wrong_parameters_are_named(
    server: RunningServer, parameters: dict[str, Any], status: int
) -> None:
    answer = server.post("translate", **parameters)
    assert answer.status == status
    assert list(answer.json) == ["error"]


@pytest.mark.parametrize(
    ("media_type", "body", "status"),
    [
        ("application/json", b"", 400),
        ("application/json", b"{", 400),
        ("application/json", b"[1]", 400),
        ("application/json", b'{"q": "\xff"}', 400),
        ("application/json", b"[" * 60_000, 400),
        ("application/json", b'{"q": ' + b"9" * 60_000 + b"}", 400),
        ("application/json", b" " * 300_000, 413),
        ("application/x-www-form-urlencoded", b"q=%ff&source=en&target=sv", 400),
        ("application/x-www-form-urlencoded", b"q=\xff", 400),
        ("application/x-www-form-urlencoded", b"&a=b" * 2000, 400),
        ("multipart/form-data", b"q=a", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n", 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="q"; filename="a"\r\n\r\na\r\n--b--\r\n',
            400,
        ),
        ("text/plain", b"balo", 415),
        ("", b"balo", 415),
    ],
)
def test_unreadable_bodies_are_refused(
    server: RunningServer, media_type: str, body: bytes, status: int
) -> None:
    answer = server.request("POST", "translate", body, {"Content-Type": media_type})
    assert answer.status == status
    assert list(answer.json) == ["error"]


def test_a_body_without_a_length_is_bounded(server: RunningServer) -> None:
    with server.connect() as connection:
        connection.sendall(
            b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(3):
            connection.sendall(piece)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_given_up(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.2)
    with server.connect() as connection:
        connection.sendall(
            b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_wrong_methods_and_paths_are_refused(server: RunningServer) -> None:
    wrong_method = server.get("translate")
    assert (wrong_method.status, wrong_method.headers["allow"]) == (405, "POST")
    assert list(wrong_method.json) == ["error"]
    wrong_path = server.get("nothing")
    assert wrong_path.status == 404
    assert list(wrong_path.json) == ["error"]


def test_what_is_no_http_is_refused(server: RunningServer) -> None:
    for junk in (b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000):
        with server.connect() as connection:
            connection.sendall(junk + b"\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert server.get("health").status == 200


# Keys and origins


def test_a_key_is_needed_where_there_are_keys(models: ServedModels) -> None:
    with running_server(models, access=Access(api_keys=("first", "second"))) as guarded:
        for path in ("translate", "details", "attention"):
            for wrong in ({}, {"api_key": "fourth"}, {"api_key": ["first"]}, {"api_key": "\udc80"}):
                answer = guarded.post(path, q="balo", **EN_SV, **wrong)
                assert (answer.status, list(answer.json)) == (403, ["error"])
            assert guarded.post(path, q="balo", **EN_SV, api_key="second").status == 200
            bearer = {"Authorization": "Bearer first"}
            assert guarded.post(path, bearer, q="balo", **EN_SV).status == 200
        assert guarded.get("frontend/settings").json["keyRequired"] is True
        assert guarded.get("languages").status == 200
        assert 'id="key"' in guarded.get("/").text


def test_pages_of_other_origins_are_refused(server: RunningServer) -> None:
    own = f"http://{server.host}:{server.port}"
    assert server.post("translate", {"Origin": own}, q="balo", **EN_SV).status == 200
    for origin in ("https://example.org", "null", "http://[", own.replace("http:", "x:") + "0"):
        answer = server.post("translate", {"Origin": origin}, q="balo", **EN_SV)
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


def test_pages_of_allowed_origins_may_use_the_server(models: ServedModels) -> None:
    origin = "https://example.org"
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    with running_server(models, access=Access(allowed_origins=(origin,))) as open_server:
        answer = open_server.request("OPTIONS", "translate", headers=preflight)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == origin
        answer = open_server.post("translate", {"Origin": origin}, q="balo", **EN_SV)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == origin
        other = {"Origin": "https://example.com"}
        assert open_server.post("translate", other, q="balo", **EN_SV).status == 403


# Load


def test_a_full_queue_says_when_to_try_again(models: ServedModels) -> None:
    queue = TranslationQueue(max_chars=100)
    with running_server(models, queue=queue) as busy, blocked(queue, models):
        queue.submit(Job(models.models[0], ["x" * 90], 1, list))
        answer = busy.post("translate", q="balo deru fimi", **EN_SV)
        assert (answer.status, list(answer.json)) == (503, ["error"])
        assert int(answer.headers["retry-after"]) > 0


@contextmanager
def blocked(queue: TranslationQueue, models: ServedModels) -> Iterator[None]:
    """Keep the thread of a queue busy inside a with statement."""
    is_running = threading.Event()
    may_end = threading.Event()

    def wait(n_best_lists: object) -> None:
        is_running.set()
        may_end.wait()

    queue.submit(Job(models.models[0], [], 1, wait))
    is_running.wait()
    try:
        yield
    finally:
        may_end.set()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_text_of_a_vanished_client_is_not_translated(
    models: ServedModels, calls: list[list[str]]
) -> None:
    queue = TranslationQueue(max_chars=10_000)
    with running_server(models, queue=queue) as running:
        with blocked(queue, models):
            idle_chars = queue.num_pending_chars
            body = json.dumps({"q": "gona", **EN_SV}).encode()
            with running.connect() as connection:
                connection.sendall(
                    b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                wait_until(lambda: queue.num_pending_chars > idle_chars)
            time.sleep(0.2)  # the server has to notice that the connection is closed
        answer = running.post("translate", q="hupe", **EN_SV)
        assert answer.status == 200
        assert calls == [["hupe"]]
        wait_until(lambda: queue.num_pending_chars == 0)


def test_many_clients_get_their_own_translations(
    server: RunningServer, models: ServedModels, calls: list[list[str]]
) -> None:
    texts = [invented_text(i, 1 + i % 7) for i in range(24)]
    answers: dict[str, Answer] = {}

    def ask(text: str) -> None:
        answers[text] = server.post("translate", q=text, **EN_SV)

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for text in texts:
        assert answers[text].json == {"translatedText": translation_of(models, text)}


# /details and /attention


def words_as_text(words: list[dict[str, Any]]) -> str:
    return "".join(word["before"] + word["text"] for word in words)


def test_details_describe_each_word(server: RunningServer, models: ServedModels) -> None:
    translator = models.models[0].translator
    text = "balo  deru.\n\nFimi gona, hupe."
    answer = server.post("details", q=text, alternatives=1, **EN_SV).json
    assert {key: answer[key] for key in ("model", "source", "target")} == {
        "model": "small",
        "source": "en",
        "target": "sv",
    }
    n_best_lists = translator.n_best(text.split("\n"), num_translations=2)
    for line, details, n_best in zip(text.split("\n"), answer["lines"], n_best_lists, strict=True):
        assert words_as_text(details["sourceWords"]) == line
        for shown, translation in zip(details["translations"], n_best, strict=True):
            assert shown["text"] == translation.text
            assert words_as_text(shown["words"]) == translation.text.rstrip()
            links = [(i, j) for j, word in enumerate(shown["words"]) for i in word["sources"]]
            assert sorted(links) == translator.align(line, translation)
            assert len(shown["sentences"]) == len(translation.segments)


def test_the_probability_of_a_word_is_that_of_its_subwords(
    server: RunningServer, models: ServedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score_tokens_alike(*arguments: Any) -> Iterator[PairScore]:
        for score in score_pairs(*arguments):
            assert score is not None
            yield score._replace(tokens=tuple(TokenScore("x", -0.1) for _ in score.tokens))

    translator = models.models[0].translator
    monkeypatch.setattr("mt.serve.word_details.score_pairs", score_tokens_alike)
    answer = server.post("details", q="balo deru fimi", **EN_SV).json
    (shown,) = answer["lines"][0]["translations"]
    translation = translator.n_best("balo deru fimi", num_translations=1)[0]
    (segment,) = translation.segments
    num_subwords = len(segment.tgt) - 1  # eos belongs to no word
    product = 1.0
    for word in shown["words"]:
        product *= word["probability"]
    assert shown["words"]
    assert shown["logProb"] == pytest.approx(translation.log_prob, abs=1e-4)
    assert num_subwords > 0
    assert product == pytest.approx(math.exp(-0.1 * num_subwords), rel=0.02)


def test_details_are_for_short_texts(server: RunningServer) -> None:
    text = "a" * (MAX_DETAIL_CHARS + 1)
    assert server.post("details", q=text, **EN_SV).status == 413
    assert server.post("details", q=["a"], **EN_SV).status == 400


def test_attention_is_a_page_that_may_do_nothing(server: RunningServer) -> None:
    answer = server.post_form("attention", q="<b>balo", translation="deru", **EN_SV)
    assert answer.status == 200
    assert '<h1 lang="en" dir="auto" translate="no">&lt;b&gt;balo</h1>' in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox allow-scripts" in policy
    assert server.post_form("attention", q="balo\nderu", **EN_SV).status == 400
    assert server.post_form("attention", q="balo " * 60, **EN_SV).status == 400


# What describes the server


def test_health_settings_and_models(server: RunningServer, models: ServedModels) -> None:
    assert server.get("health").json == {"status": "ok", "waitingCharacters": 0}
    settings = server.get("frontend/settings").json
    assert settings["charLimit"] == 10_000
    assert settings["keyRequired"] is False
    assert server.get("models").json == [
        {"model": model.name, "source": model.source, "target": model.target}
        for model in models.models
    ]


def test_the_openapi_document_describes_the_answers(server: RunningServer) -> None:
    document = server.get("openapi.json").json
    jsonschema.Draft202012Validator.check_schema(
        {"$defs": document["components"]["schemas"], "type": "object"}
    )
    answers = {
        ("/translate", "post"): server.post("translate", q="a", alternatives=1, **EN_SV),
        ("/details", "post"): server.post("details", q="a b", alternatives=1, **EN_SV),
        ("/languages", "get"): server.get("languages"),
        ("/models", "get"): server.get("models"),
        ("/health", "get"): server.get("health"),
        ("/frontend/settings", "get"): server.get("frontend/settings"),
    }
    paths = {(path, method) for path, own in document["paths"].items() for method in own}
    assert paths == {*answers, ("/attention", "post")}
    for (path, method), answer in answers.items():
        operation = document["paths"][path][method]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json, schema | {"components": document["components"]})
    error = server.post("translate")
    schema = document["components"]["schemas"]["Error"]
    jsonschema.validate(error.json, schema)


def test_the_log_has_no_text(models: ServedModels, caplog: pytest.LogCaptureFixture) -> None:
    """On a server of its own: a request is logged after its answer, perhaps in the next test."""
    with caplog.at_level(logging.INFO, logger="mt.serve"), running_server(models) as running:
        running.post("translate", q="secret balo", **EN_SV)
        running.request("POST", "translate?q=secret", b"", {"Content-Type": "application/json"})
    assert "secret" not in caplog.text
    first, second = (line for line in caplog.messages if line.startswith("POST "))
    assert first.startswith("POST /translate 200 ")
    assert second.startswith("POST /translate 400 ")


def test_an_idle_connection_is_closed(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mt.serve.server.HEADER_SECONDS", 0.2)
    for beginning in (b"", b"GET /health HTTP/1.1\r\nHost"):
        with server.connect() as connection:
            connection.sendall(beginning)
            assert connection.recv(100) == b""
