"""Tests of length buckets, word differences and the choice of examples."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mt.evaluation.analysis import (
    ScoredSentence,
    Span,
    choose_examples,
    copied_words,
    length_buckets,
    percentile_examples,
    sentence_chrf,
    word_diff,
    words_and_punctuation,
)

WORDS = ["der", "die", "alte", "rote", "Hund", "Katze", "Haus", "sieht", "kauft", "und", ",", "."]

# Letters, spaces, punctuation, Chinese, a character beyond 16 bits, combining marks and Hebrew.
texts = st.text(alphabet=st.sampled_from("ab Ü.,?\t„中文𝄞é\u0301\u05d0-3"), max_size=12)


def scored_sentence(
    hyp: str, ref: str, *, src: str = "a source", probability: float = 0.5
) -> ScoredSentence:
    return ScoredSentence(src, hyp, ref, sentence_chrf(hyp, [ref]), probability)


def noisy_sentences(num_sentences: int) -> list[ScoredSentence]:
    """Return sentences with one in five words of the reference replaced at random."""
    draw = random.Random(5)
    sentences = []
    for index in range(num_sentences):
        ref = draw.choices(WORDS, k=draw.randint(1, 25))
        hyp = [draw.choice(WORDS) if draw.random() < 0.2 else word for word in ref]
        sentences.append(
            scored_sentence(
                " ".join(hyp),
                " ".join(ref),
                src=f"source {index}",
                probability=1 / (index + 1),
            )
        )
    return sentences


# Length buckets


@given(st.lists(texts, min_size=1, max_size=30))
def test_every_sentence_is_in_one_bucket(sources: list[str]) -> None:
    _, buckets = length_buckets(sources)
    indices = [index for bucket in buckets for index in bucket.indices]
    assert sorted(indices) == list(range(len(sources)))
    assert all(bucket.indices for bucket in buckets)


def test_bucket_labels_match_their_sentences() -> None:
    sources = [" ".join("w" * length) for length in range(100)]  # of 0 to 99 words
    unit, buckets = length_buckets(sources)
    assert unit == "words"
    assert buckets[0].label == "up to 5"
    assert buckets[0].indices == [0, 1, 2, 3, 4, 5]
    assert buckets[-1].label == "over 60"
    assert buckets[-1].indices == list(range(61, 100))
    for bucket in buckets[1:-1]:
        first, last = bucket.label.split("–")
        assert bucket.indices == list(range(int(first), int(last) + 1))


def test_text_without_spaces_is_measured_in_characters() -> None:
    unit, buckets = length_buckets(["今日は天気がとても良いですね。"] * 3 + ["猫"])
    assert unit == "characters"
    assert [bucket.label for bucket in buckets] == ["up to 10", "11–20"]
    unit, _ = length_buckets(["ฉันชอบกินแอปเปิลและกล้วย ทุกวัน ครับ"])  # spaces between phrases
    assert unit == "characters"


# Word differences


def test_punctuation_and_chinese_characters_are_words() -> None:
    text = "„Ja“, sagt sie; 我吃魚。\u3000ที่"
    expected = ["„", "Ja", "“", ",", "sagt", "sie", ";", "我", "吃", "魚", "。", "ที่"]
    assert words_and_punctuation(text) == expected


@given(texts)
@example("Der alte Hund, „die Katze“ – 3,5 kg!")
def test_equal_texts_have_no_difference(text: str) -> None:
    hyp_spans, ref_spans = word_diff(text, text)
    assert all(span.other is None for span in hyp_spans + ref_spans)


@given(texts, texts)
@example("Die Katze schläft.", "Die kleine Katze schläft.")
@example("", "ein Wort")
def test_spans_join_to_the_text(hyp: str, ref: str) -> None:
    hyp_spans, ref_spans = word_diff(hyp, ref)
    assert "".join(span.text for span in hyp_spans) == hyp
    assert "".join(span.text for span in ref_spans) == ref


@given(texts, texts)
@example("Die Katze schläft.", "Die kleine Katze schläft.")
@example("", "ein Wort")
def test_differences_turn_one_text_into_the_other(hyp: str, ref: str) -> None:
    def apply_differences(spans: list[Span]) -> list[str]:
        parts = [span.text if span.other is None else span.other for span in spans]
        return words_and_punctuation(" ".join(parts))

    hyp_spans, ref_spans = word_diff(hyp, ref)
    assert apply_differences(hyp_spans) == words_and_punctuation(ref)
    assert apply_differences(ref_spans) == words_and_punctuation(hyp)

    hyp_edits = [(span.text, span.other) for span in hyp_spans if span.other is not None]
    ref_edits = [(span.other, span.text) for span in ref_spans if span.other is not None]
    assert hyp_edits == ref_edits


def test_only_different_words_are_marked() -> None:
    hyp_spans, _ = word_diff("Ein Hund läuft schnell weg.", "Der Hund läuft weg.")
    edits = [(span.text, span.other) for span in hyp_spans if span.other is not None]
    assert edits == [("Ein", "Der"), ("schnell", "")]


# Examples


def test_sentence_chrf_takes_the_best_reference() -> None:
    hyp = "Die Katze schläft."
    refs = ["Ein Hund bellt.", "Die Katze schläft tief."]
    assert sentence_chrf(hyp, refs) == max(sentence_chrf(hyp, [ref]) for ref in refs)


@pytest.mark.parametrize("num_sentences", [1, 3, 8, 60])
def test_examples_are_limited_and_have_no_duplicates(num_sentences: int) -> None:
    chosen = choose_examples(noisy_sentences(num_sentences), num_each=6)
    assert list(chosen) == ["best", "worst", "instructive"]
    assert all(len(examples) <= 6 for examples in chosen.values())
    indices = [example.sentence for examples in chosen.values() for example in examples]
    assert len(indices) == len(set(indices))


@pytest.mark.parametrize("num_sentences", [1, 3, 8, 60])
def test_best_and_worst_examples_have_the_extreme_chrf(num_sentences: int) -> None:
    sentences = noisy_sentences(num_sentences)
    chosen = choose_examples(sentences, num_each=6)
    best = chosen["best"][0]
    assert sentences[best.sentence].chrf == max(sentence.chrf for sentence in sentences)

    best_indices = {example.sentence for example in chosen["best"]}
    chrf_of_wrong = [
        sentence.chrf
        for index, sentence in enumerate(sentences)
        if sentence.hyp != sentence.ref and index not in best_indices
    ]
    if chrf_of_wrong:
        worst = chosen["worst"][0]
        assert sentences[worst.sentence].chrf == min(chrf_of_wrong)


def test_large_set_fills_the_examples() -> None:
    chosen = choose_examples(noisy_sentences(60), num_each=6)
    assert len(chosen["best"]) == 3
    assert len(chosen["worst"]) == 6
    assert chosen["instructive"]


def test_examples_exclude_correct_blank_and_duplicate() -> None:
    correct = [scored_sentence("richtig so", "richtig so")] * 9
    blank = [scored_sentence("", "x", src="  ")] * 9
    sentences = correct + blank
    chosen = choose_examples(sentences, num_each=4)
    assert not chosen["worst"]
    assert not chosen["instructive"]
    assert [sentences[example.sentence].src for example in chosen["best"]] == ["a source"]


def test_instructive_examples_have_each_reason() -> None:
    ref = "Der alte Mann sieht heute den großen Hund von Maria."
    hyps = [
        "x",  # 0 to 2: the worst
        "y",
        "z",
        ref,  # 3 and 4: the best
        ref,
        ref.replace("Maria", "Anna"),  # 5: a name is missing
        "Der alte Mann sieht den Hund.",  # 6: too short
        ref.replace("alte", "junge"),  # 7: wrong, with a high probability
    ]
    sentences = [
        scored_sentence(hyp, ref, src=f"{index}", probability=0.5 + index / 100)
        for index, hyp in enumerate(hyps)
    ]
    sentences[5] = sentences[5]._replace(src="He sees Maria.")
    instructive = choose_examples(sentences, num_each=3)["instructive"]
    assert {example.sentence: example.reason for example in instructive} == {
        5: "missing: Maria",
        6: "0.6 times as many words as the reference",
        7: "confident but wrong",
    }


@pytest.mark.parametrize(
    ("src", "ref", "expected"),
    [
        ("Give Maria 3.5 kg.", "Gib Maria 3,5 kg.", {"Maria", "3", "5"}),
        # "In" is the first word, which always has a capital letter.
        ("In Berlin it rains.", "In Berlin regnet es.", {"Berlin"}),
        ("a hand in hand", "die hand", set()),
        ("The B747", "Die B747", {"B747"}),
    ],
)
def test_copied_words_are_names_and_numbers(src: str, ref: str, expected: set[str]) -> None:
    assert copied_words(src, ref) == expected


def test_percentile_examples_are_at_their_rank_of_different_sources() -> None:
    sentences = [
        ScoredSentence(f"source {k}", "", "", chrf=float(k), probability=0.5) for k in range(11)
    ]
    sentences += [sentences[0]] * 5
    sentences.append(ScoredSentence(" ", "", "", chrf=0.0, probability=0.5))
    examples = percentile_examples(sentences, (90, 50, 10))
    assert [(example.sentence, example.percentile) for example in examples] == [
        (9, 90),
        (5, 50),
        (1, 10),
    ]
    assert len(percentile_examples(sentences[:1], (90, 50, 10))) == 1
    assert percentile_examples([], (50,)) == []
