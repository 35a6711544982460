"""Feed-forward layer of the Transformer."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mt.config.schema import ModelConfig
from mt.kernels.feed_forward import feed_forward
from mt.model.layers import Dropout, Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


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
