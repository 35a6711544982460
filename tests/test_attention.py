"""Attention is a weighted sum of values, its weights worked out by hand, by PyTorch and by the module alike."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mt.config import ModelConfig
from mt.model.attention import KINDS, DotProductAttention, KeysValues

ROWS, QUERY_LENGTH, KEY_LENGTH, D_MODEL, HEADS = 3, 4, 5, 16, 4
EVERYTHING = torch.ones(1, 1, dtype=torch.bool)
CAUSAL = torch.ones(QUERY_LENGTH, KEY_LENGTH, dtype=torch.bool).tril(1)
PADDED = (torch.arange(KEY_LENGTH) < torch.tensor([[5], [3], [1]]))[:, None, None, :]  # a source's mask
MASKS = [
    pytest.param(EVERYTHING, id="everything"),
    pytest.param(CAUSAL, id="causal"),
    pytest.param(PADDED, id="padded"),
    pytest.param(CAUSAL & PADDED, id="both"),
]


def make_module(kind: str = "dot_product", *, dropout: float = 0.0) -> DotProductAttention:
    """In evaluation mode, with biases that are not zero."""
    torch.manual_seed(1)
    module = KINDS[kind](D_MODEL, HEADS, dropout=dropout)
    assert isinstance(module, DotProductAttention)
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


def test_three_words_attend_as_worked_out_with_a_pencil() -> None:
    """Queries are 2 e_i and head_dim is 4, so query i meets key j with 2 * key_j[i] / sqrt(4) = key_j[i].

    The keys are logarithms of small integers, so the softmax divides each integer by the sum of its row. The last
    channel of each word holds its value: 8, 4 and 20.
    """
    integers = torch.tensor([[1.0, 1.0, 2.0], [3.0, 1.0, 9.0], [1.0, 4.0, 5.0]])
    memory = torch.cat((integers.log().t(), torch.tensor([[8.0], [4.0], [20.0]])), dim=1)[None]  # (1, 3, 4)
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])  # the 9 is out of sight
    module = DotProductAttention(4, 1, dropout=0.0).eval()
    with torch.no_grad():
        for linear in (module.query, module.key_value, module.output):
            linear.weight.zero_()
            linear.bias.zero_()
        module.query.weight.copy_(torch.eye(4))
        module.key_value.weight[:3, :3] = torch.eye(3)  # keys are the first three channels,
        module.key_value.weight[4, 3] = 1.0  # values the last one
        module.output.weight.copy_(torch.eye(4))
        kv = module.keys_values(memory, 0)
        x = 2.0 * torch.eye(3, 4)[None]
        weights = module.weights(x, kv, mask, 0)[0, 0]
        output = module(x, kv, mask, 0)[0]
    torch.testing.assert_close(weights, torch.tensor([[1 / 4, 1 / 4, 1 / 2], [3 / 4, 1 / 4, 0], [0.1, 0.4, 0.5]]))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3))
    torch.testing.assert_close(output[:, 0], torch.tensor([2.0 + 1.0 + 10.0, 6.0 + 1.0, 0.8 + 1.6 + 10.0]))
    assert not output[:, 1:].any(), "the other channels have no value"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_weights_sum_to_one_over_what_the_mask_lets_them_see(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    weights = module.weights(x, module.keys_values(memory, 0), mask, 0)
    assert weights.shape == (ROWS, HEADS, QUERY_LENGTH, KEY_LENGTH)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(ROWS, HEADS, QUERY_LENGTH))
    may_attend = mask.expand(weights.shape)
    assert (weights[may_attend] > 0).all()
    assert (weights[~may_attend] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_the_output_is_the_projected_weighted_sum_of_the_values(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    kv = module.keys_values(memory, 0)
    mixed = module.weights(x, kv, mask, 0) @ kv.values  # (rows, heads, query_length, head_dim)
    expected = module.output(torch.cat(mixed.unbind(dim=1), dim=-1))
    torch.testing.assert_close(module(x, kv, mask, 0), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask", MASKS)
def test_dot_product_attention_is_that_of_pytorch(mask: Tensor) -> None:
    module = make_module()
    x, memory = queries_and_memory()
    keys, values = module.key_value(memory).split(D_MODEL, dim=-1)
    mixed = F.scaled_dot_product_attention(
        in_heads(module.query(x)), in_heads(keys), in_heads(values), mask.expand(ROWS, 1, QUERY_LENGTH, KEY_LENGTH)
    )
    expected = module.output(torch.cat(mixed.unbind(dim=1), dim=-1))
    torch.testing.assert_close(module(x, module.keys_values(memory, 0), mask, 0), expected, atol=1e-5, rtol=1e-5)


def test_each_head_attends_with_its_own_channels() -> None:
    module = make_module()
    x, memory = queries_and_memory()
    keys, _ = module.key_value(memory).split(D_MODEL, dim=-1)
    weights = module.weights(x, module.keys_values(memory, 0), EVERYTHING, 0)
    head_dim = D_MODEL // HEADS
    for head in range(HEADS):
        channels = slice(head * head_dim, (head + 1) * head_dim)
        scores = torch.einsum("rqc,rkc->rqk", module.query(x)[..., channels], keys[..., channels])
        torch.testing.assert_close(weights[:, head], (scores / math.sqrt(head_dim)).softmax(dim=-1))


@pytest.mark.parametrize("kind", KINDS)
def test_true_means_may_attend_so_what_is_false_can_be_anything(kind: str) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    other = torch.where(PADDED[:, 0, 0, :, None], memory, 100.0)
    same = module(x, module.keys_values(other, 0), PADDED, 0)
    torch.testing.assert_close(same, module(x, module.keys_values(memory, 0), PADDED, 0))
    assert not torch.allclose(module(x, module.keys_values(other, 0), EVERYTHING, 0), same)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pieces", [[5], [1, 4], [2, 2, 1], [1, 1, 1, 1, 1]])
def test_cached_keys_with_the_new_ones_appended_are_all_keys(kind: str, pieces: list[int]) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    whole = module.keys_values(memory, 0)
    kv, start = module.keys_values(memory[:, :0], 0), 0
    for piece in memory.split(pieces, dim=1):
        kv = kv.append(module.keys_values(piece, start))
        start += piece.size(1)
        assert kv.keys.size(2) == kv.values.size(2) == start
    torch.testing.assert_close(kv.keys, whole.keys)
    torch.testing.assert_close(kv.values, whole.values)
    torch.testing.assert_close(module(x, kv, CAUSAL, 0), module(x, whole, CAUSAL, 0))


def test_appending_and_selecting_leave_the_old_value_as_it_was() -> None:
    kv = KeysValues(*torch.randn(2, ROWS, HEADS, KEY_LENGTH, 2).unbind())
    before = [tensor.clone() for tensor in kv]
    longer = kv.append(kv)
    chosen = kv.select(torch.tensor([2, 0, 0, 2]))
    for tensor in (*longer, *chosen):
        tensor.zero_()
    for tensor, copy in zip(kv, before, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("kind", KINDS)
def test_selected_rows_attend_as_they_did(kind: str) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    kv = module.keys_values(memory, 0)
    rows = torch.tensor([2, 0, 0])
    output = module(x[rows], kv.select(rows), PADDED[rows], 0)
    torch.testing.assert_close(output, module(x, kv, PADDED, 0)[rows])


def test_the_order_of_what_is_attended_to_does_not_matter_to_dot_products() -> None:
    module = make_module()
    x, memory = queries_and_memory()
    order = torch.tensor([3, 1, 4, 0, 2])
    mask = PADDED & CAUSAL
    shuffled = module(x, module.keys_values(memory[:, order], 0), mask[..., order], 0)
    torch.testing.assert_close(shuffled, module(x, module.keys_values(memory, 0), mask, 0))


def test_dropout_falls_on_the_weights_in_training_alone_and_never_on_those_shown() -> None:
    module = make_module(dropout=0.5)
    x, memory = queries_and_memory()
    kv = module.keys_values(memory, 0)
    calm, shown = module(x, kv, EVERYTHING, 0), module.weights(x, kv, EVERYTHING, 0)
    assert torch.equal(calm, make_module(dropout=0.0)(x, kv, EVERYTHING, 0))
    module.train()
    assert not torch.allclose(module(x, kv, EVERYTHING, 0), calm)
    assert torch.equal(module.weights(x, kv, EVERYTHING, 0), shown)


@pytest.mark.parametrize("key", ["self_attention", "cross_attention"])
def test_every_kind_that_a_config_may_name_exists(key: str) -> None:
    assert set(get_args(ModelConfig.model_fields[key].annotation)) <= set(KINDS)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_the_fused_kernel_of_a_gpu_gives_what_the_cpu_gives(kind: str, mask: Tensor) -> None:
    module = make_module(kind)
    x, memory = queries_and_memory()
    expected = module(x, module.keys_values(memory, 0), mask, 0)
    module.cuda()
    output = module(x.cuda(), module.keys_values(memory.cuda(), 0), mask.cuda(), 0)
    torch.testing.assert_close(output.cpu(), expected, atol=1e-4, rtol=1e-4)
