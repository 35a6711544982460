"""Feed-forward layers of the Transformer, with and without a gate."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.kernels.feed_forward import feed_forward
from mt.model.layers import Dropout, Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}
GATED_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu}


class FeedForward(nn.Module):
    """Two linear layers applied to each position separately (Vaswani et al. 2017, section 3.3).

    With W_1 and b_1 the parameters of `inner`, and W_2 and b_2 those of `outer`:

        W_2 dropout(activation(W_1 x + b_1)) + b_2
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.inner = Linear(config.d_model, config.d_ff)
        self.outer = Linear(config.d_ff, config.d_model)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return feed_forward(
            x,
            self.inner.weight,
            self.inner.bias,
            self.outer.weight,
            self.outer.bias,
            activation=self.activation,
            dropout=self.dropout.rate,
        )


class GatedFeedForward(nn.Module):
    """Feed-forward layer in which a second inner layer is a gate (Shazeer 2020).

    With V and c the parameters of `gate`, and the others as in `FeedForward`:

        W_2 dropout(activation(V x + c) * (W_1 x + b_1)) + b_2

    In SwiGLU, the activation is x * sigmoid(x). The paper has no biases.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Linear(config.d_model, config.d_ff)
        self.inner = Linear(config.d_model, config.d_ff)
        self.outer = Linear(config.d_ff, config.d_model)
        self.activation = GATED_ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.gate(x)) * self.inner(x)  # (rows, length, d_ff)
        output: Tensor = self.outer(self.dropout(hidden))
        return output


def build_feed_forward(config: ModelConfig) -> FeedForward | GatedFeedForward:
    """Return the layer for `model.activation`."""
    if config.activation in GATED_ACTIVATIONS:
        return GatedFeedForward(config)
    return FeedForward(config)
