"""Tests of what counts as a word, also in scripts without spaces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.data.words import find_words, lacks_spaces, split_words

texts = st.text(alphabet=st.sampled_from("ab ß.\t中日かกิ์ျ\u200b\u3000\u00a0가𠀀"), max_size=12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \t\r", []),
        ("Ein  Satz, kurz.", ["Ein", "Satz,", "kurz."]),
        ("non\u00a0breaking \u2028 line", ["non\u00a0breaking", "\u2028", "line"]),
        ("나는 학생이다.", ["나는", "학생이다."]),
        ("我爱你。", ["我", "爱", "你", "。"]),
        ("用 Python3编程", ["用", "Python3", "编", "程"]),
        ("ガンダム", ["ガ", "ン", "ダ", "ム"]),
        ("カ\u3099ム", ["カ\u3099", "ム"]),
        ("ก็ดีที่", ["ก็", "ดี", "ที่"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("𠀀𠀁", ["𠀀", "𠀁"]),
    ],
)
def test_words_are_between_spaces_or_are_characters(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(texts)
def test_only_ascii_white_space_belongs_to_no_word(text: str) -> None:
    assert "".join(split_words(text)) == text.replace(" ", "").replace("\t", "")
    for word in find_words(text):
        assert text[word.start() : word.end()] == word[0] != ""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Das ist ein Satz.", "Ja."], False),
        (["나는 학생이다.", "그는 선생님이다."], False),
        (
            ["我 喜欢 吃 苹果 。", "他 去 了 北京 。"],
            False,
        ),  # somebody has put spaces between words
        (["我喜欢吃苹果。", "他去了北京。", ""], True),
        (["ฉันชอบกินแอปเปิลและกล้วย ทุกวัน ครับ"], True),
        (["Haus", "Katze", "zwei Hunde"], True),
        ([], False),
        ([""], False),
    ],
)
def test_about_one_word_a_line_means_no_spaces(lines: list[str], expected: bool) -> None:
    assert lacks_spaces(lines) == expected
