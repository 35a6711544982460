"""Tests of beam search on tables of log-probabilities, which take the place of a model."""

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

from mt.decoding.search import (
    BeamSearch,
    GenerationOptions,
    Hypothesis,
    _best_indices,
    _rows_to_keep,
    generate,
)

# These are ordinary tokens of a table's vocabulary, unless a test forbids them.
PAD = 0
EOS = 1
BOS = 2

Ids = tuple[int, ...]
# Returns the log-probabilities (vocab,) of the next token: (sentence, prefix without bos) -> Tensor
Table = Callable[[int, Ids], Tensor]

EMPTY = Hypothesis((), -math.inf, -math.inf)


def random_table(seed: int, vocab_size: int) -> Table:
    """Return a table with a random distribution for each prefix, almost without ties."""

    @cache
    def log_probs(sentence: int, prefix: Ids) -> Tensor:
        generator = torch.Generator().manual_seed(hash((seed, sentence, prefix)) % 2**31)
        return torch.randn(vocab_size, generator=generator).mul(2).log_softmax(0)

    return log_probs


def coarse_table(seed: int, vocab_size: int) -> Table:
    """Return a table with few different values, so that nearly all candidates are ties.

    A third of the tokens are impossible. Sums of these values are exact in float32.
    """

    @cache
    def log_probs(sentence: int, prefix: Ids) -> Tensor:
        generator = random.Random(hash((seed, sentence, prefix)))
        values = [-1.0, -2.0, -3.0, -math.inf]
        return torch.tensor(generator.choices(values, weights=[1, 9, 20, 15], k=vocab_size))

    return log_probs


@dataclass
class TableState:
    """The prefixes of all beams, and a log of the calls that made them."""

    rows: list[tuple[int, list[Ids]]]  # (sentence, the prefix of each beam)
    calls: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def reorder(self, beam_index: Tensor) -> None:
        self.calls.append(("reorder", tuple(beam_index.shape)))
        new_rows = []
        for (sentence, prefixes), indices in zip(self.rows, beam_index.tolist(), strict=True):
            new_rows.append((sentence, [prefixes[index] for index in indices]))
        self.rows = new_rows

    def keep_rows(self, rows: Sequence[int]) -> None:
        self.calls.append(("keep", (len(rows),)))
        self.rows = [self.rows[row] for row in rows]


Step = Callable[[Tensor, TableState], Tensor]


def make_step(table: Table) -> Step:
    """Return a step function that reads log-probabilities from a table."""

    def step(tokens: Tensor, state: TableState) -> Tensor:
        state.calls.append(("step", tuple(tokens.shape)))
        new_rows = []
        log_probs = []
        for (sentence, prefixes), new_tokens in zip(state.rows, tokens.tolist(), strict=True):
            extended = [
                (*prefix, token) for prefix, token in zip(prefixes, new_tokens, strict=True)
            ]
            new_rows.append((sentence, extended))
            without_bos = [prefix[1:] for prefix in extended]
            log_probs.append(torch.stack([table(sentence, prefix) for prefix in without_bos]))
        state.rows = new_rows
        return torch.stack(log_probs)

    return step


def start_state(sentences: list[int]) -> TableState:
    """Return a state with one empty beam for each sentence."""
    return TableState([(sentence, [()]) for sentence in sentences])


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
    """Search the given sentences of a table."""
    options = GenerationOptions(
        length_penalty=length_penalty,
        max_lengths=max_lengths,
        device=torch.device("cpu"),
        forbidden_ids=forbidden_ids,
    )
    return generate(
        make_step(table),
        state or start_state(sentences),
        len(sentences),
        strategy=BeamSearch(beam_size),
        bos_id=BOS,
        eos_id=EOS,
        options=options,
    )


def score_ids(table: Table, sentence: int, ids: Ids, *, length_penalty: float) -> Hypothesis:
    """Score ids from the table alone, adding in float32 from the left as the search does."""
    total = torch.zeros(())
    for position, token in enumerate((*ids, EOS)):
        total = total + table(sentence, ids[:position])[token]
    log_prob = total.item()
    return Hypothesis(ids, log_prob, log_prob / (len(ids) + 1) ** length_penalty)


