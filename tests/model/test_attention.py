"""Tests of the kinds of attention, against examples worked out by hand, PyTorch, and slow loops."""

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

ROWS = 3
QUERY_LENGTH = 4
KEY_LENGTH = 5
D_MODEL = 16
NUM_HEADS = 4
HEAD_DIM = D_MODEL // NUM_HEADS

FULL = torch.ones(1, KEY_LENGTH, dtype=torch.bool)
CAUSAL = torch.ones(QUERY_LENGTH, KEY_LENGTH, dtype=torch.bool).tril(1)
PADDING = (torch.arange(KEY_LENGTH) < torch.tensor([[5], [3], [1]]))[:, None, None, :]
POSITIONS = torch.arange(KEY_LENGTH)[None]

EVERY_KIND = pytest.mark.parametrize("kind", ATTENTION_KINDS)
EVERY_MASK = pytest.mark.parametrize(
    "mask",
    [
        pytest.param(FULL, id="full"),
        pytest.param(CAUSAL, id="causal"),
        pytest.param(PADDING, id="padding"),
        pytest.param(CAUSAL & PADDING, id="causal-and-padding"),
    ],
)


def make_config(kind: str, *, max_length: int = KEY_LENGTH, **settings: Any) -> ModelConfig:
    """Return a config; a dense_synthesizer has just `max_length` positions."""
    if kind == "dense_synthesizer":
        settings["max_length"] = max_length
    return ModelConfig(self_attention=kind, **settings)  # type: ignore[arg-type]


def make_module(kind: str = "dot_product", *, dropout: float = 0.0) -> Any:
    """Return a module in evaluation mode, with biases that are not zero."""
    config = make_config(kind, d_model=D_MODEL, num_heads=NUM_HEADS, attention_dropout=dropout)
    torch.manual_seed(1)
    module = ATTENTION_KINDS[kind](config)
    assert isinstance(module, nn.Module)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module.eval()


def make_inputs() -> tuple[Tensor, Tensor]:
    """Return x (ROWS, QUERY_LENGTH, D_MODEL) and memory (ROWS, KEY_LENGTH, D_MODEL)."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(ROWS, QUERY_LENGTH, D_MODEL, generator=generator)
    memory = torch.randn(ROWS, KEY_LENGTH, D_MODEL, generator=generator)
    return x, memory


def attend(module: Any, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
    """Return the module's output for keys at positions 0, 1, ..."""
    output: Tensor = module(x, module.keys_values(memory, POSITIONS), mask, POSITIONS)
    return output


def head_channels(head: int) -> slice:
    return slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)


def split_heads(x: Tensor) -> Tensor:
    """Reshape (rows, length, d_model) to (rows, heads, length, head_dim)."""
    return torch.stack(x.split(HEAD_DIM, dim=-1), dim=1)


def join_heads(x: Tensor) -> Tensor:
    """Reshape (rows, heads, length, head_dim) to (rows, length, d_model)."""
    return torch.cat(x.unbind(dim=1), dim=-1)


# Examples of three words, worked out by hand: d_model is 4, there is one head, the last channel of
# the words' values is 8, 4 and 20, and the second word must not attend to the third.

WORD_VALUES = torch.tensor([8.0, 4.0, 20.0])
EXAMPLE_MASK = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
EXAMPLE_POSITIONS = torch.arange(3)[None]


def make_zero_module(kind: str) -> Any:
    """Return a module with zero parameters, except for the output projection, the identity."""
    module: Any = ATTENTION_KINDS[kind](make_config(kind, max_length=3, d_model=4, num_heads=1))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.output.weight.copy_(torch.eye(4))
    return module.eval()


def assert_example(
    module: Any,
    x: Tensor,
    memory: Tensor,
    expected_weights: list[list[float]],
    expected_output: list[float],
) -> None:
    """Check the weights, and the last channel of the output, the only one with a value."""
    with torch.no_grad():
        kv = module.keys_values(memory, EXAMPLE_POSITIONS)
        weights = module.weights(x, kv, EXAMPLE_MASK, EXAMPLE_POSITIONS)[0, 0]
        output = module(x, kv, EXAMPLE_MASK, EXAMPLE_POSITIONS)[0]
    torch.testing.assert_close(weights, torch.tensor(expected_weights))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3))
    torch.testing.assert_close(output[:, 3], torch.tensor(expected_output))
    torch.testing.assert_close(output[:, 3], weights @ WORD_VALUES)
    assert not output[:, :3].any()


