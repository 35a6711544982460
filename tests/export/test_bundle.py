"""A bundle translates like its run, holds nothing else, and is not trained further."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from copy_task import write_copy_task
from random_run import SEVERAL_LANGUAGES, make_run, make_tokenizers
from runs import CONFIG, checkpoint_path, configure, read_all_files, train
from safetensors.torch import load_file
from shell import mt

from mt.decoding.translator import Translator
from mt.errors import RunDirError
from mt.export.bundle import export

TEXT = "a b c\nd e\n"


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copy_task(tmp_path_factory.mktemp("copy_task"), CONFIG)


@pytest.fixture(scope="module")
def run_dir(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with averages of its weights."""
    return train(configure(config_path, tmp_path_factory.mktemp("run"), "train.max_steps=6"))


@pytest.fixture
def bundle(run_dir: Path, tmp_path: Path) -> Path:
    export(run_dir, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_bundle_holds_what_translates_and_no_more(run_dir: Path, bundle: Path) -> None:
    step = checkpoint_path(run_dir, "best").name
    assert {path.relative_to(bundle).as_posix() for path in read_all_files(bundle)} == {
        ".made_by_mt_export",
        "README.md",
        "config.yaml",
        "metrics.jsonl",
        "source_stats.json",
        "tokenizer.model",
        "checkpoints/best",
        "checkpoints/last",
        f"checkpoints/{step}/SHA256SUMS",
        f"checkpoints/{step}/meta.json",
        f"checkpoints/{step}/model.safetensors",
    }
    weights = load_file(bundle / f"checkpoints/{step}/model.safetensors")
    averages = load_file(checkpoint_path(run_dir, "best") / "ema.safetensors")
    assert weights.keys() == averages.keys()
    assert all(weights[name].equal(averages[name]) for name in averages)


def test_commands_read_a_bundle_as_they_read_its_run(
    run_dir: Path, bundle: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text(TEXT, encoding="utf-8")
    commands = [
        ["translate", "--n-best", "2", "--jsonl"],
        ["evaluate", "--src", text, "--ref", text],
        ["score", "--src", text, "--tgt", text],
        ["align", "--src", text, "--tgt", text],
    ]
    for name, *options in commands:
        expected = mt(name, run_dir, *options, stdin=TEXT)
        assert expected.code == 0, expected.err
        assert mt(name, bundle, *options, stdin=TEXT).out == expected.out
    page = tmp_path / "page.html"
    assert mt("attention", bundle, "a b c", "-o", page).code == 0
    assert page.is_file()


def test_bundle_translates_into_each_language(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_tokenizers(tmp_path), SEVERAL_LANGUAGES)
    export(run_dir, tmp_path / "bundle")
    outputs = set()
    for language in ("bb", "cc"):
        expected = mt("translate", run_dir, "--to", language, stdin=TEXT)
        assert expected.code == 0, expected.err
        assert (
            mt("translate", tmp_path / "bundle", "--to", language, stdin=TEXT).out == expected.out
        )
        outputs.add(expected.out)
    assert len(outputs) == 2
    assert mt("translate", tmp_path / "bundle", "--to", "dd", stdin=TEXT).code == 1


def test_bundle_has_no_test_text(bundle: Path) -> None:
    """Not even where files of the same names are in the current directory."""
    ended = mt("evaluate", bundle)
    assert ended.code == 1
    assert "bundle" in ended.err
    assert "--src and --ref" in ended.err


@pytest.mark.parametrize("command", [("evaluate", "--ref"), ("score", "--tgt"), ("align", "--tgt")])
def test_target_language_that_is_not_named_is_shown(
    tmp_path: Path, command: tuple[str, str]
) -> None:
    name, target_option = command
    run_dir = make_run(tmp_path / "run", make_tokenizers(tmp_path), SEVERAL_LANGUAGES)
    text = tmp_path / "text"
    text.write_text(TEXT, encoding="utf-8")
    arguments = (name, run_dir, "--src", text, target_option, text)
    (warning,) = [line for line in mt(*arguments).err.splitlines() if "(--to)" in line]
    assert " bb;" in warning
    assert " cc" in warning
    assert "(--to)" not in mt(*arguments, "--to", "cc").err


def test_bundle_of_a_bundle_is_the_same(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert mt("export", bundle, "--to", "bundle", again).code == 0
    contents = read_all_files(bundle)
    assert b"| valid | BLEU |" in contents[bundle / "README.md"]
    for path, content in contents.items():
        assert (again / path.relative_to(bundle)).read_bytes() == content, path


def test_another_checkpoint_is_exported(run_dir: Path, tmp_path: Path) -> None:
    assert mt("average", run_dir, "--last", "2").code == 0
    export(run_dir, tmp_path / "bundle", checkpoint="average")
    expected = Translator.load(run_dir, checkpoint="average", device="cpu").model.state_dict()
    weights = Translator.load(tmp_path / "bundle", device="cpu").model.state_dict()
    assert all(weights[name].equal(expected[name]) for name in expected)
    assert "average of step_" in (tmp_path / "bundle/README.md").read_text(encoding="utf-8")


def test_bundle_is_not_trained_further(config_path: Path, bundle: Path) -> None:
    contents = read_all_files(bundle)
    with pytest.raises(RunDirError, match=rf"{bundle}: an export .*train\.init_from"):
        train(configure(config_path, bundle))
    for command in (["train", bundle], ["train", bundle, "--fresh"]):
        ended = mt(*command)
        assert ended.code == 1
        assert "train.init_from" in ended.err
        assert ended.err.count("\n") == 1
    assert read_all_files(bundle) == contents


def test_another_run_begins_with_a_bundle(config_path: Path, bundle: Path, tmp_path: Path) -> None:
    overrides = [f"train.init_from={bundle}", "train.learning_rate=1e-9", "train.max_steps=1"]
    overrides += ["train.ema_decay=0", "train.warmup_steps=0"]
    run_dir = train(configure(config_path, tmp_path / "child", *overrides))
    weights = load_file(checkpoint_path(run_dir) / "model.safetensors")
    parent = load_file(checkpoint_path(bundle) / "model.safetensors")
    assert all(weights[name].allclose(parent[name], atol=1e-6) for name in parent)


def test_damaged_weights_are_refused(bundle: Path) -> None:
    path = checkpoint_path(bundle) / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    ended = mt("translate", bundle, "a b")
    assert ended.code == 1
    assert "damaged" in ended.err


def test_places_of_the_author_are_left_out(run_dir: Path, bundle: Path) -> None:
    meta = json.loads((checkpoint_path(bundle) / "meta.json").read_bytes())
    assert meta.keys() == {"format_version", "state"}
    for path, content in read_all_files(bundle).items():
        for own_path in (run_dir.parent, run_dir.parent.parent):
            assert str(own_path).encode() not in content, path
