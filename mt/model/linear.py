"""A linear layer that a CPU computes as fast as it can."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Asked once: torch.compile cannot ask. The operator is not public, so a PyTorch without it has to do.
HAS_ONEDNN: bool = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


class Linear(nn.Linear):
    """nn.Linear, computed by `linear`."""

    gain = 1.0  # how much larger its first weights are than Glorot and Bengio (2010) have them

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x @ weight.T + bias.

    On a CPU in float32 PyTorch leaves it to MKL, which on AMD's processors makes no use of AVX-512. oneDNN does, and
    takes half the time; in bfloat16 it adds the bias on the way. PyTorch has it for this product without a gradient,
    which is enough to translate, and where the gradient is written out.
    """
    quick = HAS_ONEDNN and x.is_cpu and x.dtype == weight.dtype and x.dtype in (torch.float32, torch.bfloat16)
    if not quick or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def trains_on_cpu(x: Tensor) -> bool:
    """Is a gradient wanted where it pays to have it written out by hand? A compiler is left the plain form."""
    return x.is_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling()
