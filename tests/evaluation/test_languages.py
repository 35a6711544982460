"""Tests of language codes and what they say about words."""

from __future__ import annotations

import pytest

from mt.evaluation.languages import bleu_tokenizer, script_of_language, ter_words

# The same language in the spellings of ISO 639-1, ISO 639-2 and -3, BCP 47, FLORES and a locale.
SPELLINGS = {
    "zh": "zh ZH zho chi cmn yue zh-CN zh_CN zh-Hant zh-Hant-TW zho_Hans zho_Hant yue_Hant "
    "zh-cmn-Hans zh_CN.UTF-8 cmn_Hans cn",
    "ja-mecab": "ja jpn JA ja-JP ja_XX jpn_Jpan ja-Hira jp",
    "ko-mecab": "ko kor ko-KR kor_Hang ko_KR",
    "char": "th tha th-TH tha_Thai km khm khm_Khmr lo lao lao_Laoo my mya bur my_MM mya_Mymr "
    "shn_Mymr bo bod tib bod_Tibt dz dzo dzo_Tibt khb_Talu",
    "13a": "de deu ger de-AT deu_Latn en eng_Latn pt_BR pt-BR ru rus_Cyrl ar arb_Arab vi vie_Latn "
    "zh-Latn ja-Latn-hepburn sr-Latn hi swa aa xx-Xxxx en.tok",
}
CODES = [(code, name) for name, codes in SPELLINGS.items() for code in codes.split()]


@pytest.mark.parametrize(("code", "tokenizer"), [*CODES, ("", "13a")])
def test_every_spelling_of_a_language_gives_its_tokenizer(
    monkeypatch: pytest.MonkeyPatch, code: str, tokenizer: str
) -> None:
    monkeypatch.setattr("mt.evaluation.languages.find_spec", lambda package: object())
    assert bleu_tokenizer(code) == tokenizer


@pytest.mark.parametrize("code", ["ja", "jpn_Jpan", "ko-KR", "kor"])
def test_japanese_and_korean_without_mecab_are_scored_by_characters(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr("mt.evaluation.languages.find_spec", lambda package: None)
    assert bleu_tokenizer(code) == "char"


def test_script_in_the_code_comes_before_that_of_the_language() -> None:
    assert script_of_language("zh") == "hani"
    assert script_of_language("zho_Hant") == "hant"
    assert script_of_language("zh-Latn-pinyin") == "latn"
    assert script_of_language("en") == ""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("de", "spaces"),
        ("", "spaces"),
        ("kor_Hang", "spaces"),
        ("zho_Hans", "asian"),
        ("jpn", "asian"),
        ("tha", None),
        ("mya_Mymr", None),
    ],
)
def test_ter_counts_the_words_of_the_language(code: str, words: str | None) -> None:
    assert ter_words(code) == words
