"""Analysis of translated sentences: length buckets, word differences, and examples to look at."""

import difflib
import math
import re
import statistics
import string
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from sacrebleu.metrics.chrf import CHRF

from mt.data.words import UNSPACED, UNSPACED_MARKS, lacks_spaces

PUNCTUATION = re.escape(string.punctuation + "„“”‚‘’«»‹›–—…¿¡。、，．！？：；「」『』（）·")
_WORD_OR_PUNCTUATION = re.compile(
    rf"[{PUNCTUATION}]|[{UNSPACED}][{UNSPACED_MARKS}]*|[^\s{UNSPACED}{PUNCTUATION}]+"
)

# The largest source length in each bucket. One more bucket holds the sentences that are longer.
BUCKET_ENDS = {
    "words": (5, 10, 15, 20, 25, 30, 40, 60),
    "characters": (10, 20, 30, 40, 60, 80, 120, 160),
}

# The length of a translation is unusual if it has more than LENGTH_RATIO times as many words as the
# reference, or the reference has more than LENGTH_RATIO times as many words as the translation.
LENGTH_RATIO = 1.5


class Bucket(NamedTuple):
    """Sentences of similar source length."""

    label: str
    indices: list[int]


class Span(NamedTuple):
    """A part of a text, and what the other text has in its place.

    `other` is None where both texts are the same.
    """

    text: str
    other: str | None = None


class ScoredSentence(NamedTuple):
    """A sentence of a translated set, with its own scores."""

    src: str
    hyp: str
    ref: str
    chrf: float
    probability: float  # geometric mean of the probabilities that the model gave to hyp's tokens


class Example(NamedTuple):
    """A sentence to look at."""

    sentence: int  # its index in the set
    reason: str  # "" for a best or worst sentence


class PercentileExample(NamedTuple):
    """The sentence at a percentile of a set: that percentage has a lower or equal chrF."""

    sentence: int  # its index in the set
    percentile: int


def length_buckets(sources: Sequence[str]) -> tuple[str, list[Bucket]]:
    """Group sentences by source length; return the unit of length and the buckets.

    The unit is "words" (split at white space), or "characters" if the sources have no spaces
    between words. No bucket is empty.
    """
    if lacks_spaces(sources):
        unit = "characters"
        lengths = [len(text.strip()) for text in sources]
    else:
        unit = "words"
        lengths = [len(text.split()) for text in sources]

    ends = BUCKET_ENDS[unit]
    labels = [f"up to {ends[0]}"]
    labels += [f"{previous_end + 1}–{end}" for previous_end, end in pairwise(ends)]
    labels.append(f"over {ends[-1]}")
    buckets = [Bucket(label, []) for label in labels]
    for index, length in enumerate(lengths):
        buckets[bisect_left(ends, length)].indices.append(index)
    return unit, [bucket for bucket in buckets if bucket.indices]


def sentence_chrf(hyp: str, references: Sequence[str]) -> float:
    """Return chrF of one sentence; with several references, that of the best."""
    references = [ref.rstrip() for ref in references]
    return float(CHRF().sentence_score(hyp.rstrip(), references).score)


def words_and_punctuation(text: str) -> list[str]:
    """Split a text into words and single punctuation marks, without spaces.

    In a script without spaces, such as Chinese, each character is a word. Texts are compared in
    these units, so that a word with a comma after it is still the same word.
    """
    return _WORD_OR_PUNCTUATION.findall(text)


def word_diff(hyp: str, ref: str) -> tuple[list[Span], list[Span]]:
    """Return both texts as spans, which say where they differ and what the other text has there.

    The texts of the spans join to the whole text. Where only the other text has something, there is
    a span with an empty text.
    """
    hyp_edits: list[_Edit] = []
    ref_edits: list[_Edit] = []
    matcher = difflib.SequenceMatcher(
        None, words_and_punctuation(hyp), words_and_punctuation(ref), autojunk=False
    )
    for tag, hyp_first, hyp_end, ref_first, ref_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        hyp_slice = _slice_of_words(hyp, hyp_first, hyp_end)
        ref_slice = _slice_of_words(ref, ref_first, ref_end)
        hyp_edits.append(_Edit(hyp_slice, ref[ref_slice]))
        ref_edits.append(_Edit(ref_slice, hyp[hyp_slice]))
    return _split_at_edits(hyp, hyp_edits), _split_at_edits(ref, ref_edits)


class _Edit(NamedTuple):
    """A place where a text differs from the other, and the other text there."""

    place: slice
    other: str


def _slice_of_words(text: str, first: int, end: int) -> slice:
    """Return where words `first` to `end` (exclusive) are in the text.

    If there are no words from `first` to `end`, return the empty slice after the word before.
    """
    matches = list(_WORD_OR_PUNCTUATION.finditer(text))
    if first < end:
        return slice(matches[first].start(), matches[end - 1].end())
    position = matches[first - 1].end() if first > 0 else 0
    return slice(position, position)


def _split_at_edits(text: str, edits: Sequence[_Edit]) -> list[Span]:
    """Return the text in spans: one for each edit, and one for the text between two edits."""
    spans = []
    end_of_last_edit = 0
    for edit in edits:
        spans.append(Span(text[end_of_last_edit : edit.place.start]))
        spans.append(Span(text[edit.place], edit.other))
        end_of_last_edit = edit.place.stop
    spans.append(Span(text[end_of_last_edit:]))
    return [span for span in spans if span.text or span.other]


