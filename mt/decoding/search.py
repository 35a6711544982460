"""Beam search, greedy when its beam is 1, over any step function; knows no model, no text and no files.

The search holds the live beams, `step` says what may follow, and `state` is whatever the step needs to remember. All
arithmetic is vectorised over (batch, beam) and stays on the device; the host waits once a position, to learn which
sentences are done. Those leave the state, so that later steps are smaller.

A constraint on tokens needs no option here: wrap `step` in one that sets what it forbids to -inf, and keep what it has
to know (the prefix, say) in a state that wraps the model's, for `reorder` and `keep` carry it along.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor


class SearchState(Protocol):
    """What a step remembers of the beams so far: a value with batch and beam dimensions, until `keep` uses it up."""

    def reorder(self, beam_index: Tensor) -> Self:
        """Make beam i of each sentence what beam `beam_index[:, i]` was: (batch, new_beam), wider at the start."""
        ...

    def keep(self, sentences: Sequence[int]) -> Self:
        """Keep the sentences of these batch indices, in this order. No older state is used after that."""
        ...


State = TypeVar("State", bound=SearchState)

_CHUNK_LENGTH = (
    64  # how many candidates are looked at together when the best are sought; any length is right
)

# (tokens (batch, beam), state) -> (log_probs (batch, beam, vocab) float32, state); a log-probability is never above 0.
DecodeStep = Callable[[Tensor, State], tuple[Tensor, State]]


class SearchOptions(NamedTuple):
    """How to search: `max_lengths` (batch,) bounds each hypothesis, eos included, and names the device to search on."""

    beam_size: int
    length_penalty: float
    max_lengths: Tensor
    forbidden_ids: tuple[int, ...] = ()


class Hypothesis(NamedTuple):
    """A finished translation: `ids` without bos and eos, `log_prob` with eos, and the score that ranks it.

    score = log_prob / (len(ids) + 1) ** length_penalty, after the length normalisation of Wu et al. (2016), section 7,
    in its simple form.
    """

    ids: tuple[int, ...]
    log_prob: float
    score: float


class _Beams(NamedTuple):
    """Extensions of the beams of one position, best first; all three (live, num_beams)."""

    parents: Tensor  # which beam of the position before was extended
    tokens: Tensor
    log_probs: Tensor  # of the whole prefix; -inf marks an extension that does not exist

    def take(self, order: Tensor) -> _Beams:  # order: (live, num_taken)
        return _Beams(*(column.gather(1, order) for column in self))


class _Position(NamedTuple):
    """What the search leaves behind at one position: enough to read every hypothesis when it is over."""

    sentences: list[int]  # the batch index of each live row
    ended: _Beams
    beams: _Beams


def beam_search(
    step: DecodeStep[State],
    state: State,
    batch_size: int,
    *,
    bos_id: int,
    eos_id: int,
    options: SearchOptions,
) -> list[list[Hypothesis]]:
    """Find up to `beam_size` hypotheses for each sentence, best first, never none; equals go to the lower token id.

    The first step sees one beam, bos; later ones see what has grown from it, up to `beam_size`. A sentence is done when
    `beam_size` hypotheses have ended or no beam lives; at its `max_length` none does, for only eos may follow there.
    """
    device, max_lengths = options.max_lengths.device, options.max_lengths.tolist()
    assert len(max_lengths) == batch_size, (batch_size, max_lengths)
    assert min(max_lengths, default=1) >= 1, max_lengths
    assert eos_id not in options.forbidden_ids, (eos_id, options.forbidden_ids)
    forbidden = _upload(options.forbidden_ids, device)
    sentences = list(range(batch_size))
    bos = torch.full((batch_size, 1), bos_id, device=device)
    beams = _Beams(
        parents=torch.zeros_like(bos),
        tokens=bos,
        log_probs=torch.zeros(batch_size, 1, device=device),
    )
    num_ended = torch.zeros(batch_size, dtype=torch.long, device=device)
    trace: list[_Position] = []

    while sentences:
        log_probs, state = step(beams.tokens, state)
        totals = beams.log_probs[:, :, None] + log_probs  # (live, beam, vocab)
        totals.index_fill_(2, forbidden, -math.inf)
        at_limit = [max_lengths[sentence] == len(trace) + 1 for sentence in sentences]
        if any(at_limit):
            others = torch.arange(totals.shape[2], device=device) != eos_id
            totals.masked_fill_(_upload(at_limit, device)[:, None, None] & others, -math.inf)
        ended, beams = _advance(totals, eos_id=eos_id, beam_size=options.beam_size)
        trace.append(_Position(sentences, ended, beams))

        num_ended += (ended.log_probs > -math.inf).sum(1)
        done = (
            (num_ended >= options.beam_size) | (beams.log_probs[:, 0] == -math.inf)
        ).tolist()  # the host waits here
        if all(done):
            break
        if any(done):
            rows = _close_gaps(done)
            sentences = [sentences[row] for row in rows]
            live = _upload(rows, device)
            state, num_ended, beams = (
                state.keep(rows),
                num_ended[live],
                _Beams(*(column[live] for column in beams)),
            )
        if options.beam_size > 1:
            state = state.reorder(beams.parents)
    return _read_hypotheses(trace, batch_size, options=options)


def _close_gaps(done: Sequence[bool]) -> list[int]:
    """The rows that are not done, with the last ones in the places of those that are: as few as can be move."""
    last = (row for row in reversed(range(len(done))) if not done[row])
    return [next(last) if is_done else row for row, is_done in enumerate(done[: done.count(False)])]


def _advance(totals: Tensor, *, eos_id: int, beam_size: int) -> tuple[_Beams, _Beams]:
    """Choose from all extensions `totals` (live, beam, vocab) the hypotheses that end here and the beams that live on.

    Of the best 2 * beam_size at most beam_size are eos, one for each beam, so enough are left to go on with. To end, a
    hypothesis has to be among the best beam_size itself, lest unlikely short ones fill the places of better long ones.
    """
    _, num_beams, vocab_size = totals.shape
    flat = totals.flatten(1)
    index = _best_indices(flat, min(2 * beam_size, num_beams * vocab_size))
    best = _Beams(
        parents=index // vocab_size, tokens=index % vocab_size, log_probs=flat.gather(1, index)
    )
    is_eos = best.tokens == eos_id
    ended = _Beams(*(column[:, :beam_size] for column in best))
    ended = ended._replace(log_probs=ended.log_probs.masked_fill(~is_eos[:, :beam_size], -math.inf))
    others_first = is_eos.byte().argsort(dim=1, stable=True)
    return ended, best.take(others_first[:, : min(beam_size, num_beams * (vocab_size - 1))])


def _best_indices(values: Tensor, count: int) -> Tensor:
    """Return where the `count` largest of each row are (live, count): best first, the lower index first among equals.

    The best values lie in the chunks with the best maxima, so one cheap pass spares all but `count` chunks the sorting.
    """
    length = values.shape[1]
    num_whole = length // _CHUNK_LENGTH
    whole = values[:, : num_whole * _CHUNK_LENGTH].reshape(len(values), num_whole, _CHUNK_LENGTH)
    maxima = whole.amax(2)
    if length % _CHUNK_LENGTH:  # a last chunk that is shorter
        last = values[:, num_whole * _CHUNK_LENGTH :].amax(1, keepdim=True)
        maxima = torch.cat((maxima, last), dim=1)  # (live, num_chunks)
    chunks = _stable_topk(maxima, min(count, maxima.shape[1])).sort(dim=1).values
    places = torch.arange(_CHUNK_LENGTH, device=values.device)
    index = (chunks[:, :, None] * _CHUNK_LENGTH + places).flatten(
        1
    )  # (live, at least count), ascending
    candidates = values.gather(1, index.clamp(max=length - 1)).masked_fill(
        index >= length, -math.inf
    )
    return index.gather(1, _stable_topk(candidates, count))


def _stable_topk(values: Tensor, count: int) -> Tensor:
    """Do as `topk(count).indices`, but with the lower index first among equals, which torch leaves open.

    Values are float32 and not above 0. In float64 each has room below its last bit for an index, which makes it unique.
    """
    index = torch.arange(values.shape[1], dtype=torch.float64, device=values.device)
    finite = values.clamp(min=torch.finfo(values.dtype).min)
    return (finite * (1 + index * 2.0**-52)).topk(count).indices


def _read_hypotheses(
    trace: Sequence[_Position], batch_size: int, *, options: SearchOptions
) -> list[list[Hypothesis]]:
    """Follow the beams through the trace on the host; a sentence to which nothing is possible gets an empty one."""
    found: list[list[Hypothesis]] = [[] for _ in range(batch_size)]
    prefixes: list[list[tuple[int, ...]]] = [[()] for _ in range(batch_size)]
    for length, (sentences, ended, beams) in enumerate(trace, start=1):
        rows = zip(sentences, *(column.tolist() for column in (*ended, *beams)), strict=True)
        for sentence, end_parents, _, end_log_probs, parents, tokens, _ in rows:
            before = prefixes[sentence]
            found[sentence] += [
                Hypothesis(before[parent], log_prob, log_prob / length**options.length_penalty)
                for parent, log_prob in zip(end_parents, end_log_probs, strict=True)
                if log_prob > -math.inf
            ]
            prefixes[sentence] = [
                (*before[parent], token) for parent, token in zip(parents, tokens, strict=True)
            ]
    impossible = Hypothesis((), -math.inf, -math.inf)
    return [
        sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)[: options.beam_size]
        or [impossible]
        for hypotheses in found
    ]


def _upload(values: Sequence[int], device: torch.device) -> Tensor:
    """Send a few integers or truths to the device without waiting for it."""
    return torch.tensor(values, dtype=None if values else torch.long).to(device, non_blocking=True)