def reference_beam_search(
    table: Table,
    sentence: int,
    *,
    beam_size: int,
    max_length: int,
    length_penalty: float,
    forbidden_ids: Ids,
) -> list[Hypothesis]:
    """Search one sentence by the same rules, with lists and loops."""
    beams: list[tuple[float, Ids]] = [(0.0, ())]
    finished: list[Hypothesis] = []
    for length in range(1, max_length + 1):
        candidates = []
        for log_prob, prefix in beams:
            for token, token_log_prob in enumerate(table(sentence, prefix).tolist()):
                if token in forbidden_ids or (length == max_length and token != EOS):
                    continue
                total = log_prob + token_log_prob
                if total > -math.inf:
                    candidates.append((total, (*prefix, token)))
        # The sort is stable: equal candidates stay in the order of their beam and token.
        candidates.sort(key=lambda candidate: -candidate[0])
        for log_prob, ids in candidates[:beam_size]:
            if ids[-1] == EOS:
                score = log_prob / length**length_penalty
                finished.append(Hypothesis(ids[:-1], log_prob, score))
        beams = [candidate for candidate in candidates if candidate[1][-1] != EOS][:beam_size]
        if len(finished) >= beam_size or not beams:
            break
    finished.sort(key=lambda hypothesis: -hypothesis.score)
    return finished[:beam_size] or [EMPTY]


# What is found


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize(("vocab_size", "max_length"), [(2, 5), (3, 4), (4, 3), (6, 1)])
def test_wide_beam_equals_exhaustive_search(
    vocab_size: int, max_length: int, length_penalty: float
) -> None:
    table = random_table(1, vocab_size)
    tokens = [token for token in range(vocab_size) if token != EOS]
    all_ids = [ids for length in range(max_length) for ids in product(tokens, repeat=length)]
    scored = [score_ids(table, 7, ids, length_penalty=length_penalty) for ids in all_ids]
    expected = sorted(scored, key=lambda hypothesis: -hypothesis.score)

    hypotheses = search(
        table,
        [7],
        beam_size=len(all_ids) + 1,
        max_lengths=[max_length],
        length_penalty=length_penalty,
    )

    assert hypotheses == [expected]


searches = {
    "seed": st.integers(0, 10**6),
    "vocab_size": st.sampled_from([2, 3, 4, 5, 8, 64, 300]),
    "beam_size": st.integers(1, 6),
    "max_lengths": st.lists(st.integers(1, 6), min_size=1, max_size=4),
    "length_penalty": st.sampled_from([0.0, 0.6, 1.0, 1.5]),
}


@pytest.mark.parametrize("make_table", [random_table, coarse_table])
@settings(max_examples=60, deadline=None)
@given(**searches, forbidden=st.sets(st.sampled_from([PAD, BOS, 3])))
def test_search_equals_reference_search_with_ties(
    make_table: Callable[[int, int], Table],
    seed: int,
    vocab_size: int,
    beam_size: int,
    max_lengths: list[int],
    length_penalty: float,
    forbidden: set[int],
) -> None:
    table = make_table(seed, vocab_size)
    forbidden_ids = tuple(token for token in forbidden if token < vocab_size)

    results = search(
        table,
        list(range(len(max_lengths))),
        beam_size=beam_size,
        max_lengths=max_lengths,
        length_penalty=length_penalty,
        forbidden_ids=forbidden_ids,
    )

    assert len(results) == len(max_lengths)
    for sentence, hypotheses in enumerate(results):
        expected = reference_beam_search(
            table,
            sentence,
            beam_size=beam_size,
            max_length=max_lengths[sentence],
            length_penalty=length_penalty,
            forbidden_ids=forbidden_ids,
        )
        assert [found.ids for found in hypotheses] == [wanted.ids for wanted in expected]
        expected_scores = pytest.approx([wanted.score for wanted in expected], rel=1e-5)
        assert [found.score for found in hypotheses] == expected_scores


