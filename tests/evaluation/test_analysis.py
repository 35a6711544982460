"""Intervals hold their score, buckets hold every sentence once, and what is marked is what differs."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mt.evaluation import analysis, metrics
from mt.evaluation.analysis import (
    ScoredSentence,
    choose_examples,
    copied_words,
    length_buckets,
    word_diff,
    words_and_punctuation,
)
from mt.evaluation.metrics import Score, score_corpus

WORDS = [
    "der",
    "die",
    "das",
    "alte",
    "rote",
    "Hund",
    "Katze",
    "Haus",
    "sieht",
    "kauft",
    "und",
    "nicht",
    ",",
    ".",
    "!",
]
METRICS = ("bleu", "chrf", "ter")
texts = st.text(alphabet=st.sampled_from("ab Ü.,?\t„中文𝄞é\u0301\u05d0-3"), max_size=12)


def noisy_pairs(num_pairs: int, *, seed: int, noise: float = 0.2) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    refs = [draw.choices(WORDS, k=draw.randint(1, 25)) for _ in range(num_pairs)]
    hyps = [[draw.choice(WORDS) if draw.random() < noise else word for word in ref] for ref in refs]
    return [" ".join(hyp) for hyp in hyps], [" ".join(ref) for ref in refs]


@pytest.mark.parametrize("num_pairs", [10, 40, 150])
@pytest.mark.parametrize("seed", range(3))
def test_the_interval_holds_the_score_and_the_score_is_that_of_evaluation(
    num_pairs: int, seed: int
) -> None:
    hyps, refs = noisy_pairs(num_pairs, seed=seed)
    estimates = score_corpus(hyps, [refs], metrics=METRICS, tokenize="13a", num_resamples=200)
    for estimate, score in zip(estimates, score_corpus(hyps, [refs], metrics=METRICS), strict=True):
        assert (estimate.name, estimate.value) == (score.name, score.value)
        assert estimate.signature.replace("bs:200|seed:12345|", "") == score.signature
        low, high = estimate.interval
        assert 0.0 <= low < estimate.value < high


def test_blanks_at_line_ends_count_as_little_as_in_evaluation() -> None:
    hyps, refs = noisy_pairs(12, seed=1)
    plain = score_corpus(hyps, [refs], tokenize="13a", num_resamples=100)
    assert (
        score_corpus([f"{hyp} \t" for hyp in hyps], [refs], tokenize="13a", num_resamples=100)
        == plain
    )


def test_a_model_that_has_learned_next_to_nothing_has_an_interval_too() -> None:
    hyps, refs = ["q"] * 39 + ["Hund"], ["Hund bellt"] * 40  # in some resamples, nothing is right
    for estimate in score_corpus(hyps, [refs], metrics=METRICS, tokenize="13a", num_resamples=100):
        low, high = estimate.interval
        assert low <= estimate.value <= high


def test_more_sentences_make_a_narrower_interval() -> None:
    widths = []
    for num_pairs in (20, 400):
        hyps, refs = noisy_pairs(num_pairs, seed=7)
        widths.append(score_corpus(hyps, [refs], tokenize="13a", num_resamples=200)[0].half_width)
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize(
    ("name", "mean", "interval"),
    [
        ("BLEU", 99.5, (97.5, 100.0)),
        ("chrF", 1.0, (0.0, 3.0)),
        ("TER", 99.5, (97.5, 101.5)),
        ("TER", 1.0, (0.0, 3.0)),
    ],
)
def test_an_interval_stays_within_what_a_score_can_be(
    name: str, mean: float, interval: tuple[float, float]
) -> None:
    assert Score(name, mean, "", mean, 2.0).interval == interval


def test_too_few_sentences_have_a_score_and_no_interval() -> None:
    hyps, refs = noisy_pairs(metrics.MIN_SENTENCES - 1, seed=1)
    for estimate in score_corpus(hyps, [refs], tokenize="13a", num_resamples=100):
        assert estimate.value > 0.0
        assert all(map(math.isnan, (estimate.half_width, *estimate.interval)))


def test_a_large_set_gets_fewer_resamples_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    hyps, refs = noisy_pairs(20, seed=1)
    monkeypatch.setattr(metrics, "MAX_RESAMPLED_SENTENCES", 20 * 150)
    assert "|bs:150|" in score_corpus(hyps, [refs], num_resamples=1000)[0].signature


@given(st.lists(texts, min_size=1, max_size=30))
def test_every_sentence_is_in_one_bucket(sources: list[str]) -> None:
    _, buckets = length_buckets(sources)
    assert sorted(index for bucket in buckets for index in bucket.indices) == list(
        range(len(sources))
    )
    assert all(bucket.indices for bucket in buckets)


def test_buckets_are_named_for_what_is_in_them() -> None:
    sources = [" ".join("w" * length) for length in range(100)]
    unit, buckets = length_buckets(sources)
    assert unit == "words"
    assert buckets[0].label == "up to 5"
    assert buckets[-1].label == "over 60"
    assert buckets[0].indices == [0, 1, 2, 3, 4, 5]
    assert buckets[-1].indices == list(range(61, 100))
    for bucket in buckets[1:-1]:
        first, last = map(int, bucket.label.split("–"))
        assert bucket.indices == list(range(first, last + 1))


def test_text_without_spaces_is_measured_in_characters() -> None:
    unit, buckets = length_buckets(["今日は天気がとても良いですね。"] * 3 + ["猫"])
    assert unit == "characters"
    assert [bucket.label for bucket in buckets] == ["up to 10", "11–20"]


@given(texts)
@example("Der alte Hund, „die Katze“ – 3,5 kg!")
def test_equal_texts_have_nothing_marked(text: str) -> None:
    assert all(span.other is None for side in word_diff(text, text) for span in side)


@given(texts, texts)
@example("Die Katze schläft.", "Die kleine Katze schläft.")
@example("", "ein Wort")
def test_the_spans_join_to_the_texts_and_tell_how_to_make_one_of_the_other(
    hyp: str, ref: str
) -> None:
    hyp_spans, ref_spans = word_diff(hyp, ref)
    assert "".join(span.text for span in hyp_spans) == hyp
    assert "".join(span.text for span in ref_spans) == ref
    assert words_and_punctuation(
        " ".join(s.text if s.other is None else s.other for s in hyp_spans)
    ) == words_and_punctuation(ref)
    assert words_and_punctuation(
        " ".join(s.text if s.other is None else s.other for s in ref_spans)
    ) == words_and_punctuation(hyp)
    edits = [(span.text, span.other) for span in hyp_spans if span.other is not None]
    assert edits == [(span.other, span.text) for span in ref_spans if span.other is not None]


def test_only_the_words_that_differ_are_marked() -> None:
    hyp, _ = word_diff("Ein Hund läuft schnell weg.", "Der Hund läuft weg.")
    assert [(span.text, span.other) for span in hyp if span.other is not None] == [
        ("Ein", "Der"),
        ("schnell", ""),
    ]


def test_a_mark_is_a_word_of_its_own_and_so_is_a_character_of_chinese() -> None:
    assert words_and_punctuation("„Ja“, sagt sie; 我吃魚。") == [
        "„",
        "Ja",
        "“",
        ",",
        "sagt",
        "sie",
        ";",
        "我",
        "吃",
        "魚",
        "。",
    ]


def test_the_best_of_several_references_counts() -> None:
    hyp, refs = "Die Katze schläft.", ["Ein Hund bellt.", "Die Katze schläft tief."]
    assert analysis.sentence_chrf(hyp, refs) == max(
        analysis.sentence_chrf(hyp, [ref]) for ref in refs
    )


def judge(hyp: str, ref: str, *, src: str = "a source", probability: float = 0.5) -> ScoredSentence:
    return ScoredSentence(src, hyp, ref, analysis.sentence_chrf(hyp, [ref]), probability)


@pytest.mark.parametrize("num_pairs", [1, 3, 8, 60])
def test_no_sentence_is_shown_twice_and_the_extremes_are_the_extremes(num_pairs: int) -> None:
    judged = [
        judge(h, r, src=f"source {i}", probability=1 / (i + 1))
        for i, (h, r) in enumerate(zip(*noisy_pairs(num_pairs, seed=5), strict=True))
    ]
    chosen = choose_examples(judged, num_each=6)
    assert list(chosen) == ["best", "worst", "instructive"]
    shown = [found.sentence for kind in chosen.values() for found in kind]
    assert len(shown) == len(set(shown))
    assert max(map(len, chosen.values())) <= 6
    assert judged[chosen["best"][0].sentence].chrf == max(each.chrf for each in judged)
    left = [
        i
        for i, each in enumerate(judged)
        if each.hyp != each.ref and i not in {e.sentence for e in chosen["best"]}
    ]
    if left:
        assert judged[chosen["worst"][0].sentence].chrf == min(judged[i].chrf for i in left)
    if num_pairs == 60:
        assert (len(chosen["best"]), len(chosen["worst"])) == (3, 6)
        assert chosen["instructive"]


def test_what_is_right_is_never_the_worst_nor_instructive_and_a_blank_line_or_a_repeated_one_is_nothing() -> (
    None
):
    judged = [judge("richtig so", "richtig so")] * 9 + [judge("", "x", src="  ")] * 9
    chosen = choose_examples(judged, num_each=4)
    assert not chosen["worst"]
    assert not chosen["instructive"]
    assert [judged[found.sentence].src for found in chosen["best"]] == ["a source"]


def test_each_reason_to_be_instructive_is_found_and_named() -> None:
    ref = "Der alte Mann sieht heute den großen Hund von Maria."
    hyps = ["x", "y", "z", ref, ref]  # the worst and the best
    hyps += [
        ref.replace("Maria", "Anna"),
        "Der alte Mann sieht den Hund.",
        ref.replace("alte", "junge"),
    ]
    judged = [judge(hyp, ref, src=f"{i}", probability=0.5 + i / 100) for i, hyp in enumerate(hyps)]
    judged[5] = judged[5]._replace(src="He sees Maria.")
    found = {
        example.sentence: example.reason
        for example in choose_examples(judged, num_each=3)["instructive"]
    }
    assert found == {
        5: "missing: Maria",
        6: "0.6 times as many words as the reference",
        7: "confident but wrong",
    }


@pytest.mark.parametrize(
    ("src", "ref", "found"),
    [
        ("Give Maria 3.5 kg.", "Gib Maria 3,5 kg.", {"Maria", "3", "5"}),
        (
            "In Berlin it rains.",
            "In Berlin regnet es.",
            {"Berlin"},
        ),  # not the first word: it is always capitalised
        ("a hand in hand", "die hand", set()),
        ("The B747", "Die B747", {"B747"}),
    ],
)
def test_names_and_numbers_are_what_both_texts_have(src: str, ref: str, found: set[str]) -> None:
    assert copied_words(src, ref) == found
