"""Attention is a weighted sum of values, its weights worked out by hand, by PyTorch and by the module alike."""

from __future__ import annotations

import math
from itertools import product
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.model.attention import (
    ATTENTION_KINDS,
    AdditiveAttention,
    DenseSynthesizerAttention,
    DotProductAttention,
)

ROWS, QUERY_LENGTH, KEY_LENGTH, D_MODEL, HEADS = 3, 4, 5, 16, 4
EVERYTHING = torch.ones(1, KEY_LENGTH, dtype=torch.bool)
CAUSAL = torch.ones(QUERY_LENGTH, KEY_LENGTH, dtype=torch.bool).tril(1)
POSITIONS = torch.arange(KEY_LENGTH)[None]
PADDED = (torch.arange(KEY_LENGTH) < torch.tensor([[5], [3], [1]]))[
    :, None, None, :
]  # a source's mask
MASKS = [
    pytest.param(EVERYTHING, id="everything"),
    pytest.param(CAUSAL, id="causal"),
    pytest.param(PADDED, id="padded"),
    pytest.param(CAUSAL & PADDED, id="both"),
]


def config_of(kind: str, **settings: Any) -> ModelConfig:
    """Of a kind, with just as many positions as the tests have."""
    max_length = KEY_LENGTH if kind == "dense_synthesizer" else None
    return ModelConfig(**{"self_attention": kind, "max_length": max_length, **settings})


def make_module(kind: str = "dot_product", *, dropout: float = 0.0) -> Any:
    """In evaluation mode, with biases that are not zero."""
    torch.manual_seed(1)
    module = ATTENTION_KINDS[kind](
        config_of(kind, d_model=D_MODEL, num_heads=HEADS, attention_dropout=dropout)
    )
    assert isinstance(module, nn.Module)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module.eval()


def queries_and_memory() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(ROWS, QUERY_LENGTH, D_MODEL, generator=generator),
        torch.randn(ROWS, KEY_LENGTH, D_MODEL, generator=generator),
    )


def in_heads(x: Tensor) -> Tensor:
    """(rows, length, d_model) -> (rows, heads, length, head_dim), one slice of the channels after the other."""
    return torch.stack(x.split(D_MODEL // HEADS, dim=-1), dim=1)


# Three words, worked out with a pencil: d_model is 4, there is one head, the last channel of each word's value is 8, 4
# and 20, and the second word does not see the third.

WORDS = torch.tensor([8.0, 4.0, 20.0])
ALL_BUT_ONE = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])


def blank_module(kind: str) -> Any:
    """All weights and biases zero but the output projection, which hands through what it gets."""
    module: Any = ATTENTION_KINDS[kind](
        config_of(kind, d_model=4, num_heads=1, max_length=3 if "dense" in kind else None)
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.output.weight.copy_(torch.eye(4))
    return module.eval()


def assert_worked_out(
    module: Any, x: Tensor, memory: Tensor, weights: list[list[float]], output: list[float]
) -> None:
    with torch.no_grad():
        kv = module.keys_values(memory, POSITIONS[:, :3])
        found = module.weights(x, kv, ALL_BUT_ONE, POSITIONS[:, :3])[0, 0]
        mixed = module(x, kv, ALL_BUT_ONE, POSITIONS[:, :3])[0]
    torch.testing.assert_close(found, torch.tensor(weights))
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(3))
    torch.testing.assert_close(mixed[:, 3], torch.tensor(output))
    torch.testing.assert_close(mixed[:, 3], found @ WORDS)
    assert not mixed[:, :3].any(), "the other channels have no value"


