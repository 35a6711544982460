"""The JSON schema of configs agrees with what `load_config` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from shell import mt

from mt.config.json_schema import config_json_schema
from mt.config.keys import walk_keys
from mt.config.load import dump_config, load_config
from mt.config.schema import Config
from mt.config.yaml_file import parse_override, read_config_file
from mt.errors import ConfigError

CONFIGS_DIR = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(CONFIGS_DIR.glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = config_json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def read_as_json(path: Path, *overrides: str) -> Any:
    """Return the values of a YAML file as a program that knows only JSON sees them."""
    file = read_config_file(path)
    for override in overrides:
        file = file.override(parse_override(override))
    return json.loads(json.dumps(file.values))


def test_file_in_configs_is_what_the_command_prints() -> None:
    ended = mt("schema")
    assert ended.code == 0
    assert ended.err == ""
    written = (CONFIGS_DIR / "schema.json").read_text(encoding="utf-8")
    assert ended.out == written, "run mt schema > configs/schema.json"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_config_names_the_schema_and_is_valid(
    path: Path, validator: Draft202012Validator
) -> None:
    first_line = path.read_text(encoding="utf-8").splitlines()[0]
    assert first_line == "# yaml-language-server: $schema=schema.json"
    validator.validate(read_as_json(path))


@pytest.mark.parametrize(
    "override",
    [
        "data.train=corpus",
        "data.train=[a.tsv, {prefix: b}]",
        "data.train={tsv: a.tsv, columns: [en, de]}",
        "data.valid=valid",
        "data.test=news.tmx",
        "data.test=[news, {name: talks, src: a, refs: [b, c]}]",
    ],
)
def test_short_forms_of_a_text_are_valid(override: str, validator: Draft202012Validator) -> None:
    path = CONFIGS_DIR / "toy.yaml"
    load_config(path, [override])
    validator.validate(read_as_json(path, override))


def test_complete_config_of_a_run_is_valid(tmp_path: Path, validator: Draft202012Validator) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(load_config(CONFIGS_DIR / "toy.yaml")), encoding="utf-8")
    validator.validate(read_as_json(path))


@pytest.mark.parametrize(
    "override",
    [
        "model.droput=0.1",
        "model.dropout=1.5",
        "model.norm=middle",
        "model.d_model=big",
        "train.max_steps=-1",
        "train.seed=null",
        "data.train=[]",
        "data.train=7",
        "data.train=[7]",
        "data.valid=[]",
        "train.teacher=7",
        "train.teacher=[7]",
        "data=null",
        "format_version=1",
    ],
)
def test_schema_refuses_what_load_config_refuses(
    override: str, validator: Draft202012Validator
) -> None:
    path = CONFIGS_DIR / "toy.yaml"
    with pytest.raises(ConfigError):
        load_config(path, [override])
    assert not validator.is_valid(read_as_json(path, override))


@pytest.mark.parametrize(
    "override",
    [
        "search=null",
        "model.embedding_dropout=null",
        "train.seed=2",
        "train.teacher=runs/large",
        "train.teacher=[runs/large, runs/other]",
    ],
)
def test_schema_allows_what_load_config_allows(
    override: str, validator: Draft202012Validator
) -> None:
    path = CONFIGS_DIR / "toy.yaml"
    load_config(path, [override])
    validator.validate(read_as_json(path, override))


def test_every_key_has_its_description_and_default() -> None:
    schema = config_json_schema()
    for key, field in walk_keys(Config):
        section = schema
        *parents, name = [part for part in key.split(".") if part != "N"]
        for parent in parents:
            inner = section["properties"][parent]
            forms = inner.get("anyOf", [inner])  # a text can also be given by its path
            (reference,) = [form["$ref"] for form in forms if "$ref" in form]
            section = schema["$defs"][reference.removeprefix("#/$defs/")]
        described = section["properties"][name]
        assert described["description"] == field.description, key
        if not field.is_required():
            assert described["default"] == json.loads(json.dumps(field.default)), key
