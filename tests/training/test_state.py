"""Training state and running sums, as checkpoints keep them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from mt.distributed import Runtime
from mt.training.state import LogWindow, TrainState, WindowSums

CPU = torch.device("cpu")
ONE_RANK = Runtime(CPU)
NAMES = ("loss", "nll")


def add_updates(window: LogWindow, *grad_norms: float) -> None:
    """Add updates of loss 2, nll 1 and 10 tokens with these gradient norms."""
    for grad_norm in grad_norms:
        nll = 1.0 if math.isfinite(grad_norm) else math.nan
        losses = {"loss": torch.tensor(2.0), "nll": torch.tensor(nll)}
        window.add(losses, num_tokens=10, grad_norm=torch.tensor(grad_norm))


def test_window_sums_updates_and_starts_again_at_zero() -> None:
    window = LogWindow(CPU, NAMES)
    add_updates(window, 3.0, 4.0)
    assert window.close(ONE_RANK) == WindowSums(
        losses={"loss": 4.0, "nll": 2.0},
        num_tokens=20.0,
        grad_norm=7.0,
        num_updates=2.0,
        num_skipped=0.0,
        num_skipped_in_a_row=0.0,
    )
    assert window.close(ONE_RANK) == ({"loss": 0.0, "nll": 0.0}, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("grad_norm", [math.nan, math.inf])
def test_skipped_update_counts_as_skipped_only(grad_norm: float) -> None:
    window = LogWindow(CPU, NAMES)
    add_updates(window, grad_norm, 3.0, grad_norm)
    assert window.close(ONE_RANK) == WindowSums(
        losses={"loss": 2.0, "nll": 1.0},
        num_tokens=10.0,
        grad_norm=3.0,
        num_updates=1.0,
        num_skipped=2.0,
        num_skipped_in_a_row=1.0,
    )


def test_skips_in_a_row_continue_over_windows() -> None:
    nan = math.nan
    windows = [(1.0, nan), (nan, nan), (), (nan,), (nan, 1.0), (math.inf,)]
    window = LogWindow(CPU, NAMES)
    counts = []
    for grad_norms in windows:
        add_updates(window, *grad_norms)
        counts.append(window.close(ONE_RANK).num_skipped_in_a_row)
    assert counts == [1.0, 3.0, 3.0, 4.0, 0.0, 1.0]


def test_restored_window_continues_as_before() -> None:
    window = LogWindow(CPU, NAMES)
    restored = LogWindow(CPU, NAMES)
    for grad_norms in ((1.5, math.nan), (math.nan, 2.0), (math.nan,)):
        add_updates(window, *grad_norms)
        add_updates(restored, *grad_norms)
        saved = json.loads(json.dumps(restored.save()))
        restored = LogWindow(CPU, NAMES)
        restored.load(saved)
    assert window.close(ONE_RANK) == restored.close(ONE_RANK)


def test_window_sums_every_loss_by_its_name() -> None:
    window = LogWindow(CPU, ("loss", "nll", "distance"))
    for number in (1.0, 2.0):
        losses = {"nll": number, "distance": 10 * number, "loss": 100 * number}
        tensors = {name: torch.tensor(value) for name, value in losses.items()}
        window.add(tensors, num_tokens=10, grad_norm=torch.tensor(1.0))
    assert window.sums().losses == {"loss": 300.0, "nll": 3.0, "distance": 30.0}
    assert window.close(ONE_RANK).losses == {"loss": 300.0, "nll": 3.0, "distance": 30.0}


def test_window_refuses_losses_of_other_names() -> None:
    with pytest.raises(AssertionError):
        LogWindow(CPU, NAMES).add(
            {"loss": torch.tensor(1.0)}, num_tokens=1, grad_norm=torch.tensor(1.0)
        )


WINDOW = LogWindow(CPU, NAMES).save()


@pytest.mark.parametrize(
    "saved",
    [
        [],
        [0.0] * 7,
        None,
        {},
        {**WINDOW, "distance": 0.0},
        {name: value for name, value in WINDOW.items() if name != "nll"},
        {**WINDOW, "nll": "a"},
    ],
)
def test_load_refuses_what_is_no_window(saved: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        LogWindow(CPU, NAMES).load(saved)  # type: ignore[arg-type]


def test_state_survives_json() -> None:
    state = TrainState(step=7, best_score=-1.25, elapsed_seconds=0.1)
    values = json.loads(json.dumps(asdict(state)))
    assert TypeAdapter(TrainState).validate_python(values) == state


def test_state_ignores_fields_of_older_versions() -> None:
    values = {**asdict(TrainState(step=7)), "lr_factor": 1.0}
    assert TypeAdapter(TrainState).validate_python(values) == TrainState(step=7)


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"epoch": "x"},
        {"elapsed_seconds": math.nan},
        {"best_score": math.inf},
        {"batch_index": 1.5},
    ],
)
def test_impossible_state_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TrainState).validate_python({**asdict(TrainState()), **change})


# The best validation


@pytest.mark.parametrize(
    ("best_score", "best_loss", "score", "loss", "is_improved"),
    [
        (None, None, 0.0, 9.0, True),
        (0.0, 9.0, 1.5, 10.0, True),
        (1.5, 9.0, 0.0, 1.0, False),
        (0.0, 9.0, 0.0, 8.0, True),
        (0.0, 9.0, 0.0, 9.0, False),
        (0.0, 9.0, 0.0, 10.0, False),
        (0.0, 9.0, 0.0, math.nan, False),
        (0.0, 9.0, math.nan, 1.0, False),
        (None, None, math.nan, 1.0, False),
        (0.0, None, 0.0, 1.0, False),  # of an older version, which did not keep the loss
        (0.0, None, 0.1, 9.0, True),
    ],
)
def test_validation_improves_by_score_and_then_by_loss(
    best_score: float | None, best_loss: float | None, score: float, loss: float, is_improved: bool
) -> None:
    state = TrainState(best_score=best_score, best_loss=best_loss)
    assert state.is_improved_by(score, loss=loss) == is_improved
