"""Search is tested with a table in place of a model: log-probabilities of the next token, keyed by the prefix."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mt.decoding.search import Hypothesis, SearchOptions, _best_indices, _rows_to_keep, beam_search

PAD, EOS, BOS = 0, 1, 2  # ordinary members of a table's vocabulary, unless a test forbids them
Ids = tuple[int, ...]
Table = Callable[[int, Ids], Tensor]  # (sentence, prefix without bos) -> log_probs (vocab,) float32


def random_table(seed: int, vocab_size: int) -> Table:
    """A distribution for each prefix, with no ties to speak of."""

    @cache
    def log_probs(sentence: int, prefix: Ids) -> Tensor:
        generator = torch.Generator().manual_seed(hash((seed, sentence, prefix)) % 2**31)
        return torch.randn(vocab_size, generator=generator).mul(2).log_softmax(0)

    return log_probs


def coarse_table(seed: int, vocab_size: int) -> Table:
    """Few values, so that nearly all is a tie, and a third of it impossible; sums of these are exact in float32."""

    @cache
    def log_probs(sentence: int, prefix: Ids) -> Tensor:
        draw = random.Random(hash((seed, sentence, prefix)))
        return torch.tensor(
            draw.choices([-1.0, -2.0, -3.0, -math.inf], weights=[1, 9, 20, 15], k=vocab_size)
        )

    return log_probs


@dataclass(frozen=True)
class TableState:
    """The prefixes of all beams, as the search's own calls have made them, and a record of those calls."""

    prefixes: tuple[
        tuple[int, tuple[Ids, ...]], ...
    ]  # for each live row: the sentence, and the prefix of each beam
    calls: list[tuple[str, tuple[int, ...]]] = field(default_factory=list, compare=False)

    def reorder(self, beam_index: Tensor) -> TableState:
        self.calls.append(("reorder", tuple(beam_index.shape)))
        rows = zip(self.prefixes, beam_index.tolist(), strict=True)
        return TableState(
            tuple((s, tuple(beams[i] for i in index)) for (s, beams), index in rows), self.calls
        )

    def keep(self, sentences: Sequence[int]) -> TableState:
        self.calls.append(("keep", (len(sentences),)))
        return TableState(tuple(self.prefixes[row] for row in sentences), self.calls)


def step_of(table: Table) -> Callable[[Tensor, TableState], tuple[Tensor, TableState]]:
    def step(tokens: Tensor, state: TableState) -> tuple[Tensor, TableState]:
        state.calls.append(("step", tuple(tokens.shape)))
        rows = zip(state.prefixes, tokens.tolist(), strict=True)
        prefixes = tuple(
            (s, tuple((*prefix, token) for prefix, token in zip(beams, new, strict=True)))
            for (s, beams), new in rows
        )
        log_probs = [
            torch.stack([table(s, prefix[1:]) for prefix in beams]) for s, beams in prefixes
        ]
        return torch.stack(log_probs), TableState(prefixes, state.calls)

    return step


def start(sentences: list[int]) -> TableState:
    return TableState(tuple((sentence, ((),)) for sentence in sentences))


def search(
    table: Table,
    sentences: list[int],
    *,
    beam_size: int,
    max_lengths: list[int],
    length_penalty: float = 1.0,
    forbidden_ids: Ids = (),
    state: TableState | None = None,
) -> list[list[Hypothesis]]:
    options = SearchOptions(
        beam_size, length_penalty, torch.tensor(max_lengths, dtype=torch.long), forbidden_ids
    )
    state = state or start(sentences)
    return beam_search(
        step_of(table), state, len(sentences), bos_id=BOS, eos_id=EOS, options=options
    )


def hypothesis_of(table: Table, sentence: int, ids: Ids, *, length_penalty: float) -> Hypothesis:
    """Score ids from the table alone, adding in float32 from the left as the search does."""
    total = torch.zeros(())
    for position, token in enumerate((*ids, EOS)):
        total = total + table(sentence, ids[:position])[token]
    return Hypothesis(ids, total.item(), total.item() / (len(ids) + 1) ** length_penalty)


