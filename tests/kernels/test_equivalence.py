"""Every fast kernel equals its reference, forward and backward, in every precision.

Both versions get the same inputs, the same gradient of the output and, with dropout, the same mask.
They may differ by rounding: in float64 by 1e-12 of the largest number of a tensor, in float32 by
1e-5 and in bfloat16 by 2e-2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mt.kernels import additive, attention, cross_entropy, dropout, feed_forward, linear, rms_norm
from mt.kernels.dispatch import use_fast_kernel, use_reference
from mt.kernels.dropout import DropoutMask, draw_mask

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
EVERY_DTYPE = pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype)[6:])
DROPOUT = 0.4

Kernel = Callable[..., Tensor]


class Case(NamedTuple):
    """A kernel, a function for each of its versions, and the shapes of its inputs."""

    name: str
    fast: Kernel
    reference: Kernel
    shapes: list[tuple[int, ...]]
    needs_gradients: bool = False  # the fast version takes this case in training only


def linear_cases() -> Iterator[Case]:
    for shape in [(7, 12), (3, 5, 12), (1, 1, 12), (2, 3, 4, 12), (0, 12), (3, 0, 12), (1, 1)]:
        d_in = shape[-1]
        weight_shape = (9, d_in)
        yield Case(f"linear-{shape}", linear.fast, linear.reference, [shape, weight_shape, (9,)])

        def fast_without_bias(x: Tensor, weight: Tensor) -> Tensor:
            return linear.fast(x, weight, None)

        yield Case(
            f"linear-without-bias-{shape}", fast_without_bias, F.linear, [shape, weight_shape]
        )


def dropout_cases() -> Iterator[Case]:
    for shape in [(), (0,), (1,), (3,), (5, 7), (2, 3, 4, 5)]:
        mask = random_mask(*shape)
        yield Case(
            f"dropout-{shape}",
            lambda x, mask=mask: dropout.fast(x, mask),
            lambda x, mask=mask: dropout.reference(x, mask),
            [shape],
        )


def feed_forward_cases() -> Iterator[Case]:
    for *shape, d_model, d_ff in [(3, 5, 6, 8), (1, 1, 1, 1), (2, 0, 4, 3), (2, 17, 33, 7)]:
        shapes = [(*shape, d_model), (d_ff, d_model), (d_ff,), (d_model, d_ff), (d_model,)]
        for rate in (0.0, DROPOUT):
            mask = random_mask(*shape, d_ff) if rate else 0.0

            def fast(*inputs: Tensor, mask: DropoutMask | float = mask) -> Tensor:
                return feed_forward.fast(*inputs, dropout=mask)

            def reference(*inputs: Tensor, mask: DropoutMask | float = mask) -> Tensor:
                with use_reference():
                    return feed_forward.reference(*inputs, dropout=mask)

            yield Case(f"feed_forward-{shapes[0]}-{d_ff}-{rate}", fast, reference, shapes)


def attention_cases() -> Iterator[Case]:
    for rows, heads, num_queries, num_keys, head_dim in [
        (3, 2, 4, 5, 6),
        (1, 1, 1, 1, 1),
        (2, 3, 1, 17, 5),
        (2, 1, 33, 16, 8),
    ]:
        shapes = [(rows, heads, length, head_dim) for length in (num_queries, num_keys, num_keys)]
        for mask_name, mask in attention_masks(rows, num_queries, num_keys).items():
            for rate in (0.0, DROPOUT):
                # The fast version stores the keys before the queries, the reference after them.
                drop: DropoutMask | float = 0.0
                transposed_drop: DropoutMask | float = 0.0
                if rate:
                    drop = random_mask(rows * heads, num_keys, num_queries)
                    transposed = drop.keep.view(rows, heads, num_keys, num_queries).mT
                    transposed_drop = drop._replace(keep=transposed)

                def fast(
                    *inputs: Tensor, mask: Tensor = mask, drop: DropoutMask | float = drop
                ) -> Tensor:
                    return attention.fast(*inputs, mask, dropout=drop)

                def reference(
                    *inputs: Tensor,
                    mask: Tensor = mask,
                    drop: DropoutMask | float = transposed_drop,
                ) -> Tensor:
                    return attention.reference(*inputs, mask, dropout=drop)

                name = f"attention-{shapes[0]}-{num_keys}-{mask_name}-{rate}"
                yield Case(name, fast, reference, shapes, needs_gradients=rate > 0.0)


def attention_masks(rows: int, num_queries: int, num_keys: int) -> dict[str, Tensor]:
    """Return masks in which every query may attend to one key at least."""
    full = torch.ones(1, 1, 1, num_keys, dtype=torch.bool)
    causal = torch.ones(num_queries, num_keys, dtype=torch.bool)
    causal = causal.tril(max(0, num_keys - num_queries))
    lengths = torch.tensor([max(1, num_keys - 2 * row) for row in range(rows)])
    padding = (torch.arange(num_keys) < lengths[:, None])[:, None, None]
    return {"full": full, "causal": causal, "padding": padding, "both": causal & padding}


def additive_cases() -> Iterator[Case]:
    for rows, heads, num_queries, num_keys, head_dim in [
        (2, 3, 5, 4, 6),
        (1, 1, 1, 1, 1),
        (2, 3, 1, 17, 5),
        (1, 2, 33, 0, 3),
    ]:
        queries_shape = (rows, heads, num_queries, head_dim)
        keys_shape = (rows, heads, num_keys, head_dim)
        yield Case(
            f"additive-{queries_shape}-{num_keys}",
            # The public function, because scores are float32 whatever the dtype of the inputs is.
            additive.additive_scores,
            reference_additive_scores,
            [queries_shape, keys_shape, (heads, head_dim)],
        )


def reference_additive_scores(*inputs: Tensor) -> Tensor:
    with use_reference():
        return additive.additive_scores(*inputs)


def rms_norm_cases() -> Iterator[Case]:
    for *shape, width in [(3, 5, 8), (1, 1, 4), (4, 3), (2, 0, 4), (2, 17, 33)]:
        yield Case(
            f"rms_norm-{shape}-{width}",
            lambda x, weight: rms_norm.fast(x, weight, epsilon=1e-5),
            lambda x, weight: rms_norm.reference(x, weight, epsilon=1e-5),
            [(*shape, width), (width,)],
        )


def random_mask(*shape: int) -> DropoutMask:
    torch.manual_seed(3)
    return draw_mask(torch.Size(shape), DROPOUT)


CASES = [
    *linear_cases(),
    *dropout_cases(),
    *feed_forward_cases(),
    *attention_cases(),
    *additive_cases(),
    *rms_norm_cases(),
]


def make_inputs(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    """Return random tensors that require gradients."""
    generator = torch.Generator().manual_seed(1)
    inputs = []
    for shape in shapes:
        tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
        inputs.append(tensor.to(dtype).requires_grad_())
    return inputs


def output_and_gradients(kernel: Kernel, inputs: list[Tensor]) -> list[Tensor]:
    """Return the output and the gradients of the inputs for a random gradient of the output."""
    output = kernel(*inputs)
    generator = torch.Generator().manual_seed(2)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(output, inputs, grad_output.to(output.dtype))
    return [output.detach(), *gradients]


def assert_equal_to_tolerance(
    actual: list[Tensor], expected: list[Tensor], tolerance: float
) -> None:
    for tensor, reference in zip(actual, expected, strict=True):
        assert tensor.dtype is reference.dtype
        assert tensor.shape == reference.shape
        if reference.numel() > 0:
            largest = float(reference.abs().max())
            torch.testing.assert_close(tensor, reference, rtol=tolerance, atol=tolerance * largest)


@EVERY_DTYPE
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fast_kernel_equals_reference(case: Case, dtype: torch.dtype) -> None:
    inputs = make_inputs(case.shapes, dtype)
    fast = output_and_gradients(case.fast, inputs)
    reference = output_and_gradients(case.reference, inputs)
    assert_equal_to_tolerance(fast, reference, TOLERANCES[dtype])


@EVERY_DTYPE
@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.needs_gradients], ids=lambda case: case.name
)
def test_fast_kernel_equals_reference_without_gradients(case: Case, dtype: torch.dtype) -> None:
    inputs = make_inputs(case.shapes, dtype)
    with torch.inference_mode():
        fast = case.fast(*inputs)
        reference = case.reference(*inputs)
    assert_equal_to_tolerance([fast], [reference], TOLERANCES[dtype])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_inputs_are_not_changed(case: Case) -> None:
    inputs = make_inputs(case.shapes, torch.float32)
    copies = [tensor.detach().clone() for tensor in inputs]
    output_and_gradients(case.fast, inputs)
    for tensor, copy in zip(inputs, copies, strict=True):
        assert torch.equal(tensor, copy)


# PyTorch's fused attention, which is the reference without a mask of dropout, and the formula


@EVERY_DTYPE
def test_scaled_dot_product_attention_equals_the_formula(dtype: torch.dtype) -> None:
    inputs = make_inputs([(3, 2, 4, 6), (3, 2, 5, 6), (3, 2, 5, 6)], dtype)
    for mask in attention_masks(3, 4, 5).values():

        def formula(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor = mask) -> Tensor:
            scores = queries @ keys.mT / math.sqrt(6)
            return scores.masked_fill(~mask, -math.inf).softmax(-1) @ values

        def reference(*inputs: Tensor, mask: Tensor = mask) -> Tensor:
            return attention.reference(*inputs, mask)

        assert_equal_to_tolerance(
            output_and_gradients(reference, inputs),
            output_and_gradients(formula, inputs),
            TOLERANCES[dtype],
        )


# Cross-entropy, which is chunked on every device


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("num_tokens", "vocab_size"), [(21, 50), (1, 3), (64, 7), (5, 1)])
def test_chunked_cross_entropy_equals_plain_form(
    num_tokens: int,
    vocab_size: int,
    dtype: torch.dtype,
    smoothing: float,
    kernels: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(cross_entropy.CHUNK_LOGITS, "cpu", 7 * vocab_size)
    monkeypatch.setitem(cross_entropy.PIECE_LOGITS, "cpu", 4 * vocab_size)
    states, weight = make_inputs([(num_tokens, 16), (vocab_size, 16)], torch.float32)
    targets = torch.randint(vocab_size, (num_tokens,), generator=torch.Generator().manual_seed(4))

    def chunked(states: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        if kernels == "auto":
            return cross_entropy.smoothed_cross_entropy(
                states, weight, targets, smoothing=smoothing, dtype=dtype
            )
        with use_reference():
            return cross_entropy.smoothed_cross_entropy(
                states, weight, targets, smoothing=smoothing, dtype=dtype
            )

    results = []
    for function in (chunked, plain_cross_entropy(targets, smoothing=smoothing, dtype=dtype)):
        loss, nll = function(states, weight)
        results.append([loss.detach(), nll, *torch.autograd.grad(loss, (states, weight))])
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    assert_equal_to_tolerance(results[0], results[1], tolerance)


def plain_cross_entropy(
    targets: Tensor, *, smoothing: float, dtype: torch.dtype
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def plain(states: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy.reference(states, weight, targets, smoothing=smoothing, dtype=dtype)

    return plain


# The choice of the version


class Call(NamedTuple):
    """A call of a kernel's public function."""

    name: str
    module: object
    call: Callable[[], Tensor]