@settings(max_examples=60, deadline=None)
@given(**searches)
def test_hypotheses_are_sorted_distinct_bounded_and_scored(
    seed: int, vocab_size: int, beam_size: int, max_lengths: list[int], length_penalty: float
) -> None:
    table = random_table(seed, vocab_size)
    results = search(
        table,
        list(range(len(max_lengths))),
        beam_size=beam_size,
        max_lengths=max_lengths,
        length_penalty=length_penalty,
    )
    assert len(results) == len(max_lengths)
    for sentence, hypotheses in enumerate(results):
        assert 1 <= len(hypotheses) <= beam_size
        assert len({hypothesis.ids for hypothesis in hypotheses}) == len(hypotheses)
        assert hypotheses == sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)
        for hypothesis in hypotheses:
            assert EOS not in hypothesis.ids
            assert len(hypothesis.ids) + 1 <= max_lengths[sentence]
            assert hypothesis == score_ids(
                table, sentence, hypothesis.ids, length_penalty=length_penalty
            )


@settings(max_examples=40, deadline=None)
@given(**searches)
def test_batch_equals_single_sentences(
    seed: int, vocab_size: int, beam_size: int, max_lengths: list[int], length_penalty: float
) -> None:
    table = random_table(seed, vocab_size)
    sentences = list(range(len(max_lengths)))
    in_a_batch = search(
        table,
        sentences,
        beam_size=beam_size,
        max_lengths=max_lengths,
        length_penalty=length_penalty,
    )
    for sentence in sentences:
        alone = search(
            table,
            [sentence],
            beam_size=beam_size,
            max_lengths=[max_lengths[sentence]],
            length_penalty=length_penalty,
        )
        assert alone == [in_a_batch[sentence]]


@pytest.mark.parametrize("seed", range(20))
def test_beam_of_one_equals_argmax_loop(seed: int) -> None:
    table = random_table(seed, 5)
    max_lengths = [9, 3, 1, 9]
    expected = []
    for sentence, max_length in enumerate(max_lengths):
        ids: Ids = ()
        while len(ids) + 1 < max_length:
            token = int(table(sentence, ids).argmax())
            if token == EOS:
                break
            ids = (*ids, token)
        expected.append([score_ids(table, sentence, ids, length_penalty=1.0)])

    assert search(table, [0, 1, 2, 3], beam_size=1, max_lengths=max_lengths) == expected


