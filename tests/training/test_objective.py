"""The loss computed chunk by chunk is PyTorch's own, counted over real tokens alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mt.config.schema import ModelConfig
from mt.data.batching import Batch
from mt.distributed import Runtime
from mt.kernels.cross_entropy import CHUNK_ELEMENTS, smoothed_cross_entropy
from mt.model.transformer import Transformer
from mt.training.objective import Objective, mean_nll

NUM_TOKENS, D_MODEL, VOCAB_SIZE = 21, 16, 50
PAD_ID, BOS_ID = 0, 2
CPU = Runtime(torch.device("cpu"))
EVERY_SMOOTHING = pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
# Tokens of a chunk and of its pieces: less than one; one; five and a rest; seven in two pieces; all at once.
CHUNKS = [
    (1, 1),
    (50, 2**20),
    (5 * 50 + 3, 2 * 50),
    (7 * 50, 4 * 50 + 1),
    (2**20, 1),
    (2**20, 2**20),
]
EVERY_CHUNK = pytest.mark.parametrize("chunk_elements", CHUNKS)


def random_problem() -> tuple[Tensor, Tensor, Tensor]:
    """States and a table that want gradients, and targets."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(NUM_TOKENS, D_MODEL, generator=generator).requires_grad_()
    table = torch.randn(VOCAB_SIZE, D_MODEL, generator=generator).requires_grad_()
    return states, table, torch.randint(VOCAB_SIZE, (NUM_TOKENS,), generator=generator)


def make_model(*, label_smoothing: float = 0.1, dtype: torch.dtype = torch.float32) -> Objective:
    config = ModelConfig(
        d_model=D_MODEL,
        d_ff=32,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        dropout=0.3,
    )
    torch.manual_seed(1)
    transformer = Transformer(
        config, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, pad_id=PAD_ID
    )
    return Objective(transformer, label_smoothing=label_smoothing, dtype=dtype).eval()


def make_batch(lengths: list[tuple[int, int]], *, extra_padding: int = 0) -> Batch:
    """A row for each (src_length, tgt_length); row i holds the same tokens in every batch that has it."""
    src_length, tgt_length = (max(side) + extra_padding for side in zip(*lengths, strict=True))
    src = torch.full((len(lengths), src_length), PAD_ID)
    tgt_in, tgt_out = torch.full((2, len(lengths), tgt_length), PAD_ID)
    for row, (src_end, tgt_end) in enumerate(lengths):
        generator = torch.Generator().manual_seed(100 * src_end + tgt_end)
        src[row, :src_end] = torch.randint(3, VOCAB_SIZE, (src_end,), generator=generator)
        tgt_out[row, :tgt_end] = torch.randint(3, VOCAB_SIZE, (tgt_end,), generator=generator)
        tgt_in[row, 0] = BOS_ID
        tgt_in[row, 1:tgt_end] = tgt_out[row, : tgt_end - 1]
    return Batch(src, tgt_in, tgt_out, sum(tgt_end for _, tgt_end in lengths))


@EVERY_SMOOTHING
@EVERY_CHUNK
def test_the_chunked_loss_and_its_gradients_are_those_of_pytorch(
    smoothing: float, chunk_elements: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", chunk_elements)
    states, table, targets = random_problem()
    loss, nll = smoothed_cross_entropy(
        states, table, targets, smoothing=smoothing, dtype=torch.float32
    )
    logits = states @ table.t()
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        nll, F.cross_entropy(logits, targets, reduction="sum"), rtol=1e-5, atol=1e-5
    )
    for gradient, wanted in zip(
        torch.autograd.grad(loss, (states, table)),
        torch.autograd.grad(expected, (states, table)),
        strict=True,
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5)


@EVERY_SMOOTHING
def test_where_all_words_are_alike_a_token_costs_the_logarithm_of_the_vocabulary(
    smoothing: float,
) -> None:
    states, _, targets = random_problem()
    table = torch.zeros(VOCAB_SIZE, D_MODEL)
    for value in smoothed_cross_entropy(
        states, table, targets, smoothing=smoothing, dtype=torch.float32
    ):
        assert value.item() == pytest.approx(NUM_TOKENS * math.log(VOCAB_SIZE), rel=1e-5)


