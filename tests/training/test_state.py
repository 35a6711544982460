"""What a window of updates comes to, whatever was skipped in it and wherever it was cut by a restart."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from mt.distributed import Runtime
from mt.training.state import TrainState, Window

CPU = torch.device("cpu")
ONE_RANK = Runtime(CPU)


def add(window: Window, *norms: float) -> None:
    """Updates of loss 2, nll 1 and 10 tokens, with these gradient norms."""
    for norm in norms:
        loss, nll = torch.tensor(2.0), torch.tensor(1.0 if math.isfinite(norm) else math.nan)
        window.add(loss, nll, num_tokens=10, grad_norm=torch.tensor(norm))


def test_updates_are_summed_and_a_new_window_begins_at_zero() -> None:
    window = Window(CPU)
    add(window, 3.0, 4.0)
    assert window.close(ONE_RANK) == (4.0, 2.0, 20.0, 7.0, 2.0, 0.0, 0.0)
    assert window.close(ONE_RANK) == (0.0,) * 7


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_skipped_update_is_counted_and_adds_nothing_else(bad: float) -> None:
    window = Window(CPU)
    add(window, bad, 3.0, bad)
    assert window.close(ONE_RANK) == (2.0, 1.0, 10.0, 3.0, 1.0, 2.0, 1.0)


def test_skips_in_a_row_are_counted_over_windows_and_end_with_a_good_update() -> None:
    window, seen = Window(CPU), []
    for norms in (
        (1.0, math.nan),
        (math.nan, math.nan),
        (),
        (math.nan,),
        (math.nan, 1.0),
        (math.inf,),
    ):
        add(window, *norms)
        seen.append(window.close(ONE_RANK).skipped_in_a_row)
    assert seen == [1.0, 3.0, 3.0, 4.0, 0.0, 1.0]


def test_a_window_that_is_saved_and_restored_goes_on_as_if_it_had_not() -> None:
    one, other = Window(CPU), Window(CPU)
    for norms in ((1.5, math.nan), (math.nan, 2.0), (math.nan,)):
        add(one, *norms)
        add(other, *norms)
        other = Window.restore(json.loads(json.dumps(other.save())), CPU)
    assert one.close(ONE_RANK) == other.close(ONE_RANK)


@pytest.mark.parametrize("saved", [[], [0.0] * 6, [0.0] * 8, ["a"] * 7, None])
def test_what_is_no_window_is_not_taken_for_one(saved: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Window.restore(saved, CPU)  # type: ignore[arg-type]


def test_a_state_comes_back_from_json_as_it_was() -> None:
    state = TrainState(step=7, best_score=-1.25, elapsed_seconds=0.1)
    assert TypeAdapter(TrainState).validate_python(json.loads(json.dumps(asdict(state)))) == state


def test_a_state_of_older_code_with_more_in_it_is_taken() -> None:
    older = {**asdict(TrainState(step=7)), "lr_factor": 1.0}
    assert TypeAdapter(TrainState).validate_python(older) == TrainState(step=7)


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
def test_a_state_that_no_run_can_be_in_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TrainState).validate_python({**asdict(TrainState()), **change})