def choose_examples(
    sentences: Sequence[ScoredSentence], *, num_each: int
) -> dict[str, list[Example]]:
    """Choose the "best", the "worst" and the most "instructive" sentences.

    There are at most `num_each` of each kind, and half as many of the best. A third of the
    instructive ones (rounded up) is chosen for each reason: a name or number is missing, the length
    is unusual, or the model was confident in a wrong translation. A worst or instructive sentence
    differs from its reference. No source is chosen twice, and no blank source.
    """

    def chrf_then_longest(index: int) -> tuple[float, int]:
        return sentences[index].chrf, -len(sentences[index].src)

    def best_chrf_then_longest(index: int) -> tuple[float, int]:
        return -sentences[index].chrf, -len(sentences[index].src)

    worst_first = sorted(range(len(sentences)), key=chrf_then_longest)
    best_first = sorted(range(len(sentences)), key=best_chrf_then_longest)
    wrong = [i for i in worst_first if sentences[i].hyp.strip() != sentences[i].ref.strip()]

    chosen_sources = {""}  # this excludes blank sources

    def choose(candidates: Sequence[Example], count: int) -> list[Example]:
        chosen: list[Example] = []
        for example in candidates:
            src = sentences[example.sentence].src.strip()
            if len(chosen) < count and src not in chosen_sources:
                chosen.append(example)
                chosen_sources.add(src)
        return chosen

    best = choose([Example(i, "") for i in best_first], math.ceil(num_each / 2))
    worst = choose([Example(i, "") for i in wrong], num_each)
    instructive: list[Example] = []
    for candidates in (
        _missing_names_and_numbers(sentences, wrong),
        _unusual_lengths(sentences, wrong),
        _confident_errors(sentences, wrong),
    ):
        count = min(math.ceil(num_each / 3), num_each - len(instructive))
        instructive += choose(candidates, count)
    return {"best": best, "worst": worst, "instructive": instructive}


def percentile_examples(
    sentences: Sequence[ScoredSentence], percentiles: Sequence[int]
) -> list[PercentileExample]:
    """Return the sentences at given percentiles of chrF, such as the median for 50.

    Blank sources are ignored. Of sentences with equal sources only the first counts.
    """
    index_by_source: dict[str, int] = {}
    for index, sentence in enumerate(sentences):
        index_by_source.setdefault(sentence.src.strip(), index)
    index_by_source.pop("", None)
    worst_first = sorted(index_by_source.values(), key=lambda index: sentences[index].chrf)
    example_by_rank: dict[int, PercentileExample] = {}
    for percentile in percentiles:
        rank = round(percentile / 100 * (len(worst_first) - 1))
        if worst_first and rank not in example_by_rank:
            example_by_rank[rank] = PercentileExample(worst_first[rank], percentile)
    return list(example_by_rank.values())


def most_different(
    sources: Sequence[str], scores_by_system: Sequence[Sequence[float]], *, num_sentences: int
) -> list[int]:
    """Return the sentences with the largest differences between the scores of several systems.

    The first has the largest difference. No source is chosen twice, and no blank source.
    """
    ranges = [max(scores) - min(scores) for scores in zip(*scores_by_system, strict=True)]
    chosen: list[int] = []
    chosen_sources = {""}
    for index in sorted(range(len(sources)), key=lambda index: -ranges[index]):
        src = sources[index].strip()
        if ranges[index] > 0 and src not in chosen_sources and len(chosen) < num_sentences:
            chosen.append(index)
            chosen_sources.add(src)
    return chosen


def _missing_names_and_numbers(
    sentences: Sequence[ScoredSentence], wrong: Sequence[int]
) -> list[Example]:
    """Return the wrong translations without a name or number of their source and reference."""
    examples = []
    for index in wrong:
        sentence = sentences[index]
        missing = copied_words(sentence.src, sentence.ref) - {*words_and_punctuation(sentence.hyp)}
        if missing:
            examples.append(Example(index, f"missing: {', '.join(sorted(missing))}"))
    return examples


def _unusual_lengths(sentences: Sequence[ScoredSentence], wrong: Sequence[int]) -> list[Example]:
    """Return the wrong translations with an unusual length, the most unusual first."""
    ratios = {}
    for index in wrong:
        num_hyp_words = max(1, len(words_and_punctuation(sentences[index].hyp)))
        num_ref_words = max(1, len(words_and_punctuation(sentences[index].ref)))
        ratios[index] = num_hyp_words / num_ref_words
    examples = []
    for index in sorted(wrong, key=lambda index: -abs(math.log(ratios[index]))):
        if not 1 / LENGTH_RATIO <= ratios[index] <= LENGTH_RATIO:
            reason = f"{ratios[index]:.1f} times as many words as the reference"
            examples.append(Example(index, reason))
    return examples


def _confident_errors(sentences: Sequence[ScoredSentence], wrong: Sequence[int]) -> list[Example]:
    """Return the wrong translations with a probability above the median of the set."""
    median = statistics.median(sentence.probability for sentence in sentences)
    return [
        Example(index, "confident but wrong")
        for index in wrong
        if sentences[index].probability > median
    ]


def copied_words(src: str, ref: str) -> set[str]:
    """Return the words that are likely names or numbers, because source and reference share them.

    A number has a digit. A name has a capital first letter and more letters, and is the first word
    of neither text, since first words are capitalized anyway.
    """
    src_words = words_and_punctuation(src)
    ref_words = words_and_punctuation(ref)
    first_words = {*src_words[:1], *ref_words[:1]}
    copied = set()
    for word in {*src_words} & {*ref_words}:
        is_number = any(character.isdigit() for character in word)
        is_name = word[0].isupper() and len(word) > 1 and word not in first_words
        if is_number or is_name:
            copied.add(word)
    return copied
