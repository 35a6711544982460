"""Checkpoints of format 2 are read as format 3."""

from __future__ import annotations

import hashlib
import json
import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mt.config.schema import ModelConfig
from mt.errors import CheckpointError
from mt.model.transformer import Transformer
from mt.storage.checkpoint import (
    CHECKSUMS,
    META,
    MODEL,
    OPTIMIZER,
    load_checkpoint,
    load_meta,
    load_weights,
)
from mt.storage.migrations import (
    convert_meta,
    convert_model,
    convert_optimizer,
    format_2_parameter_order,
)

SELF_ATTENTIONS = ("dot_product", "additive", "dense_synthesizer")
CROSS_ATTENTIONS = ("dot_product", "additive")
NORMS = ("pre", "post")
TYINGS = ("all", "decoder", "none")
MODEL_KINDS = list(product(SELF_ATTENTIONS, CROSS_ATTENTIONS, NORMS, TYINGS))


def make_model(
    self_attention: str = "dot_product",
    cross_attention: str = "dot_product",
    norm: str = "pre",
    tie_embeddings: str = "none",
    *,
    num_layers: int = 2,
) -> Transformer:
    config = ModelConfig.model_validate(
        {
            "d_model": 4,
            "d_ff": 8,
            "num_heads": 2,
            "num_encoder_layers": num_layers,
            "num_decoder_layers": num_layers,
            "norm": norm,
            "tie_embeddings": tie_embeddings,
            "self_attention": self_attention,
            "cross_attention": cross_attention,
            "max_length": 9 if self_attention == "dense_synthesizer" else None,
        }
    )
    return Transformer(config, src_vocab_size=7, tgt_vocab_size=7, pad_id=0)


def format_2_parameters(model: Transformer) -> dict[str, Tensor]:
    """Return the model's parameters by the names of format 2, in the model's order."""
    return {
        name.replace("embeddings.", "tables."): parameter.detach().clone()
        for name, parameter in model.named_parameters()
    }


