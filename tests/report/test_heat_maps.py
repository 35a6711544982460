"""The heat maps of the run report."""

from __future__ import annotations

from pathlib import Path

import pytest

from mt.data.eval_set import EvalSet
from mt.decoding.translator import Translator
from mt.report.attention_maps import AxisTokens
from mt.report.heat_maps import compute_heat_maps, subwords_if_unspaced

WORDS = ["balo", "deru", "fimi", "gona", "hupe", "jasi", "kelo", "mavu", "nira", "potu"]


def test_heat_maps_show_the_words_of_suitable_sentences(trained_run: Path) -> None:
    suitable = [" ".join(WORDS[k : k + 7]) for k in range(3)]
    too_many_tokens = " ".join(["q" * 40, *WORDS[:6]])  # although it has few words
    too_few_words = "balo"
    too_many_words = " ".join(WORDS * 5)
    sources = [suitable[0], too_many_tokens, *suitable[1:], too_few_words, too_many_words]
    eval_set = EvalSet("test", sources, [sources], src_lang="sv")
    heat_maps = compute_heat_maps(eval_set, Translator.load(trained_run))
    assert [list(heat_map.keys) for heat_map in heat_maps] == [
        [*source.split(), "<eos>"] for source in suitable
    ]
    for heat_map in heat_maps:
        assert (heat_map.src_lang, heat_map.tgt_lang) == ("sv", "bb")
        assert heat_map.weights.shape == (len(heat_map.queries), len(heat_map.keys))
        assert heat_map.weights.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_unspaced_text_is_shown_by_subword() -> None:
    pieces = ["▁今日", "は", "天気", "が", "良い", "<eos>"]
    side = AxisTokens(pieces, ["今日は天気が良い", "<eos>"], [0, 0, 0, 0, 0, 1], [1])
    shown = subwords_if_unspaced(side)
    assert shown.words == ["今日", "は", "天気", "が", "良い", "<eos>"]
    assert shown.word_index == [0, 1, 2, 3, 4, 5]


def test_spaced_text_is_shown_by_word() -> None:
    side = AxisTokens(["▁ein", "▁Hund", "<eos>"], ["ein", "Hund", "<eos>"], [0, 1, 2], [2])
    assert subwords_if_unspaced(side) == side
