"""The recipes: their commands, and the comparison of scores, times and variants."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mt.config.load import load_config
from scripts.recipes import compare, speedrun_try, time_to_score
from scripts.recipes.compare import Expectation
from scripts.recipes.get_data import DATA_SETS
from scripts.recipes.speedrun_try import Trial, TryError, Variant
from scripts.recipes.time_to_score import TimedScore

TOP = Path(__file__).resolve().parents[2]
RECIPES = sorted(path for path in TOP.glob("scripts/recipes/*") if not path.suffix)
NAMES = [path.name for path in RECIPES if path.is_file()]
SHARED = TOP.parent / "shared/data/multi30k"
SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
AS_PUBLISHED = "test_2016_flickr.lc.norm.tok.de"


# Scores beside the header of a recipe


def scores_of(bleu: float, *, signature: str = SIGNATURE) -> compare.Scores:
    return {"test": {"num_lines": 100, "BLEU": {"score": bleu, "signature": signature}}}


def write_recipe(path: Path, *expected: str) -> Path:
    lines = [f"# expected: {text}\n" for text in expected]
    path.write_text("#!/usr/bin/env bash\n" + "".join(lines) + "mt train\n", encoding="utf-8")
    return path


def test_header_says_what_is_expected(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path / "recipe", "test BLEU tok:13a 38.0 ± 0.5", "other chrF nc:6 not measured yet"
    )
    assert compare.read_expectations(recipe) == [
        Expectation("test", "BLEU", "tok:13a", 38.0, 0.5),
        Expectation("other", "chrF", "nc:6", None),
    ]


@pytest.mark.parametrize(
    ("bleu", "word", "is_low"),
    [
        (38.5, "as", False),
        (37.5, "as", False),
        (37.49, "lower", True),
        (38.51, "higher", False),
        (float("nan"), "lower", True),
    ],
)
def test_score_is_compared_with_its_spread(bleu: float, word: str, is_low: bool) -> None:
    expectation = Expectation("test", "BLEU", "tok:13a", 38.0, 0.5)
    comparison = compare.compare(expectation, scores_of(bleu))
    assert comparison.is_low is is_low
    assert word in comparison.text.split()


def test_score_by_another_signature_is_not_compared() -> None:
    expectation = Expectation("test", "BLEU", "tok:none", 38.0, 0.5)
    comparison = compare.compare(expectation, scores_of(99.0))
    assert comparison.is_low
    assert SIGNATURE in comparison.text


def test_missing_metric_is_a_failure_and_nothing_expected_is_none() -> None:
    assert compare.compare(Expectation("test", "chrF", "nc:6", 1.0, 0.0), scores_of(1.0)).is_low
    expectation = Expectation("test", "BLEU", "tok:13a", None)
    comparison = compare.compare(expectation, scores_of(1.0))
    assert not comparison.is_low
    assert "1.00" in comparison.text


def write_metrics(run_dir: Path, *lines: dict[str, Any]) -> Path:
    run_dir.mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run_dir / "metrics.jsonl").write_text(text, encoding="utf-8")
    return run_dir


def test_command_prints_scores_and_time_and_fails_for_a_low_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = {"kind": "final", "step": 9, "timing": {"elapsed_seconds": 90.0}}
    scores = write_metrics(tmp_path / "run", end) / "scores.json"
    scores.write_text(json.dumps(scores_of(37.0)), encoding="utf-8")
    low = write_recipe(
        tmp_path / "low", "test BLEU tok:13a 38.0 ± 0.5", "other BLEU tok:13a 9.0 ± 0"
    )
    reached = write_recipe(tmp_path / "reached", "test BLEU tok:13a 37.0 ± 0.1")
    assert compare.main([str(reached), str(scores)]) == 0
    printed = capsys.readouterr().out
    assert "1.5 minutes" in printed
    assert "37.00" in printed
    assert compare.main([str(low), str(scores)]) == 1


def test_several_files_of_scores_are_compared_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for name, bleu in (("raw", 37.0), ("tok", 41.0)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({name: scores_of(bleu)["test"]}), encoding="utf-8")
        files.append(str(path))
    expected = ("raw BLEU tok:13a 38.0 ± 0.5", "tok BLEU tok:13a 41.0 ± 0.5")
    recipe = write_recipe(tmp_path / "recipe", *expected)
    assert compare.main([str(recipe), *files]) == 1
    low, reached = capsys.readouterr().out.splitlines()
    assert "lower" in low
    assert "as expected" in reached
    assert compare.main([str(recipe), files[0]]) == 1
    assert "there is no such score" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("expected", "part"),
    [
        ("test BLEU tok:13a 38", "38.0 ± 0.5"),
        ("test BLEU tok:13a about 38.0 ± 0.5", "38.0 ± 0.5"),
    ],
)
def test_header_that_does_not_fit_is_one_line(
    expected: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps(scores_of(37.0)), encoding="utf-8")
    recipe = write_recipe(tmp_path / "recipe", expected)
    assert compare.main([str(recipe), str(scores)]) == 1
    message = capsys.readouterr().err
    assert part in message
    assert message.count("\n") == 1


# The recipes themselves

# Log what they are started with, and write the files that later commands read.
FAKE_MT = """#!/usr/bin/env bash
echo "mt $*" >>"$LOG"
while (($#)); do
    case $1 in
        --run-dir) mkdir -p "$2" ;;
        -o) mkdir -p "$(dirname "$2")" && echo Satz >"$2" ;;
    esac
    shift