def test_smoothing_changes_the_loss_but_not_the_nll() -> None:
    losses, nlls = zip(
        *(
            smoothed_cross_entropy(*random_problem(), smoothing=s, dtype=torch.float32)
            for s in (0.0, 0.1)
        ),
        strict=True,
    )
    assert nlls[0].item() == nlls[1].item() == pytest.approx(losses[0].item())
    assert losses[1].item() != pytest.approx(losses[0].item(), rel=1e-3)


def test_no_gradient_flows_through_the_nll() -> None:
    loss, nll = smoothed_cross_entropy(*random_problem(), smoothing=0.1, dtype=torch.float32)
    assert loss.requires_grad
    assert not nll.requires_grad


@pytest.mark.parametrize("factor", [0.01, 1.0, 2.0**16])
def test_what_the_sum_is_multiplied_with_multiplies_the_gradients(factor: float) -> None:
    states, table, targets = random_problem()
    loss, _ = smoothed_cross_entropy(states, table, targets, smoothing=0.1, dtype=torch.float32)
    once = torch.autograd.grad(loss, (states, table), retain_graph=True)
    scaled = torch.autograd.grad(factor * loss, (states, table))
    for one, many in zip(once, scaled, strict=True):
        torch.testing.assert_close(many, factor * one)


def test_states_may_be_a_view_of_a_larger_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", (4 * VOCAB_SIZE, 3 * VOCAB_SIZE))
    states, table, targets = random_problem()
    larger = torch.cat((torch.zeros(3, D_MODEL), states.detach())).requires_grad_()
    for whole in (states, larger):
        loss, _ = smoothed_cross_entropy(
            whole[-NUM_TOKENS:], table, targets, smoothing=0.1, dtype=torch.float32
        )
        loss.backward()
    assert states.grad is not None
    assert larger.grad is not None
    torch.testing.assert_close(larger.grad[3:], states.grad)


def test_a_table_learns_from_states_that_do_not() -> None:
    states, table, targets = random_problem()
    loss, _ = smoothed_cross_entropy(
        states.detach(), table, targets, smoothing=0.1, dtype=torch.float32
    )
    expected = F.cross_entropy(
        states.detach() @ table.t(), targets, label_smoothing=0.1, reduction="sum"
    )
    (gradient,), (wanted,) = torch.autograd.grad(loss, table), torch.autograd.grad(expected, table)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5)


def test_a_loss_that_nobody_learns_from_costs_one_product() -> None:
    """Of the three that the gradients take as well."""
    states, table, targets = random_problem()
    counts = []
    for context in (torch.enable_grad(), torch.inference_mode()):
        with context, FlopCounterMode(display=False) as counter:
            smoothed_cross_entropy(states, table, targets, smoothing=0.1, dtype=torch.float32)
        counts.append(counter.get_total_flops())
    assert counts == [3 * counts[1], 2 * NUM_TOKENS * D_MODEL * VOCAB_SIZE]


def test_no_tokens_cost_nothing() -> None:
    states, table, targets = random_problem()
    loss, nll = smoothed_cross_entropy(
        states[:0], table, targets[:0], smoothing=0.1, dtype=torch.float32
    )
    loss.backward()
    assert loss.item() == nll.item() == 0.0
    assert table.grad is not None
    assert not table.grad.any()


