"""Tests of the places where a line is cut: in many languages, and whatever is in the line."""

from __future__ import annotations

import time

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from mt.data.sentences import Cut, middle_cut, sentence_cuts, separator


def pieces(text: str, cuts: list[Cut]) -> list[str]:
    starts = [0, *(cut.stop for cut in cuts)]
    ends = [*(cut.start for cut in cuts), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


# The end of each sentence but the last is marked by a vertical bar.
SENTENCES = [
    # Marks
    "It rains. | We stay.",
    "Who? | Me! | Really?! | Yes.",
    "One sentence.",
    "no end",
    "It rains.  \t | We stay.",
    "It rains.No space.",
    # Abbreviations, initials and names
    "Mr. Smith met Dr. Jones in St. Paul. | He left.",
    "J. R. R. Tolkien and George W. Bush. | They never met.",
    "The U.S. Army, e.g. General Lee, came at 5 p.m. | It left.",
    "See No. 5 in Fig. 3 and p. 700. | Then go.",
    "No. | I do not.",
    "We sell apples, pears etc. | They are cheap.",
    "She has a Ph.D. She teaches.",  # in doubt, no cut
    "Herr Prof. Dr. Müller kam z. B. Montag, d.h. heute, bzw. Dienstag. | Er blieb.",
    "Es kostet ca. 5 Mio. Euro. | Das ist viel.",
    "M. Dupont et Mme. Durand sont partis. | Ils reviennent.",
    "El Sr. García y la Sra. López viven aquí. | Son felices.",
    "Проф. Иванов и г. Москва. | Он уехал.",
    "डॉ. शर्मा आए। | वे चले गए।",
    "وصل د. أحمد اليوم. | ثم غادر.",
    "Yahoo! is a company.",
    # Numbers
    "Pi is 3.14. | It is 10.000 km or 1,000.5 miles. | Far.",
    "She is 25. He is young. | So what?",  # in doubt, no cut
    "Er kam am 3. Oktober im 19. Jahrhundert. | Dann ging er.",
    "It was 1999. | Then came 2000.",
    "1. Introduction",
    "Version 2.0 is here. | 3 people use it.",
    # Ellipses
    "Well... | I see. | Wait… what?",
    "He left… | She stayed.",
    "Ehm ... what? | Yes.",
    # Quotes and brackets
    "“Go!” | “No.” | He left.",
    '"Where are you?" he asked. | "Here," she said.',
    "He left (she did not.) | Then he came.",
    "„Komm!“ | Er kam. | »Was?« | »Nichts.«",
    "„Komm!“, sagte er.",
    "Il dit : « Bonjour ! » | Puis il partit.",
    "« Qui ? | — Moi. » | Il sortit.",
    "¿Quién? | ¡Yo! | «Bien.» | Vale.",
    "- Who? | - Me.",
    # Chinese and Japanese, without spaces
    "他走了。|她留下！|“你好。”|好的？",
    "他说：“你好。”|然后走了。",
    "行きます。|はい。|「いいえ。」|「そう？」",
    "「行きます。」と彼は言った。|そして行った。",
    "今日 は 雨 です 。 | 家 に い ます 。",
    "π是3.14。|对。",
    # Other scripts
    "वह आया। | वह गया। | क्या?",
    "वह आया।|वह गया॥ | ठीक",
    "هل أنت هنا؟ | نعم. | حسنًا.",
    "وہ آیا۔ | وہ گیا۔",
    "안녕하세요. | 반갑습니다. | 네. | 그래요.",
    "Ես գալիս եմ։ | Դու գնում ես։",
    "እሱ መጣ። | እሷ ሄደች።",
    "Τι κάνεις; Καλά. | Εσύ;",  # the Greek question mark looks like a semicolon
    "ฉันไป เขามา",
    "သူလာတယ်။ | သူသွားတယ်။",
    # Small letters only, and text that a tokenizer has spread out
    "how are you? | i am fine. | see dr. jones.",
    "How are you ? | I am fine . | And you ?",
    "He met Mr. Smith . | Then he left .",
    # What is no sentence
    "Great! 😀",
    "... Hello",
    "?! Hello. | Bye.",
    "A. B. C.",
    ". . . . .",
    "",
    " ",
]


@pytest.mark.parametrize("marked", SENTENCES)
def test_sentences_are_cut_at_their_ends(marked: str) -> None:
    expected = regex.split(r"\s*\|\s*", marked)
    text = marked.replace(" | ", " ").replace("|", "")
    assert pieces(text, sentence_cuts(text)) == expected


def test_white_space_at_a_cut_belongs_to_no_sentence() -> None:
    text = "It rains.\u00a0 We stay."
    assert sentence_cuts(text) == [Cut(9, 11)]


TEXTS = st.lists(
    st.sampled_from(
        [*".?!…。！।؟\"'“”„«»()「」 \t\u3000\u0301\u200d", "a", "B", "7", "Mr", "他", "😀"]
    ),
    max_size=30,
).map("".join)


@given(TEXTS)
def test_cuts_are_in_order_and_every_sentence_has_a_letter_or_number(text: str) -> None:
    cuts = sentence_cuts(text)
    for sentence in pieces(text, cuts)[:-1] if cuts else []:
        assert regex.search(r"[\p{L}\p{N}]", sentence)
    positions = [position for cut in cuts for position in cut]
    assert positions == sorted(positions)
    for cut in cuts:
        assert not text[cut.start : cut.stop].strip()


@pytest.mark.parametrize(
    "part",
    [".", ". ", "!? ", ". # ", '." ', '"', " ", "« ", "A. ", "e.g. ", "。", "a, ", "\u0301", "🇩🇪"],
)
def test_time_is_linear(part: str) -> None:
    """Where the time grows with the square of the length, a line of a megabyte would take hours."""
    text = "Hello" + part * (100_000 // len(part)) + "x"
    start_time = time.process_time()
    sentence_cuts(text)
    middle_cut(text)
    assert time.process_time() - start_time < 10


# Cuts inside a sentence


@pytest.mark.parametrize(
    ("text", "left", "right"),
    [
        # The punctuation mark nearest to the middle, in the middle half
        ("aa, bb bb; cc cc", "aa, bb bb;", "cc cc"),
        ("aaaa bbbb, (cccc), dd dddd", "aaaa bbbb,", "(cccc), dd dddd"),
        ('he said "yes," and went', 'he said "yes,"', "and went"),
        ("我们去，他们来", "我们去，", "他们来"),
        ("ذهبنا، ثم عدنا", "ذهبنا،", "ثم عدنا"),
        ("3,14 and 3:15 am", "3,14 and", "3:15 am"),
        # Else the space nearest to the middle
        ("a, bbbb bbbb cccc cccc", "a, bbbb bbbb", "cccc cccc"),
        ("xxxxx yyy zzzz", "xxxxx", "yyy zzzz"),
        ("a bbbbbbbbbbbbbb", "a", "bbbbbbbbbbbbbb"),
        ("aaa\u3000\u3000bbb", "aaa", "bbb"),
        # Else between graphemes
        ("aaaabbbb", "aaaa", "bbbb"),
        ("e\u0301e\u0301e\u0301", "e\u0301", "e\u0301e\u0301"),
        ("👩\u200d👩\u200d👧👩\u200d👩\u200d👧", "👩\u200d👩\u200d👧", "👩\u200d👩\u200d👧"),
        ("🇩🇪🇫🇷🇯🇵", "🇩🇪", "🇫🇷🇯🇵"),
        ("❤\ufe0f❤\ufe0f", "❤\ufe0f", "❤\ufe0f"),
        ("क्षक्ष", "क्ष", "क्ष"),
        ("ab\u0301", "a", "b\u0301"),
    ],
)
def test_long_sentence_is_cut_near_its_middle(text: str, left: str, right: str) -> None:
    cut = middle_cut(text)
    assert cut is not None
    assert (text[: cut.start], text[cut.stop :]) == (left, right)


@pytest.mark.parametrize("text", ["", "a", "e\u0301", "👩\u200d👩\u200d👧", "🇩🇪"])
def test_single_grapheme_is_not_cut(text: str) -> None:
    assert middle_cut(text) is None


def test_endless_grapheme_is_cut() -> None:
    """A letter with 100,000 accents would fill the memory."""
    text = "e" + "\u0301" * 100_000
    cut = middle_cut(text)
    assert cut is not None
    assert abs(cut.start - 50_000) < 500


@given(st.text(st.sampled_from("ab, ;，।e\u0301\u200d👩🇩🇪क्ष\ufe0f"), max_size=30))
def test_middle_cut_leaves_two_parts_and_no_broken_grapheme(text: str) -> None:
    cut = middle_cut(text)
    graphemes = regex.findall(r"\X", text)
    if cut is None:
        assert len(graphemes) <= 1
        return
    assert text[: cut.start]
    assert text[cut.stop :]
    assert not text[cut.start : cut.stop].strip()
    left = regex.findall(r"\X", text[: cut.start])
    gap = list(text[cut.start : cut.stop])
    right = regex.findall(r"\X", text[cut.stop :])
    assert [*left, *gap, *right] == graphemes


# What joins the translations


@pytest.mark.parametrize(
    ("text", "left", "right", "expected"),
    [
        ("It rains.| |We stay.", "Es regnet.", "Wir bleiben.", " "),
        ("It rains.|\u3000|We stay.", "Es regnet.", "Wir bleiben.", " "),
        # To and from a language without spaces
        ("It rains.| |We stay.", "下雨了。", "我们留下。", ""),
        ("It rains.| |We stay.", "雨です。", "「はい」", ""),
        ("下雨了。||我们留下。", "It rains.", "We stay.", " "),
        ("下雨了。”||我们留下。", "It rains.", "We stay.", " "),
        ("下雨了，||我们留下。", "下雨了，", "我们留下。", ""),
        ("वह आया।||वह गया।", "He came.", "He went.", " "),
        # Thai has spaces between sentences
        ("It rains.| |We stay.", "ฝนตก", "เราอยู่", " "),
        ("ฝนตก||เราอยู่", "ฝนตก", "เราอยู่", ""),
        ("ฝนตก||เราอยู่", "It rains", "we stay", " "),
        # A long word, cut in two
        ("aaaa||bbbb", "cccc", "dddd", ""),
        # Nothing to join
        ("It rains.| |We stay.", "", "Wir bleiben.", ""),
        ("It rains.| |We stay.", "Es regnet.", "", ""),
    ],
)
def test_translations_are_joined_by_what_their_language_needs(
    text: str, left: str, right: str, expected: str
) -> None:
    before, gap, after = text.split("|")
    cut = Cut(len(before), len(before) + len(gap))
    assert separator(before + gap + after, cut, left, right) == expected
