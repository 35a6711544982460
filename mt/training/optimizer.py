"""The optimizer, gradient clipping, and the learning rate schedules."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mt.config.schema import TrainConfig

OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019).

    Weight decay applies to matrices only, not to biases and norms.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.dim() > 1]
    vectors = [parameter for parameter in trained if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer_class = OPTIMIZERS[config.optimizer]
    return optimizer_class(
        groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True
    )


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of update `step`, counted from 1.

    It rises linearly during the warm-up, and then follows the schedule.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    return config.learning_rate * SCHEDULES[config.schedule](step, config)


def _inverse_sqrt(step: int, config: TrainConfig) -> float:
    """Return the factor of Vaswani et al. 2017, section 5.3, scaled to 1 after the warm-up."""
    return math.sqrt(max(config.warmup_steps, 1) / step)


def _cosine(step: int, config: TrainConfig) -> float:
    """Return a factor that falls from 1 after the warm-up to 0 at max_steps.

    Loshchilov and Hutter 2017, without restarts.
    """
    assert config.max_steps is not None, "the schema refuses a cosine schedule without max_steps"
    decay_steps = max(1, config.max_steps - config.warmup_steps)
    progress = (step - config.warmup_steps) / decay_steps
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def _constant(step: int, config: TrainConfig) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[int, TrainConfig], float]] = {
    "inverse_sqrt": _inverse_sqrt,
    "cosine": _cosine,
    "constant": _constant,
}


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients to a joint L2 norm of at most `max_norm`, or leave them when it is 0.

    Returns the norm before clipping, a scalar on the device.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if max_norm > 0.0:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm, foreach=True)
    return norm


def pack_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's tensors under `<parameter name>/<exp_avg, exp_avg_sq or step>`.

    Names are those of `model.named_parameters()`; `model` must hold every parameter of the
    optimizer.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Restore what `pack_optimizer` returned for an optimizer of the same parameters.

    No tensors stand for an optimizer that has done no update. Raises ValueError for tensors of
    other parameters.
    """
    parameters = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    expected_shapes = {}
    for name, parameter in parameters.items():
        expected_shapes[f"{name}/exp_avg"] = parameter.shape
        expected_shapes[f"{name}/exp_avg_sq"] = parameter.shape
        expected_shapes[f"{name}/step"] = torch.Size()
    shapes = {key: value.shape for key, value in tensors.items()}
    if shapes and shapes != expected_shapes:
        for key in (*expected_shapes, *shapes):
            if shapes.get(key) != expected_shapes.get(key):
                raise ValueError(
                    f"the optimizer's {key[:80]} has the shape {shapes.get(key)}, "
                    f"not {expected_shapes.get(key)}"
                )
    # load_state_dict counts parameters in the order of the groups.
    names = {parameter: name for name, parameter in parameters.items()}
    ordered = [
        names[parameter] for group in optimizer.param_groups for parameter in group["params"]
    ]
    state: dict[int, dict[str, Tensor]] = {}
    if tensors:
        for index, name in enumerate(ordered):
            keys = ("step", "exp_avg", "exp_avg_sq")
            state[index] = {key: tensors[f"{name}/{key}"] for key in keys}
    param_groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": param_groups})
