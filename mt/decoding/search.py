"""Decoding: a loop that generates tokens, and beam search as its main strategy.

This module does not depend on the model, on text or on files. The caller of `generate` passes a
`step`, which returns the log-probabilities of the next token of each beam, and a `state`, which
holds what the step has to remember of the tokens so far. The step and the loop change the state in
place. For a Transformer the state is its KV cache. A strategy chooses tokens from the
log-probabilities: `BeamSearch` here, or `Sampling` in mt/decoding/sampling.py.

Beam search for one sentence, with a beam size of k:

1. Begin with one beam, which contains bos.
2. Extend each beam by each token of the vocabulary. The log-probability of such a candidate is the
   sum of the log-probabilities of all its tokens.
3. Take the 2 * k best candidates. Each beam has one candidate that ends in eos, so at most k of
   these 2 * k end in eos, and at least k are left to continue with.
4. Each candidate that ends in eos and is among the best k becomes a finished hypothesis
   (Sutskever et al. 2014, section 3.2). One that ends in eos and is not among the best k is
   dropped, because otherwise unlikely short hypotheses would fill the places of better long ones.
5. The best k candidates that do not end in eos are the beams of the next position.
6. Repeat from 2 until k hypotheses are finished or no beam is left. At the maximum length only eos
   is allowed, so no beam is left after it.
7. Sort the finished hypotheses by their log-probability, normalized by length, and return the
   best k.

Steps 3 to 6 are the rules of fairseq (Ott et al. 2019). Where two candidates have equal
log-probabilities, the one of the better beam comes first, then the one with the lower token id. So
the result does not depend on the order in which a device happens to sort. With k = 1 this is greedy
search.

All arithmetic is vectorized over (batch, beam) and stays on the device. The loop waits for the
device once per position, to learn which sentences are done. Finished sentences are removed from the
batch and from the state, so that later steps compute less.

A constraint on the tokens needs no option here. Wrap `step` (for a Transformer,
`SegmentSearch.search_batch` makes it) in a function that sets the log-probability of each token
that is not allowed to -inf. If the constraint depends on the tokens so far, keep them in a state
that wraps the state of the model: the loop calls `reorder` and `keep_rows` on the wrapper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor


class SearchState(Protocol):
    """What a step remembers of the beams so far; it is changed in place.

    It has a batch dimension (sentences) and a beam dimension.
    """

    def reorder(self, beam_index: Tensor) -> None:
        """Let beam i of each sentence continue the old beam `beam_index[:, i]`.

        `beam_index` is long (batch, new_beam). The number of beams grows from one to the beam size
        over the first positions.
        """
        ...

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep only these rows (sentences of the current batch), in this order."""
        ...


State = TypeVar("State", bound=SearchState)

# Returns the log-probabilities of the next token, (tokens, state) -> log_probs, and adds `tokens`
# to the state.
# `tokens` is long (batch, beam), the newest token of each beam. `log_probs` is float32 (batch,
# beam, vocab), and never above 0.
DecodeStep = Callable[[Tensor, State], Tensor]

# `_best_indices` compares the maxima of groups of this many candidates. It changes the speed only.
_GROUP_SIZE = 64


class GenerationOptions(NamedTuple):
    """Settings of `generate` that any strategy has."""

    length_penalty: float  # see Hypothesis
    max_lengths: Sequence[int]  # of each sentence: most tokens of a hypothesis, eos included
    device: torch.device  # of the tensors that the step gets and returns
    forbidden_ids: tuple[int, ...] = ()  # tokens that are never generated


class Hypothesis(NamedTuple):
    """A finished translation as token ids, with its score.

    score = log_prob / (len(ids) + 1) ** length_penalty. This is the length normalization of Wu et
    al. (2016), section 7, without its constants 5 and 6.
    """

    ids: tuple[int, ...]  # without bos and eos
    log_prob: float  # of all tokens, eos included
    score: float  # what hypotheses are sorted by


class Candidates(NamedTuple):
    """Candidates of one position. Each tensor is (active, num_candidates).

    A candidate extends a beam of the previous position, its parent, by one token. `active` is the
    number of sentences that are not done.
    """

    parents: Tensor  # long: index of the parent
    tokens: Tensor  # long: the new token
    log_probs: Tensor  # float32: of all tokens so far; -inf marks an impossible candidate

    def select_rows(self, rows: Tensor) -> Candidates:
        """Return the candidates of the sentences in these rows, a long tensor (num_rows,)."""
        return Candidates(self.parents[rows], self.tokens[rows], self.log_probs[rows])

    def select_columns(self, columns: Tensor) -> Candidates:
        """Return these candidates of each sentence; `columns` is long (active, num_columns)."""
        return Candidates(
            self.parents.gather(1, columns),
            self.tokens.gather(1, columns),
            self.log_probs.gather(1, columns),
        )

    def to_lists(self) -> list[list[tuple[int, int, float]]]:
        """Return a list of (parent, token, log_prob) for each sentence, on the host."""
        columns = (self.parents.tolist(), self.tokens.tolist(), self.log_probs.tolist())
        return [list(zip(*row, strict=True)) for row in zip(*columns, strict=True)]