@EVERY_CHUNK
def test_in_bf16_loss_and_gradients_stay_close_and_float32(
    chunk_elements: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", chunk_elements)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        states, table, targets = random_problem()
        loss, nll = smoothed_cross_entropy(states, table, targets, smoothing=0.1, dtype=dtype)
        loss.backward()
        results.append([loss.detach(), nll, states.grad, table.grad])
    for exact, coarse in zip(*results, strict=True):
        assert exact is not None
        assert coarse is not None
        assert coarse.dtype is torch.float32
        assert float((coarse - exact).norm() / exact.norm()) < 0.02


def test_autocast_around_it_changes_no_bit() -> None:
    """Sums stay float32 there: only the products with the table are in the narrow format."""
    results = []
    for enabled in (False, True):
        states, table, targets = random_problem()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss, nll = smoothed_cross_entropy(
                states, table, targets, smoothing=0.1, dtype=torch.bfloat16
            )
        results.append([loss.detach(), nll, *torch.autograd.grad(loss, (states, table))])
    for plain, around in zip(*results, strict=True):
        torch.testing.assert_close(around, plain, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gap", [80, 200])
def test_a_very_unlikely_word_costs_what_it_should(gap: int, dtype: torch.dtype) -> None:
    """e^-80, which fp16 cannot tell from zero, and e^-200, which nothing can."""
    states, table = torch.full((1, 1), 8.0), torch.tensor([[gap / 8], [0.0]])
    _, nll = smoothed_cross_entropy(states, table, torch.tensor([1]), smoothing=0.1, dtype=dtype)
    assert nll.item() == pytest.approx(gap, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_that_is_sure_still_learns(dtype: torch.dtype) -> None:
    """Of a probability of 0.9997, bf16 knows no more than that it is one: softmax has to be float32."""
    results = []
    for number_format in (torch.float32, dtype):
        states = torch.full((1, 1), 8.0, requires_grad=True)
        loss, nll = smoothed_cross_entropy(
            states,
            torch.tensor([[1.0], [0.0]]),
            torch.tensor([0]),
            smoothing=0.0,
            dtype=number_format,
        )
        results.append([nll, *torch.autograd.grad(loss, states)])
    for exact, narrow in zip(*results, strict=True):
        torch.testing.assert_close(narrow, exact, rtol=0.01, atol=0)


# The Transformer with its loss


@EVERY_SMOOTHING
def test_the_training_model_sums_over_the_real_target_tokens(smoothing: float) -> None:
    model = make_model(label_smoothing=smoothing)
    batch = make_batch([(3, 5), (6, 2), (1, 1)])
    sums = model(batch)
    logits = model.transformer.logits(model.transformer(batch.src, batch.tgt_in)).flatten(0, 1)
    options = {"ignore_index": PAD_ID, "reduction": "sum"}
    targets = batch.tgt_out.flatten()
    # PyTorch spreads the smoothing over the tokens that are not ignored, and over the whole vocabulary, as we do.
    torch.testing.assert_close(
        sums.loss, F.cross_entropy(logits, targets, label_smoothing=smoothing, **options)
    )
    torch.testing.assert_close(sums.nll, F.cross_entropy(logits, targets, **options))
    assert sums.num_tokens == 8


def test_padding_is_counted_nowhere() -> None:
    model = make_model()
    lengths = [(3, 5), (6, 2), (1, 1)]
    gradients = []
    for extra_padding in (0, 4):
        sums = model(make_batch(lengths, extra_padding=extra_padding))
        found = torch.autograd.grad(sums.loss, list(model.parameters()))
        gradients.append((sums.loss, sums.nll, torch.tensor(sums.num_tokens), *found))
    for tight, loose in zip(*gradients, strict=True):
        torch.testing.assert_close(loose, tight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "batching",
    [[[0, 1, 2, 3, 4]], [[4, 0], [3, 1, 2]], [[0], [1], [2], [3], [4]], [[3], [2, 1, 0, 4]]],
)
def test_the_mean_nll_does_not_depend_on_the_batching(batching: list[list[int]]) -> None:
    lengths = [(3, 5), (6, 2), (1, 1), (4, 9), (2, 3)]
    model = make_model()
    apart = [model(make_batch([pair])) for pair in lengths]
    expected = sum(float(sums.nll) for sums in apart) / sum(sums.num_tokens for sums in apart)
    batches = [make_batch([lengths[index] for index in indices]) for indices in batching]
    assert mean_nll(model, batches, CPU) == pytest.approx(expected, rel=1e-5)


def test_the_mean_nll_is_not_smoothed_and_leaves_no_gradient() -> None:
    batches = [make_batch([(3, 5), (6, 2)])]
    model = make_model(label_smoothing=0.5)
    assert mean_nll(model, batches, CPU) == mean_nll(make_model(label_smoothing=0.0), batches, CPU)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_drops_out_is_not_measured() -> None:
    with pytest.raises(AssertionError, match="dropout"):
        mean_nll(make_model().train(), [make_batch([(3, 5)])], CPU)


def test_in_bf16_the_training_model_stays_close() -> None:
    runtime = Runtime(torch.device("cpu"), torch.bfloat16)
    batch = make_batch([(3, 5), (6, 2), (1, 1)])
    exact = make_model()(batch)
    with runtime.autocast():
        coarse = make_model(dtype=torch.bfloat16)(batch)
    assert coarse.loss.dtype is coarse.nll.dtype is torch.float32
    assert coarse.loss.item() == pytest.approx(exact.loss.item(), rel=0.02)
    assert coarse.nll.item() == pytest.approx(exact.nll.item(), rel=0.02)