def plain_beam_search(
    table: Table,
    sentence: int,
    *,
    beam_size: int,
    max_length: int,
    length_penalty: float,
    forbidden_ids: Ids,
) -> list[Hypothesis]:
    """The rule itself, for one sentence, in lists and loops."""
    beams: list[tuple[float, Ids]] = [(0.0, ())]
    found: list[Hypothesis] = []
    for length in range(1, max_length + 1):
        candidates = [
            (log_prob + table(sentence, prefix)[token].item(), (*prefix, token))
            for log_prob, prefix in beams
            for token in range(len(table(sentence, prefix)))
            if token not in forbidden_ids and (token == EOS or length < max_length)
        ]
        possible = [candidate for candidate in candidates if candidate[0] > -math.inf]
        ranked = sorted(
            possible, key=lambda candidate: -candidate[0]
        )  # stable: equals stay in order of beam and token
        ended = [(log_prob, ids) for log_prob, ids in ranked[:beam_size] if ids[-1] == EOS]
        found += [
            Hypothesis(ids[:-1], log_prob, log_prob / length**length_penalty)
            for log_prob, ids in ended
        ]
        beams = [(log_prob, ids) for log_prob, ids in ranked if ids[-1] != EOS][:beam_size]
        if len(found) >= beam_size or not beams:
            break
    best_first = sorted(found, key=lambda hypothesis: -hypothesis.score)
    return best_first[:beam_size] or [Hypothesis((), -math.inf, -math.inf)]


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize(("vocab_size", "max_length"), [(2, 5), (3, 4), (4, 3), (6, 1)])
def test_a_beam_wide_enough_finds_the_exact_best_n(
    vocab_size: int, max_length: int, length_penalty: float
) -> None:
    table = random_table(1, vocab_size)
    tokens = [token for token in range(vocab_size) if token != EOS]
    every = [ids for length in range(max_length) for ids in product(tokens, repeat=length)]
    scored = [hypothesis_of(table, 7, ids, length_penalty=length_penalty) for ids in every]
    exact = sorted(scored, key=lambda hypothesis: -hypothesis.score)

    found = search(
        table,
        [7],
        beam_size=len(every) + 1,
        max_lengths=[max_length],
        length_penalty=length_penalty,
    )

    assert found == [exact]


searches = {
    "seed": st.integers(0, 10**6),
    "vocab_size": st.sampled_from([2, 3, 4, 5, 8, 64, 300]),
    "beam_size": st.integers(1, 6),
    "max_lengths": st.lists(st.integers(1, 6), min_size=1, max_size=4),
    "length_penalty": st.sampled_from([0.0, 0.6, 1.0, 1.5]),
}


@pytest.mark.parametrize("new_table", [random_table, coarse_table])
@settings(max_examples=60, deadline=None)
@given(**searches, forbidden=st.sets(st.sampled_from([PAD, BOS, 3])))
def test_search_is_the_plain_beam_search_ties_and_all(
    new_table: Callable[[int, int], Table],
    seed: int,
    vocab_size: int,
    beam_size: int,
    max_lengths: list[int],
    length_penalty: float,
    forbidden: set[int],
) -> None:
    table, sentences = new_table(seed, vocab_size), list(range(len(max_lengths)))
    ids = tuple(token for token in forbidden if token < vocab_size)

    found = search(
        table,
        sentences,
        beam_size=beam_size,
        max_lengths=max_lengths,
        length_penalty=length_penalty,
        forbidden_ids=ids,
    )

    for sentence, hypotheses in enumerate(found):
        expected = plain_beam_search(
            table,
            sentence,
            beam_size=beam_size,
            max_length=max_lengths[sentence],
            length_penalty=length_penalty,
            forbidden_ids=ids,
        )
        assert [hypothesis.ids for hypothesis in hypotheses] == [
            hypothesis.ids for hypothesis in expected
        ]
        assert [h.score for h in hypotheses] == pytest.approx([h.score for h in expected], rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(**searches)
def test_hypotheses_are_sorted_distinct_within_bounds_and_scored_as_the_table_says(
    seed: int, vocab_size: int, beam_size: int, max_lengths: list[int], length_penalty: float
) -> None:
    table, sentences = random_table(seed, vocab_size), list(range(len(max_lengths)))
    found = search(
        table,
        sentences,
        beam_size=beam_size,
        max_lengths=max_lengths,
        length_penalty=length_penalty,
    )
    assert len(found) == len(sentences)
    for sentence, hypotheses in enumerate(found):
        assert 1 <= len(hypotheses) <= beam_size
        assert len({hypothesis.ids for hypothesis in hypotheses}) == len(hypotheses)
        assert hypotheses == sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)
        for hypothesis in hypotheses:
            assert EOS not in hypothesis.ids
            assert len(hypothesis.ids) + 1 <= max_lengths[sentence]
            assert hypothesis == hypothesis_of(
                table, sentence, hypothesis.ids, length_penalty=length_penalty
            )