def test_dot_product_example() -> None:
    """Queries are 2 e_i and head_dim is 4, so the score of query i and key j is

        2 * key_j[i] / sqrt(4) = key_j[i]

    The keys are logarithms of small integers, so the softmax divides each integer by its row's sum:

        1 1 2  ->  1/4 1/4 1/2    8/4 + 4/4 + 20/2 = 13
        3 1 9  ->  3/4 1/4 -      24/4 + 4/4       = 7      (the 9 is masked)
        1 4 5  ->  .1  .4  .5     .8 + 1.6 + 10    = 12.4
    """
    integers = torch.tensor([[1.0, 1.0, 2.0], [3.0, 1.0, 9.0], [1.0, 4.0, 5.0]])
    x = 2.0 * torch.eye(3, 4)[None]  # (1, 3, 4)
    memory = torch.cat((integers.log().t(), WORD_VALUES[:, None]), dim=1)[None]  # (1, 3, 4)
    module = make_zero_module("dot_product")
    with torch.no_grad():
        module.query.weight.copy_(torch.eye(4))
        # The first three channels of the memory are keys, the last one is the value.
        module.key_value.weight[:3, :3] = torch.eye(3)
        module.key_value.weight[7, 3] = 1.0
    weights = [[1 / 4, 1 / 4, 1 / 2], [3 / 4, 1 / 4, 0], [0.1, 0.4, 0.5]]
    assert_example(module, x, memory, weights, [13.0, 7.0, 12.4])


def test_additive_example() -> None:
    """One channel scores: v tanh(q + k).

    tanh(ln(2) / 2) = (2 - 1) / (2 + 1) = 1/3 and tanh(ln 2) = (4 - 1) / (4 + 1) = 3/5. With v = 15
    ln 2, a sum q + k of 0, +-ln(2)/2 and +-ln 2 scores 0, +-5 ln 2 and +-9 ln 2, for which softmax
    has the terms 1, 2^+-5 and 2^+-9.

        q + k in halves of ln 2:   0 -1 -2  ->  2^0  2^-5 2^-9
                                   1  0 -1  ->  2^5  2^0  -      (masked)
                                   2  1  0  ->  2^9  2^5  2^0
    """
    half = math.log(2) / 2
    x = torch.zeros(1, 3, 4)
    x[0, :, 0] = torch.tensor([0.0, half, 2 * half])  # queries
    memory = torch.zeros(1, 3, 4)
    memory[0, :, 0] = torch.tensor([0.0, -half, -2 * half])  # keys
    memory[0, :, 3] = WORD_VALUES
    module = make_zero_module("additive")
    with torch.no_grad():
        module.query.weight[0, 0] = 1.0
        module.key_value.weight[0, 0] = 1.0
        module.key_value.weight[7, 3] = 1.0
        module.score[0, 0] = 15 * math.log(2)
    sum_0 = 1 + 1 / 32 + 1 / 512
    sum_1 = 32 + 1
    sum_2 = 512 + 32 + 1
    weights = [
        [1 / sum_0, 1 / 32 / sum_0, 1 / 512 / sum_0],
        [32 / sum_1, 1 / sum_1, 0],
        [512 / sum_2, 32 / sum_2, 1 / sum_2],
    ]
    output = [
        (8 + 4 / 32 + 20 / 512) / sum_0,
        (8 * 32 + 4) / sum_1,
        (8 * 512 + 4 * 32 + 20) / sum_2,
    ]
    assert_example(module, x, memory, weights, output)


