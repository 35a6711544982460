"""The whole check, from a config to its findings: planted faults are found."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parallel_text import MULTI30K, toy_lines, write_lines
from runs import train

import mt.device
from mt.cli.check_output import print_findings
from mt.config.load import load_config
from mt.config.schema import DataConfig
from mt.preflight import dry_run
from mt.preflight.file_checks import Finding
from mt.preflight.run_checks import check, check_files, check_scoring
from mt.training.run import read_config

Text = dict[str, list[str]]  # lines by file name
Edit = Callable[[Text], None]

CONFIG = """
data:
  src_lang: en
  tgt_lang: de
  train: [{prefix: train}]
  valid: {name: valid, prefix: valid}
  test: [{name: test, prefix: test}]
tokenizer: {vocab_size: 500, bpe_dropout: 0.1}
model: {d_model: 16, d_ff: 32, num_heads: 2, num_encoder_layers: 1, num_decoder_layers: 1}
train:
  run_dir: run
  batch_tokens: 512
  max_steps: 500
  schedule: cosine
  warmup_steps: 30
  validate_every: 250
  device: cpu
  precision: fp32
  patience: 5
"""
SHORT_RUN = ("train.max_steps=31", "train.validate_every=31")


@pytest.fixture(autouse=True)
def _quick_check_in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "MIN_SECONDS", 0.0)


@pytest.fixture
def text() -> Text:
    """A few hundred lines of the toy corpus."""
    lines = {}
    for name, num_lines in (("train", 800), ("valid", 100), ("test", 60)):
        for lang in ("en", "de"):
            lines[f"{name}.{lang}"] = toy_lines(f"{name}.{lang}", num_lines)
    return lines


def write_project(text: Text) -> Path:
    """Write the text files and a config for them to the current directory."""
    for name, lines in text.items():
        write_lines(Path(name), lines)
    path = Path("toy.yaml")
    path.write_text(CONFIG, encoding="utf-8")
    return path


def find_all(path: Path, *overrides: str, resume: bool = False) -> list[Finding]:
    return list(check(path, overrides, device=None, resume=resume))


def problems(findings: list[Finding]) -> list[tuple[str, str]]:
    """Return level and topic of the warnings and errors.

    The warning about the time of validation depends on the speed of this machine.
    """
    return [
        (finding.level, finding.topic)
        for finding in findings
        if finding.level in ("error", "warning") and finding.topic != "validation"
    ]


def read_files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_tokenized_references_are_found(text: Text) -> None:
    path = write_project(text)
    assert check_scoring(load_config(path)).level == "ok"
    text["valid.de"] = [line.replace(".", " .").replace("?", " ?") for line in text["valid.de"]]
    finding = check_scoring(load_config(write_project(text)))
    assert (finding.level, finding.topic) == ("warning", "scores")
    assert "valid: the references look tokenized" in finding.text


# Planted faults


def drop(name: str, index: int) -> Edit:
    def edit(text: Text) -> None:
        del text[name][index]

    return edit


def replace(name: str, index: int, old: str, new: str) -> Edit:
    def edit(text: Text) -> None:
        text[name][index] = text[name][index].replace(old, new)

    return edit


def set_line(name: str, index: int, line: str) -> Edit:
    def edit(text: Text) -> None:
        text[name][index] = line

    return edit


def do_both(first: Edit, second: Edit) -> Edit:
    def edit(text: Text) -> None:
        first(text)
        second(text)

    return edit


def swap_sides(name: str) -> Edit:
    def edit(text: Text) -> None:
        text[f"{name}.en"], text[f"{name}.de"] = text[f"{name}.de"], text[f"{name}.en"]

    return edit


def copy_test_pair_to_train(text: Text) -> None:
    for lang in ("en", "de"):
        text[f"train.{lang}"][300] = text[f"test.{lang}"][7]


PLANTED_FAULTS = {
    "a line missing on one side": (
        drop("train.de", 400),
        "error",
        "alignment",
        "the target side lacks 1 line",
    ),
    "a line missing on each side": (
        do_both(drop("train.de", 400), drop("train.en", -1)),
        "error",
        "alignment",
        "as many lines on both sides",
    ),
    "U+2028": (
        replace("train.de", 200, " ", "\u2028"),
        "warning",
        "encoding",
        "U+2028: line 201",
    ),
    "a test sentence in train": (
        copy_test_pair_to_train,
        "warning",
        "overlap",
        "line 8 is train line 301",
    ),
    "train swapped": (
        swap_sides("train"),
        "error",
        "languages",
        "the other way round than valid's; test: as in valid",
    ),
    "valid swapped": (
        swap_sides("valid"),
        "error",
        "languages",
        "valid: its sides are swapped",
    ),
    "a blank reference": (
        set_line("test.de", 4, " "),
        "warning",
        "blank lines",
        "test: blank: line 5",
    ),
}


@pytest.mark.parametrize(
    ("plant", "level", "topic", "words"), PLANTED_FAULTS.values(), ids=PLANTED_FAULTS.keys()
)
def test_planted_fault_is_the_only_problem(
    text: Text, plant: Edit, level: str, topic: str, words: str
) -> None:
    plant(text)
    findings = find_all(write_project(text))
    assert problems(findings) == [(level, topic)]
    (finding,) = (finding for finding in findings if finding.level == level)
    assert words in finding.text
    # Training is only tried if the files have no errors.
    training_was_tried = any(finding.topic == "speed" for finding in findings)
    assert training_was_tried == (level == "warning")


def test_all_unreadable_files_are_reported_at_once(text: Text) -> None:
    path = write_project(text)
    Path("test.de").unlink()
    Path("train.en").write_bytes(b"caf\xe9\n" * 800)
    findings = find_all(path)
    assert problems(findings)[:2] == [("error", "files"), ("error", "encoding")]
    (encoding,) = (finding for finding in findings if finding.topic == "encoding")
    assert "train.en:1" in encoding.place


def test_corpora_and_references_are_named_one_by_one(text: Text) -> None:
    text["train.de"][3] = "\u2028"
    path = write_project(text)
    train_files = "[{prefix: valid}, {src: train.en, tgt: train.de}]"
    test_files = "[{name: test, src: test.en, refs: [test.de, test.de]}]"
    findings = find_all(path, f"data.train={train_files}", f"data.test={test_files}")
    names = [finding.text.split(":")[0] for finding in findings if finding.topic == "alignment"]
    assert names == ["train.0", "train.1", "valid", "test ref 1", "test ref 2"]


def test_set_that_is_too_small_for_scores_is_noted(text: Text) -> None:
    for name in ("test.en", "test.de"):
        text[name] = text[name][:20]
    findings = find_all(write_project(text))
    (finding,) = (finding for finding in findings if finding.topic == "set size")
    assert finding.level == "note"
    assert finding.text.startswith("test: has 20 pairs")
    assert finding.numbers == {"pairs": 20}


# Sound files


def test_sound_files_give_every_topic_and_change_nothing(
    text: Text, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_project(text)
    before = read_files(Path())
    findings = find_all(path)
    assert print_findings(findings, as_json=False) == 0
    assert read_files(Path()) == before
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 118
    assert lines[-1] == "ready"
    topics = [line[:12].strip() for line in lines if line[:1].strip()]
    assert topics[:-1] == [
        "config",
        "encoding",
        "alignment",
        "set size",
        "blank lines",
        "duplicates",
        "overlap",
        "languages",
        "forms",
        "HTML",
        "characters",
        "lengths",
        "scores",
        "filters",
        "tokens",
        "model",
        "memory",
        "speed",
        "time",
        "disk",
    ]


def test_json_of_a_failed_check(text: Text, capsys: pytest.CaptureFixture[str]) -> None:
    text["train.de"].pop()
    findings = check(write_project(text), (), device=None, resume=False)
    assert print_findings(findings, as_json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == 1
    expected = "not ready: alignment: train: 800 source lines, but 799 target lines"
    assert answer["verdict"].startswith(expected)
    alignment = answer["findings"][2]
    assert alignment["level"] == "error"
    assert alignment["what"] == "alignment"
    assert alignment["numbers"]["tgt_lines"] == 799


# The config and the machine


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.learning_rat=1", ["learning_rat", "did you mean learning_rate"]),
        ("model.num_heads=3", ["model.num_heads", "model.d_model (16)", "found 3"]),
    ],
)
def test_mistake_in_the_config_ends_the_check(text: Text, override: str, words: list[str]) -> None:
    (finding,) = find_all(write_project(text), override)
    assert finding.level == "error"
    assert finding.topic == "config"
    for word in words:
        assert word in finding.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_files_are_checked_even_if_the_device_is_missing(text: Text) -> None:
    findings = find_all(write_project(text), "train.device=cuda")
    assert problems(findings) == [("error", "device")]
    assert any(finding.topic == "lengths" for finding in findings)


def test_full_disk_during_the_check_is_a_finding(
    text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dry_run, "shorten_validation_set", fail)
    findings = find_all(write_project(text))
    assert problems(findings) == [("error", "training")]
    assert "No space left on device" in findings[-1].text


# Training


def test_validation_that_takes_much_of_the_time_is_a_warning(
    text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "time_validation", lambda trainer: 100.0)
    findings = find_all(write_project(text), "train.validation_lines=50")
    (warning,) = [finding for finding in findings if finding.topic == "validation"]
    assert warning.level == "warning"
    assert "train.validation_lines (now 50)" in warning.text


def test_test_set_of_another_kind_of_text_is_a_warning(text: Text) -> None:
    text["test.en"] = ["Ξεσκεπάζω την ψυχοφθόρα βδελυγμία"] * 60
    findings = find_all(write_project(text))
    assert ("warning", "tokens") in problems(findings)
    levels = [finding.level for finding in findings if finding.topic == "tokens"]
    assert levels == ["ok", "ok", "warning"]  # train, valid, test


def test_settings_that_do_not_fit_the_text_are_warnings_with_a_remedy(text: Text) -> None:
    """They are the last findings, the most useful first."""
    findings = find_all(
        write_project(text),
        "train.max_steps=300",
        "train.warmup_steps=100",
        "train.max_warmup_fraction=null",
        "tokenizer.vocab_size=2500",
        "model.d_model=64",
        "model.dropout=0.0",
    )
    assert problems(findings)[-4:] == [
        ("warning", "too short"),
        ("warning", "warm-up"),
        ("warning", "model size"),
        ("warning", "vocabulary"),
    ]
    texts = [finding.text for finding in findings[-4:]]
    for words, finding_text in zip(
        (
            "raise train.max_steps",
            "lower train.warmup_steps to 30",
            "raise model.dropout to 0.1",
            "lower tokenizer.vocab_size to",
        ),
        texts,
        strict=True,
    ):
        assert words in finding_text


def test_an_existing_tokenizer_is_not_too_large(text: Text) -> None:
    path = write_project(text)
    run = read_config(path, (*SHORT_RUN, "tokenizer.vocab_size=2500"), run_dir=None, device=None)
    train(run)
    findings = find_all(
        path,
        "train.run_dir=other",
        "tokenizer.vocab_size=8000",  # the default: it means nothing beside a model
        "tokenizer.model=run/tokenizer.model",
    )
    assert findings[-1].topic == "disk"


def test_leaving_out_many_pairs_is_a_warning(text: Text) -> None:
    findings = find_all(write_project(text), "data.max_length=25")
    assert problems(findings) == [("warning", "filters")]


def test_leaving_out_all_pairs_is_an_error(text: Text) -> None:
    findings = find_all(write_project(text), "data.max_length=1")
    assert problems(findings) == [("error", "training")]


def test_resume_check_beside_an_existing_run(
    text: Text, capsys: pytest.CaptureFixture[str]
) -> None:
    """The resume check trains in real processes, with the run's tokenizers, and leaves it alone."""
    path = write_project(text)
    train(read_config(path, SHORT_RUN, run_dir=None, device=None))
    before = read_files(Path("run"))
    capsys.readouterr()
    findings = find_all(path, *SHORT_RUN, resume=True)
    assert read_files(Path("run")) == before
    assert "tokenizer: training" not in capsys.readouterr().err
    assert [finding for finding in findings if finding.level == "error"] == []
    assert any("holds a run already" in finding.text for finding in findings)

    texts = [finding.text for finding in findings if finding.topic == "resume"]
    assert "killed by SIGKILL" in texts[0]
    assert "resumed from step_0000000" in texts[0]
    assert [text.split(",")[0] for text in texts[1:]] == [
        "weights: equal",
        "averages: equal",
        "optimizer: equal",
        "metrics: equal",
    ]


