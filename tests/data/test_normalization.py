"""Tests of the form of text before tokenization."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mt.config.choices import Normalization
from mt.data.normalization import Normalizer, describe_characters, is_blank, normalize
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer

WORDS = ["the", "old", "woman's", '"dog"', "sees-it", "caf\u00e9.", "FIG", "12"]
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # "I want", with a joiner
SINHALA = "\u0dc1\u0dca\u200d\u0dbb\u0dd3"  # "Sri", with a joiner
FAMILY = "\U0001f469\u200d\U0001f467"  # two emoji that are joined
HEART = "\u2764\ufe0f\u200d\U0001f525"
KHMER = "\u1797\u17b6\u179f\u17b6\u200b\u1781\u17d2\u1798\u17c2\u179a"  # two words

# All kinds of characters that the rules are about, more often than random text has them.
TEXT = st.text(
    st.one_of(
        st.characters(exclude_characters="\n", exclude_categories=["Cs"]),
        st.sampled_from(" \t\u00a0\u200b\u200c\u200d\ufeff\u00ade\u0301\u00e9\u0915\u094d\u1780"),
    )
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer([" ".join(WORDS)] * 5, path, kind="bpe", vocab_size=310)
    return Tokenizer.load(path)


# The forms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a  b", "a b"),
        (" \ta\u00a0b\u202f\u2003c\u3000 ", "a b c"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufeffa\u200bb c\u00adc\u2060", "ab cc"),
        ("a \u200b b", "a b"),
        ("e\u200b\u0301", "\u00e9"),
        ("Auf\u200clage \u200dx", "Auflage x"),
        ("\uff21 \ufb01 \u2026 \u201ca\u201d", "\uff21 \ufb01 \u2026 \u201ca\u201d"),
        (PERSIAN, PERSIAN),
        (SINHALA, SINHALA),
        (FAMILY, FAMILY),
        (HEART, HEART),
        (KHMER, KHMER),
        ("\u200b", ""),
    ],
)
def test_nfc(text: str, expected: str) -> None:
    assert normalize(text, "nfc") == expected


def test_nfkc_replaces_compatibility_characters() -> None:
    assert normalize("\uff21\uff11 \ufb01 \u2026 x\u00b2", "nfkc") == "A1 fi ... x2"


def test_none_changes_nothing() -> None:
    text = " a  b\u00a0\ufeffe\u0301 "
    assert normalize(text, "none") == text


@pytest.mark.parametrize("form", ["nfc", "nfkc"])
@given(TEXT)
@example("\uff21\u200d")  # a joiner after a letter that NFKC replaces
@example("\u3000\u200da")  # a joiner after a space
@example("e\u200b\u0301")
def test_normalized_text_is_in_its_form_and_stays_so(form: Normalization, text: str) -> None:
    normalized = normalize(text, form)
    assert normalize(normalized, form) == normalized
    assert unicodedata.is_normalized("NFC", normalized)
    assert normalized.split() == normalized.split(" ") or normalized == ""


@given(TEXT)
def test_ways_to_write_a_text_have_one_form(text: str) -> None:
    normalized = normalize(text, "nfc")
    assert normalize(unicodedata.normalize("NFD", normalized), "nfc") == normalized
    assert normalize(normalized.replace(" ", "\u00a0 "), "nfc") == normalized


# Blank texts


@pytest.mark.parametrize(
    "text", ["", " ", "\u00a0\u3000", "\u200b", "\ufeff", "\u200e \u00ad", "\0", "\u3164", "\ufe0f"]
)
def test_text_without_a_visible_character_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", " .", "\u200bx", "\u4e2d", "\U0001f600", "\u0301", "\ue000"])
def test_text_with_a_visible_character_is_not_blank(text: str) -> None:
    assert not is_blank(text)


# Characters without a piece


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u201cthe\u201d \u201edog\u201c \u00abit\u00bb", '"the" "dog" "it"'),
        ("woman\u2019s", "woman's"),
        ("sees\u2013it \u2212 \u2011", "sees-it - -"),
        ("the\u2026", "the..."),
        ("\uff26\uff29\uff27 \u2461 \ufb01\ufb00 \ufb05", "FIG 2 fiff st"),
        ("\u00f3ld d\u00f6g", "old dog"),
        ("caf\u00e9", "caf\u00e9"),
        ("the\u200e \u2067 old", "the old"),
        ("\U0001f600\ufe0f \u4f60", "\U0001f600 \u4f60"),
        ("\uff02dog\uff02", '"dog"'),
    ],
)
def test_characters_without_a_piece_are_replaced(
    tokenizer: Tokenizer, text: str, expected: str
) -> None:
    assert Normalizer("nfc", tokenizer)(text) == expected


def test_quotation_marks_of_the_training_text_are_used(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    train_tokenizer(["\u201cthe old\u201d \u2013 dog"] * 5, path, kind="bpe", vocab_size=295)
    normalizer = Normalizer("nfc", Tokenizer.load(path))
    assert normalizer('\u00abthe\u00bb "old" - dog') == "\u201cthe\u201c \u201cold\u201c \u2013 dog"


def test_quotation_marks_vanish_where_none_is_known(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    train_tokenizer(["the old dog 123"] * 5, path, kind="bpe", vocab_size=290)
    normalizer = Normalizer("nfc", Tokenizer.load(path))
    assert normalizer("\u201cthe\u201d 'old' dog\u2019") == "the old dog"
    assert normalizer('"the" 1\u201323 \u2013 dog') == "the 1 23 dog"


@given(text=TEXT)
def test_characters_with_a_piece_are_not_touched(tokenizer: Tokenizer, text: str) -> None:
    normalizer = Normalizer("nfc", tokenizer)
    normalized = normalize(text, "nfc")
    known = "".join(c for c in normalized if c not in normalizer.unseen_characters(text))
    known = normalize(known, "nfc")
    assert normalizer(known) == known
    assert normalizer.unseen_characters(known) == set()
    assert normalizer(normalizer(text)) == normalizer(text)


@given(text=TEXT)
def test_decoding_gives_the_normalized_text(tokenizer: Tokenizer, text: str) -> None:
    normalized = Normalizer("nfc", tokenizer)(text)
    assert tokenizer.decode(tokenizer.encode([normalized])) == [normalized]


@given(text=TEXT)
def test_no_normalization_replaces_nothing(tokenizer: Tokenizer, text: str) -> None:
    assert Normalizer("none", tokenizer)(text) == text


@pytest.mark.parametrize("text", ["a dog", "\u4e2d", "\u2581 \x10", "\U0001f600", "e"])
def test_has_piece_agrees_with_the_encoding(tokenizer: Tokenizer, text: str) -> None:
    for character in text:
        (ids,) = tokenizer.encode([character])
        is_in_bytes = any(tokenizer.piece(i).startswith("<0x") for i in ids)
        assert tokenizer.has_piece(character) is not is_in_bytes


def test_description_names_the_most_frequent_characters() -> None:
    counts = Counter({"\u4e2d": 9, "\u200b": 8, "a": 3, "b": 2, "c": 2, "d": 1})
    text = describe_characters(counts)
    assert text.startswith("\u4e2d (U+4E2D) in 9 lines, U+200B in 8 lines, a (U+0061) in 3 lines, ")
    assert "U+0064" not in text
    assert text.endswith("...")


def test_description_does_not_depend_on_the_order_of_counting() -> None:
    counts = Counter({"b": 1, "a": 1, "c": 2})
    expected = "c (U+0063) in 2 lines, a (U+0061) in 1 line, b (U+0062) in 1 line"
    assert describe_characters(counts) == expected


@pytest.mark.parametrize("form", ["none", "nfc", "nfkc"])
def test_replaced_characters_are_those_that_a_normalizer_replaces(
    form: Normalization, tokenizer: Tokenizer
) -> None:
    normalizer = Normalizer(form, tokenizer)
    replaced = normalizer.replaced_characters()
    # Letters of many scripts, accents, punctuation, spaces, joiners and symbols.
    for code in [*range(0x20, 0x500), *range(0x1E00, 0x2100), 0x200B, 0x3000, 0x4E2D, 0x1F600]:
        text = f"a{normalize(chr(code), form)}b"
        expected = "".join(replaced.get(character, character) for character in text)
        assert normalizer(text) == normalize(expected, form), hex(code)
