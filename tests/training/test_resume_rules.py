"""Which keys of a config may change when a run is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import CONFIG, configure

from mt.training import resume_rules
from mt.training.resume_rules import forbidden_changes


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def changed_keys(config_path: Path, *overrides: str) -> list[str]:
    """Return the keys that are changed by the overrides and must not change."""
    old = configure(config_path, config_path.parent)
    new = configure(config_path, config_path.parent, *overrides)
    return [line.partition(":")[0] for line in forbidden_changes(old, new)]


@pytest.mark.parametrize(
    ("override", "forbidden"),
    [
        ("train.max_epochs=7", []),
        ("data.test=[{name: test, prefix: AT/test}]", []),
        ("train.seed=7", ["train.seed"]),
        ("data.valid.prefix=other", []),  # the content is compared
        ("data.valid.name=other", ["data.valid.0.name"]),
    ],
)
def test_only_listed_keys_and_sections_may_change(
    config_path: Path, override: str, forbidden: list[str]
) -> None:
    assert changed_keys(config_path, override) == forbidden


def test_key_that_begins_like_a_listed_one_must_not_change(
    config_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume_rules, "CHANGEABLE_KEYS", ("train.max_s", "data.t"))
    overrides = ("train.max_skipped=7", "data.test=[{name: test, prefix: AT/test}]")
    changed = changed_keys(config_path, *overrides)
    assert {"train.max_skipped", "data.test.0.name", "data.test.0.prefix"} <= set(changed)
