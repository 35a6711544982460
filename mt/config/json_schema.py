"""JSON schema of a config file, for editors and other programs."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from mt.config.migrations import FIRST_FORMAT_VERSION, FORMAT_VERSION
from mt.config.schema import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _WithoutTitles(GenerateJsonSchema):
    """Leaves out the titles of keys: pydantic makes them of the names, so they say nothing new."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def config_json_schema() -> dict[str, Any]:
    """Return the JSON schema (2020-12) of the YAML files that `load_config` reads.

    It has the keys with types, ranges, defaults and descriptions. It does not have the checks that
    compare two keys, and not the old names of keys.
    """
    schema = Config.model_json_schema(schema_generator=_WithoutTitles)
    for section in schema["$defs"].values():
        if not section.get("required"):
            section["type"] = ["object", "null"]  # a heading without keys is null in YAML
    format_version = {
        "description": "format of the config, which mt writes; a file of yours may leave it out",
        "minimum": FIRST_FORMAT_VERSION,
        "maximum": FORMAT_VERSION,
        "type": "integer",
    }
    schema["properties"] = {"format_version": format_version, **schema["properties"]}
    _add_short_forms(schema["$defs"]["DataConfig"]["properties"])
    _add_single_teacher(schema["$defs"]["TrainConfig"]["properties"])
    return {"$schema": DIALECT, **schema}


def _add_short_forms(data: dict[str, Any]) -> None:
    """Allow a path for a text, as in `train: corpus`, and one text for a list of one."""
    path = {
        "type": "string",
        "description": "a prefix, or a TSV or TMX file; its ending decides",
        "minLength": 1,
    }
    texts = {"train": "CorpusConfig", "valid": "EvalSetConfig", "test": "EvalSetConfig"}
    for key, section in texts.items():
        one_text = [path, {"$ref": f"#/$defs/{section}"}]
        description = {"description": data[key]["description"]}
        many_texts = {**data[key], "items": {"anyOf": one_text}}
        default = {"default": many_texts.pop("default")} if "default" in many_texts else {}
        data[key] = {"anyOf": [many_texts, *one_text], **default, **description}


def _add_single_teacher(train: dict[str, Any]) -> None:
    """Allow one path for a list of one, as in `teacher: runs/large`."""
    teachers = train["teacher"]
    description = teachers.pop("description")
    default = teachers.pop("default")
    forms = [teachers, teachers["items"]]
    train["teacher"] = {"anyOf": forms, "default": default, "description": description}
