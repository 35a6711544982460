"""Attention weights of a model: hooks record the inputs, from which `Attention` computes them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from mt.errors import TrainingError
from mt.model.attention import Attention
from mt.model.transformer import Transformer

CallArguments = tuple[Any, ...]  # the positional arguments of one call


class AttentionWeights(NamedTuple):
    """Attention weights of one sentence pair, one tensor for each layer, float32 on the CPU.

    In the decoder, query i is the position that reads tgt_in[i] and so predicts the token after it.
    """

    encoder: tuple[Tensor, ...]  # (num_heads, src_length, src_length)
    decoder: tuple[Tensor, ...]  # (num_heads, tgt_length, tgt_length), zero above the diagonal
    cross: tuple[Tensor, ...]  # (num_heads, tgt_length, src_length)


@contextmanager
def recorded_calls(modules: Sequence[nn.Module]) -> Iterator[list[list[CallArguments]]]:
    """Record the positional arguments of every call of some modules inside the `with` block.

    Yields a list for each module, with the arguments of its calls in their order.
    """
    calls: list[list[CallArguments]] = [[] for _ in modules]

    def record(calls_of_module: list[CallArguments], _: nn.Module, arguments: Any) -> None:
        calls_of_module.append(arguments)

    hooks = [
        module.register_forward_pre_hook(partial(record, calls_of_module))
        for module, calls_of_module in zip(modules, calls, strict=True)
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def attention_weights(
    model: Transformer, src: Sequence[int], tgt_in: Sequence[int]
) -> AttentionWeights:
    """Return all attention weights of one pair of token id sequences.

    They come from one forward pass with the target given (teacher forcing).
    """
    encoder = [layer.get_submodule("attention") for layer in model.encoder_layers]
    decoder = [layer.get_submodule("self_attention") for layer in model.decoder_layers]
    cross = [layer.get_submodule("cross_attention") for layer in model.decoder_layers]
    device = model.output_weight.device
    src_batch = torch.tensor([src], device=device)
    tgt_batch = torch.tensor([tgt_in], device=device)
    batch_weights = _record_weights(model, [*encoder, *decoder, *cross], src_batch, tgt_batch)

    weights = [batch[0] for batch in batch_weights]
    decoder_start = len(encoder)
    cross_start = decoder_start + len(decoder)
    return AttentionWeights(
        encoder=tuple(weights[:decoder_start]),
        decoder=tuple(weights[decoder_start:cross_start]),
        cross=tuple(weights[cross_start:]),
    )


def cross_attention(model: Transformer, src: Tensor, tgt_in: Tensor, *, layer: int) -> Tensor:
    """Return the cross-attention weights of one decoder layer, counted from 0, for a padded batch.

    They are (batch, num_heads, tgt_length, src_length).
    """
    module = model.decoder_layers[layer].get_submodule("cross_attention")
    (weights,) = _record_weights(model, [module], src, tgt_in)
    return weights


@torch.inference_mode()
def _record_weights(
    model: Transformer, modules: Sequence[nn.Module], src: Tensor, tgt_in: Tensor
) -> list[Tensor]:
    """Return the weights of each attention module for one forward pass.

    Each is (batch, num_heads, query_length, key_length), float32 on the CPU. Raises TrainingError
    when some are not finite.
    """
    assert not model.training, "dropout would change the input of the later layers"
    with recorded_calls(modules) as calls:
        model(src, tgt_in)
    weights = []
    for module, module_calls in zip(modules, calls, strict=True):
        (arguments,) = module_calls
        attention = cast(Attention, module)
        weights.append(attention.weights(*arguments).float().cpu())
    if not all(tensor.isfinite().all() for tensor in weights):
        raise TrainingError(
            "the model's attention weights are not finite: its training diverged "
            "(choose another checkpoint)"
        )
    return weights