def test_dense_synthesizer_example() -> None:
    """PE at position p is (sin p, sin(p/100), cos p, cos(p/100)).

    Each word holds the logarithms of its weights for the three positions. The fourth hidden channel
    comes from the word's own position: ReLU((cos p - cos 1) / (1 - cos 1)) is 1 at position 0, 0 at
    1 and, cut off, 0 at 2. At position 0 it triples the weight of the last position. The ReLU also
    cuts ln(1/2) to 0, so that 1/2 becomes 1.

        word has 1 1/2 2  ->  1 1 2, tripled  ->  1 1 6  ->  1/8 1/8 6/8    (8 + 4 + 120) / 8 = 16.5
        word has 3  1  9                      ->  3 1 -  ->  3/4 1/4 -      6 + 1 = 7     (masked)
        word has 1  4  5                      ->  1 4 5  ->  .1  .4  .5     .8 + 1.6 + 10 = 12.4

    A value is the last channel of word plus PE, so the words hold 8 - cos 0, 4 - cos(1/100) and
    20 - cos(2/100).
    """
    integers = torch.tensor([[1.0, 0.5, 2.0], [3.0, 1.0, 9.0], [1.0, 4.0, 5.0]])
    values = WORD_VALUES - (torch.arange(3.0) / 100).cos()
    words = torch.cat((integers.log(), values[:, None]), dim=1)[None]  # (1, 3, 4)
    module = make_zero_module("dense_synthesizer")
    with torch.no_grad():
        module.word.weight[:3, :3] = torch.eye(3)
        module.position.weight[3, 2] = 1 / (1 - math.cos(1))
        module.word.bias[3] = -math.cos(1) / (1 - math.cos(1))
        module.score.weight[:3, :3] = torch.eye(3)
        module.score.weight[2, 3] = math.log(3)
        module.value.weight[3, 3] = 1.0
    weights = [[1 / 8, 1 / 8, 6 / 8], [3 / 4, 1 / 4, 0], [0.1, 0.4, 0.5]]
    assert_example(module, words, words, weights, [16.5, 7.0, 12.4])


# Weights and output


@EVERY_KIND
@EVERY_MASK
def test_weights_sum_to_one_over_allowed_keys(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    x, memory = make_inputs()
    weights = module.weights(x, module.keys_values(memory, POSITIONS), mask, POSITIONS)
    assert weights.shape == (ROWS, NUM_HEADS, QUERY_LENGTH, KEY_LENGTH)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(ROWS, NUM_HEADS, QUERY_LENGTH))
    may_attend = mask.expand(weights.shape)
    assert (weights[may_attend] > 0).all()
    assert (weights[~may_attend] == 0).all()


