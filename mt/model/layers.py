"""Layers that the parts of the Transformer share."""

import torch
from torch import Tensor, nn

from mt.kernels.dropout import apply_dropout
from mt.kernels.linear import linear
from mt.kernels.rms_norm import rms_norm

# Added to the mean of squares in a norm. It is also PyTorch's default for LayerNorm.
NORM_EPSILON = 1e-5


class Linear(nn.Linear):
    """Linear layer that computes in the dtype of its input; its weights stay float32."""

    # Factor on the range of the initial weights, relative to that of Glorot and Bengio (2010).
    gain = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    """Norm that divides each vector by its root mean square (Zhang and Sennrich 2019).

    Unlike LayerNorm, it subtracts no mean and adds no bias.
    """

    def __init__(self, d_model: int, eps: float = NORM_EPSILON) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, epsilon=self.eps)


NORM_KINDS: dict[str, type[nn.LayerNorm | RMSNorm]] = {
    "layer_norm": nn.LayerNorm,
    "rms_norm": RMSNorm,
}


class Dropout(nn.Module):
    """Dropout layer: in training, zeroes elements with probability `p` and scales up the others."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def rate(self) -> float:
        """The probability that applies now: `p` in training mode, 0 in evaluation mode."""
        return self.p if self.training else 0.0

    def forward(self, x: Tensor) -> Tensor:
        return apply_dropout(x, self.rate)


def drop_tokens(x: Tensor, p: float) -> Tensor:
    """Set the embedding of each token to zero with probability `p`; `x` is (..., d_model).

    This is the token cutoff of Shen et al. (2020). The other embeddings are not scaled up: a model
    that translates sees embeddings of the same size.
    """
    is_kept = torch.rand(x.shape[:-1], device=x.device) >= p
    return x * is_kept[..., None]
