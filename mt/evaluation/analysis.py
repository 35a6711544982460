"""How sure a score is, how it depends on length, and which sentences are worth a look."""

import difflib
import math
import re
import statistics
import string
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.chrf import CHRF

from mt.evaluation.metrics import METRICS

NUM_RESAMPLES = 1000
FEWEST = 10  # sentences for an interval to mean anything
RESAMPLES_FEWEST, DRAWS_AT_MOST = 100, 5_000_000  # sacreBLEU holds all draws in memory at once

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # written without spaces: a word a character
MARKS = re.escape(string.punctuation + "„“”‚‘’«»‹›–—…¿¡。、，．！？：；「」『』（）·")
_TOKEN = re.compile(rf"\s+|[{CJK}]|[{MARKS}]|[^\s{CJK}{MARKS}]+")

# Upper ends of the buckets of source length, the last one being open.
LENGTHS = {"words": (5, 10, 15, 20, 25, 30, 40, 60), "characters": (10, 20, 30, 40, 60, 80, 120, 160)}

LENGTH_RATIO = 1.5
INSTRUCTIVE = (
    "A translation unlike the reference, not among the worst, that lacks a name or number which source and reference "
    f"share; or that has over {LENGTH_RATIO} times the reference's words, or the reference over {LENGTH_RATIO} times "
    "its words; or, with the lowest chrF first, of which the model was surer, by p, than of half the set."
)


class Estimate(NamedTuple):
    """A corpus score and its 95 % interval, mean ± half_width, over resampled sets of sentences (Koehn 2004).

    The signature names the number of resamples (bs) and their seed. With too few sentences, half_width is nan.
    """

    name: str
    value: float
    mean: float
    half_width: float
    signature: str

    @property
    def interval(self) -> tuple[float, float]:
        """From where to where, within what the score can be; nan when there is none."""
        top = math.inf if self.name == "TER" else 100.0
        # max and min keep their first argument when that is nan.
        return max(self.mean - self.half_width, 0.0), min(self.mean + self.half_width, top)


class Bucket(NamedTuple):
    """Sentences of like length."""

    label: str
    indices: list[int]


class Span(NamedTuple):
    """A stretch of a text, and what the other text has in its place; None where both are the same."""

    text: str
    other: str | None = None


class Judged(NamedTuple):
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