class Selection(NamedTuple):
    """What a strategy selected at one position."""

    finished: Candidates  # these end in eos
    beams: Candidates  # these are extended at the next position


class Strategy(Protocol):
    """Chooses the tokens of one position for all sentences that are not done."""

    @property
    def num_hypotheses(self) -> int:
        """The number of finished hypotheses with which a sentence is done."""
        ...

    def select(self, totals: Tensor, sentences: Sequence[int], *, eos_id: int) -> Selection:
        """Choose among the candidates that extend each beam by each token.

        `totals` is (active, beam, vocab): the log-probabilities of all tokens of each candidate.
        Row i belongs to sentence `sentences[i]` of the batch. A log-probability of -inf marks an
        impossible candidate. In the returned Selection it means that there is no candidate in this
        place.
        """
        ...


def generate(
    step: DecodeStep[State],
    state: State,
    batch_size: int,
    *,
    strategy: Strategy,
    bos_id: int,
    eos_id: int,
    options: GenerationOptions,
) -> list[list[Hypothesis]]:
    """Return one to `strategy.num_hypotheses` hypotheses for each sentence, best first.

    `state` holds one beam for each sentence, before bos, and is changed. The first call of `step`
    gets bos alone, as tokens of shape (batch, 1). Later calls get the beams that the strategy
    selected. A sentence for which every hypothesis is impossible gets an empty hypothesis with a
    score of -inf.
    """
    device = options.device
    max_lengths = options.max_lengths
    assert len(max_lengths) == batch_size, (batch_size, max_lengths)
    assert min(max_lengths, default=1) >= 1, max_lengths
    assert eos_id not in options.forbidden_ids, (eos_id, options.forbidden_ids)

    forbidden_ids = _to_device(options.forbidden_ids, device, dtype=torch.long)
    # The sentences that are not done. Row i of all tensors belongs to sentence active[i].
    active = list(range(batch_size))
    beams = _first_beams(batch_size, bos_id=bos_id, device=device)
    num_finished = torch.zeros(batch_size, dtype=torch.long, device=device)
    # The parents link each selection to the one before, so hypotheses can be read from this list.
    history: list[tuple[list[int], Selection]] = []

    while active:
        length = len(history) + 1  # tokens, eos included, of a hypothesis that ends here
        log_probs = step(beams.tokens, state)
        totals = beams.log_probs[:, :, None] + log_probs  # (active, beam, vocab)
        totals.index_fill_(2, forbidden_ids, -math.inf)
        at_max_length = [max_lengths[sentence] == length for sentence in active]
        if any(at_max_length):
            _allow_only_eos(totals, at_max_length, eos_id=eos_id)
        selection = strategy.select(totals, active, eos_id=eos_id)
        history.append((active, selection))

        finished, beams = selection
        num_finished += (finished.log_probs > -math.inf).sum(1)
        has_enough = num_finished >= strategy.num_hypotheses
        has_no_beam = (beams.log_probs == -math.inf).all(1)
        done: list[bool] = (has_enough | has_no_beam).tolist()  # waits for the device
        if all(done):
            break
        if any(done):
            kept = _rows_to_keep(done)
            active = [active[row] for row in kept]
            state.keep_rows(kept)
            rows = _to_device(kept, device, dtype=torch.long)
            beams = beams.select_rows(rows)
            num_finished = num_finished[rows]
        if strategy.num_hypotheses > 1:  # a single beam is always its own parent
            state.reorder(beams.parents)

    hypotheses = _collect_hypotheses(history, batch_size, length_penalty=options.length_penalty)
    impossible = Hypothesis((), -math.inf, -math.inf)
    return [found[: strategy.num_hypotheses] or [impossible] for found in hypotheses]


@dataclass(frozen=True)
class BeamSearch:
    """Strategy that continues the most probable candidates: steps 3 to 5 above."""

    beam_size: int

    @property
    def num_hypotheses(self) -> int:
        return self.beam_size

    def select(self, totals: Tensor, sentences: Sequence[int], *, eos_id: int) -> Selection:
        """Select the best candidates: see `Strategy.select`."""
        _, num_beams, vocab_size = totals.shape
        flat = totals.flatten(1)  # (active, beam * vocab)
        index = _best_indices(flat, min(2 * self.beam_size, num_beams * vocab_size))
        best = Candidates(
            parents=index // vocab_size,
            tokens=index % vocab_size,
            log_probs=flat.gather(1, index),
        )
        is_eos = best.tokens == eos_id

        # The first beam_size candidates; -inf for those that do not end in eos.
        is_finished = is_eos[:, : self.beam_size]
        finished = Candidates(
            parents=best.parents[:, : self.beam_size],
            tokens=best.tokens[:, : self.beam_size],
            log_probs=best.log_probs[:, : self.beam_size].masked_fill(~is_finished, -math.inf),
        )

        # A stable sort by "is eos" moves the other candidates to the front and keeps their order.
        non_eos_first = is_eos.byte().argsort(dim=1, stable=True)
        num_non_eos = min(self.beam_size, num_beams * (vocab_size - 1))
        beams = best.select_columns(non_eos_first[:, :num_non_eos])
        return Selection(finished, beams)


