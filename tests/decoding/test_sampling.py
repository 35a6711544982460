"""Tests of sampling: what is drawn, and how often."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mt.decoding.sampling import Sampling, SamplingOptions
from mt.decoding.search import GenerationOptions, Hypothesis, generate

EOS = 1
BOS = 2
# Of the first token: 0, eos, 2, 3, 4
FIRST = torch.tensor([0.1, 0.4, 0.0, 0.3, 0.2])
NUM_SAMPLES = 4000


class PositionState:
    """Remembers how many tokens each beam has."""

    def __init__(self) -> None:
        self.length = 0

    def reorder(self, beam_index: Tensor) -> None: ...

    def keep_rows(self, rows: Sequence[int]) -> None: ...


def step(tokens: Tensor, state: PositionState) -> Tensor:
    """Draw the first token from FIRST; after it, end with a probability of a half."""
    probabilities = FIRST if state.length == 0 else torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])
    state.length += 1
    return probabilities.log().expand(*tokens.shape, -1)


def sample(
    options: SamplingOptions, *, num_samples: int = NUM_SAMPLES, sources: Sequence[Sequence[int]]
) -> list[list[Hypothesis]]:
    return generate(
        step,
        PositionState(),
        len(sources),
        strategy=Sampling(options, num_samples=num_samples, sources=sources),
        bos_id=BOS,
        eos_id=EOS,
        options=GenerationOptions(
            length_penalty=0.0, max_lengths=[30] * len(sources), device=torch.device("cpu")
        ),
    )


def first_token_shares(options: SamplingOptions) -> dict[int, float]:
    (hypotheses,) = sample(options, sources=[[7, 8, 9]])
    counts = Counter([*hypothesis.ids, EOS][0] for hypothesis in hypotheses)
    return {token: count / len(hypotheses) for token, count in counts.items()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (SamplingOptions(seed=1), {EOS: 0.4, 3: 0.3, 4: 0.2, 0: 0.1}),
        (SamplingOptions(seed=1, top_k=2), {EOS: 4 / 7, 3: 3 / 7}),
        (SamplingOptions(seed=1, top_p=0.71), {EOS: 4 / 9, 3: 3 / 9, 4: 2 / 9}),
        (SamplingOptions(seed=1, top_p=0.69), {EOS: 4 / 7, 3: 3 / 7}),
        (SamplingOptions(seed=1, epsilon=0.15), {EOS: 4 / 9, 3: 3 / 9, 4: 2 / 9}),
        (SamplingOptions(seed=1, epsilon=0.5), {EOS: 1.0}),
        (SamplingOptions(seed=1, temperature=0.5), {EOS: 16 / 30, 3: 9 / 30, 4: 4 / 30, 0: 1 / 30}),
        (SamplingOptions(seed=1, temperature=0.01), {EOS: 1.0}),
    ],
)
def test_tokens_are_drawn_by_their_probability(
    options: SamplingOptions, expected: dict[int, float]
) -> None:
    shares = first_token_shares(options)
    assert shares.keys() == expected.keys()
    for token, share in expected.items():
        # Three standard deviations of a share of 0.5 are 0.024.
        assert shares[token] == pytest.approx(share, abs=0.024)


def test_all_samples_are_finished_and_scored() -> None:
    (hypotheses,) = sample(SamplingOptions(seed=2), sources=[[5]])
    assert len(hypotheses) == NUM_SAMPLES
    assert max(len(hypothesis.ids) for hypothesis in hypotheses) > 5
    for hypothesis in hypotheses[:100]:
        expected = FIRST.log()[[*hypothesis.ids, EOS][0]]
        expected = expected + len(hypothesis.ids) * torch.tensor(0.5).log()
        assert hypothesis.log_prob == pytest.approx(expected.item(), abs=1e-4)


def test_samples_depend_on_the_seed_and_the_source_alone() -> None:
    options = SamplingOptions(seed=3)
    sources = [[5, 6], [7], [8, 9, 5]]
    together = sample(options, num_samples=20, sources=sources)
    alone = [sample(options, num_samples=20, sources=[source])[0] for source in sources]
    assert together == alone
    assert together[0] != together[1]
    assert together != sample(SamplingOptions(seed=4), num_samples=20, sources=sources)


@pytest.mark.parametrize(
    "values",
    [
        {"seed": -1},
        {"temperature": 0.0},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"epsilon": -0.1},
        {"epsilon": 1.0},
    ],
)
def test_impossible_options_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        SamplingOptions(**{"seed": 1, **values})  # type: ignore[arg-type]