def public_calls() -> list[Call]:
    x = torch.randn(2, 3, 4)
    weight = torch.randn(4, 4)
    bias = torch.randn(4)
    heads = torch.randn(2, 1, 3, 4)
    mask = torch.ones(3, 3, dtype=torch.bool)
    head_weight = torch.randn(1, 4)
    return [
        Call("linear", linear, lambda: linear.linear(x, weight, bias)),
        Call("dropout", dropout, lambda: dropout.apply_dropout(x, 0.5)),
        Call(
            "feed_forward",
            feed_forward,
            lambda: feed_forward.feed_forward(x, weight, bias, weight, bias),
        ),
        Call(
            "attention",
            attention,
            lambda: attention.dot_product_attention(heads, heads, heads, mask),
        ),
        Call("additive", additive, lambda: additive.additive_scores(heads, heads, head_weight)),
    ]


@pytest.mark.parametrize("public", public_calls(), ids=lambda public: public.name)
def test_version_is_chosen_by_one_switch(public: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    for version in ("fast", "reference"):
        function = getattr(public.module, version)
        monkeypatch.setattr(public.module, version, recording_call(function, version, chosen))
    public.call()
    with use_reference():
        public.call()
        with use_reference():
            public.call()
        public.call()
    public.call()
    assert chosen == ["fast", "reference", "reference", "reference", "fast"]


def recording_call(function: Kernel, version: str, chosen: list[str]) -> Kernel:
    def call(*args: Tensor, **kwargs: float) -> Tensor:
        chosen.append(version)
        return function(*args, **kwargs)

    return call


def test_switch_is_restored_after_an_error() -> None:
    with pytest.raises(RuntimeError), use_reference():
        torch.ones(2) @ torch.ones(3)
    assert use_fast_kernel(torch.ones(1))


def test_compiler_gets_the_references() -> None:
    @torch.compile(backend="eager", fullgraph=True)
    def is_fast(x: Tensor) -> Tensor:
        return x + 1 if use_fast_kernel(x) else x

    assert torch.equal(is_fast(torch.zeros(1)), torch.zeros(1))


def test_other_devices_get_the_references() -> None:
    assert not use_fast_kernel(torch.ones(1, device="meta"))
