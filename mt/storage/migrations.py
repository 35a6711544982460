"""Checkpoints of formats 2 and 3, converted to format 4 when they are read.

Format 4 differs from format 3 in two ways, both in meta.json:

- `subword_sampling` says how BPE-dropout makes the batches of an epoch. Before format 4, the
  subwords of a whole epoch were sampled before its batches were planned.
- The sums since the last logged line have names. They were a list (see `WINDOW_NAMES`).

Format 3 differs from format 2 in three ways:

- The embedding matrices are called `embeddings.X` in the model. They were called `tables.X`.
- Two keys of the training state have other names (see `RENAMED_STATE_KEYS`).
- A tensor of the optimizer is stored under the name of its parameter, such as
  `encoder_norm.weight/exp_avg`. It was stored under a number, such as `41.exp_avg`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

RENAMED_STATE_KEYS = {
    "checks_without_gain": "validations_without_improvement",
    "checked_step": "last_validated_step",
}

WINDOW_NAMES = (
    "loss",
    "nll",
    "num_tokens",
    "grad_norm",
    "num_updates",
    "num_skipped",
    "num_skipped_in_a_row",
)

# The parts of which parameter names are made in format 2, such as `decoder_layers`, `0`,
# `self_attention`, `query`, `weight`. Parts that can follow the same prefix stand in the order in
# which the model of that time registered them.
FORMAT_2_NAME_PARTS = (
    "tables",
    "encoder_layers",
    "decoder_layers",
    "encoder_norm",
    "decoder_norm",
    # sublayers
    "attention",
    "self_attention",
    "cross_attention",
    "feed_forward",
    "attention_residual",
    "self_residual",
    "cross_residual",
    "feed_forward_residual",
    # inside a sublayer; `score` is a parameter of additive attention and a layer of a synthesizer
    "word",
    "position",
    "score",
    "query",
    "key_value",
    "value",
    "output",
    "inner",
    "outer",
    "norm",
    # embedding matrices, after `output`, which is one of them: PyTorch sorted these by name
    "shared",
    "src",
    "tgt",
    # tensors of a layer
    "weight",
    "bias",
)


def convert_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the model's tensors of format 2 under their names in format 3."""
    return {_convert_name(name): tensor for name, tensor in tensors.items()}


def convert_optimizer(
    optimizer: Mapping[str, Tensor], model: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the optimizer's tensors of format 2 under their names in format 3.

    `model` holds the model's tensors by their names in format 2, in any order. The optimizer of
    format 2 numbered the parameters of two and more dimensions first, then the vectors. Raises
    ValueError for names or numbers that format 2 does not have.
    """
    ordered_names = format_2_parameter_order(model)
    matrices = [name for name in ordered_names if model[name].dim() > 1]
    vectors = [name for name in ordered_names if model[name].dim() <= 1]
    name_by_number = {str(number): name for number, name in enumerate(matrices + vectors)}
    converted = {}
    for key, tensor in optimizer.items():
        number, _, kind = key.partition(".")
        if number not in name_by_number:
            raise ValueError(f"the optimizer's {key[:80]} belongs to no parameter")
        converted[f"{_convert_name(name_by_number[number])}/{kind}"] = tensor
    return converted


def convert_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a meta.json of any readable format under their names in format 4."""
    converted = dict(meta)
    if meta["format_version"] == 2:
        converted = _convert_meta_to_3(converted)
    if meta["format_version"] <= 3:
        converted = _convert_meta_to_4(converted)
    return converted


def _convert_meta_to_3(meta: Mapping[str, Any]) -> dict[str, Any]:
    converted = {**meta, "format_version": 3}
    state = meta.get("state")
    if isinstance(state, dict):
        converted["state"] = {
            RENAMED_STATE_KEYS.get(key, key): value for key, value in state.items()
        }
    return converted


def _convert_meta_to_4(meta: Mapping[str, Any]) -> dict[str, Any]:
    converted = {**meta, "format_version": 4, "subword_sampling": "whole epoch"}
    if isinstance(meta.get("ranks"), list):
        converted["ranks"] = [_name_window_sums(rank) for rank in meta["ranks"]]
    return converted


def _name_window_sums(rank: Any) -> Any:
    """Return a rank's values with names for the sums of its window.

    What is not as format 3 wrote it stays as it is: the trainer refuses it.
    """
    window = rank.get("window") if isinstance(rank, dict) else None
    if not isinstance(window, list) or len(window) != len(WINDOW_NAMES):
        return rank
    return {**rank, "window": dict(zip(WINDOW_NAMES, window, strict=True))}


def format_2_parameter_order(names: Iterable[str]) -> list[str]:
    """Sort parameter names of format 2 as `model.parameters()` gave the parameters at that time.

    The order of a later model may differ, so it is written out here. Raises ValueError for a name
    that format 2 does not have.
    """
    return sorted(names, key=_format_2_rank)


def _format_2_rank(name: str) -> list[int]:
    """Return the place of a parameter among those of format 2, one number for each level."""
    rank = []
    for part in name.split("."):
        if part.isdecimal():
            rank.append(int(part))  # a layer
        elif part in FORMAT_2_NAME_PARTS:
            rank.append(FORMAT_2_NAME_PARTS.index(part))
        else:
            raise ValueError(f"{name[:80]} is not a parameter of format 2")
    return rank


def _convert_name(name: str) -> str:
    if name.startswith("tables."):
        return f"embeddings.{name.removeprefix('tables.')}"
    return name
