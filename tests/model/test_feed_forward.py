"""Tests of the feed-forward layer with a gate; test_transformer.py compares the other with PyTorch.

Layers are float64 here, so that equal results agree to ten digits.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.model.feed_forward import (
    ACTIVATIONS,
    GATED_ACTIVATIONS,
    GatedFeedForward,
    build_feed_forward,
)
from mt.model.transformer import Transformer

D_MODEL = 6
D_FF = 10


def make_layer(**settings: Any) -> GatedFeedForward:
    torch.manual_seed(1)
    config = ModelConfig(d_model=D_MODEL, d_ff=D_FF, num_heads=1, activation="swiglu", **settings)
    layer = build_feed_forward(config)
    assert isinstance(layer, GatedFeedForward)
    return layer.double()


def make_input() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 5, D_MODEL, generator=generator, dtype=torch.float64)
    return x.requires_grad_()


def swiglu(x: Tensor, layer: GatedFeedForward) -> Tensor:
    """Compute the formula of Shazeer (2020) with biases, from matrices."""
    gate_input = x @ layer.gate.weight.T + layer.gate.bias
    gate = gate_input / (1 + (-gate_input).exp())
    hidden = gate * (x @ layer.inner.weight.T + layer.inner.bias)
    return hidden @ layer.outer.weight.T + layer.outer.bias


def output_and_gradients(output: Tensor, x: Tensor, layer: nn.Module) -> list[Tensor]:
    weights = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).view_as(output)
    gradients = torch.autograd.grad(output, [x, *layer.parameters()], weights)
    return [output.detach(), *gradients]


def test_swiglu_equals_its_formula() -> None:
    layer = make_layer()
    x = make_input()
    actual = output_and_gradients(layer(x), x, layer)
    expected = output_and_gradients(swiglu(x, layer), x, layer)
    for actual_tensor, expected_tensor in zip(actual, expected, strict=True):
        torch.testing.assert_close(actual_tensor, expected_tensor, atol=1e-10, rtol=1e-10)


def test_dropout_acts_on_the_product_of_inner_layer_and_gate() -> None:
    """The outer layer is the identity, so an element of the output is dropped or doubled."""
    layer = make_layer(activation_dropout=0.5)
    layer.outer = nn.Identity()  # type: ignore[assignment]
    x = make_input()
    hidden = layer.eval()(x)
    dropped = layer.train()(x)
    is_dropped = dropped == 0
    assert 0.2 < float(is_dropped.double().mean()) < 0.8
    torch.testing.assert_close(dropped[~is_dropped], 2 * hidden[~is_dropped])


@pytest.mark.parametrize("name", ["gate", "inner"])
def test_gate_and_inner_layer_start_in_the_range_of_glorot(name: str) -> None:
    torch.manual_seed(1)
    model_layer = Transformer(
        ModelConfig(d_model=64, d_ff=128, num_heads=1, activation="swiglu"),
        src_vocab_size=9,
        tgt_vocab_size=9,
        pad_id=0,
    ).encoder_layers[0]
    weight = model_layer.get_submodule(f"feed_forward.{name}").get_parameter("weight")
    assert float(weight.detach().abs().max()) == pytest.approx((6 / (64 + 128)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("activation", ACTIVATIONS | GATED_ACTIVATIONS)
def test_number_of_weights_of_the_config_is_that_of_the_layer(activation: Any) -> None:
    config = ModelConfig(d_model=D_MODEL, d_ff=D_FF, num_heads=1, activation=activation)
    layer = build_feed_forward(config)
    matrices = [parameter for parameter in layer.parameters() if parameter.dim() == 2]
    num_weights = sum(matrix.numel() for matrix in matrices)
    assert config.num_feed_forward_weights == num_weights
