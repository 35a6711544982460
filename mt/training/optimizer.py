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


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by `<index of the parameter>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `pack_optimizer`, for an optimizer of the same parameters; ValueError for another's."""
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    wanted = {
        f"{index}.{name}": shape
        for index, shape in enumerate(shapes)
        for name in ("exp_avg", "exp_avg_sq")
    }
    wanted.update({f"{index}.step": torch.Size() for index in range(len(shapes))})
    found = {key: value.shape for key, value in tensors.items()}
    if found and found != wanted:  # before the first update there is nothing
        key = next(key for key in (*wanted, *found) if wanted.get(key) != found.get(key))
        raise ValueError(
            f"the optimizer's {key[:80]} has the shape {found.get(key)}, not {wanted.get(key)}"
        )
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
