"""Text of a config: it is YAML with the chosen values, whatever the files are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from mt.config.yaml_file import read_config_file
from mt.project.config_text import DataFiles, config_text, yaml_text
from mt.project.settings import MachineFacts, choose_settings, plan_length
from mt.project.text_facts import measure_text


@pytest.mark.parametrize(
    "name",
    ["en", "no", "null", "True", "1", "1e3", "~", "x: y", "a#b", "a # b", "-", 'a"b', "Å ö", "*a"],
)
def test_text_is_read_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"key: {yaml_text(name)}  # comment\n", encoding="utf-8")
    assert read_config_file(path).values == {"key": name}


@pytest.mark.parametrize("minutes", [0.5, 10, 600])
def test_config_has_the_chosen_values(minutes: float, tmp_path: Path) -> None:
    pairs = [(f"the house {number}", f"das Haus {number}") for number in range(500)]
    text = measure_text(pairs)
    machine = MachineFacts("cpu", 9000)
    settings = choose_settings(text, machine, minutes)
    length = plan_length(settings, update_seconds=0.1, minutes=minutes)
    files = DataFiles("en", "de", train="a/train", valid="a/valid", test=None)
    path = tmp_path / "x.yaml"
    content = config_text(
        files,
        text,
        machine,
        settings,
        length,
        minutes=minutes,
        device="cpu",
        command="mt init 'x\ny: z'",
    )
    path.write_text(content, encoding="utf-8")
    values = read_config_file(path).values
    assert list(values) == ["data", "tokenizer", "model", "train"]
    assert values["data"] == {
        "src_lang": "en",
        "tgt_lang": "de",
        "train": "a/train",
        "valid": "a/valid",
    }
    assert values["tokenizer"]["vocab_size"] == settings.vocab_size
    assert values["model"]["d_model"] == settings.size.d_model
    assert values["model"]["dropout"] == settings.row.dropout
    assert values["train"] == {
        "device": "cpu",
        "max_minutes": minutes,
        "batch_tokens": settings.batch_tokens,
        "learning_rate": settings.size.learning_rate,
        "schedule": "cosine",
        "warmup_steps": length.warmup_steps,
        "validate_every": length.validate_every,
        "log_every": length.log_every,
    }
