"""Linear layer.

Why there is a fast version: in float32, PyTorch computes this product with MKL, which does not use
AVX-512 on AMD processors. oneDNN does: 220 instead of 100 GFLOP/s on Zen 5. PyTorch has oneDNN's
product only without a gradient, so the fast version serves translation and validation. In training
it would gain less than 1 % of an update (see docs/log.md).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mt.device import has_onednn_bf16
from mt.kernels.dispatch import use_fast_kernel


def _find_onednn_dtypes() -> tuple[torch.dtype, ...]:
    """Return the dtypes in which oneDNN's linear layer works on this processor.

    The operators are private, so a version of PyTorch without them must still work.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return ()
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return ()
    if has_onednn_bf16():
        return (torch.float32, torch.bfloat16)
    return (torch.float32,)


ONEDNN_DTYPES = _find_onednn_dtypes()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias, computed in the dtype of `x`.

    `x` is (..., d_in), `weight` is (d_out, d_in), `bias` is (d_out,); the result is (..., d_out).
    """
    weight = weight.to(x.dtype)
    if bias is not None:
        bias = bias.to(x.dtype)
    if use_fast_kernel(x):
        return fast(x, weight, bias)
    return reference(x, weight, bias)


def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the layer with plain PyTorch; all arguments have one dtype."""
    return F.linear(x, weight, bias)


def fast(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the layer with oneDNN unless gradients are enabled; all arguments have one dtype."""
    if torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    return linear_without_gradient(x, weight, bias)


def linear_without_gradient(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str = "none"
) -> Tensor:
    """Return x @ weight.T + bias without a gradient, followed by a ReLU if `activation` is "relu".

    The shapes are those of `linear`.
    """
    assert not torch.is_grad_enabled(), "oneDNN's product has no gradient"
    if x.dtype in ONEDNN_DTYPES:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")
        return output
    output = F.linear(x, weight, bias)
    return output.relu_() if activation == "relu" else output
