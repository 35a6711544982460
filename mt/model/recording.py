"""What each attention of a model looks at, recorded from outside: the model knows nothing of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mt.model.attention import Attention
from mt.model.transformer import Transformer

Call = tuple[Any, ...]  # positional arguments


class AttentionWeights(NamedTuple):
    """The weights of one sentence pair, layer by layer, each (num_heads, query_length, key_length), float32 on the CPU.

    In the decoder, query i is the position that reads tgt_in[i], and so writes the token after it.
    """

    encoder: tuple[Tensor, ...]  # (num_heads, src_length, src_length)
    decoder: tuple[Tensor, ...]  # (num_heads, tgt_length, tgt_length), nothing above the diagonal
    cross: tuple[Tensor, ...]  # (num_heads, tgt_length, src_length)


class Recording:
    """While it lasts (`with`), the positional arguments of every call of some modules are kept, in their order."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.calls: list[list[Call]] = [[] for _ in modules]
        self._modules = modules
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> list[list[Call]]:
        for module, made in zip(self._modules, self.calls, strict=True):
            self._hooks.append(
                module.register_forward_pre_hook(lambda _, given, made=made: made.append(given))
            )
        return self.calls

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def attention_weights(
    model: Transformer, src: Sequence[int], tgt_in: Sequence[int]
) -> AttentionWeights:
    """All attention weights of one pair of token ids, from one forward pass with the target given (teacher forcing)."""
    layers = {
        "encoder": [layer.get_submodule("attention") for layer in model.encoder_layers],
        "decoder": [layer.get_submodule("self_attention") for layer in model.decoder_layers],
        "cross": [layer.get_submodule("cross_attention") for layer in model.decoder_layers],
    }
    modules = [module for kind in layers.values() for module in kind]
    device = model.output_table.device
    pair = torch.tensor([src], device=device), torch.tensor([tgt_in], device=device)
    weights = iter(_recorded(model, modules, *pair))
    return AttentionWeights(
        **{kind: tuple(next(weights)[0] for _ in of) for kind, of in layers.items()}
    )


def cross_attention(model: Transformer, src: Tensor, tgt_in: Tensor, *, layer: int) -> Tensor:
    """(batch, num_heads, tgt_length, src_length) of one decoder layer, counted from 0, for a padded batch."""
    (weights,) = _recorded(
        model, [model.decoder_layers[layer].get_submodule("cross_attention")], src, tgt_in
    )
    return weights


@torch.inference_mode()
def _recorded(
    model: Transformer, modules: Sequence[nn.Module], src: Tensor, tgt_in: Tensor
) -> list[Tensor]:
    """The weights of each module, (batch, num_heads, query_length, key_length), float32 on the CPU."""
    assert not model.training, "dropout would change what the later layers look at"
    with Recording(modules) as calls:
        model(src, tgt_in)
    called = zip(modules, calls, strict=True)
    return [cast(Attention, module).weights(*call).float().cpu() for module, (call,) in called]
