"""Cross-attention of a few sentences of an evaluation set, for the run report."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mt.data.eval_set import EvalSet
from mt.decoding.translator import Translator
from mt.evaluation.analysis import words_and_punctuation
from mt.report.attention_maps import (
    ATTENTION_AXES,
    AttentionMaps,
    AxisTokens,
    attention_maps,
    display_pieces,
    word_level_weights,
)

MAX_HEAT_MAPS = 4
MIN_WORDS = 7  # of a source sentence
MAX_WORDS = 14


class HeatMap(NamedTuple):
    """Attention weights of one sentence pair. Each row adds up to one."""

    queries: Sequence[str]
    keys: Sequence[str]
    weights: NDArray[np.float32]  # (num_queries, num_keys)
    src_lang: str  # language of the keys
    tgt_lang: str  # language of the queries


def compute_heat_maps(eval_set: EvalSet, translator: Translator) -> list[HeatMap]:
    """Return heat maps of up to MAX_HEAT_MAPS short sentences, evenly spaced over a set."""
    short = [source for source in eval_set.src if _is_suitable(source, translator)]
    num_maps = min(MAX_HEAT_MAPS, len(short))
    chosen = np.linspace(0, len(short) - 1, num_maps).round().astype(int)
    heat_maps = []
    for index in chosen:
        maps = attention_maps(translator, short[index], target=None, name="", to=eval_set.tgt_lang)
        if eval_set.src_lang is not None:
            maps = maps._replace(src_lang=eval_set.src_lang)
        heat_maps.append(_cross_attention_map(maps))
    return heat_maps


def _is_suitable(source: str, translator: Translator) -> bool:
    """Return whether a sentence is short enough for a map, and translated as a whole."""
    num_words = len(words_and_punctuation(source))
    num_parts = len(translator.splitter.split(translator.src_normalizer(source)))
    return MIN_WORDS <= num_words <= MAX_WORDS and num_parts == 1


def _cross_attention_map(maps: AttentionMaps) -> HeatMap:
    """Return the mean over all heads of the upper half of the layers, between words."""
    query_side, key_side = ATTENTION_AXES["cross"]
    queries = subwords_if_unspaced(maps.sides[query_side])
    keys = subwords_if_unspaced(maps.sides[key_side])
    layers = maps.weights["cross"]
    upper_layers = np.stack(layers[len(layers) // 2 :])  # (layers, heads, queries, keys)
    mean = upper_layers.mean(axis=(0, 1))  # (queries, keys)
    weights = word_level_weights(mean[None], queries, keys)[0]
    return HeatMap(queries.words, keys.words, weights, maps.src_lang, maps.tgt_lang)


def subwords_if_unspaced(side: AxisTokens) -> AxisTokens:
    """Return the side with each subword as a word, if the text has no spaces; else unchanged.

    A text counts as unspaced when more than half of its subwords belong to a single word.
    """
    longest_word = np.bincount(side.word_index).max()
    if 2 * longest_word <= len(side.subwords):
        return side
    return side._replace(
        words=display_pieces(side.subwords), word_index=list(range(len(side.subwords)))
    )