@settings(max_examples=40, deadline=None)
@given(**searches)
def test_a_batch_is_each_sentence_alone(
    seed: int, vocab_size: int, beam_size: int, max_lengths: list[int], length_penalty: float
) -> None:
    table, sentences = random_table(seed, vocab_size), list(range(len(max_lengths)))
    together = search(
        table,
        sentences,
        beam_size=beam_size,
        max_lengths=max_lengths,
        length_penalty=length_penalty,
    )
    for sentence in sentences:
        limit = [max_lengths[sentence]]
        alone = search(
            table, [sentence], beam_size=beam_size, max_lengths=limit, length_penalty=length_penalty
        )
        assert alone == [together[sentence]]


@pytest.mark.parametrize("seed", range(20))
def test_one_beam_is_an_argmax_loop(seed: int) -> None:
    table, max_lengths = random_table(seed, 5), [9, 3, 1, 9]
    expected = []
    for sentence, max_length in enumerate(max_lengths):
        ids: Ids = ()
        while len(ids) + 1 < max_length and (token := int(table(sentence, ids).argmax())) != EOS:
            ids = (*ids, token)
        expected.append([hypothesis_of(table, sentence, ids, length_penalty=1.0)])

    assert search(table, [0, 1, 2, 3], beam_size=1, max_lengths=max_lengths) == expected


@pytest.mark.parametrize("num_candidates", [12, 64, 200, 4096, 5 * 8001])
def test_the_best_candidates_are_the_first_of_a_stable_sort(num_candidates: int) -> None:
    values = (
        torch.randn(8, num_candidates, generator=torch.Generator().manual_seed(0))
        .abs()
        .mul(-4)
        .round()
        - 1
    )
    values[:, ::3] = -math.inf
    expected = values.sort(dim=1, descending=True, stable=True).indices
    for count in (1, 2, 10, 12):
        assert torch.equal(_best_indices(values, count), expected[:, :count])


@pytest.mark.parametrize("vocab_size", [5, 64, 100, 1000])
def test_among_equals_the_lower_id_comes_first(vocab_size: int) -> None:
    uniform = torch.full((vocab_size,), 1 / vocab_size).log()
    [hypotheses] = search(lambda *_: uniform, [0], beam_size=2, max_lengths=[4], length_penalty=0.0)
    assert [hypothesis.ids for hypothesis in hypotheses] == [(), (0,)]


def test_the_beam_grows_from_one_and_shrinks_with_every_sentence_that_is_done() -> None:
    state = start([0, 1, 2])
    search(random_table(3, 3), [0, 1, 2], beam_size=4, max_lengths=[5, 1, 3], state=state)
    steps = [shape for name, shape in state.calls if name == "step"]
    reorders = [shape for name, shape in state.calls if name == "reorder"]
    assert steps[0] == (3, 1)
    assert steps[1] == (
        2,
        2,
    )  # of three tokens one is eos; the second sentence had room for eos alone
    assert steps[1:] == reorders  # a beam is always reordered into the shape of the next step
    assert [num_rows for num_rows, _ in steps] == sorted(
        (num_rows for num_rows, _ in steps), reverse=True
    )
    assert max(num_beams for _, num_beams in steps) == 4
    assert len(steps) <= 5


