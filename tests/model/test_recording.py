"""Tests of the recorded attention weights: they are the ones that the model used."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.errors import TrainingError
from mt.model.attention import ATTENTION_KINDS
from mt.model.recording import AttentionWeights, attention_weights, recorded_calls
from mt.model.transformer import Transformer

VOCAB_SIZE = 19
NUM_HEADS = 4
NUM_ENCODER_LAYERS = 3
NUM_DECODER_LAYERS = 2
SRC = [5, 9, 4, 4, 17, 3]
TGT_IN = [2, 7, 8, 11]

# (self_attention, cross_attention); dense_synthesizer is for self-attention only.
EVERY_PAIR_OF_KINDS = pytest.mark.parametrize(
    "kinds",
    [
        (self_kind, cross_kind)
        for self_kind, cross_kind in product(ATTENTION_KINDS, ATTENTION_KINDS)
        if cross_kind != "dense_synthesizer"
    ],
    ids="-".join,
)


def make_model(kinds: tuple[str, str] = ("dot_product", "dot_product")) -> Transformer:
    """Return a model in evaluation mode, with weights so large that attention is uneven."""
    self_kind, cross_kind = kinds
    config = ModelConfig(
        d_model=16,
        d_ff=24,
        num_heads=NUM_HEADS,
        num_encoder_layers=NUM_ENCODER_LAYERS,
        num_decoder_layers=NUM_DECODER_LAYERS,
        self_attention=self_kind,  # type: ignore[arg-type]
        cross_attention=cross_kind,  # type: ignore[arg-type]
        max_length=8 if self_kind == "dense_synthesizer" else None,
    )
    torch.manual_seed(1)
    model = Transformer(config, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, pad_id=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def attention_modules(model: Transformer) -> dict[str, list[nn.Module]]:
    """Return the attention modules by the fields of AttentionWeights, found by name."""
    modules = dict(model.named_modules())
    return {
        "encoder": [modules[f"encoder_layers.{i}.attention"] for i in range(NUM_ENCODER_LAYERS)],
        "decoder": [
            modules[f"decoder_layers.{i}.self_attention"] for i in range(NUM_DECODER_LAYERS)
        ],
        "cross": [
            modules[f"decoder_layers.{i}.cross_attention"] for i in range(NUM_DECODER_LAYERS)
        ],
    }


def flatten_weights(weights: AttentionWeights) -> list[Tensor]:
    return [*weights.encoder, *weights.decoder, *weights.cross]


@EVERY_PAIR_OF_KINDS
def test_weights_times_values_are_the_module_output(kinds: tuple[str, str]) -> None:
    model = make_model(kinds)
    by_field = attention_modules(model)
    modules: list[Any] = [*by_field["encoder"], *by_field["decoder"], *by_field["cross"]]
    outputs: dict[nn.Module, Tensor] = {}

    def record_output(module: nn.Module, _arguments: Any, output: Tensor) -> None:
        outputs[module] = output

    for module in modules:
        module.register_forward_hook(record_output)
    with recorded_calls(modules) as calls:
        weights = attention_weights(model, SRC, TGT_IN)

    for module, module_calls, layer_weights in zip(
        modules, calls, flatten_weights(weights), strict=True
    ):
        _, kv, *_ = module_calls[0]
        context = layer_weights @ kv.values[0]  # (num_heads, query_length, head_dim)
        expected = module.output(context.transpose(0, 1).flatten(1))
        torch.testing.assert_close(expected, outputs[module][0], atol=1e-5, rtol=0.0)
        assert float(outputs[module].abs().max()) > 0.1, "outputs near zero would all be equal"


@EVERY_PAIR_OF_KINDS
def test_all_layers_and_heads_are_recorded(kinds: tuple[str, str]) -> None:
    weights = attention_weights(make_model(kinds), SRC, TGT_IN)
    src_length = len(SRC)
    tgt_length = len(TGT_IN)
    assert len(weights.encoder) == NUM_ENCODER_LAYERS
    assert len(weights.decoder) == NUM_DECODER_LAYERS
    assert len(weights.cross) == NUM_DECODER_LAYERS
    for layer in weights.encoder:
        assert layer.shape == (NUM_HEADS, src_length, src_length)
    for layer in weights.decoder:
        assert layer.shape == (NUM_HEADS, tgt_length, tgt_length)
    for layer in weights.cross:
        assert layer.shape == (NUM_HEADS, tgt_length, src_length)


@EVERY_PAIR_OF_KINDS
def test_weights_of_a_query_sum_to_one(kinds: tuple[str, str]) -> None:
    for layer in flatten_weights(attention_weights(make_model(kinds), SRC, TGT_IN)):
        torch.testing.assert_close(layer.sum(dim=-1), torch.ones(layer.shape[:-1]))
        assert float(layer.min()) >= 0.0
        assert float(layer.std()) > 0.01, "uniform weights would show nothing"


def test_decoder_does_not_attend_to_later_tokens() -> None:
    num_allowed = NUM_HEADS * len(TGT_IN) * (len(TGT_IN) + 1) // 2
    for layer in attention_weights(make_model(), SRC, TGT_IN).decoder:
        assert not layer.triu(1).any()
        assert layer.tril().count_nonzero() == num_allowed


def test_weights_equal_those_of_incremental_decoding() -> None:
    model = make_model()
    modules: list[Any] = attention_modules(model)["cross"]
    with torch.inference_mode():
        cache = model.start(model.encode(torch.tensor([SRC])))
        with recorded_calls(modules) as calls:
            for token_id in TGT_IN:
                model.decode(torch.tensor([[token_id]]), cache)
        incremental = []
        for module, module_calls in zip(modules, calls, strict=True):
            steps = [module.weights(*arguments)[0] for arguments in module_calls]
            incremental.append(torch.cat(steps, dim=1))
    at_once = attention_weights(model, SRC, TGT_IN).cross
    for layer, incremental_layer in zip(at_once, incremental, strict=True):
        torch.testing.assert_close(layer, incremental_layer, atol=1e-5, rtol=0.0)


def test_recording_removes_its_hooks() -> None:
    model = make_model()
    src = torch.tensor([SRC])
    tgt_in = torch.tensor([TGT_IN])
    with torch.no_grad():
        before = model(src, tgt_in)
        attention_weights(model, SRC, TGT_IN)
        with suppress(InterruptedError), recorded_calls(list(model.modules())) as calls:
            assert torch.equal(model(src, tgt_in), before)
            num_calls = [len(module_calls) for module_calls in calls]
            raise InterruptedError
        model(src, tgt_in)
    assert sum(num_calls) > 0
    assert [len(module_calls) for module_calls in calls] == num_calls, "recorded after the end"
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_model_in_training_mode_is_refused() -> None:
    with pytest.raises(AssertionError, match="dropout"):
        attention_weights(make_model().train(), SRC, TGT_IN)


def test_weights_that_are_not_finite_are_an_error() -> None:
    model = make_model()
    for parameter in model.parameters():
        parameter.data.mul_(1e30)  # finite, but the products overflow
    with pytest.raises(TrainingError, match="not finite"):
        attention_weights(model, SRC, TGT_IN)
