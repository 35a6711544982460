"""The optimizer, and gradient clipping."""

from collections.abc import Mapping

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
