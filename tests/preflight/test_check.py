"""mt check, from a config to a verdict: planted faults end in one, and nothing is changed by looking."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import mt.device
from mt.config.schema import TrainConfig
from mt.distributed import Runtime
from mt.preflight import dry_run as trial
from mt.preflight import resume_check as resumption
from mt.preflight.check import as_text, check, report, verdict
from mt.preflight.checks import Finding
from mt.storage.run_dir import RunDir
from mt.training.run import read_config, train

ROOT = Path(__file__).resolve().parents[2]
TOY, MULTI30K = ROOT / "data" / "toy", ROOT.parent / "shared" / "data" / "multi30k" / "raw"
Lines = dict[str, list[str]]

CONFIG = """
data: {src_lang: en, tgt_lang: de, train: [{prefix: train}], valid: {name: valid, prefix: valid},
       test: [{name: test, prefix: test}]}
tokenizer: {vocab_size: 500, bpe_dropout: 0.1}
model: {d_model: 16, d_ff: 32, num_heads: 2, num_encoder_layers: 1, num_decoder_layers: 1}
train: {run_dir: run, batch_tokens: 512, max_steps: 40, schedule: cosine, warmup_steps: 30, validate_every: 20,
        device: cpu, precision: fp32, patience: 5}
"""


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty directory, and let no clock run longer than it must."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "LEAST_SECONDS", 0.0)


@pytest.fixture
def text(tmp_path: Path) -> Lines:
    """A few hundred lines of the toy corpus, by file name."""
    sizes = {"train": 800, "valid": 100, "test": 60}
    return {
        f"{name}.{lang}": (TOY / f"{name}.{lang}").read_text(encoding="utf-8").splitlines()[:size]
        for name, size in sizes.items()
        for lang in ("en", "de")
    }


def write(text: Lines) -> Path:
    """The files, and a config for them, in the current directory."""
    for name, lines in text.items():
        Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    Path("toy.yaml").write_text(CONFIG, encoding="utf-8")
    return Path("toy.yaml")


def look(path: Path, *overrides: str, resume: bool = False) -> list[Finding]:
    return list(check(path, overrides, device=None, resume=resume))


def troubles(findings: list[Finding]) -> list[tuple[str, str]]:
    return [
        (finding.level, finding.what)
        for finding in findings
        if finding.level in ("error", "warning")
    ]


def drop(name: str, index: int) -> Callable[[Lines], None]:
    return lambda text: text[name].pop(index) and None


def put(name: str, index: int, old: str, new: str) -> Callable[[Lines], None]:
    def edit(text: Lines) -> None:
        text[name][index] = text[name][index].replace(old, new)

    return edit


def both(*edits: Callable[[Lines], None]) -> Callable[[Lines], None]:
    return lambda text: [edit(text) for edit in edits] and None


def swap(name: str) -> Callable[[Lines], None]:
    def edit(text: Lines) -> None:
        text[f"{name}.en"], text[f"{name}.de"] = text[f"{name}.de"], text[f"{name}.en"]

    return edit


def leak(text: Lines) -> None:
    text["train.en"][300], text["train.de"][300] = text["test.en"][7], text["test.de"][7]


PLANTED = {
    "a line deleted in the middle": (drop("train.de", 400), "error", "alignment", "on the target side"),
    "a line deleted, and the other side's last": (
        both(drop("train.de", 400), drop("train.en", -1)),
        "error",
        "alignment",
        "as many lines on both sides",
    ),
    "U+2028": (put("train.de", 200, " ", "\u2028"), "warning", "encoding", "U+2028: line 201"),
    "a test sentence in train": (leak, "warning", "overlap", "line 8 is train line 301"),
    "train swapped": (swap("train"), "error", "languages", "the other way round than valid's; test: as in valid"),
    "valid swapped": (swap("valid"), "error", "languages", "valid: its sides are swapped"),
    "a blank reference": (lambda text: text["test.de"].__setitem__(4, " "),
                          "warning", "blank lines", "test: blank: line 5"),
}  # fmt: skip


@pytest.mark.parametrize(("plant", "level", "what", "words"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(
    text: Lines, plant: Callable[[Lines], None], level: str, what: str, words: str
) -> None:
    plant(text)
    findings = look(write(text))
    assert troubles(findings) == [(level, what)]
    (finding,) = (finding for finding in findings if finding.level == level)
    assert words in finding.text
    tried = any(finding.what == "speed" for finding in findings)
    assert tried == (level == "warning"), "an error ends the check before training is tried"


def test_sound_files_are_ready_and_everything_is_told(
    text: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(text)
    before = {file: file.read_bytes() for file in Path().rglob("*")}
    assert report(check(path, (), device=None, resume=False), as_json=False) == 0
    assert {file: file.read_bytes() for file in Path().rglob("*")} == before, (
        "looking changes nothing"
    )
    shown = capsys.readouterr().out
    topics = [line[:12].strip() for line in shown.splitlines() if line[:1].strip()]
    assert topics == [
        "config", "encoding", "alignment", "blank lines", "duplicates", "overlap", "languages", "lengths", "filters",
        "tokens", "model", "memory", "speed", "time", "disk", "ready",
    ]  # fmt: skip
    assert max(map(len, shown.splitlines())) <= 118


def test_the_json_is_one_object_with_the_same_verdict(
    text: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    text["train.de"].pop()
    assert report(check(write(text), (), device=None, resume=False), as_json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == 1
    assert answer["verdict"].startswith(
        "not ready: alignment: train: 800 source lines, but 799 target lines"
    )
    assert {"level": "error", "what": "alignment"}.items() <= answer["findings"][2].items()
    assert answer["findings"][2]["numbers"]["tgt_lines"] == 799


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.learning_rat=1", "unknown key (did you mean learning_rate?)"),
        ("model.num_heads=3", "wanted a divisor of model.d_model (16), found 3"),
    ],
)
def test_a_mistake_in_the_config_is_a_finding_and_ends_the_check(
    text: Lines, override: str, words: str
) -> None:
    (finding,) = look(write(text), override)
    assert (finding.level, finding.what) == ("error", "config")
    assert words in finding.text


def test_all_missing_and_broken_files_are_told_at_once(text: Lines) -> None:
    path = write(text)
    Path("test.de").unlink()
    Path("train.en").write_bytes(b"caf\xe9\n" * 800)
    findings = look(path)
    assert troubles(findings)[:2] == [("error", "files"), ("error", "encoding")]
    assert "train.en:1" in next(finding.where for finding in findings if finding.what == "encoding")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_device_that_is_not_there_is_told_with_the_files(text: Lines) -> None:
    findings = look(write(text), "train.device=cuda")
    assert troubles(findings) == [("error", "device")]
    assert any(finding.what == "lengths" for finding in findings)


def test_text_of_another_kind_shows_in_the_tokens(text: Lines) -> None:
    text["test.en"] = ["Ξεσκεπάζω την ψυχοφθόρα βδελυγμία"] * 60
    findings = look(write(text))
    assert ("warning", "tokens") in troubles(findings)
    assert [finding.level for finding in findings if finding.what == "tokens"] == [
        "ok",
        "ok",
        "warning",
    ]


def test_pairs_that_the_filters_leave_out_are_a_warning_when_many(text: Lines) -> None:
    findings = look(write(text), "data.max_length=25")
    assert troubles(findings) == [("warning", "filters")]
    findings = look(Path("toy.yaml"), "data.max_length=1")
    assert troubles(findings) == [("error", "training")]


def test_several_corpora_and_references_are_named_one_by_one(text: Lines) -> None:
    text["train.de"][3] = "\u2028"
    path = write(text)
    files = "[{prefix: valid}, {src: train.en, tgt: train.de}]"
    refs = "[{name: test, src: test.en, refs: [test.de, test.de]}]"
    named = [finding.text.split(":")[0] for finding in look(path, f"data.train={files}", f"data.test={refs}")
             if finding.what == "alignment"]  # fmt: skip
    assert named == ["train.0", "train.1", "valid", "test ref 1", "test ref 2"]


@pytest.mark.parametrize(
    ("limits", "num_updates"),
    [
        ({"max_steps": 700}, 700),
        ({"max_epochs": 3}, 150),
        ({"max_steps": 700, "max_epochs": 3}, 150),
        ({"max_minutes": 1.0}, 100),
        ({"max_minutes": 1.0, "max_steps": 30}, 30),
    ],
)
def test_the_time_is_that_to_the_first_limit(limits: dict[str, float], num_updates: int) -> None:
    """An update of half a second, a validation of 5 seconds every 50: a minute is 100 updates and 2 validations."""
    config = TrainConfig(**limits, validate_every=50)
    found = trial.estimate_time(config, 0.5, 5.0, per_epoch=50)
    assert found.numbers["updates"] == num_updates
    assert found.numbers["seconds"] == num_updates * 0.5 + -(-num_updates // 50) * 5.0


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (["ok", "note"], "ready"),
        (["ok", "warning"], "ready with 1 warning"),
        (["warning", "note", "warning"], "ready with 2 warnings"),
        (["warning", "error", "error"], "not ready: b: text b (and 1 more)"),
    ],
)
def test_the_verdict_is_one_line(levels: list, words: str) -> None:
    findings = [
        Finding(level, name, "", f"text {name}") for level, name in zip(levels, "abc", strict=False)
    ]
    assert verdict(findings) == words


def test_a_place_below_is_written_the_shorter_way(tmp_path: Path) -> None:
    lines = as_text(
        Finding("error", "files", str(tmp_path / "a:1"), "word " * 40), with_topic=True
    ).splitlines()
    assert lines[0].startswith("files        ERROR    word word")
    assert lines[-1] == f"{'':22}a:1"


# Resume


def test_resuming_is_proved_with_real_processes_and_a_run_that_has_begun_is_left_alone(
    text: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    path, limits = write(text), ("train.max_steps=31", "train.validate_every=31")
    train(read_config(path, limits, run_dir=None, device=None))
    before = {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}
    capsys.readouterr()
    findings = look(path, *limits, resume=True)
    assert {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()} == before
    assert "tokenizer: training" not in capsys.readouterr().err, "the run lends its own"
    assert troubles(findings) == []
    assert any("holds a run already" in finding.text for finding in findings)
    told = [finding.text for finding in findings if finding.what == "resume"]
    assert "killed by SIGKILL, going on from step_0000000" in told[0]
    assert [line.split(",")[0] for line in told[1:]] == [
        "weights: equal",
        "optimizer: equal",
        "metrics: equal",
    ]
    changed = look(path, *limits, "train.learning_rate=0.5")
    assert any(
        finding.level == "error"
        and "another config" in finding.text
        and "train.learning_rate" in finding.text
        for finding in changed
    )


def test_beside_a_run_of_another_config_all_is_tried_with_this_one(
    text: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, limits = write(text), ("train.max_steps=31", "train.validate_every=31")
    train(read_config(path, limits, run_dir=None, device=None))
    others = (
        "tokenizer.joint=false",
        "tokenizer.vocab_size=350",
        "model.tie_embeddings=decoder",
        "train.precision=auto",
    )
    monkeypatch.setattr(mt.device, "_is_bf16_fast", lambda: True)  # while the run has begun in fp32
    findings = look(path, *limits, *others)
    assert troubles(findings) == [("error", "config")]
    assert next(finding.text for finding in findings if finding.what == "model").endswith("in bf16")
    assert findings[-1].what == "disk", "the last to be looked at"


def test_what_the_disk_refuses_meanwhile_is_a_finding(
    text: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trial, "cut_validation", refuse)
    findings = look(write(text))
    assert troubles(findings) == [("error", "training")]
    assert "No space left on device" in findings[-1].text


def test_no_training_outlives_a_check_that_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    def end(_: float) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(resumption, "start", lambda *_: process)
    monkeypatch.setattr(time, "sleep", end)
    with pytest.raises(SystemExit):
        resumption.run_and_kill(tmp_path / "probe.yaml", RunDir(tmp_path), RunDir(tmp_path))
    assert process.wait() < 0


@pytest.mark.parametrize(("name", "index"), [("weights", 0), ("optimizer", 1), ("metrics", 2)])
def test_a_resumed_run_that_differs_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, index: int
) -> None:
    def hashes(run: RunDir) -> list[str]:
        return ["same" if i != index else run.path.name for i in range(3)]

    assert troubles(list(faked_resume(monkeypatch, hashes))) == [("error", "resume")]
    (finding,) = (
        finding for finding in faked_resume(monkeypatch, hashes) if finding.level == "error"
    )
    assert finding.text == f"{name}: whole at once, killed with a kill"


def faked_resume(
    monkeypatch: pytest.MonkeyPatch, hashes: Callable[[RunDir], list[str]]
) -> Iterator[Finding]:
    """The comparison alone: no process is started."""
    monkeypatch.setattr(resumption, "make_probe", lambda *_: None)
    monkeypatch.setattr(resumption, "dump_config", lambda _: "")
    monkeypatch.setattr(resumption, "run_to_end", lambda *_: None)
    monkeypatch.setattr(resumption, "run_and_kill", lambda *_: "step_00000002")
    monkeypatch.setattr(resumption, "digests", hashes)
    config, runtime = None, Runtime(torch.device("cpu"))
    return resumption.prove_resume(config, runtime, RunDir(Path("trial")), directory=Path())  # type: ignore[arg-type]


# Real text


@pytest.mark.skipif(not MULTI30K.exists(), reason="Multi30k is not here")
@pytest.mark.parametrize("name", ["deleted", "nasty", "U+2028", "leak", "swapped"])
def test_faults_planted_in_multi30k_are_found(name: str) -> None:
    from mt.config.schema import DataConfig
    from mt.preflight.check import inspect_files

    text = {
        f"{ours}.{lang}": (MULTI30K / f"{theirs}.{lang}")
        .read_text(encoding="utf-8")
        .split("\n")[:-1]
        for ours, theirs in (("train", "train"), ("valid", "val"), ("test", "test_2016_flickr"))
        for lang in ("en", "de")
    }
    plant, level, what, words = {
        "deleted": (
            drop("train.de", 14_500),
            "error",
            "alignment",
            "29,000 source lines, but 28,999 target lines",
        ),
        "nasty": (
            both(drop("train.de", 14_500), drop("train.en", 15_000)),
            "error",
            "alignment",
            "until line",
        ),
        "U+2028": (
            put("train.en", 7000, " ", "\u2028"),
            "warning",
            "encoding",
            "U+2028: line 7001",
        ),
        "leak": (leak, "warning", "overlap", "line 8 is train line 301"),
        "swapped": (
            swap("train"),
            "error",
            "languages",
            "train: its sides are the other way round than valid's",
        ),
    }[name]
    plant(text)
    write(text)
    data = DataConfig.model_validate({"src_lang": "en", "tgt_lang": "de", "train": [{"prefix": "train"}],
                                      "valid": {"name": "valid", "prefix": "valid"},
                                      "test": [{"name": "test", "prefix": "test"}]}, strict=False)  # fmt: skip
    findings = list(inspect_files(data))
    assert troubles(findings) == [(level, what)]
    (finding,) = (finding for finding in findings if finding.level == level)
    assert words in finding.text
    if what == "alignment":
        assert abs(finding.numbers["line"] - 14_501) <= 10