def estimate_corpus(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenize: str,
    metrics: Sequence[str] = ("bleu", "chrf"),
    num_resamples: int = NUM_RESAMPLES,
) -> list[Estimate]:
    """The scores of `score_corpus`, with sacreBLEU's bootstrap; fewer resamples where its memory would grow large."""
    hypotheses = [line.rstrip() for line in hypotheses]
    references = [[line.rstrip() for line in lines] for lines in references]
    num_resamples = min(num_resamples, max(RESAMPLES_FEWEST, DRAWS_AT_MOST // len(hypotheses)))
    estimates = []
    for name, new_metric in (METRICS[metric] for metric in metrics):
        metric = new_metric(tokenize)
        _make_floats(metric)
        score = metric.corpus_score(hypotheses, references, n_bootstrap=num_resamples)
        half_width = float(score._ci) if len(hypotheses) >= FEWEST else math.nan
        numbers = float(score.score), float(score._mean), half_width
        estimates.append(Estimate(name, *numbers, str(metric.get_signature())))
    return estimates


def _make_floats(metric: Metric) -> None:
    """Let every score of `metric` be a float: sacreBLEU 2.6 stumbles when some resamples have float32 and some 0.0."""
    compute = metric._compute_score_from_stats

    def compute_float(stats: list[Any]) -> Any:
        found = compute(stats)
        found.score = float(found.score)
        return found

    metric._compute_score_from_stats = compute_float  # type: ignore[method-assign]


def length_buckets(sources: Sequence[str]) -> tuple[str, list[Bucket]]:
    """What length is counted in ("words", or "characters" of texts without spaces), and the buckets that are filled."""
    num_spaced = sum(" " in text.strip() for text in sources)
    unit = "words" if 2 * num_spaced >= len(sources) else "characters"
    ends = LENGTHS[unit]
    lengths = [len(text.split()) if unit == "words" else len(text.strip()) for text in sources]
    places = np.searchsorted(ends, lengths)
    starts = (0, *(end + 1 for end in ends))
    labels = [f"{start}–{end}" for start, end in zip(starts, ends, strict=False)] + [f"over {ends[-1]}"]
    labels[0] = f"up to {ends[0]}"
    buckets = [Bucket(label, np.flatnonzero(places == place).tolist()) for place, label in enumerate(labels)]
    return unit, [bucket for bucket in buckets if bucket.indices]


def sentence_chrf(hyp: str, references: Sequence[str]) -> float:
    """chrF of one sentence; of several references, the best counts."""
    return float(CHRF().sentence_score(hyp.rstrip(), [ref.rstrip() for ref in references]).score)


def words(text: str) -> list[str]:
    """The text's words, punctuation marks and CJK characters, without the spaces."""
    return [token for token in _TOKEN.findall(text) if not token.isspace()]


def word_diff(hyp: str, ref: str) -> tuple[list[Span], list[Span]]:
    """Both texts as spans that join to the whole; where words differ, each span knows what the other text has there.

    Where one text has nothing, an empty span marks the place.
    """
    hyp_places, ref_places = ([m.span() for m in _TOKEN.finditer(t) if not m[0].isspace()] for t in (hyp, ref))
    matcher = difflib.SequenceMatcher(None, words(hyp), words(ref), autojunk=False)
    edits = [
        (_stretch(hyp_places, hyp_first, hyp_end), _stretch(ref_places, ref_first, ref_end))
        for tag, hyp_first, hyp_end, ref_first, ref_end in matcher.get_opcodes()
        if tag != "equal"
    ]
    hyp_spans = _spans(hyp, [(in_hyp, ref[slice(*in_ref)]) for in_hyp, in_ref in edits])
    return hyp_spans, _spans(ref, [(in_ref, hyp[slice(*in_hyp)]) for in_hyp, in_ref in edits])


def _stretch(places: Sequence[tuple[int, int]], first: int, end: int) -> tuple[int, int]:
    """From where to where words `first` to `end` (exclusive) reach; of none, the place after the word before."""
    if first == end:
        return (places[first - 1][1],) * 2 if first else (0, 0)
    return places[first][0], places[end - 1][1]


def _spans(text: str, edits: Sequence[tuple[tuple[int, int], str]]) -> list[Span]:
    """The text in spans; `edits` has where each difference reaches, and what the other text has there."""
    spans, done = [], 0
    for (start, end), other in edits:
        spans += [Span(text[done:start]), Span(text[start:end], other)]
        done = end
    return [span for span in (*spans, Span(text[done:])) if span.text or span.other]


def choose_examples(judged: Sequence[Judged], *, num_each: int) -> dict[str, list[Example]]:
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
        fresh: list[Example] = []
        for example in candidates:
            src = judged[example.sentence].src.strip()
            if len(fresh) < count and src not in taken:
                fresh.append(example)
                taken.add(src)
        chosen[kind] = (chosen[kind] + fresh)[:num_each]
    return chosen


def _lessons(judged: Sequence[Judged], wrong: Sequence[int]) -> Iterator[list[Example]]:
    """What makes a wrong translation instructive (see INSTRUCTIVE), for each reason the strongest cases first."""
    lost = ((i, copied_words(judged[i].src, judged[i].ref) - {*words(judged[i].hyp)}) for i in wrong)
    yield [Example(i, f"lost: {', '.join(sorted(missing))}") for i, missing in lost if missing]
    ratios = {i: max(1, len(words(judged[i].hyp))) / max(1, len(words(judged[i].ref))) for i in wrong}
    by_ratio = sorted(wrong, key=lambda i: -abs(math.log(ratios[i])))
    odd = [i for i in by_ratio if not 1 / LENGTH_RATIO <= ratios[i] <= LENGTH_RATIO]
    yield [Example(i, f"{ratios[i]:.1f} times the reference's words") for i in odd]
    median = statistics.median(each.probability for each in judged)
    yield [Example(i, "sure, yet wrong") for i in wrong if judged[i].probability > median]


def copied_words(src: str, ref: str) -> set[str]:
    """Names and numbers: words that both texts have as they stand, with a digit, or capitalised and not the first."""
    shared = {*words(src)} & {*words(ref)}
    first = {*words(src)[:1]} | {*words(ref)[:1]}
    return {w for w in shared if any(map(str.isdigit, w)) or (w[0].isupper() and len(w) > 1 and w not in first)}
