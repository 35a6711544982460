"""How sentences fall into buckets by length, where a translation differs, and which are worth a look."""

import difflib
import math
import re
import statistics
import string
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from sacrebleu.metrics.chrf import CHRF

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # written without spaces: a word a character
MARKS = re.escape(string.punctuation + "„“”‚‘’«»‹›–—…¿¡。、，．！？：；「」『』（）·")
_WORD = re.compile(rf"[{CJK}{MARKS}]|[^\s{CJK}{MARKS}]+")

# Upper ends of the buckets of source length, the last one being open.
LENGTHS = {
    "words": (5, 10, 15, 20, 25, 30, 40, 60),
    "characters": (10, 20, 30, 40, 60, 80, 120, 160),
}

LENGTH_RATIO = 1.5  # between texts, from which it is instructive


class Bucket(NamedTuple):
    """Sentences of like length."""

    label: str
    indices: list[int]


class Span(NamedTuple):
    """A stretch of a text, and what the other text has in its place; None where both are the same."""

    text: str
    other: str | None = None


class ScoredSentence(NamedTuple):
    """One translated sentence: its own chrF, and the geometric mean of its tokens' probabilities by the model."""

    src: str
    hyp: str
    ref: str
    chrf: float
    probability: float


class Example(NamedTuple):
    """A sentence to look at, by its place in the set, and why."""

    sentence: int
    reason: str


def length_buckets(sources: Sequence[str]) -> tuple[str, list[Bucket]]:
    """What length is counted in ("words", or "characters" of texts without spaces), and the buckets that are filled."""
    num_spaced = sum(" " in text.strip() for text in sources)
    unit = "words" if 2 * num_spaced >= len(sources) else "characters"
    ends = LENGTHS[unit]
    lengths = [len(text.split()) if unit == "words" else len(text.strip()) for text in sources]
    labels = [
        f"up to {ends[0]}",
        *(f"{low + 1}–{high}" for low, high in pairwise(ends)),
        f"over {ends[-1]}",
    ]
    places = np.searchsorted(ends, lengths)
    buckets = [
        Bucket(label, np.flatnonzero(places == place).tolist())
        for place, label in enumerate(labels)
    ]
    return unit, [bucket for bucket in buckets if bucket.indices]


def sentence_chrf(hyp: str, references: Sequence[str]) -> float:
    """chrF of one sentence; of several references, the best counts."""
    return float(CHRF().sentence_score(hyp.rstrip(), [ref.rstrip() for ref in references]).score)


def words(text: str) -> list[str]:
    """The text's words, punctuation marks and CJK characters, without the spaces."""
    return _WORD.findall(text)


def word_diff(hyp: str, ref: str) -> tuple[list[Span], list[Span]]:
    """Both texts as spans that join to the whole; where words differ, each span knows what the other text has there.

    Where one text has nothing, an empty span marks the place.
    """
    opcodes = difflib.SequenceMatcher(None, words(hyp), words(ref), autojunk=False).get_opcodes()
    edits = [
        (_reach(hyp, hyp_first, hyp_end), _reach(ref, ref_first, ref_end))
        for tag, hyp_first, hyp_end, ref_first, ref_end in opcodes
        if tag != "equal"
    ]
    return _spans(hyp, ref, edits), _spans(ref, hyp, [edit[::-1] for edit in edits])


def _reach(text: str, first: int, end: int) -> slice:
    """Where words `first` to `end` (exclusive) are in the text; of none, the place after the word before."""
    ends = [0, *(word.end() for word in _WORD.finditer(text))]
    return slice(ends[end] - len(text[ends[first] : ends[end]].lstrip()), ends[end])


def _spans(text: str, other: str, edits: Sequence[tuple[slice, slice]]) -> list[Span]:
    """The text in spans; `edits` has where each difference is, here and in the other text."""
    spans, done = [], 0
    for here, there in edits:
        spans += [Span(text[done : here.start]), Span(text[here], other[there])]
        done = here.stop
    return [span for span in (*spans, Span(text[done:])) if span.text or span.other]


def choose_examples(judged: Sequence[ScoredSentence], *, num_each: int) -> dict[str, list[Example]]:
    """The best (half as many), the worst and the most instructive sentences, `num_each` at most and none twice."""
    ranked = sorted(range(len(judged)), key=lambda i: (judged[i].chrf, -len(judged[i].src)))
    best = sorted(ranked, key=lambda i: (-judged[i].chrf, -len(judged[i].src)))
    wrong = [i for i in ranked if judged[i].hyp.strip() != judged[i].ref.strip()]
    wanted: list[tuple[str, list[Example], int]] = [
        ("best", [Example(i, "") for i in best], -(-num_each // 2)),
        ("worst", [Example(i, "") for i in wrong], num_each),
        *(("instructive", found, -(-num_each // 3)) for found in _lessons(judged, wrong)),
    ]
    taken = {""}  # sources: a blank line teaches nothing, and none teaches twice
    chosen: dict[str, list[Example]] = {kind: [] for kind, _, _ in wanted}
    for kind, candidates, count in wanted:
        end = min(len(chosen[kind]) + count, num_each)
        for example in candidates:
            src = judged[example.sentence].src.strip()
            if len(chosen[kind]) < end and src not in taken:
                chosen[kind].append(example)
                taken.add(src)
    return chosen


def _lessons(judged: Sequence[ScoredSentence], wrong: Sequence[int]) -> Iterator[list[Example]]:
    """What makes a wrong translation instructive, as reports explain: of each kind, the strongest cases first."""
    lost = (
        (i, copied_words(judged[i].src, judged[i].ref) - {*words(judged[i].hyp)}) for i in wrong
    )
    yield [Example(i, f"lost: {', '.join(sorted(missing))}") for i, missing in lost if missing]
    ratios = {
        i: max(1, len(words(judged[i].hyp))) / max(1, len(words(judged[i].ref))) for i in wrong
    }
    by_ratio = sorted(wrong, key=lambda i: -abs(math.log(ratios[i])))
    odd = [i for i in by_ratio if not 1 / LENGTH_RATIO <= ratios[i] <= LENGTH_RATIO]
    yield [Example(i, f"{ratios[i]:.1f} times the reference's words") for i in odd]
    median = statistics.median(each.probability for each in judged)
    yield [Example(i, "sure, yet wrong") for i in wrong if judged[i].probability > median]


def copied_words(src: str, ref: str) -> set[str]:
    """Names and numbers: words that both texts have as they stand, with a digit, or capitalised and not the first."""
    shared = {*words(src)} & {*words(ref)}
    first = {*words(src)[:1]} | {*words(ref)[:1]}
    return {
        w
        for w in shared
        if any(map(str.isdigit, w)) or (w[0].isupper() and len(w) > 1 and w not in first)
    }
