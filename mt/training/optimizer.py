"""The optimizer, and the learning rate as a pure function of the update's number."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mt.config.schema import TrainConfig

OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019); vectors (biases, norms) are never decayed."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    kind = OPTIMIZERS[config.optimizer]
    return kind(groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of update number `step`, counted from 1: linear warm-up to the peak, then the schedule."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    return config.learning_rate * SCHEDULES[config.schedule](step, config)


def _inverse_sqrt(step: int, config: TrainConfig) -> float:
    """Vaswani et al. 2017, section 5.3, scaled to be 1 where the warm-up ends."""
    return math.sqrt(max(config.warmup_steps, 1) / step)


def _cosine(step: int, config: TrainConfig) -> float:
    """From 1 at the end of the warm-up to 0 at max_steps (Loshchilov and Hutter 2017, without restarts)."""
    assert config.max_steps is not None, (
        "a cosine schedule without max_steps is refused when the config is read"
    )
    progress = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


SCHEDULES: dict[str, Callable[[int, TrainConfig], float]] = {
    "inverse_sqrt": _inverse_sqrt,
    "cosine": _cosine,
    "constant": lambda step, config: 1.0,
}


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients down to a joint L2 norm of at most `max_norm` (0: leave them); the norm before, a scalar."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if max_norm > 0.0:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm, foreach=True)
    return norm


def pack_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's tensors by `<name of the parameter in model>/<kind>`.

    The kinds are exp_avg, exp_avg_sq and step. There are no tensors before the first update.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        for kind, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{kind}"] = tensor
    return tensors


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Load what `pack_optimizer` returned. ValueError for the tensors of another model's optimizer."""
    expected_shapes = {}
    for name, parameter in model.named_parameters():
        expected_shapes[f"{name}/exp_avg"] = parameter.shape
        expected_shapes[f"{name}/exp_avg_sq"] = parameter.shape
        expected_shapes[f"{name}/step"] = torch.Size()
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    if tensors and shapes != expected_shapes:
        key = next(
            key
            for key in (*expected_shapes, *shapes)
            if expected_shapes.get(key) != shapes.get(key)
        )
        raise ValueError(
            f"the optimizer's {key[:80]} has the shape {shapes.get(key)}, "
            f"not {expected_shapes.get(key)}"
        )
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    if tensors:
        for index, parameter in enumerate(parameters):
            name = names[parameter]
            state[index] = {
                kind: tensors[f"{name}/{kind}"] for kind in ("step", "exp_avg", "exp_avg_sq")
            }
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