def test_three_words_attend_by_dot_products_as_worked_out_with_a_pencil() -> None:
    """Queries are 2 e_i and head_dim is 4, so query i meets key j with 2 * key_j[i] / sqrt(4) = key_j[i].

    The keys are logarithms of small integers, so the softmax divides each integer by the sum of its row:

        1 1 2  ->  1/4 1/4 1/2    8/4 + 4/4 + 20/2 = 13
        3 1 9  ->  3/4 1/4 -      24/4 + 4/4       = 7      (the 9 is out of sight)
        1 4 5  ->  .1  .4  .5     .8 + 1.6 + 10    = 12.4
    """
    integers = torch.tensor([[1.0, 1.0, 2.0], [3.0, 1.0, 9.0], [1.0, 4.0, 5.0]])
    memory = torch.cat((integers.log().t(), WORDS[:, None]), dim=1)[None]  # (1, 3, 4)
    module = blank_module("dot_product")
    with torch.no_grad():
        module.query.weight.copy_(torch.eye(4))
        module.key_value.weight[:3, :3] = torch.eye(3)  # keys are the first three channels,
        module.key_value.weight[7, 3] = 1.0  # values the last one
    weights = [[1 / 4, 1 / 4, 1 / 2], [3 / 4, 1 / 4, 0], [0.1, 0.4, 0.5]]
    assert_worked_out(module, 2.0 * torch.eye(3, 4)[None], memory, weights, [13.0, 7.0, 12.4])


def test_three_words_attend_additively_as_worked_out_with_a_pencil() -> None:
    """One channel scores: v tanh(q + k).

    tanh(ln(2) / 2) = (2 - 1) / (2 + 1) = 1/3 and tanh(ln 2) = (4 - 1) / (4 + 1) = 3/5, so with v = 15 ln 2 a sum
    q + k of 0, +-ln(2)/2 and +-ln 2 scores 0, +-5 ln 2 and +-9 ln 2: the softmax weighs 1, 2^+-5 and 2^+-9.

        q + k in halves of ln 2:   0 -1 -2  ->  2^0  2^-5 2^-9
                                   1  0 -1  ->  2^5  2^0  -      (out of sight)
                                   2  1  0  ->  2^9  2^5  2^0
    """
    half = math.log(2) / 2
    x = torch.zeros(1, 3, 4)
    x[0, :, 0] = torch.tensor([0.0, half, 2 * half])  # queries
    memory = torch.zeros(1, 3, 4)
    memory[0, :, 0] = torch.tensor([0.0, -half, -2 * half])  # keys
    memory[0, :, 3] = WORDS
    module = blank_module("additive")
    with torch.no_grad():
        module.query.weight[0, 0] = 1.0
        module.key_value.weight[0, 0] = 1.0
        module.key_value.weight[7, 3] = 1.0
        module.score[0, 0] = 15 * math.log(2)
    one, two, three = 1 + 1 / 32 + 1 / 512, 32 + 1, 512 + 32 + 1
    weights = [
        [1 / one, 1 / 32 / one, 1 / 512 / one],
        [32 / two, 1 / two, 0],
        [512 / three, 32 / three, 1 / three],
    ]
    output = [(8 + 4 / 32 + 20 / 512) / one, (8 * 32 + 4) / two, (8 * 512 + 4 * 32 + 20) / three]
    assert_worked_out(module, x, memory, weights, output)