@pytest.mark.parametrize("num_values", [12, 64, 200, 4096, 5 * 8001])
def test_best_indices_equal_a_stable_sort(num_values: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(8, num_values, generator=generator).abs().mul(-4).round() - 1
    values[:, ::3] = -math.inf
    expected = values.sort(dim=1, descending=True, stable=True).indices
    for count in (1, 2, 10, 12):
        assert torch.equal(_best_indices(values, count), expected[:, :count])


@pytest.mark.parametrize("vocab_size", [5, 64, 100, 1000])
def test_ties_go_to_the_lower_token_id(vocab_size: int) -> None:
    uniform = torch.full((vocab_size,), 1 / vocab_size).log()
    [hypotheses] = search(lambda *_: uniform, [0], beam_size=2, max_lengths=[4], length_penalty=0.0)
    assert [hypothesis.ids for hypothesis in hypotheses] == [(), (0,)]


# Calls of the step and of the state


def test_beams_grow_from_one_and_done_sentences_leave() -> None:
    state = start_state([0, 1, 2])
    search(random_table(3, 3), [0, 1, 2], beam_size=4, max_lengths=[5, 1, 3], state=state)
    steps = [shape for name, shape in state.calls if name == "step"]
    reorders = [shape for name, shape in state.calls if name == "reorder"]
    assert steps[0] == (3, 1)
    # One of the three tokens is eos, so two beams are left. The second sentence is done.
    assert steps[1] == (2, 2)
    assert steps[1:] == reorders, "a state is reordered into the shape of the next step"
    batch_sizes = [num_rows for num_rows, _ in steps]
    assert batch_sizes == sorted(batch_sizes, reverse=True)
    assert max(num_beams for _, num_beams in steps) == 4
    assert len(steps) <= 5


def test_done_sentences_leave_before_reorder() -> None:
    state = start_state([0, 1])
    search(random_table(0, 6), [0, 1], beam_size=2, max_lengths=[1, 2], state=state)
    assert state.calls == [
        ("step", (2, 1)),
        ("keep", (1,)),
        ("reorder", (1, 2)),
        ("step", (1, 2)),
    ]


@pytest.mark.parametrize(
    "done", [done for length in range(1, 7) for done in product([False, True], repeat=length)]
)
def test_rows_to_keep_moves_only_the_last_rows(done: tuple[bool, ...]) -> None:
    rows = _rows_to_keep(done)
    assert sorted(rows) == [row for row, is_done in enumerate(done) if not is_done]
    assert all(rows[row] == row for row in range(len(rows)) if not done[row])


def test_beam_of_one_is_never_reordered() -> None:
    state = start_state([0, 1])
    search(random_table(0, 6), [0, 1], beam_size=1, max_lengths=[6, 6], state=state)
    assert "reorder" not in {name for name, _ in state.calls}


def test_empty_batch_calls_no_step() -> None:
    state = start_state([])
    assert search(random_table(0, 4), [], beam_size=2, max_lengths=[], state=state) == []
    assert state.calls == []


# Limits and impossible tokens


def test_max_length_forces_eos_and_counts_its_probability() -> None:
    eos_is_unlikely = torch.tensor([0.0, math.exp(-20), 0.0, 1.0]).log()
    [[hypothesis]] = search(lambda *_: eos_is_unlikely, [0], beam_size=1, max_lengths=[3])
    assert hypothesis.ids == (3, 3)
    assert hypothesis.log_prob == pytest.approx(-20)
    assert hypothesis.score == pytest.approx(-20 / 3)


def test_forbidden_ids_are_never_generated() -> None:
    forbidden_are_likely = torch.tensor([0.4, 0.05, 0.4, 0.1, 0.05]).log()
    [hypotheses] = search(
        lambda *_: forbidden_are_likely,
        [0],
        beam_size=8,
        max_lengths=[5],
        forbidden_ids=(PAD, BOS),
    )
    assert len(hypotheses) == 8
    for hypothesis in hypotheses:
        assert not {PAD, BOS} & set(hypothesis.ids)


def test_impossible_tokens_are_not_used_to_fill_the_beam() -> None:
    only_token = {(): 3, (3,): EOS}

    def table(_: int, prefix: Ids) -> Tensor:
        log_probs = torch.full((5,), -math.inf)
        log_probs[only_token.get(prefix, 4)] = 0.0
        return log_probs

    assert search(table, [0], beam_size=3, max_lengths=[6]) == [[Hypothesis((3,), 0.0, 0.0)]]


def test_sentence_without_possible_hypothesis_gets_an_empty_one() -> None:
    nothing = torch.full((4,), -math.inf)
    never_eos = torch.tensor([-1.0, -math.inf, -1.0, -1.0])
    assert search(lambda *_: nothing, [0], beam_size=2, max_lengths=[9]) == [[EMPTY]]
    assert search(lambda *_: never_eos, [0], beam_size=2, max_lengths=[9]) == [[EMPTY]]


def test_step_can_be_wrapped_to_force_a_prefix() -> None:
    forced = (3, 0, 3)
    table = random_table(5, 4)
    plain_step = make_step(table)

    def forced_step(tokens: Tensor, state: TableState) -> Tensor:
        log_probs = plain_step(tokens, state)
        _, prefixes = state.rows[0]
        position = len(prefixes[0]) - 1
        if position < len(forced):
            is_allowed = torch.arange(4) == forced[position]
            log_probs = log_probs.masked_fill(~is_allowed, -math.inf)
        return log_probs

    results = generate(
        forced_step,
        start_state([0, 1]),
        2,
        strategy=BeamSearch(3),
        bos_id=BOS,
        eos_id=EOS,
        options=GenerationOptions(
            length_penalty=1.0, max_lengths=[6, 8], device=torch.device("cpu")
        ),
    )
    for sentence, hypotheses in enumerate(results):
        for hypothesis in hypotheses:
            assert hypothesis.ids[:3] == forced
            assert hypothesis == score_ids(table, sentence, hypothesis.ids, length_penalty=1.0)
