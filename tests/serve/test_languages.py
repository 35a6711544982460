"""A run of several languages is served as several directions, each with the tag of its target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from copy_task import write_copy_task
from runs import CONFIG, configure, train
from serving import RunningServer, running_server

from mt.decoding.translator import Translator
from mt.serve.models import ServedModels, load_models
from mt.serve.translation_queue import Job, TranslationQueue

TRAIN_BB = "  train:\n    - prefix: AT/train\n"
CORPORA = """\
  train:
    - prefix: AT/train
    - {src: AT/train.aa, tgt: AT/train.bb, tgt_lang: cc}
    - {src: AT/train.bb, tgt: AT/train.aa, src_lang: bb, tgt_lang: aa}
"""
TEXT = "balo deru fimi gona.\n\nhupe jasi"
# Of several sentences, so it is translated in parts, and each needs the tag.
LONG_TEXT = "Balo deru fimi gona. Hupe jasi kelo. " * 6
TOLERANCE = 1e-3  # of log-probabilities


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from aa into bb and cc, and from bb into aa, that has learned nearly nothing."""
    directory = tmp_path_factory.mktemp("languages")
    config_path = write_copy_task(directory, CONFIG.replace(TRAIN_BB, CORPORA))
    config = configure(config_path, directory / "tagged", "train.max_steps=1")
    return train(config)


@pytest.fixture(scope="module")
def translator(run_dir: Path) -> Translator:
    return Translator.load(run_dir, device="cpu")


@pytest.fixture(scope="module")
def tagged_models(run_dir: Path) -> ServedModels:
    return load_models([run_dir], checkpoint="best", device="cpu", precision="fp32", beam_size=None)


@pytest.fixture(scope="module")
def tagged_server(tagged_models: ServedModels) -> Iterator[RunningServer]:
    with running_server(tagged_models) as running:
        yield running


def test_each_direction_is_listed(tagged_server: RunningServer) -> None:
    assert tagged_server.get("languages").json == [
        {"code": "aa", "name": "aa", "targets": ["bb", "cc"]},
        {"code": "bb", "name": "bb", "targets": ["aa"]},
        {"code": "cc", "name": "cc", "targets": []},
    ]
    assert tagged_server.get("models").json == [
        {"model": "tagged", "source": "aa", "target": "bb"},
        {"model": "tagged", "source": "aa", "target": "cc"},
        {"model": "tagged", "source": "bb", "target": "aa"},
    ]


def test_the_directions_of_a_run_share_weights(tagged_models: ServedModels) -> None:
    assert len({id(model.translator.model) for model in tagged_models.models}) == 1


@pytest.mark.parametrize(("source", "target"), [("aa", "bb"), ("aa", "cc"), ("bb", "aa")])
def test_the_target_sets_the_tag(
    tagged_server: RunningServer, translator: Translator, source: str, target: str
) -> None:
    for text in (TEXT, LONG_TEXT):
        parameters = {"q": text, "source": source, "target": target}
        lists = translator.n_best(text.split("\n"), num_translations=1, to=target)
        translated = "\n".join(translation.text for (translation,) in lists)
        answer = tagged_server.post("translate", **parameters)
        assert answer.json == {"translatedText": translated}
        lines = tagged_server.post("details", **parameters).json["lines"]
        log_probs = [line["translations"][0]["logProb"] for line in lines]
        expected = [translation.log_prob for (translation,) in lists]
        assert log_probs == pytest.approx(expected, abs=TOLERANCE)


def test_another_tag_gives_another_probability(translator: Translator) -> None:
    """Otherwise the tests of this file would not see a missing tag."""
    (first,) = translator.n_best("balo deru fimi gona.", num_translations=1, to="bb")
    for to in ("aa", "cc"):
        (other,) = translator.n_best("balo deru fimi gona.", num_translations=1, to=to)
        assert abs(other.log_prob - first.log_prob) > 10 * TOLERANCE


def test_alternatives_and_details_have_the_tag(
    tagged_server: RunningServer, translator: Translator
) -> None:
    line = LONG_TEXT.strip()
    parameters = {"q": line, "source": "aa", "target": "cc", "alternatives": 2}
    n_best = translator.n_best(line, num_translations=3, to="cc")
    texts = [translation.text for translation in n_best]
    answer = tagged_server.post("translate", **parameters).json
    assert [answer["translatedText"], *answer["alternatives"]] == texts
    (details,) = tagged_server.post("details", **parameters).json["lines"]
    assert [shown["text"] for shown in details["translations"]] == texts
    for shown, translation in zip(details["translations"], n_best, strict=True):
        assert shown["logProb"] == pytest.approx(translation.log_prob, abs=TOLERANCE)
        links = [(i, j) for j, word in enumerate(shown["words"]) for i in word["sources"]]
        assert sorted(links) == translator.align(line, translation, to="cc")


def test_the_attention_page_shows_the_tag(tagged_server: RunningServer) -> None:
    page = tagged_server.post("attention", q="balo deru", source="aa", target="cc")
    assert '"\\u003c2cc\\u003e"' in page.text


def test_the_page_offers_each_direction(
    browser: Browser, tagged_server: RunningServer, translator: Translator
) -> None:
    page = browser.open(tagged_server.url)
    options = "[...document.querySelectorAll('#{}-language option')].map((option) => option.value)"
    assert page.evaluate(options.format("source")) == ["aa", "bb"]
    assert page.evaluate(options.format("target")) == ["bb", "cc"]
    page.evaluate("document.querySelector('#target-language').focus()")
    page.press("ArrowDown")
    page.click("#source")
    page.insert_text("balo deru fimi gona.")
    page.wait_until("state.candidates.length > 0")
    (expected,) = translator.n_best("balo deru fimi gona.", num_translations=1, to="cc")
    shown = page.evaluate("state.candidates[0][0].logProb")
    assert shown == pytest.approx(expected.log_prob, abs=TOLERANCE)
    assert page.evaluate("document.querySelector('#output p').lang") == "cc"
    page.close()


def test_requests_for_several_targets_share_a_batch(tagged_models: ServedModels) -> None:
    into_bb, into_cc, _ = tagged_models.models
    first = Job(into_bb, ["balo"], 1, list)
    assert first.can_share_batch(Job(into_cc, ["balo"], 1, list))
    assert not first.can_share_batch(Job(into_cc, ["balo"], 2, list))


def test_targets_in_one_batch_keep_their_tags(
    tagged_models: ServedModels, translator: Translator
) -> None:
    queue = TranslationQueue(max_chars=1000)
    jobs = [Job(model, ["balo deru fimi gona."], 1, list) for model in tagged_models.models]
    for job in jobs:
        queue.submit(job)
    queue.start()
    for job in jobs:
        ((translation,),) = job.future.result()
        target = job.model.target
        (expected,) = translator.n_best("balo deru fimi gona.", num_translations=1, to=target)
        assert translation.log_prob == pytest.approx(expected.log_prob, abs=TOLERANCE)
    queue.close()


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ("aa", "xx", "xx is not supported"),
        ("auto", "xx", "xx is not supported"),
        ("xx", "bb", "xx is not supported"),
        ("bb", "cc", "cc is not available as a target language from bb"),
    ],
)
def test_an_unknown_language_gives_the_error_of_libretranslate(
    tagged_server: RunningServer, source: str, target: str, error: str
) -> None:
    answer = tagged_server.post("translate", q="balo", source=source, target=target)
    assert answer.status == 400
    assert list(answer.json) == ["error"]
    assert answer.json["error"].startswith(error)