def test_three_words_attend_by_a_synthesizer_as_worked_out_with_a_pencil() -> None:
    """PE at position p is (sin p, sin(p/100), cos p, cos(p/100)).

    Each word says how much it weighs the three positions, as logarithms, and its own place has a say: the fourth hidden
    channel, ReLU((cos p - cos 1) / (1 - cos 1)), is 1 at position 0, 0 at 1 and, cut off, at 2; there it triples the
    last position. The ReLU cuts ln(1/2) to 0 as well, that is 1/2 to 1.

        says 1 1/2 2  ->  1 1 2, in its place  ->  1 1 6  ->  1/8 1/8 6/8    (8 + 4 + 120) / 8 = 16.5
        says 3  1   9                        ->  3 1 -  ->  3/4 1/4 -      6 + 1             = 7      (out of sight)
        says 1  4   5                        ->  1 4 5  ->  .1  .4  .5     .8 + 1.6 + 10     = 12.4

    A value is the last channel of word plus place: the words bring 8 - cos 0, 4 - cos(1/100) and 20 - cos(2/100).
    """
    says = torch.tensor([[1.0, 0.5, 2.0], [3.0, 1.0, 9.0], [1.0, 4.0, 5.0]])
    words = torch.cat((says.log(), (WORDS - (torch.arange(3.0) / 100).cos())[:, None]), dim=1)[
        None
    ]  # (1, 3, 4)
    module = blank_module("dense_synthesizer")
    with torch.no_grad():
        module.word.weight[:3, :3] = torch.eye(3)
        module.position.weight[3, 2] = 1 / (1 - math.cos(1))
        module.word.bias[3] = -math.cos(1) / (1 - math.cos(1))
        module.score.weight[:3, :3] = torch.eye(3)
        module.score.weight[2, 3] = math.log(3)
        module.value.weight[3, 3] = 1.0
    weights = [[1 / 8, 1 / 8, 6 / 8], [3 / 4, 1 / 4, 0], [0.1, 0.4, 0.5]]
    assert_worked_out(module, words, words, weights, [16.5, 7.0, 12.4])


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_weights_sum_to_one_over_what_the_mask_lets_them_see(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    weights = module.weights(x, module.keys_values(memory, POSITIONS), mask, POSITIONS)
    assert weights.shape == (ROWS, HEADS, QUERY_LENGTH, KEY_LENGTH)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(ROWS, HEADS, QUERY_LENGTH))
    may_attend = mask.expand(weights.shape)
    assert (weights[may_attend] > 0).all()
    assert (weights[~may_attend] == 0).all()


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_the_output_is_the_projected_weighted_sum_of_the_values(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    kv = module.keys_values(memory, POSITIONS)
    mixed = (
        module.weights(x, kv, mask, POSITIONS) @ kv.values
    )  # (rows, heads, query_length, head_dim)
    expected = module.output(torch.cat(mixed.unbind(dim=1), dim=-1))
    torch.testing.assert_close(module(x, kv, mask, POSITIONS), expected, atol=1e-5, rtol=1e-5)


# Each kind once more, slowly: plain numbers in loops, one head and one pair of positions at a time.

Vector = list[float]


def linear(layer: nn.Linear, x: Vector) -> Vector:
    weight = layer.weight.tolist()
    bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
    return [
        b + sum(w * value for w, value in zip(row, x, strict=True))
        for row, b in zip(weight, bias, strict=True)
    ]


def dot_product_score(
    module: DotProductAttention, x: Vector, memory: list[Vector], *, at: tuple[int, int, int]
) -> float:
    head, _, key = at
    channels = channels_of(head)
    query_channels, key_channels = (
        linear(module.query, x)[channels],
        linear(module.key_value, memory[key])[channels],
    )
    return sum(q * k for q, k in zip(query_channels, key_channels, strict=True)) / math.sqrt(
        D_MODEL // HEADS
    )


def additive_score(
    module: AdditiveAttention, x: Vector, memory: list[Vector], *, at: tuple[int, int, int]
) -> float:
    head, _, key = at
    channels = channels_of(head)
    query_channels, key_channels = (
        linear(module.query, x)[channels],
        linear(module.key_value, memory[key])[channels],
    )
    tanhs = [math.tanh(q + k) for q, k in zip(query_channels, key_channels, strict=True)]
    return sum(v * tanh for v, tanh in zip(module.score[head].tolist(), tanhs, strict=True))


def synthesizer_score(
    module: DenseSynthesizerAttention, x: Vector, memory: list[Vector], *, at: tuple[int, int, int]
) -> float:
    head, query, key = at
    word, place = linear(module.word, x), linear(module.position, position(query))
    hidden = [max(0.0, w + p) for w, p in zip(word, place, strict=True)]
    return linear(module.score, hidden)[head * KEY_LENGTH + key]


def channels_of(head: int) -> slice:
    return slice(head * D_MODEL // HEADS, (head + 1) * D_MODEL // HEADS)


def position(number: int) -> Vector:
    angles = [number / 10000 ** (2 * i / D_MODEL) for i in range(D_MODEL // 2)]
    return [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]


def value_of(module: Any, memory: list[Vector], key: int) -> Vector:
    if isinstance(module, DenseSynthesizerAttention):
        return linear(
            module.value, [m + p for m, p in zip(memory[key], position(key), strict=True)]
        )
    return linear(module.key_value, memory[key])[D_MODEL:]


SLOW_SCORES = {
    "dot_product": dot_product_score,
    "additive": additive_score,
    "dense_synthesizer": synthesizer_score,
}


def slow_attention(
    kind: str, module: Any, x: Vector, memory: list[Vector], query: int, seen: list[bool]
) -> Vector:
    """One query's output, when it is the word at position `query` and may attend where `seen` says so."""
    mixed = []
    for head in range(HEADS):
        keys = [key for key in range(len(memory)) if seen[key]]
        powers = [
            math.exp(SLOW_SCORES[kind](module, x, memory, at=(head, query, key))) for key in keys
        ]
        values = [value_of(module, memory, key)[channels_of(head)] for key in keys]
        for channel in range(D_MODEL // HEADS):
            weighed = sum(
                power * value[channel] for power, value in zip(powers, values, strict=True)
            )
            mixed.append(weighed / sum(powers))
    return linear(module.output, mixed)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_attention_is_what_slow_loops_over_its_formula_give(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    output = module(x, module.keys_values(memory, POSITIONS), mask, POSITIONS)
    seen = mask.expand(ROWS, 1, QUERY_LENGTH, KEY_LENGTH)[:, 0].tolist()
    first = KEY_LENGTH - QUERY_LENGTH  # where the queries begin
    for row, query in product(range(ROWS), range(QUERY_LENGTH)):
        word, words = x[row, query].tolist(), memory[row].tolist()
        expected = slow_attention(kind, module, word, words, first + query, seen[row][query])
        torch.testing.assert_close(output[row, query], torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mask", MASKS)
def test_dot_product_attention_is_that_of_pytorch(mask: Tensor) -> None:
    module = make_module()
    x, memory = queries_and_memory()
    keys, values = module.key_value(memory).split(D_MODEL, dim=-1)
    mixed = F.scaled_dot_product_attention(
        in_heads(module.query(x)),
        in_heads(keys),
        in_heads(values),
        mask.expand(ROWS, 1, QUERY_LENGTH, KEY_LENGTH),
    )
    expected = module.output(torch.cat(mixed.unbind(dim=1), dim=-1))
    torch.testing.assert_close(
        module(x, module.keys_values(memory, POSITIONS), mask, POSITIONS),
        expected,
        atol=1e-5,
        rtol=1e-5,
    )


def test_each_head_attends_with_its_own_channels() -> None:
    module = make_module()
    x, memory = queries_and_memory()
    keys, _ = module.key_value(memory).split(D_MODEL, dim=-1)
    weights = module.weights(x, module.keys_values(memory, POSITIONS), EVERYTHING, POSITIONS)
    head_dim = D_MODEL // HEADS
    for head in range(HEADS):
        channels = slice(head * head_dim, (head + 1) * head_dim)
        scores = torch.einsum("rqc,rkc->rqk", module.query(x)[..., channels], keys[..., channels])
        torch.testing.assert_close(weights[:, head], (scores / math.sqrt(head_dim)).softmax(dim=-1))


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_true_means_may_attend_so_what_is_false_can_be_anything(kind: str) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    other = torch.where(PADDED[:, 0, 0, :, None], memory, 100.0)
    same = module(x, module.keys_values(other, POSITIONS), PADDED, POSITIONS)
    torch.testing.assert_close(
        same, module(x, module.keys_values(memory, POSITIONS), PADDED, POSITIONS)
    )
    assert not torch.allclose(
        module(x, module.keys_values(other, POSITIONS), EVERYTHING, POSITIONS), same
    )


def test_the_order_of_what_is_attended_to_does_not_matter_to_dot_products() -> None:
    module = make_module()
    x, memory = queries_and_memory()
    order = torch.tensor([3, 1, 4, 0, 2])
    mask = PADDED & CAUSAL
    shuffled = module(
        x, module.keys_values(memory[:, order], POSITIONS), mask[..., order], POSITIONS
    )
    torch.testing.assert_close(
        shuffled, module(x, module.keys_values(memory, POSITIONS), mask, POSITIONS)
    )


def test_dropout_falls_on_the_weights_in_training_alone_and_never_on_those_shown() -> None:
    module = make_module(dropout=0.5)
    x, memory = queries_and_memory()
    kv = module.keys_values(memory, POSITIONS)
    calm, shown = module(x, kv, EVERYTHING, POSITIONS), module.weights(x, kv, EVERYTHING, POSITIONS)
    assert torch.equal(calm, make_module(dropout=0.0)(x, kv, EVERYTHING, POSITIONS))
    module.train()
    assert not torch.allclose(module(x, kv, EVERYTHING, POSITIONS), calm)
    assert torch.equal(module.weights(x, kv, EVERYTHING, POSITIONS), shown)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_queries_are_the_last_of_the_keys(kind: str) -> None:
    module = make_module(kind)
    _, memory = queries_and_memory()
    kv = module.keys_values(memory, POSITIONS)
    whole = module(memory, kv, EVERYTHING, POSITIONS)
    torch.testing.assert_close(module(memory[:, 2:], kv, EVERYTHING, POSITIONS), whole[:, 2:])


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_keys_may_stand_in_any_order_if_their_positions_go_with_them(kind: str) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    orders = torch.tensor(
        [[2, 0, 3, 1, 4], [0, 1, 2, 3, 4], [3, 2, 1, 0, 4]]
    )  # the last is the query
    rows = torch.arange(ROWS)[:, None]
    kv, shuffled = (
        module.keys_values(memory, POSITIONS),
        module.keys_values(memory[rows, orders], orders),
    )
    expected = module(x[:, -1:], kv, PADDED, POSITIONS)
    mask = PADDED[:, 0, 0][rows, orders][:, None, None]
    torch.testing.assert_close(module(x[:, -1:], shuffled, mask, orders), expected)


def test_a_synthesizer_looks_at_the_place_and_never_at_the_other_words_to_weigh_them() -> None:
    module = make_module("dense_synthesizer")
    x, memory = queries_and_memory()
    kv, other = module.keys_values(memory, POSITIONS), module.keys_values(memory.flip(1), POSITIONS)
    assert kv.keys.numel() == 0, "there is nothing to remember but values"
    weights = module.weights(x, kv, EVERYTHING, POSITIONS)
    assert torch.equal(module.weights(x, other, EVERYTHING, POSITIONS), weights)
    assert not torch.allclose(module.weights(x, kv, EVERYTHING, POSITIONS.flip(1)), weights)
    assert not torch.allclose(module.keys_values(memory, POSITIONS.flip(1)).values, kv.values)


def test_a_synthesizer_has_no_position_beyond_its_last() -> None:
    module = make_module("dense_synthesizer")
    x, memory = queries_and_memory()
    with pytest.raises(AssertionError):
        module.keys_values(memory, POSITIONS + 1)
    with pytest.raises(AssertionError):
        module(x, module.keys_values(memory, POSITIONS), EVERYTHING, POSITIONS + 1)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_half_precision_comes_close_and_leaves_no_nan(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, memory = queries_and_memory()
    x.requires_grad_()
    expected = module(x, module.keys_values(memory, POSITIONS), mask, POSITIONS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(x, module.keys_values(memory, POSITIONS), mask, POSITIONS)
    assert output.dtype is torch.bfloat16
    torch.testing.assert_close(output.float(), expected, atol=0.05, rtol=0.05)
    output.float().sum().backward()
    for tensor in (x, *module.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("key", ["self_attention", "cross_attention"])
def test_every_kind_that_a_config_may_name_exists(key: str) -> None:
    assert set(get_args(ModelConfig.model_fields[key].annotation)) == set(ATTENTION_KINDS)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_a_gpu_gives_what_the_cpu_gives(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    expected = module(x, module.keys_values(memory, POSITIONS), mask, POSITIONS)
    module.cuda()
    output = module(
        x.cuda(), module.keys_values(memory.cuda(), POSITIONS.cuda()), mask.cuda(), POSITIONS.cuda()
    )
    torch.testing.assert_close(output.cpu(), expected, atol=1e-4, rtol=1e-4)
