"""What is recorded is what the model does: the weights, times the values, are what each attention gave."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.model.attention import ATTENTION_KINDS
from mt.model.recording import AttentionWeights, Recording, attention_weights
from mt.model.transformer import Transformer

VOCAB_SIZE, NUM_HEADS, NUM_ENCODER_LAYERS, NUM_DECODER_LAYERS = 19, 4, 3, 2
SRC, TGT_IN = [5, 9, 4, 4, 17, 3], [2, 7, 8, 11]
PAIRS_OF_KINDS = [
    pair for pair in product(ATTENTION_KINDS, ATTENTION_KINDS) if pair[1] != "dense_synthesizer"
]


def make_model(kinds: tuple[str, str] = ("dot_product", "dot_product")) -> Transformer:
    """In evaluation mode, with weights so large that it looks at some words much more than at others."""
    settings: dict[str, Any] = {"max_length": 8} if "dense_synthesizer" in kinds else {}
    shape = {"num_encoder_layers": NUM_ENCODER_LAYERS, "num_decoder_layers": NUM_DECODER_LAYERS}
    config = ModelConfig(
        d_model=16,
        d_ff=24,
        num_heads=NUM_HEADS,
        self_attention=kinds[0],
        cross_attention=kinds[1],
        **shape,
        **settings,
    )
    torch.manual_seed(1)
    model = Transformer(config, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, pad_id=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def attentions(model: Transformer) -> dict[str, list[nn.Module]]:
    """The attention modules by kind and layer, found by their names alone."""
    named = dict(model.named_modules())
    return {
        "encoder": [named[f"encoder_layers.{i}.attention"] for i in range(NUM_ENCODER_LAYERS)],
        "decoder": [named[f"decoder_layers.{i}.self_attention"] for i in range(NUM_DECODER_LAYERS)],
        "cross": [named[f"decoder_layers.{i}.cross_attention"] for i in range(NUM_DECODER_LAYERS)],
    }


def all_of(weights: AttentionWeights) -> list[Tensor]:
    return [layer for kind in weights for layer in kind]


@pytest.mark.parametrize("kinds", PAIRS_OF_KINDS, ids="-".join)
def test_the_weights_times_the_values_are_what_the_module_gave(kinds: tuple[str, str]) -> None:
    model = make_model(kinds)
    modules = [module for kind in attentions(model).values() for module in kind]
    outputs: dict[nn.Module, Tensor] = {}
    for module in modules:
        module.register_forward_hook(lambda module, _, output: outputs.__setitem__(module, output))
    with Recording(modules) as calls:
        weights = attention_weights(model, SRC, TGT_IN)
    for module, made, found in zip(modules, calls, all_of(weights), strict=True):
        values = made[0][1].values  # (1, num_heads, key_length, head_dim)
        mixed = (found @ values[0]).transpose(0, 1).flatten(1)  # (query_length, d_model)
        torch.testing.assert_close(module.output(mixed), outputs[module][0], atol=1e-5, rtol=0.0)
        assert float(outputs[module].abs().max()) > 0.1, "nothing is equal to nothing"


@pytest.mark.parametrize("kinds", PAIRS_OF_KINDS, ids="-".join)
def test_every_layer_and_head_is_there_and_its_rows_add_up_to_one(kinds: tuple[str, str]) -> None:
    weights = attention_weights(make_model(kinds), SRC, TGT_IN)
    src, tgt = len(SRC), len(TGT_IN)
    assert [tuple(layer.shape) for layer in weights.encoder] == [
        (NUM_HEADS, src, src)
    ] * NUM_ENCODER_LAYERS
    assert [tuple(layer.shape) for layer in weights.decoder] == [
        (NUM_HEADS, tgt, tgt)
    ] * NUM_DECODER_LAYERS
    assert [tuple(layer.shape) for layer in weights.cross] == [
        (NUM_HEADS, tgt, src)
    ] * NUM_DECODER_LAYERS
    for layer in all_of(weights):
        torch.testing.assert_close(layer.sum(dim=-1), torch.ones(layer.shape[:-1]))
        assert float(layer.min()) >= 0.0
        assert float(layer.std()) > 0.01, "one that looks everywhere alike shows nothing"


def test_the_decoder_looks_at_no_later_word() -> None:
    for layer in attention_weights(make_model(), SRC, TGT_IN).decoder:
        assert not layer.triu(1).any()
        assert layer.tril().count_nonzero() == NUM_HEADS * len(TGT_IN) * (len(TGT_IN) + 1) / 2


def test_teacher_forcing_shows_what_a_search_would_see() -> None:
    model = make_model()
    cross = attentions(model)["cross"]
    with torch.inference_mode():
        cache = model.start(model.encode(torch.tensor([SRC])))
        with Recording(cross) as calls:
            for token_id in TGT_IN:  # one at a time
                _, cache = model.decode(torch.tensor([[token_id]]), cache)
        recorded = zip(cross, calls, strict=True)
        steps = [
            torch.cat([module.weights(*call)[0] for call in made], dim=1)
            for module, made in recorded
        ]
    for step_by_step, at_once in zip(
        steps, attention_weights(model, SRC, TGT_IN).cross, strict=True
    ):
        torch.testing.assert_close(at_once, step_by_step, atol=1e-5, rtol=0.0)


def test_recording_leaves_no_trace() -> None:
    model = make_model()
    ids = torch.tensor([SRC]), torch.tensor([TGT_IN])
    with torch.no_grad():
        before = model(*ids)
        attention_weights(model, SRC, TGT_IN)
        with suppress(InterruptedError), Recording(list(model.modules())) as calls:
            torch.testing.assert_close(model(*ids), before, atol=0.0, rtol=0.0)
            made = [len(each) for each in calls]
            raise InterruptedError
        model(*ids)
    assert [len(each) for each in calls] == made, "calls are kept after the context has ended"
    assert sum(made) > 0
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_with_dropout_on_is_not_recorded() -> None:
    with pytest.raises(AssertionError, match="dropout"):
        attention_weights(make_model().train(), SRC, TGT_IN)
