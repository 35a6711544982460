"""An export for CTranslate2 is served as a run is, without the details of words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from random_run import SEVERAL_LANGUAGES, TEXTS, make_run, make_tokenizers
from serving import RunningServer, running_server

from mt.errors import RunDirError
from mt.serve.models import ServedModels, load_models

pytest.importorskip("ctranslate2")
from mt.export.ctranslate2 import export
from mt.export.ctranslate2_translator import CTranslate2Translator


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a run with random weights, from en into de and sv."""
    directory = tmp_path_factory.mktemp("exports")
    run_dir = make_run(directory / "run", make_tokenizers(directory), SEVERAL_LANGUAGES)
    export(run_dir, directory / "exported")
    return directory / "exported"


@pytest.fixture(scope="module")
def exported_models(exported: Path) -> ServedModels:
    return load_models(
        [exported], checkpoint="best", device="cpu", precision="fp32", beam_size=None
    )


@pytest.fixture(scope="module")
def export_server(exported_models: ServedModels) -> Iterator[RunningServer]:
    with running_server(exported_models) as running:
        yield running


def test_texts_are_translated_into_each_language(
    export_server: RunningServer, exported_models: ServedModels, exported: Path
) -> None:
    translator = CTranslate2Translator.load(exported, device="cpu")
    assert len(exported_models.models) > 1
    for model in exported_models.models:
        answer = export_server.post(
            "translate", q=TEXTS, source=model.source, target=model.target, alternatives=1
        )
        lists = translator.n_best_lists(TEXTS, 2, to=model.target)
        assert answer.json["translatedText"] == [found[0].text for found in lists]
        expected = [[translation.text for translation in found[1:]] for found in lists]
        assert answer.json["alternatives"] == expected


@pytest.mark.parametrize("endpoint", ["details", "attention"])
def test_words_are_not_described(
    export_server: RunningServer, exported_models: ServedModels, endpoint: str
) -> None:
    model = exported_models.models[0]
    answer = export_server.post(endpoint, q="balo", source=model.source, target=model.target)
    assert answer.status == 400
    assert "export for CTranslate2" in answer.json["error"]


def test_the_page_shows_translations_and_alternatives(
    browser: Browser, export_server: RunningServer, exported: Path
) -> None:
    text = f"{TEXTS[0]}\n{TEXTS[1]}"
    translator = CTranslate2Translator.load(exported, device="cpu")
    lists = translator.n_best_lists(text.split("\n"), 2)
    page = browser.open(export_server.url)
    page.click("#source")
    page.insert_text(text)
    page.wait_until("state.candidates.length > 1")
    assert page.evaluate("candidateText(0)") == "\n".join(found[0].text for found in lists)
    assert page.evaluate("document.querySelector('#attention-button').disabled")
    assert page.evaluate("document.querySelector('#status').textContent") == ""
    page.close()


def test_options_that_need_a_run_are_refused(exported: Path) -> None:
    with pytest.raises(RunDirError, match="one checkpoint and one precision"):
        load_models([exported], checkpoint="last", device="cpu", precision="fp32", beam_size=None)