done
"""
FAKE_PYTHON = """#!/usr/bin/env bash
echo "python $*" >>"$LOG"
"""


def run_recipe(name: str, top: Path, *arguments: str, **variables: str) -> list[str]:
    """Run a recipe in a copy of the project with stand-ins for mt and Python; return their log."""
    shutil.copytree(TOP / "scripts/recipes", top / "scripts/recipes", dirs_exist_ok=True)
    (top / ".venv/bin").mkdir(parents=True, exist_ok=True)
    (top / "data/multi30k").mkdir(parents=True, exist_ok=True)
    (top / "data/multi30k/train.en").write_text("A sentence\n", encoding="utf-8")
    for ensemble_run in (1, 2, 3):  # multi30k-distilled has its teachers
        (top / f"runs/multi30k-best-{ensemble_run}").mkdir(parents=True, exist_ok=True)
    for program, text in (("mt", FAKE_MT), ("python", FAKE_PYTHON)):
        path = top / ".venv/bin" / program
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    log = top / "log"
    log.write_text("", encoding="utf-8")
    done = subprocess.run(
        [top / "scripts/recipes" / name, *arguments],
        cwd=top.parent,
        env={**os.environ, "LOG": str(log), **variables},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return log.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_recipe_gets_its_text_and_trains_and_compares(name: str, tmp_path: Path) -> None:
    log = run_recipe(name, tmp_path / "a clone", "--device", "cpu")
    commands = [" ".join(line.split()[:2]) for line in log if line.startswith("mt ")]
    modules = re.findall(r"python -m scripts\.recipes\.(\w+)", "\n".join(log))
    assert modules[0] == "get_data"
    assert modules[-1] == ("time_to_score" if name == "speedrun" else "compare")
    trainings = [line for line in log if line.startswith("mt train ")]
    assert trainings
    assert all(line.endswith(" --device cpu") for line in trainings)
    assert name == "speedrun" or commands[-1] == "mt evaluate"
    for training in trainings:
        words = training.split()
        overrides = [value for word, value in pairwise(words) if word == "--set"]
        load_config(TOP / words[2], overrides)  # raises ConfigError for a key that does not fit


@pytest.mark.parametrize("name", NAMES)
def test_files_named_by_a_recipe_exist(name: str) -> None:
    text = (TOP / "scripts/recipes" / name).read_text(encoding="utf-8")
    assert "set -euo pipefail" in text.splitlines()
    assert os.access(TOP / "scripts/recipes" / name, os.X_OK)
    for config in re.findall(r"configs/[\w/.-]+\.yaml", text):
        assert (TOP / config).exists(), config
    for data_set in re.findall(r"^get_data (\S+)$", text, re.MULTILINE):
        assert data_set in DATA_SETS


@pytest.mark.parametrize("name", [name for name in NAMES if name != "speedrun"])
def test_expectations_are_of_sets_that_the_recipe_scores(name: str) -> None:
    recipe = TOP / "scripts/recipes" / name
    text = recipe.read_text(encoding="utf-8")
    (config,) = set(re.findall(r"configs/[\w/.-]+\.yaml", text))
    sets = {test_set.name for test_set in load_config(TOP / config).data.test}
    if "evaluate_as_published" in text:
        sets.add(AS_PUBLISHED)
    assert {item.set_name for item in compare.read_expectations(recipe)} == sets


def test_each_recipe_is_in_the_table() -> None:
    page = (TOP / "docs/recipes.md").read_text(encoding="utf-8")
    table = page.split("<!-- recipes -->")[1].split("<!-- /recipes -->")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == NAMES


def test_data_names_one_or_more_folders_from_where_the_recipe_is_started(tmp_path: Path) -> None:
    for folder in ("raw text", "tok"):
        (tmp_path / folder).mkdir()
    log = run_recipe("enja", tmp_path / "clone", DATA="raw text:tok")
    assert log[0] == (
        "python -m scripts.recipes.get_data small-parallel-enja "
        f"--from {tmp_path}/raw text --from {tmp_path}/tok"
    )


def test_scores_of_an_ensemble_do_not_replace_those_of_its_runs(tmp_path: Path) -> None:
    top = tmp_path / "clone"
    run_recipe("multi30k-best", top)
    before = (top / "runs/multi30k-best-1/scores.json").stat().st_mtime_ns
    log = run_recipe("multi30k-ensemble", top)
    assert (top / "runs/multi30k-best-1/scores.json").stat().st_mtime_ns == before
    assert (top / "runs/multi30k-ensemble-1/scores-as-published.json").exists()
    out = "runs/multi30k-ensemble-1"
    files = f"{out}/scores-as-published.json {out}/scores.json"
    assert log[-1].endswith(f"recipes.compare scripts/recipes/multi30k-ensemble {files}")


def test_seed_has_a_run_of_its_own(tmp_path: Path) -> None:
    log = run_recipe("enja", tmp_path / "clone", SEED="3")
    (training,) = (line for line in log if line.startswith("mt train "))
    assert training.endswith("--run-dir runs/enja-3 --set train.seed=3")


def test_tiny_has_the_published_number_of_parameters() -> None:
    from mt.model.transformer import Transformer

    config = load_config(TOP / "configs/recipes/multi30k-tiny.yaml")
    size = config.tokenizer.vocab_size
    model = Transformer(config.model, src_vocab_size=size, tgt_vocab_size=size, pad_id=0)
    num_parameters = sum(weight.numel() for weight in model.parameters())
    assert round(num_parameters / 1e6, 2) == 2.57


def test_moses_tokenization_is_that_of_the_release() -> None:
    pytest.importorskip("sacremoses", reason="needs Multi30k and sacremoses")
    if not SHARED.exists():
        pytest.skip("needs Multi30k beside the repository")
    from scripts.recipes.moses_tokenize import tokenize

    for lang in ("en", "de"):
        raw = (SHARED / f"raw/test_2016_flickr.{lang}").read_text(encoding="utf-8")
        released = SHARED / f"tok/test_2016_flickr.lc.norm.tok.{lang}"
        tokenized = [line.rstrip() for line in released.read_text(encoding="utf-8").split("\n")]
        assert list(tokenize(raw.split("\n"), lang)) == tokenized


# The time until a score is reached


def training_line(step: int, elapsed_seconds: float) -> dict[str, Any]:
    return {"kind": "train", "step": step, "timing": {"elapsed_seconds": elapsed_seconds}}


def validation_line(step: int, elapsed_seconds: float, bleu: float, **scope: int) -> dict[str, Any]:
    line = {"kind": "valid", "step": step, "BLEU": bleu}
    line |= {"num_lines": 9, "num_lines_in_set": 9, "beam_size": 5} | scope
    return {**line, "timing": {"elapsed_seconds": elapsed_seconds}}


def test_time_of_validations_does_not_count(tmp_path: Path) -> None:
    run_dir = write_metrics(
        tmp_path / "run",
        training_line(50, 60.0),
        training_line(100, 110.0),
        {"kind": "incident", "step": 100, "text": "skipped", "timing": {"elapsed_seconds": 110.0}},
        validation_line(100, 140.0, 36.0),  # 30 seconds
        training_line(200, 240.0),
        validation_line(200, 250.0, 35.0),  # 10 seconds
        training_line(300, 350.0),
        validation_line(300, 370.0, 35.5),
    )
    history = time_to_score.read_metrics_log(run_dir / "metrics.jsonl")
    assert time_to_score.timed_scores(history) == [
        TimedScore(100, 36.0, 110.0),
        TimedScore(200, 35.0, 210.0),
        TimedScore(300, 35.5, 310.0),
    ]


@pytest.mark.parametrize(
    ("scores", "step"),
    [
        ([35.0, 35.0], 2),
        ([34.9, 35.1, 34.9, 35.0, 36.0, 37.0], 5),
        ([35.1, 34.9, 35.1], None),
        ([], None),
    ],
)
def test_goal_is_reached_by_two_validations_in_a_row(scores: list[float], step: int | None) -> None:
    timed = [TimedScore(number, score, 0.0) for number, score in enumerate(scores, start=1)]
    reached = time_to_score.first_at_goal(timed, 35.0)
    assert (reached.step if reached else None) == step


def test_table_has_the_mean_of_the_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dirs = []
    for seed, seconds in ((1, 600.0), (2, 660.0)):
        lines = []
        for step in (100, 200):
            end = seconds * step / 200
            lines += [training_line(step, end), validation_line(step, end, 35.0)]
        run_dirs.append(str(write_metrics(tmp_path / f"run-{seed}", *lines)))
    assert time_to_score.main(run_dirs) == 0
    assert "mean 10.50 minutes, from 10.00 to 11.00, 2 runs" in capsys.readouterr().out
    assert time_to_score.main([*run_dirs, "--goal", "36"]) == 1
    assert "2 of 2 runs did not reach 36.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (validation_line(100, 1.0, 35.0, num_lines=5), "validation_lines"),
        (validation_line(100, 1.0, 35.0, beam_size=1), "validation_beam_size"),
        (validation_line(150, 1.0, 35.0), "log_every"),
    ],
)
def test_scores_that_do_not_count_are_refused(
    line: dict[str, Any], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = write_metrics(tmp_path / "run", training_line(100, 1.0), line)
    assert time_to_score.main([str(run_dir)]) == 1
    assert key in capsys.readouterr().err


# Variants at equal processor time


def test_variants_have_names_and_values() -> None:
    lists = [["lr2", "train.learning_rate=2e-3"], ["wide", "model.d_model=320", "model.d_ff=1280"]]
    assert speedrun_try.parse_variants(lists) == [
        Variant("plain", ()),
        Variant("lr2", ("train.learning_rate=2e-3",)),
        Variant("wide", ("model.d_model=320", "model.d_ff=1280")),
    ]


@pytest.mark.parametrize(
    "lists",
    [[["lr2"]], [["train.seed=2"]], [["plain", "a=1"]], [["x", "a=1"], ["x", "a=2"]], [["x", "a"]]],
)
def test_bad_variant_is_refused(lists: list[list[str]]) -> None:
    with pytest.raises(TryError, match="--variant"):
        speedrun_try.parse_variants(lists)


def test_variants_of_the_shipped_config_use_its_validation_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for language in ("en", "de"):
        path = tmp_path / f"data/multi30k/val.{language}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one\ntwo\nthree\n", encoding="utf-8")
    sources = []
    monkeypatch.setattr(
        speedrun_try, "run_trials", lambda trials, *, jobs, source: sources.append(source)
    )
    monkeypatch.setattr(speedrun_try, "print_scores", lambda trials, ref, language: None)
    assert speedrun_try.main(["--minutes", "1", "--out", "out"]) == 0
    assert sources == [tmp_path / "data/multi30k/val.en"]
    assert Path("out/short.de").read_text(encoding="utf-8") == "one\ntwo\n"


def test_number_of_updates_follows_from_the_measured_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: dict[str, list[list[str]]] = {"plain": [], "slow": []}

    def fake_mt(trial: Trial, command: list[str]) -> float:
        """Take 10 seconds, and 0.5 or 2 seconds for each update."""
        commands[trial.variant.name].append(command)
        seconds = {"plain": 0.5, "slow": 2.0}[trial.variant.name]
        steps = [value for value in command if value.startswith("train.max_steps=")]
        return 10.0 + sum(seconds * int(step.split("=")[1]) for step in steps)

    monkeypatch.setattr(Trial, "_mt", fake_mt)
    variants = [Variant("plain", ()), Variant("slow", ("model.d_model=512",))]
    trials = [Trial(variant, Path("x.yaml"), tmp_path, 10.0) for variant in variants]
    speedrun_try.run_trials(trials, jobs=2, source=Path("val.en"))
    for name, num_updates in (("plain", 1200), ("slow", 300)):
        *_, training, translation = commands[name]
        assert f"train.max_steps={num_updates}" in training
        assert ("model.d_model=512" in training) == (name == "slow")
        assert "--fresh" not in training
        assert translation[:4] == [
            "translate",
            str(tmp_path / f"{name}-10"),
            "--checkpoint",
            "last",
        ]

    num_commands = len(commands["plain"])
    speedrun_try.run_trials(trials, jobs=1, source=Path("val.en"))
    assert len(commands["plain"]) == num_commands + 2, "the time of an update is measured once"