def format_2_optimizer(model: Transformer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return an optimizer's tensors as format 2 stored them, and as format 3 does."""
    named = list(model.named_parameters())
    matrices = [(name, parameter) for name, parameter in named if parameter.dim() > 1]
    vectors = [(name, parameter) for name, parameter in named if parameter.dim() <= 1]
    old: dict[str, Tensor] = {}
    new: dict[str, Tensor] = {}
    for number, (name, parameter) in enumerate(matrices + vectors):
        values = {
            "step": torch.tensor(13.0),
            "exp_avg": torch.randn(parameter.shape),
            "exp_avg_sq": torch.rand(parameter.shape),
        }
        for kind, tensor in values.items():
            old[f"{number}.{kind}"] = tensor
            new[f"{name}/{kind}"] = tensor
    return old, new


def save_format_2(
    directory: Path, model: Transformer, optimizer: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Write a checkpoint as a program of format 2 did."""
    directory.mkdir()
    save_file(format_2_parameters(model), directory / MODEL)
    save_file(optimizer, directory / OPTIMIZER)
    meta = {"state": state, "data_digest": "0123", "format_version": 2}
    (directory / META).write_text(json.dumps(meta), encoding="utf-8")
    checksums = ""
    for name in (MODEL, OPTIMIZER, META):
        digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        checksums += f"{digest}  {name}\n"
    (directory / CHECKSUMS).write_text(checksums, encoding="ascii")


def assert_equal_tensors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("kind", MODEL_KINDS, ids="-".join)
def test_parameter_order_is_that_of_the_model(kind: tuple[str, ...]) -> None:
    names = list(format_2_parameters(make_model(*kind)))
    shuffled = names.copy()
    random.Random(1).shuffle(shuffled)
    assert format_2_parameter_order(shuffled) == names


def test_layers_are_ordered_by_number() -> None:
    names = list(format_2_parameters(make_model(num_layers=11)))
    assert format_2_parameter_order(sorted(names)) == names


@pytest.mark.parametrize("name", ["", "embeddings.src", "encoder_norm.gain", "layers.0.weight"])
def test_unknown_parameter_name_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="is not a parameter of format 2"):
        format_2_parameter_order(["tables.src", name])


@pytest.mark.parametrize("kind", MODEL_KINDS, ids="-".join)
def test_optimizer_tensors_get_the_names_of_parameters(kind: tuple[str, ...]) -> None:
    model = make_model(*kind)
    old, new = format_2_optimizer(model)
    parameters = format_2_parameters(model)
    reordered = dict(sorted(parameters.items()))  # as safetensors may return them
    assert_equal_tensors(convert_optimizer(old, reordered), new)


def test_empty_optimizer_stays_empty() -> None:
    assert convert_optimizer({}, format_2_parameters(make_model())) == {}


@pytest.mark.parametrize("key", ["999.exp_avg", "-1.exp_avg", "01.exp_avg", "exp_avg", "x.step"])
def test_optimizer_tensor_of_no_parameter_is_an_error(key: str) -> None:
    with pytest.raises(ValueError, match="belongs to no parameter"):
        convert_optimizer({key: torch.zeros(1)}, format_2_parameters(make_model()))


def test_only_embeddings_are_renamed_in_the_model() -> None:
    model = make_model()
    converted = convert_model(format_2_parameters(model))
    assert_equal_tensors(converted, dict(model.named_parameters()))


def test_format_2_checkpoint_loads_as_the_present_format(tmp_path: Path) -> None:
    model = make_model("additive", "additive", "pre", "decoder")
    old_optimizer, new_optimizer = format_2_optimizer(model)
    state = {"step": 13, "checks_without_gain": 2, "checked_step": 11, "best_score": None}
    save_format_2(tmp_path / "step_00000013", model, old_optimizer, state)

    checkpoint = load_checkpoint(tmp_path / "step_00000013")

    assert_equal_tensors(checkpoint.model, dict(model.state_dict()))
    assert_equal_tensors(checkpoint.optimizer, new_optimizer)
    assert checkpoint.meta == {
        "state": {
            "step": 13,
            "validations_without_improvement": 2,
            "last_validated_step": 11,
            "best_score": None,
        },
        "data_digest": "0123",
        "format_version": 4,
        "subword_sampling": "whole epoch",
    }
    assert load_meta(tmp_path / "step_00000013") == checkpoint.meta


def test_weights_of_format_2_load_into_a_model(tmp_path: Path) -> None:
    model = make_model()
    save_format_2(tmp_path / "step_00000013", model, {}, {})
    other = make_model()
    load_weights(other, tmp_path / "step_00000013")
    assert_equal_tensors(dict(other.state_dict()), dict(model.state_dict()))


def test_reading_does_not_change_the_files(tmp_path: Path) -> None:
    directory = tmp_path / "step_00000013"
    save_format_2(directory, make_model(), format_2_optimizer(make_model())[0], {"step": 13})
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    load_checkpoint(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert "tables.src" in load_file(directory / MODEL)


def test_foreign_optimizer_of_format_2_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "step_00000013"
    save_format_2(directory, make_model(), {"999.step": torch.zeros(())}, {"step": 13})
    with pytest.raises(CheckpointError, match=r"999\.step") as caught:
        load_checkpoint(directory)
    assert str(directory / OPTIMIZER) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_window_of_format_3_gets_names() -> None:
    window = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    meta = {"format_version": 3, "ranks": [{"random": {}, "window": window}] * 2}
    names = ("loss", "nll", "num_tokens", "grad_norm", "num_updates")
    names += ("num_skipped", "num_skipped_in_a_row")
    expected = {"random": {}, "window": dict(zip(names, window, strict=True))}
    assert convert_meta(meta)["ranks"] == [expected] * 2
    assert convert_meta(meta)["subword_sampling"] == "whole epoch"
    assert meta["ranks"][0]["window"] == window  # type: ignore[index]


@pytest.mark.parametrize("ranks", [None, 3, [], [3], [None], [{}], [{"window": [1.0]}], {"0": {}}])
def test_impossible_window_of_format_3_is_left_to_the_trainer(ranks: object) -> None:
    assert convert_meta({"format_version": 3, "ranks": ranks})["ranks"] == ranks


def test_meta_of_the_present_format_stays_as_it_is() -> None:
    meta = {"format_version": 4, "subword_sampling": "groups of batches", "ranks": [{"window": {}}]}
    assert convert_meta(meta) == meta
