"""The page in a browser: used by pointer and by keyboard, wide and narrow, light and dark."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest
from browser import Browser, Page
from serving import RunningServer, make_models, running_server

from mt.data.tokenizer import Tokenizer
from mt.decoding.translation import Translation
from mt.serve.access import Access
from mt.serve.models import ServedModels
from mt.serve.translation_queue import Job, TranslationQueue

LOOKS = [(1400, False), (1400, True), (390, False), (390, True)]
TEXT = "balo deru fimi.\nGona hupe jasi."
HOSTILE_TEXT = (
    "<script>document.title='broken'</script> </script><img/src=x/onerror=document.title='broken'> "
    "<!--<script> &amp; {{7*7}} \u202eright שלום 👩‍👩‍👧 '\"`${1}\\u003c"
)


def by_look(test: object) -> object:
    return pytest.mark.parametrize(("width", "dark"), LOOKS)(test)


def open_page(
    browser: Browser, server: RunningServer, *, width: int = 1400, dark: bool = False
) -> Page:
    return browser.open(server.url, width=width, height=800, dark=dark)


def write(page: Page, text: str) -> None:
    """Replace the text, and wait for its translation."""
    page.evaluate("document.querySelector('#source').select()")
    page.insert_text(text)
    page.wait_until(f"state.text === {json.dumps(text)} && !document.querySelector('#output.old')")


def text_of(page: Page, selector: str) -> str:
    text = page.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")
    assert isinstance(text, str)
    return text


def output_of(page: Page) -> str:
    lines: list[str] = page.evaluate(
        "[...document.querySelectorAll('#output p')].map((line) => line.textContent)"
    )
    return "\n".join(lines)


def marks_of(page: Page) -> list[str]:
    marks: list[str] = page.evaluate(
        "[...document.querySelectorAll('#backdrop mark')].map((mark) => mark.textContent)"
    )
    return marks


def details_of(server: RunningServer, text: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = server.post(
        "details", q=text, source="en", target="sv", alternatives=3
    ).json["lines"]
    return lines


@by_look
def test_the_page_is_used_by_pointer(
    browser: Browser, server: RunningServer, width: int, dark: bool
) -> None:
    page = open_page(browser, server, width=width, dark=dark)
    page.click("#source")
    write(page, TEXT)
    lines = details_of(server, TEXT)
    best = [line["translations"][0] for line in lines]
    assert output_of(page) == "\n".join(translation["text"] for translation in best)

    # A word shows its probability, and marks its source words.
    page.hover("#output p:nth-child(2) .word")
    word = best[1]["words"][0]
    sources = [lines[1]["sourceWords"][index]["text"] for index in word["sources"]]
    assert marks_of(page) == sources
    info = text_of(page, "#info")
    assert info.startswith(f"“{word['text']}”: ")
    assert "% probable" in info
    assert info.endswith(f"from “{' '.join(sources)}”")
    page.hover("h1")
    assert marks_of(page) == []

    # A click keeps it.
    page.click("#output p:nth-child(2) .word")
    page.hover("h1")
    assert marks_of(page) == sources
    assert page.evaluate("document.querySelector('#attention [name=q]').value") == "Gona hupe jasi."

    # An alternative takes the place of the best translation.
    page.click("#alternatives li:nth-child(2) button")
    assert output_of(page) == text_of(page, "#alternatives li:nth-child(2) button")
    assert output_of(page) != "\n".join(translation["text"] for translation in best)

    page.click("#clear")
    assert output_of(page) == ""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.console_messages == []
    assert set(page.requests) <= {server.url, f"{server.url}details"}
    page.close()


@by_look
def test_the_page_is_used_by_keyboard(
    browser: Browser, server: RunningServer, width: int, dark: bool
) -> None:
    page = open_page(browser, server, width=width, dark=dark)
    page.evaluate("document.querySelector('#target-language').focus()")
    page.press("Tab")  # the model
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "source"
    write(page, TEXT)
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "clear"
    page.press("Tab")
    words = [
        word["text"]
        for line in details_of(server, TEXT)
        for word in line["translations"][0]["words"]
    ]
    assert text_of(page, ".word:focus") == words[0]
    assert text_of(page, "#info").startswith(f"“{words[0]}”: ")
    page.press("ArrowRight")
    assert text_of(page, ".word:focus") == words[1]
    page.press("Enter")
    assert text_of(page, ".word[aria-pressed=true]") == words[1]
    page.press("ArrowLeft")
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "attention-button"
    assert text_of(page, ".word[aria-pressed=true]") == words[1]
    page.press("Escape")
    assert page.evaluate("document.querySelector('.word[aria-pressed=true]')") is None
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "copy"
    page.press("Tab")
    assert text_of(page, "#alternatives button:focus") == output_of(page)
    assert page.console_messages == []
    page.close()


def test_the_caret_in_the_source_marks_words_of_the_translation(
    browser: Browser, server: RunningServer
) -> None:
    page = open_page(browser, server)
    page.click("#source")
    write(page, TEXT)
    line = details_of(server, TEXT)[0]
    words = line["translations"][0]["words"]
    source_index = words[0]["sources"][0]
    linked = [word["text"] for word in words if source_index in word["sources"]]
    caret = 1 + TEXT.index(line["sourceWords"][source_index]["text"])
    page.evaluate(f"document.querySelector('#source').setSelectionRange({caret}, {caret})")
    page.wait_until("document.querySelector('.word.linked') !== null")
    found = page.evaluate(
        "[...document.querySelectorAll('.word.linked')].map((word) => word.textContent)"
    )
    assert found == linked
    page.close()


def test_hostile_text_is_shown_as_text(browser: Browser, server: RunningServer) -> None:
    page = open_page(browser, server)
    page.click("#source")
    write(page, HOSTILE_TEXT)
    answer = json.dumps({"translatedText": HOSTILE_TEXT, "alternatives": [HOSTILE_TEXT]})
    page.evaluate(f"showAnswer({json.dumps(HOSTILE_TEXT)}, linesWithoutDetails({answer}))")
    assert output_of(page) == HOSTILE_TEXT
    assert page.evaluate("document.title") == "Translate"
    assert page.evaluate("document.querySelectorAll('img, #output script').length") == 0
    assert page.console_messages == []
    page.close()


def test_the_names_of_models_are_shown_as_text(browser: Browser, tokenizer: Tokenizer) -> None:
    name = "</script><script>document.title='broken'</script>"
    models = make_models(tokenizer, (name, "en", "sv"), ("b", "en", "sv"), ("c", "x y", "<b>"))
    with running_server(models) as hostile:
        page = open_page(browser, hostile)
        assert page.evaluate("document.querySelector('#model').value") == name
        assert page.evaluate("document.title") == "Translate"
        page.evaluate("chooseLanguages('x y', '<b>')")
        assert text_of(page, "#target-language") == "<b>"
        assert page.console_messages == []
        page.close()


def test_attention_of_a_sentence_opens_from_the_page(
    browser: Browser, server: RunningServer
) -> None:
    page = open_page(browser, server)
    page.click("#source")
    write(page, TEXT)
    page.evaluate("document.querySelector('#attention').target = '_self'")
    page.click("#attention-button")
    page.wait_until("document.querySelector('#links') instanceof HTMLDivElement")
    assert text_of(page, "h1") == "balo deru fimi."
    assert page.console_messages == []
    page.click(".eyebrow a")
    page.wait_until("document.querySelector('#source') !== null")
    assert page.console_messages == []
    page.close()


def test_languages_are_swapped_with_the_text(browser: Browser, server: RunningServer) -> None:
    page = open_page(browser, server)
    page.click("#source")
    write(page, "balo deru")
    translated = output_of(page)
    page.click("#swap")
    page.wait_until("state.text === source.value && !document.querySelector('#output.old')")
    assert page.evaluate("source.value") == translated
    assert page.evaluate("document.querySelector('#source-language').value") == "sv"
    assert page.evaluate("[source.lang, document.querySelector('#output p').lang]") == ["sv", "en"]
    assert page.evaluate("document.querySelector('#model-label').hidden") is True
    page.close()


def test_texts_have_the_direction_of_their_language(browser: Browser, tokenizer: Tokenizer) -> None:
    with running_server(make_models(tokenizer, ("a", "ar", "zho_Hans"))) as running:
        page = open_page(browser, running)
        page.click("#source")
        write(page, "balo deru")
        assert page.evaluate("[source.lang, source.dir]") == ["ar", "rtl"]
        for selector in ("#output p", "#alternatives button"):
            shown = f"document.querySelector({json.dumps(selector)})"
            assert page.evaluate(f"[{shown}.lang, {shown}.dir]") == ["zh-Hans", "auto"]
        assert text_of(page, "#source-language") == "Arabic"
        page.close()


def test_an_answer_that_comes_late_is_dropped(browser: Browser, models: ServedModels) -> None:
    queue = TranslationQueue(max_chars=10_000)
    with running_server(models, queue=queue) as slow:
        may_end = threading.Event()

        def wait(n_best_lists: list[list[Translation]]) -> None:
            may_end.wait()

        queue.submit(Job(models.models[0], [], 1, wait))
        page = open_page(browser, slow)
        page.click("#source")
        page.insert_text("balo")
        page.wait_until("state.request !== null && !state.request.signal.aborted")
        page.insert_text(" deru")
        page.wait_until("!state.request.signal.aborted")
        may_end.set()
        page.wait_until("state.text === 'balo deru'")
        assert (
            output_of(page)
            == slow.post("translate", q="balo deru", source="en", target="sv").json[
                "translatedText"
            ]
        )
        page.close()


def test_a_long_text_is_translated_without_details(browser: Browser, server: RunningServer) -> None:
    page = open_page(browser, server)
    page.click("#source")
    text = "\n".join(["balo deru"] * 250)
    write(page, text)
    expected = server.post("translate", q=text, source="en", target="sv").json["translatedText"]
    assert output_of(page) == expected
    assert "2000" in text_of(page, "#status")
    assert page.evaluate("document.querySelector('#alternatives').hidden") is True
    page.close()


def test_an_error_is_shown(browser: Browser, models: ServedModels) -> None:
    with running_server(models, access=Access(api_keys=("secret",))) as guarded:
        page = open_page(browser, guarded)
        page.click("#source")
        page.insert_text("balo")
        page.wait_until("document.querySelector('#status.error') !== null")
        assert "api_key" in text_of(page, "#status")
        page.click("#key")
        page.insert_text("secret")
        page.press("Tab")
        page.wait_until("document.querySelectorAll('.word').length > 0")
        assert text_of(page, "#status") == ""
        page.close()


def test_the_policy_allows_the_script_of_the_page_alone(server: RunningServer) -> None:
    answer = server.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    html = answer.text
    assert not re.search(r"<[^>]*\s(on\w+|style)\s*=", html)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", html)
    assert "http-equiv" not in html
