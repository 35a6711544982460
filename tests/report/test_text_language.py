"""The language of a text in HTML follows from the codes of a config."""

from __future__ import annotations

import pytest

from mt.report.text_language import text_attributes, text_language


@pytest.mark.parametrize(
    ("code", "lang"),
    [
        ("sv", "sv"),
        ("swe", "swe"),
        ("pt_BR.UTF-8", "pt-BR"),
        ("zho_Hans", "zh-Hans"),
        ("jp", "ja"),
        ("sr-Latn-RS", "sr-Latn-RS"),
        ("ca-valencia", "ca-valencia"),
    ],
)
def test_codes_become_language_tags(code: str, lang: str) -> None:
    assert text_language(code) == (lang, "auto")


@pytest.mark.parametrize("code", ["he", "ar", "arb_Arab", "ur-PK", "az-Arab", "ckb"])
def test_languages_written_from_right_to_left_have_this_direction(code: str) -> None:
    assert text_language(code).dir == "rtl"


@pytest.mark.parametrize("code", ["ar-Latn", "yi-Latn", "en", "xyz"])
def test_other_texts_have_the_direction_of_their_characters(code: str) -> None:
    assert text_language(code).dir == "auto"


@pytest.mark.parametrize("code", ["", "?", "english", "a b", "sr@latin", 'en"><script>'])
def test_other_names_are_an_unknown_language(code: str) -> None:
    assert text_language(code) == ("", "auto")
    assert text_attributes(code) == 'lang="" dir="auto" translate="no"'
