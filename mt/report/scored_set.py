"""Evaluation sets translated and scored: corpus scores, scores by length, example sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mt.config.schema import Config
from mt.data.eval_set import EvalSet, load_eval_set
from mt.decoding.translation import Translation
from mt.decoding.translator import Translator
from mt.errors import DataError
from mt.evaluation.analysis import (
    Bucket,
    Example,
    PercentileExample,
    ScoredSentence,
    choose_examples,
    percentile_examples,
    sentence_chrf,
)
from mt.evaluation.by_length import score_by_length
from mt.evaluation.metrics import NUM_RESAMPLES, Score, Scoring, score_corpus

NUM_EXAMPLES = 5  # at most, of each kind and set
PERCENTILES = (90, 70, 50, 30, 10)  # of chrF, of the translations that open a report


class ScoredSet(NamedTuple):
    """An evaluation set with its translations and scores."""

    name: str
    src_lang: str
    tgt_lang: str
    sentences: Sequence[ScoredSentence]
    scores: Sequence[Score]  # BLEU, chrF, and TER if the language has words
    length_unit: str  # "words" or "characters"
    by_length: Sequence[tuple[Bucket, Sequence[Score]]]  # BLEU and chrF by source length
    examples: Mapping[str, Sequence[Example]]  # "best", "worst" and "instructive"
    percentile_examples: Sequence[PercentileExample]  # from good to bad translations


def load_evaluation_sets(config: Config) -> tuple[list[EvalSet], list[str]]:
    """Load the sets that `mt evaluate` would score: the test sets, or else the validation sets.

    Sets with unreadable files are left out. The second value has a sentence for each of them,
    and one if there are no test sets.
    """
    sections = config.data.test
    problems = []
    if not sections:
        sections = config.data.valid
        names = ", ".join(section.name for section in sections)
        problems.append(
            f"The config has no test sets. The scores are of {names}: validation text, by which "
            "the checkpoint was selected too."
        )
    eval_sets = []
    for section in sections:
        try:
            eval_sets.append(load_eval_set(section, config.data))
        except DataError as error:
            problems.append(f"{section.name} could not be scored: {error}.")
    return eval_sets, problems


def translate_and_score(
    eval_set: EvalSet, translator: Translator, *, scoring: Scoring
) -> ScoredSet:
    """Translate an evaluation set, score it as a whole and by length, and choose examples."""
    sentences = []
    n_best_lists = translator.n_best(eval_set.src, num_translations=1, to=eval_set.tgt_lang)
    for index, (translation,) in enumerate(n_best_lists):
        refs = [lines[index] for lines in eval_set.refs]
        sentences.append(score_sentence(eval_set.src[index], translation, refs))

    hyps = [sentence.hyp for sentence in sentences]
    scores = score_corpus(hyps, eval_set.refs, scoring=scoring, num_resamples=NUM_RESAMPLES)

    lengths = score_by_length(
        eval_set, hyps, scoring=scoring, metrics=("bleu", "chrf"), num_resamples=NUM_RESAMPLES
    )

    return ScoredSet(
        name=eval_set.name,
        src_lang=eval_set.src_lang or translator.src_lang,
        tgt_lang=eval_set.tgt_lang or translator.tgt_lang,
        sentences=sentences,
        scores=scores,
        length_unit=lengths.unit,
        by_length=lengths.buckets,
        examples=choose_examples(sentences, num_each=NUM_EXAMPLES),
        percentile_examples=percentile_examples(sentences, PERCENTILES),
    )


def score_sentence(src: str, translation: Translation, refs: Sequence[str]) -> ScoredSentence:
    """Score one translation. Of several references, the one most similar to it is kept."""
    hyp = translation.text
    ref = refs[0]
    if len(refs) > 1:
        ref = max(refs, key=lambda ref: sentence_chrf(hyp, [ref]))
    num_tokens = sum(len(segment.tgt) for segment in translation.segments)
    probability = math.exp(translation.log_prob / max(1, num_tokens))
    return ScoredSentence(src, hyp, ref, sentence_chrf(hyp, refs), probability)
