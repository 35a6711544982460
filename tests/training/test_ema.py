"""Tests of the exponential moving average of the weights."""

import pytest
import torch
from torch import Tensor, nn

from mt.training.ema import MovingAverage

DONE = torch.tensor(True)
SKIPPED = torch.tensor(False)


def make_model() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(3, 2)


@torch.no_grad()
def change_weights(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter))


def test_average_follows_its_formula() -> None:
    model = make_model()
    average = MovingAverage(model, 0.2)
    expected = model.weight.detach().clone()
    for n in range(1, 12):
        change_weights(model)
        average.update(DONE)
        decay = min(0.2, (1 + n) / (40 + n))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    assert torch.allclose(average.averages["weight"], expected, atol=1e-6)


def test_average_of_a_short_run_forgets_the_initial_weights() -> None:
    model = make_model()
    average = MovingAverage(model, 0.9999)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    for _ in range(20):
        average.update(DONE)
    assert torch.allclose(average.averages["bias"], torch.full((2,), 7.0), atol=1e-4)


def test_skipped_update_does_not_count() -> None:
    model = make_model()
    average = MovingAverage(model, 0.9)
    change_weights(model)
    average.update(DONE)
    before = average.averages["weight"].clone()
    average.update(SKIPPED)
    assert torch.equal(average.averages["weight"], before)
    assert int(average.num_updates) == 1


def test_applied_exchanges_the_weights_and_puts_them_back() -> None:
    model = make_model()
    average = MovingAverage(model, 0.9)
    change_weights(model)
    average.update(DONE)
    change_weights(model)
    parameter = model.weight
    weights = parameter.detach().clone()
    averages = average.averages["weight"].clone()
    with pytest.raises(KeyboardInterrupt), average.applied():  # noqa: PT012
        assert model.weight is parameter, "the optimizer refers to it"
        assert torch.equal(parameter, averages)
        raise KeyboardInterrupt
    assert torch.equal(parameter, weights)
    assert torch.equal(average.averages["weight"], averages)


def test_loaded_average_continues_exactly() -> None:
    def run(reload_after: int | None) -> dict[str, Tensor]:
        model = make_model()
        average = MovingAverage(model, 0.8)
        for step in range(6):
            change_weights(model)
            average.update(DONE)
            if step == reload_after:
                saved = {name: value.clone() for name, value in average.averages.items()}
                num_updates = int(average.num_updates)
                average = MovingAverage(model, 0.8)
                average.load(saved, num_updates)
        return average.averages

    uninterrupted = run(None)
    for name, value in run(3).items():
        assert torch.equal(value, uninterrupted[name])


def test_average_of_another_model_is_refused() -> None:
    average = MovingAverage(make_model(), 0.9)
    with pytest.raises(ValueError, match="averages of the model's weights"):
        average.load({}, 3)
    with pytest.raises(ValueError, match="weight has the shape"):
        average.load({"weight": torch.zeros(3, 3), "bias": torch.zeros(2)}, 3)