def _first_beams(batch_size: int, *, bos_id: int, device: torch.device) -> Candidates:
    """Return one beam for each sentence, which contains bos."""
    tokens = torch.full((batch_size, 1), bos_id, device=device)
    return Candidates(
        parents=torch.zeros_like(tokens),
        tokens=tokens,
        log_probs=torch.zeros(batch_size, 1, device=device),
    )


def _allow_only_eos(totals: Tensor, at_max_length: Sequence[bool], *, eos_id: int) -> None:
    """Set all tokens but eos to -inf, in place, for the sentences that are at their maximum length.

    `totals` is (active, beam, vocab), and `at_max_length` has one truth value for each sentence.
    """
    rows = _to_device(at_max_length, totals.device, dtype=torch.bool)
    is_not_eos = torch.arange(totals.shape[2], device=totals.device) != eos_id
    totals.masked_fill_(rows[:, None, None] & is_not_eos, -math.inf)


def _rows_to_keep(done: Sequence[bool]) -> list[int]:
    """Return the rows that are not done, in an order in which as few rows as possible move.

    The last rows move into the places of rows that are done; all others stay where they are. For
    example, [False, True, False, False] gives [0, 3, 2].
    """
    not_done = [row for row, is_done in enumerate(done) if not is_done]
    rows = list(range(len(not_done)))
    for row in range(len(not_done)):
        if done[row]:
            rows[row] = not_done.pop()  # the last row takes the free place
    return rows


def _best_indices(values: Tensor, count: int) -> Tensor:
    """Return the indices (active, count) of the largest values of each row (active, num_values).

    The largest comes first; among equal values, the one with the lower index.

    The `count` largest values lie in the `count` groups with the largest maxima, because each group
    with a larger maximum contains a larger value. So one cheap pass over all values finds these
    groups, and only their values have to be sorted.
    """
    num_rows, num_values = values.shape
    num_full_groups = num_values // _GROUP_SIZE
    num_grouped = num_full_groups * _GROUP_SIZE
    full_groups = values[:, :num_grouped].reshape(num_rows, num_full_groups, _GROUP_SIZE)
    maxima = full_groups.amax(2)  # (active, num_groups)
    if num_grouped < num_values:
        last_maximum = values[:, num_grouped:].amax(1, keepdim=True)  # of a shorter last group
        maxima = torch.cat((maxima, last_maximum), dim=1)

    best_groups = _stable_topk(maxima, min(count, maxima.shape[1]))
    best_groups = best_groups.sort(dim=1).values  # so that the indices below are ascending
    offsets = torch.arange(_GROUP_SIZE, device=values.device)
    index = (best_groups[:, :, None] * _GROUP_SIZE + offsets).flatten(1)
    is_beyond_end = index >= num_values  # in the last group
    candidates = values.gather(1, index.clamp(max=num_values - 1))
    candidates = candidates.masked_fill(is_beyond_end, -math.inf)
    return index.gather(1, _stable_topk(candidates, count))


def _stable_topk(values: Tensor, count: int) -> Tensor:
    """Return `values.topk(count).indices`, but with the lower index first among equal values.

    PyTorch leaves the order of equal values open. The values are float32 and not above 0. They are
    multiplied by 1 + index * 2^-52 in float64: this lowers a negative value slightly more at a
    higher index, by less than the gap between two float32 values. Zeros are not changed, but at
    most one value of each row can be 0.
    """
    index = torch.arange(values.shape[1], dtype=torch.float64, device=values.device)
    finite = values.clamp(min=torch.finfo(values.dtype).min)  # a multiple of -inf would stay equal
    return (finite * (1 + index * 2.0**-52)).topk(count).indices


def _collect_hypotheses(
    history: Sequence[tuple[Sequence[int], Selection]], batch_size: int, *, length_penalty: float
) -> list[list[Hypothesis]]:
    """Return the hypotheses of each sentence, best first.

    `history` holds, for each position, the active sentences and the selection for them.
    """
    hypotheses: list[list[Hypothesis]] = [[] for _ in range(batch_size)]
    prefixes: list[list[tuple[int, ...]]] = [[()] for _ in range(batch_size)]  # of each beam
    for length, (sentences, selection) in enumerate(history, start=1):
        rows = zip(
            sentences, selection.finished.to_lists(), selection.beams.to_lists(), strict=True
        )
        for sentence, finished, beams in rows:
            parent_prefixes = prefixes[sentence]
            for parent, _, log_prob in finished:
                if log_prob > -math.inf:
                    score = log_prob / length**length_penalty
                    hypotheses[sentence].append(
                        Hypothesis(parent_prefixes[parent], log_prob, score)
                    )
            prefixes[sentence] = [(*parent_prefixes[parent], token) for parent, token, _ in beams]
    for found in hypotheses:
        found.sort(key=lambda hypothesis: hypothesis.score, reverse=True)
    return hypotheses


def _to_device(values: Sequence[int], device: torch.device, *, dtype: torch.dtype) -> Tensor:
    """Send a few integers or booleans to the device without waiting for it."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)