def test_existing_run_with_another_config_is_an_error(
    text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the check is then done with the new config: its tokenizers and precision."""
    path = write_project(text)
    train(read_config(path, SHORT_RUN, run_dir=None, device=None))
    changes = (
        "tokenizer.joint=false",
        "tokenizer.vocab_size=350",
        "model.tie_embeddings=decoder",
        "train.precision=auto",
        "train.learning_rate=0.5",
    )
    monkeypatch.setattr(mt.device, "_is_bf16_fast", lambda: True)  # the run has fp32
    findings = find_all(path, *SHORT_RUN, *changes)
    assert problems(findings)[0] == ("error", "config")
    (error,) = (finding for finding in findings if finding.level == "error")
    assert "another config" in error.text
    assert "train.learning_rate" in error.text
    (model,) = (finding for finding in findings if finding.topic == "model")
    assert model.text.endswith("in bf16")
    assert "disk" in [finding.topic for finding in findings]  # the check was done to its end


# Multi30k

MULTI30K_FAULTS = {
    "a line missing on one side": (
        drop("train.de", 14_500),
        "error",
        "alignment",
        "29,000 source lines, but 28,999 target lines",
    ),
    "a line missing on each side": (
        do_both(drop("train.de", 14_500), drop("train.en", 15_000)),
        "error",
        "alignment",
        "until line",
    ),
    "U+2028": (
        replace("train.en", 7000, " ", "\u2028"),
        "warning",
        "encoding",
        "U+2028: line 7001",
    ),
    "a test sentence in train": (
        copy_test_pair_to_train,
        "warning",
        "overlap",
        "line 8 is train line 301",
    ),
    "train swapped": (
        swap_sides("train"),
        "error",
        "languages",
        "train: its sides are the other way round than valid's",
    ),
}


@pytest.mark.skipif(not MULTI30K.exists(), reason="needs Multi30k")
@pytest.mark.parametrize(
    ("plant", "level", "topic", "words"), MULTI30K_FAULTS.values(), ids=MULTI30K_FAULTS.keys()
)
def test_planted_fault_is_the_only_problem_of_multi30k(
    plant: Edit, level: str, topic: str, words: str
) -> None:
    text = {}
    sources = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
    for name, source in sources.items():
        for lang in ("en", "de"):
            content = (MULTI30K / f"{source}.{lang}").read_text(encoding="utf-8")
            text[f"{name}.{lang}"] = content.removesuffix("\n").split("\n")
    plant(text)
    write_project(text)

    config = {
        "src_lang": "en",
        "tgt_lang": "de",
        "train": [{"prefix": "train"}],
        "valid": {"name": "valid", "prefix": "valid"},
        "test": [{"name": "test", "prefix": "test"}],
    }
    findings = list(check_files(DataConfig.model_validate(config, strict=False)))
    assert problems(findings) == [(level, topic)]
    (finding,) = (finding for finding in findings if finding.level == level)
    assert words in finding.text
    if topic == "alignment":
        assert abs(finding.numbers["line"] - 14_501) <= 10


BACKWARDS = {"src_lang": "de", "tgt_lang": "en"}


def check_directions(directory: Path, *corpora: dict[str, str]) -> list[Finding]:
    """Check the languages of the toy corpus from English to German and of other corpora."""
    for name in ("train", "valid"):
        for language in ("en", "de"):
            write_lines(directory / f"{name}.{language}", toy_lines(f"{name}.{language}", 300))
    data = DataConfig(
        src_lang="en",
        tgt_lang="de",
        train=({"prefix": f"{directory}/train"}, *corpora),
        valid=(
            {"name": "en-de", "prefix": f"{directory}/valid"},
            {"name": "de-en", "prefix": f"{directory}/valid", **BACKWARDS},
        ),
    )
    return [finding for finding in check_files(data) if finding.topic == "languages"]


def test_each_direction_is_compared_with_its_own_validation_set(tmp_path: Path) -> None:
    sound = {"prefix": f"{tmp_path}/train", **BACKWARDS}
    swapped = {"src": f"{tmp_path}/train.en", "tgt": f"{tmp_path}/train.de", **BACKWARDS}
    (finding,) = check_directions(tmp_path, sound)
    assert finding.level == "ok"
    (finding,) = check_directions(tmp_path, swapped)
    assert finding.level == "error"
    assert "train.1" in finding.text
    assert "de-en" in finding.text


def test_text_copied_on_purpose_is_no_fault(tmp_path: Path) -> None:
    sound = {"prefix": f"{tmp_path}/train", **BACKWARDS}
    copied = {"prefix": f"{tmp_path}/train", "src_lang": "de", "tag": "copy"}
    (finding,) = check_directions(tmp_path, sound, copied)
    assert finding.level == "ok"
