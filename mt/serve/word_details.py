"""Details of translations for the page: the probability and the source words of each word."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mt.data.words import find_words
from mt.decoding.alignment import align_translations, word_indices_at, words_of_tokens
from mt.decoding.scoring import PairScore, score_pairs
from mt.decoding.translation import SegmentStart, Translation
from mt.decoding.translator import Translator


def line_details(
    translator: Translator, lines: Sequence[str], n_best_lists: Sequence[Sequence[Translation]]
) -> list[dict[str, Any]]:
    """Return an object for JSON for each line, with its words and those of its translations.

    The probability of a word is the product of the probabilities of its subwords, each given the
    source and the words before. The links are those of `mt align`.
    """
    aligned_lists = align_translations(translator, lines, n_best_lists)
    pairs = [
        (line, translation)
        for line, translations in zip(lines, aligned_lists, strict=True)
        for translation in translations
    ]
    scores = score_pairs(translator, pairs)
    return [
        {
            "sourceWords": _words(line),
            "translations": [
                _translation_details(translator, line, translation, next(scores))
                for translation in translations
            ],
        }
        for line, translations in zip(lines, aligned_lists, strict=True)
    ]


def _words(text: str) -> list[dict[str, Any]]:
    """Return the words of a text, each with the white space before it."""
    words = []
    previous_end = 0
    for match in find_words(text):
        words.append({"before": text[previous_end : match.start()], "text": match[0]})
        previous_end = match.end()
    return words


def _translation_details(
    translator: Translator, line: str, translation: Translation, score: PairScore
) -> dict[str, Any]:
    """Return the words of one translation, and the sentences that were translated one by one."""
    words = _words(translation.text)
    log_probs = [0.0] * len(words)
    sentence_of_word = [0] * len(words)
    token_scores = iter(score.tokens)
    starts = [start.tgt for start in translation.segment_starts]
    first_words = word_indices_at(translation.text, starts)
    for index, segment in enumerate(translation.segments):
        for own_words in words_of_tokens(translator.tgt_tokenizer, segment.tgt):
            log_prob = next(token_scores).log_prob
            for own_word in own_words:
                word_index = first_words[index] + own_word
                log_probs[word_index] += log_prob
                sentence_of_word[word_index] = index
        next(token_scores)  # eos belongs to no word
    sources: list[list[int]] = [[] for _ in words]
    for src_word, tgt_word in translation.alignment or []:
        sources[tgt_word].append(src_word)
    for i, word in enumerate(words):
        word["probability"] = round(math.exp(log_probs[i]), 4)
        word["sources"] = sources[i]
        word["sentence"] = sentence_of_word[i]
    return {
        "text": translation.text,
        "logProb": round(translation.log_prob, 4),
        "words": words,
        "sentences": _sentences(translator, line, translation),
    }


def _sentences(translator: Translator, line: str, translation: Translation) -> list[dict[str, str]]:
    """Return the texts of the segments of a translation."""
    if not translation.segments:
        return []
    normalized = translator.src_normalizer(line)
    end = SegmentStart(len(normalized), len(translation.text))
    return [
        {
            "source": normalized[start.src : stop.src].strip(),
            "target": translation.text[start.tgt : stop.tgt].strip(),
        }
        for start, stop in pairwise([*translation.segment_starts, end])
    ]