def test_sentences_leave_the_state_before_its_beams_are_reordered() -> None:
    state = start([0, 1])
    search(random_table(0, 6), [0, 1], beam_size=2, max_lengths=[1, 2], state=state)
    shapes = [("step", (2, 1)), ("keep", (1,)), ("reorder", (1, 2)), ("step", (1, 2))]
    assert state.calls == shapes


@pytest.mark.parametrize(
    "done", [done for length in range(1, 7) for done in product([False, True], repeat=length)]
)
def test_the_last_sentences_move_into_the_gaps_and_the_others_stay(done: tuple[bool, ...]) -> None:
    rows = _rows_to_keep(done)
    assert sorted(rows) == [row for row, is_done in enumerate(done) if not is_done]
    assert all(rows[row] == row for row in range(len(rows)) if not done[row])


def test_one_beam_is_never_reordered() -> None:
    state = start([0, 1])
    search(random_table(0, 6), [0, 1], beam_size=1, max_lengths=[6, 6], state=state)
    assert "reorder" not in {name for name, _ in state.calls}


def test_at_the_limit_eos_is_taken_and_counted_however_unlikely() -> None:
    shy = torch.tensor([0.0, math.exp(-20), 0.0, 1.0]).log()
    [[hypothesis]] = search(lambda *_: shy, [0], beam_size=1, max_lengths=[3])
    assert hypothesis.ids == (3, 3)
    assert hypothesis.log_prob == pytest.approx(-20)
    assert hypothesis.score == pytest.approx(-20 / 3)


def test_forbidden_ids_are_never_generated_though_they_be_likeliest() -> None:
    log_probs = torch.tensor([0.4, 0.05, 0.4, 0.1, 0.05]).log()
    [hypotheses] = search(
        lambda *_: log_probs, [0], beam_size=8, max_lengths=[5], forbidden_ids=(PAD, BOS)
    )
    assert len(hypotheses) == 8
    assert not {PAD, BOS} & {token for hypothesis in hypotheses for token in hypothesis.ids}


def test_the_impossible_is_chosen_neither_to_fill_a_beam_nor_to_end() -> None:
    only_three_then_end = {(): 3, (3,): EOS}

    def table(_: int, prefix: Ids) -> Tensor:
        certain = torch.full((5,), -math.inf)
        certain[only_three_then_end.get(prefix, 4)] = 0.0
        return certain

    assert search(table, [0], beam_size=3, max_lengths=[6]) == [[Hypothesis((3,), 0.0, 0.0)]]


def test_a_sentence_to_which_nothing_is_possible_gets_one_empty_hypothesis() -> None:
    nothing = torch.full((4,), -math.inf)
    never_ends = torch.tensor([-1.0, -math.inf, -1.0, -1.0])
    empty = Hypothesis((), -math.inf, -math.inf)
    assert search(lambda *_: nothing, [0], beam_size=2, max_lengths=[9]) == [[empty]]
    assert search(lambda *_: never_ends, [0], beam_size=2, max_lengths=[9]) == [[empty]]


def test_an_empty_batch_needs_no_step() -> None:
    state = start([])
    assert search(random_table(0, 4), [], beam_size=2, max_lengths=[], state=state) == []
    assert state.calls == []


def test_a_token_constraint_is_a_step_that_wraps_the_step() -> None:
    """The state carries the prefix, so a wrapper can demand that every translation begin with given ids."""
    forced, table = (3, 0, 3), random_table(5, 4)
    plain_step = step_of(table)

    def forced_step(tokens: Tensor, state: TableState) -> tuple[Tensor, TableState]:
        log_probs, state = plain_step(tokens, state)
        position = len(state.prefixes[0][1][0]) - 1
        if position < len(forced):
            allowed = torch.arange(4) == forced[position]
            log_probs = log_probs.masked_fill(~allowed, -math.inf)
        return log_probs, state

    options = SearchOptions(beam_size=3, length_penalty=1.0, max_lengths=torch.tensor([6, 8]))
    found = beam_search(forced_step, start([0, 1]), 2, bos_id=BOS, eos_id=EOS, options=options)
    for sentence, hypotheses in enumerate(found):
        for hypothesis in hypotheses:
            assert hypothesis.ids[:3] == forced
            assert hypothesis == hypothesis_of(table, sentence, hypothesis.ids, length_penalty=1.0)