@EVERY_KIND
@EVERY_MASK
def test_output_is_projected_weighted_sum_of_values(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    x, memory = make_inputs()
    kv = module.keys_values(memory, POSITIONS)
    context = module.weights(x, kv, mask, POSITIONS) @ kv.values
    expected = module.output(join_heads(context))
    torch.testing.assert_close(attend(module, x, memory, mask), expected, atol=1e-5, rtol=1e-5)


# The formula of each kind computed slowly: plain numbers in loops, one head and one pair of
# positions at a time.

Vector = list[float]


def slow_linear(layer: nn.Linear, x: Vector) -> Vector:
    rows = layer.weight.tolist()
    biases = [0.0] * len(rows) if layer.bias is None else layer.bias.tolist()
    output = []
    for row, bias in zip(rows, biases, strict=True):
        products = [weight * value for weight, value in zip(row, x, strict=True)]
        output.append(bias + sum(products))
    return output


def slow_position_encoding(position: int) -> Vector:
    angles = [position / 10000 ** (2 * i / D_MODEL) for i in range(D_MODEL // 2)]
    return [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]


def slow_score(
    module: Any, x: Vector, memory: list[Vector], *, head: int, query: int, key: int
) -> float:
    """Return the score of the word `x` at position `query` for the key at position `key`."""
    channels = head_channels(head)
    if isinstance(module, DenseSynthesizerAttention):
        word = slow_linear(module.word, x)
        position = slow_linear(module.position, slow_position_encoding(query))
        hidden = [max(0.0, w + p) for w, p in zip(word, position, strict=True)]
        return slow_linear(module.score, hidden)[head * KEY_LENGTH + key]
    query_channels = slow_linear(module.query, x)[channels]
    key_channels = slow_linear(module.key_value, memory[key])[channels]
    pairs = list(zip(query_channels, key_channels, strict=True))
    if isinstance(module, DotProductAttention):
        return sum(q * k for q, k in pairs) / math.sqrt(HEAD_DIM)
    assert isinstance(module, AdditiveAttention)
    tanhs = [math.tanh(q + k) for q, k in pairs]
    return sum(v * tanh for v, tanh in zip(module.score[head].tolist(), tanhs, strict=True))


def slow_value(module: Any, memory: list[Vector], key: int) -> Vector:
    """Return the value (d_model) of the key at position `key`."""
    if isinstance(module, DenseSynthesizerAttention):
        position = slow_position_encoding(key)
        return slow_linear(
            module.value, [m + p for m, p in zip(memory[key], position, strict=True)]
        )
    return slow_linear(module.key_value, memory[key])[D_MODEL:]


def slow_attention(
    module: Any, x: Vector, memory: list[Vector], *, query: int, may_attend: list[bool]
) -> Vector:
    """Return the output for the word `x` at position `query`."""
    keys = [key for key in range(len(memory)) if may_attend[key]]
    context = []
    for head in range(NUM_HEADS):
        exponentials = []
        values = []
        for key in keys:
            score = slow_score(module, x, memory, head=head, query=query, key=key)
            exponentials.append(math.exp(score))
            values.append(slow_value(module, memory, key)[head_channels(head)])
        for channel in range(HEAD_DIM):
            weighted_sum = 0.0
            for exponential, value in zip(exponentials, values, strict=True):
                weighted_sum += exponential * value[channel]
            context.append(weighted_sum / sum(exponentials))
    return slow_linear(module.output, context)


@EVERY_KIND
@EVERY_MASK
def test_equals_slow_loops_over_the_formula(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    x, memory = make_inputs()
    output = attend(module, x, memory, mask)
    may_attend = mask.expand(ROWS, 1, QUERY_LENGTH, KEY_LENGTH)[:, 0].tolist()
    first_query = KEY_LENGTH - QUERY_LENGTH  # the queries are the last of the keys
    for row, query in product(range(ROWS), range(QUERY_LENGTH)):
        expected = slow_attention(
            module,
            x[row, query].tolist(),
            memory[row].tolist(),
            query=first_query + query,
            may_attend=may_attend[row][query],
        )
        torch.testing.assert_close(output[row, query], torch.tensor(expected), atol=1e-4, rtol=1e-4)


# Dot-product attention


@EVERY_MASK
def test_dot_product_equals_pytorch(mask: Tensor) -> None:
    module = make_module()
    x, memory = make_inputs()
    keys, values = module.key_value(memory).split(D_MODEL, dim=-1)
    context = F.scaled_dot_product_attention(
        split_heads(module.query(x)),
        split_heads(keys),
        split_heads(values),
        mask.expand(ROWS, 1, QUERY_LENGTH, KEY_LENGTH),
    )
    expected = module.output(join_heads(context))
    torch.testing.assert_close(attend(module, x, memory, mask), expected, atol=1e-5, rtol=1e-5)


def test_each_head_uses_its_own_channels() -> None:
    module = make_module()
    x, memory = make_inputs()
    queries = module.query(x)
    keys, _ = module.key_value(memory).split(D_MODEL, dim=-1)
    weights = module.weights(x, module.keys_values(memory, POSITIONS), FULL, POSITIONS)
    for head in range(NUM_HEADS):
        channels = head_channels(head)
        scores = torch.einsum("rqc,rkc->rqk", queries[..., channels], keys[..., channels])
        expected = (scores / math.sqrt(HEAD_DIM)).softmax(dim=-1)
        torch.testing.assert_close(weights[:, head], expected)


def test_dot_product_does_not_depend_on_key_order() -> None:
    module = make_module()
    x, memory = make_inputs()
    order = torch.tensor([3, 1, 4, 0, 2])
    mask = PADDING & CAUSAL
    shuffled = attend(module, x, memory[:, order], mask[..., order])
    torch.testing.assert_close(shuffled, attend(module, x, memory, mask))


# Masks, dropout and positions


@EVERY_KIND
def test_masked_keys_do_not_matter(kind: str) -> None:
    module = make_module(kind)
    x, memory = make_inputs()
    is_token = PADDING[:, 0, 0, :, None]
    other_memory = torch.where(is_token, memory, 100.0)
    masked = attend(module, x, other_memory, PADDING)
    torch.testing.assert_close(masked, attend(module, x, memory, PADDING))
    assert not torch.allclose(attend(module, x, other_memory, FULL), masked)


def test_dropout_acts_in_training_but_not_on_weights() -> None:
    module = make_module(dropout=0.5)
    x, memory = make_inputs()
    kv = module.keys_values(memory, POSITIONS)
    output = attend(module, x, memory, FULL)
    weights = module.weights(x, kv, FULL, POSITIONS)
    assert torch.equal(output, attend(make_module(dropout=0.0), x, memory, FULL))
    module.train()
    assert not torch.allclose(attend(module, x, memory, FULL), output)
    assert torch.equal(module.weights(x, kv, FULL, POSITIONS), weights)


@EVERY_KIND
def test_queries_are_the_last_of_the_keys(kind: str) -> None:
    module = make_module(kind)
    _, memory = make_inputs()
    all_queries = attend(module, memory, memory, FULL)
    last_queries = attend(module, memory[:, 2:], memory, FULL)
    torch.testing.assert_close(last_queries, all_queries[:, 2:])


@EVERY_KIND
def test_keys_may_be_reordered_with_their_positions(kind: str) -> None:
    module = make_module(kind)
    x, memory = make_inputs()
    last_query = x[:, -1:]
    # The last key stays in place, as it is the query.
    orders = torch.tensor([[2, 0, 3, 1, 4], [0, 1, 2, 3, 4], [3, 2, 1, 0, 4]])
    rows = torch.arange(ROWS)[:, None]
    shuffled_kv = module.keys_values(memory[rows, orders], orders)
    shuffled_mask = PADDING[:, 0, 0][rows, orders][:, None, None]
    shuffled = module(last_query, shuffled_kv, shuffled_mask, orders)
    torch.testing.assert_close(shuffled, attend(module, last_query, memory, PADDING))


def test_synthesizer_weights_depend_on_position_not_keys() -> None:
    module = make_module("dense_synthesizer")
    x, memory = make_inputs()
    kv = module.keys_values(memory, POSITIONS)
    other_kv = module.keys_values(memory.flip(1), POSITIONS)
    assert kv.keys.numel() == 0
    weights = module.weights(x, kv, FULL, POSITIONS)
    assert torch.equal(module.weights(x, other_kv, FULL, POSITIONS), weights)
    assert not torch.allclose(module.weights(x, kv, FULL, POSITIONS.flip(1)), weights)


def test_synthesizer_values_depend_on_position() -> None:
    module = make_module("dense_synthesizer")
    _, memory = make_inputs()
    values = module.keys_values(memory, POSITIONS).values
    assert not torch.allclose(module.keys_values(memory, POSITIONS.flip(1)).values, values)


def test_synthesizer_refuses_positions_beyond_its_last() -> None:
    module = make_module("dense_synthesizer")
    x, memory = make_inputs()
    kv = module.keys_values(memory, POSITIONS)
    with pytest.raises(RuntimeError, match="out of bounds"):
        module(x, kv, FULL, POSITIONS + 1)


# Precision, config and devices


@EVERY_KIND
@EVERY_MASK
def test_bf16_stays_close_and_finite(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, memory = make_inputs()
    x.requires_grad_()
    expected = attend(module, x, memory, mask)
    output = attend(module, x.bfloat16(), memory.bfloat16(), mask)
    assert output.dtype is torch.bfloat16
    torch.testing.assert_close(output.float(), expected, atol=0.05, rtol=0.05)
    output.float().sum().backward()
    for tensor in (x, *module.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("key", ["self_attention", "cross_attention"])
def test_config_names_the_existing_kinds(key: str) -> None:
    assert set(get_args(ModelConfig.model_fields[key].annotation)) == set(ATTENTION_KINDS)


@pytest.mark.gpu
@EVERY_KIND
@EVERY_MASK
def test_gpu_equals_cpu(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    x, memory = make_inputs()
    expected = attend(module, x, memory, mask)
    module.cuda()
    positions = POSITIONS.cuda()
    kv = module.keys_values(memory.cuda(), positions)
    output = module(x.cuda(), kv, mask.cuda(), positions)
    torch.testing.assert_close(output.cpu(), expected, atol=1e-4, rtol=1e-4)
