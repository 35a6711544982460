"""Tests of models of several target languages: training, resuming, validation and translation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copy_task import write_copy_task
from runs import (
    CONFIG,
    FULL_VALIDATION,
    assert_same_run,
    configure,
    read_lines_without_timing,
    train,
    train_until,
)
from typer.testing import CliRunner

from mt.cli.app import app
from mt.config.load import load_run_config
from mt.decoding.translator import Translator
from mt.distributed import Runtime, open_runtime
from mt.errors import ConfigError, DataError
from mt.evaluation.evaluate import evaluate
from mt.experiment import Experiment
from mt.export.ctranslate2 import export
from mt.report.run_report import collect_report
from mt.storage.run_dir import RunDir
from mt.training.objective import Objective
from mt.training.run import prepare_run
from mt.training.validator import Validator

# Sentences of aa translate to themselves in bb, and backwards in cc. There is less text in cc.
TRAIN = """\
  train:
    - {prefix: AT/train, tag: clean}
    - {prefix: AT/small, tgt_lang: cc}
    - {prefix: AT/small, src_lang: cc, tgt_lang: aa}
  valid:
    - {name: to-bb, prefix: AT/valid}
    - {name: to-cc, prefix: AT/valid, tgt_lang: cc}
  sampling_temperature: 2
"""
LANGUAGES = CONFIG.replace(
    """\
  train:
    - prefix: AT/train
  valid:
    name: valid
    prefix: AT/valid
""",
    TRAIN,
)
OVERRIDES = ("tokenizer.bpe_dropout=0.2", "train.num_samples=4", *FULL_VALIDATION)


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("languages")
    assert LANGUAGES != CONFIG
    path = write_copy_task(directory, LANGUAGES)
    for name, num_lines in (("small", 30), ("valid", 6)):
        source = "train" if name == "small" else name
        lines = (directory / f"{source}.aa").read_text(encoding="utf-8").splitlines()[:num_lines]
        backwards = [" ".join(reversed(line.split())) for line in lines]
        (directory / f"{name}.aa").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (directory / f"{name}.cc").write_text("\n".join(backwards) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run_dir(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 updates."""
    return train(configure(config_path, tmp_path_factory.mktemp("run"), *OVERRIDES))


def sets_of_line(line: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in line["sets"]}


def test_tags_are_recorded_in_the_run(run_dir: Path) -> None:
    data = load_run_config(run_dir / "config.yaml").data
    assert data.tags == ("2bb", "2cc", "2aa", "clean")


def test_batches_have_the_tags_of_their_corpora(run_dir: Path) -> None:
    experiment = Experiment.open(run_dir)
    ids = experiment.ids_by_tag
    dataset = experiment.training_data
    assert dataset.has_bpe_dropout
    corpus = dataset.corpus
    prefixes = [(ids["2bb"], ids["clean"]), (ids["2cc"],), (ids["2aa"],)]
    assert list(corpus.src_prefixes) == prefixes
    epoch = dataset.epoch(0, batch_tokens=128)
    starts = []
    for index in range(epoch.plan.num_batches):
        starts += epoch.batch(index).src[:, 0].tolist()
    assert len(starts) == len(epoch.plan.order)
    counts = np.array([starts.count(prefix[0]) for prefix in prefixes])
    assert counts.sum() == len(starts), "each source begins with the tag of its target language"
    # 90, 30 and 30 pairs at a temperature of 2: parts in proportion to the square roots.
    expected = len(starts) * np.sqrt([90, 30, 30]) / np.sqrt([90, 30, 30]).sum()
    assert counts == pytest.approx(expected, abs=8)


def test_resumed_run_is_the_uninterrupted_one(
    config_path: Path, run_dir: Path, tmp_path: Path
) -> None:
    config = configure(config_path, tmp_path, *OVERRIDES)
    train_until(6, config)
    train(config)
    assert_same_run(tmp_path, run_dir)


def test_validations_have_scores_of_each_direction_and_their_mean(run_dir: Path) -> None:
    lines = [line for line in read_lines_without_timing(run_dir) if line["kind"] == "valid"]
    assert len(lines) == 4
    for line in lines:
        sets = sets_of_line(line)
        assert list(sets) == ["to-bb", "to-cc"]
        for name in ("loss", "BLEU", "chrF"):
            mean = (sets["to-bb"][name] + sets["to-cc"][name]) / 2
            assert line[name] == pytest.approx(mean)
        assert [sets[name]["num_lines"] for name in sets] == [6, 6]
        assert (line["num_lines"], line["num_lines_in_set"]) == (12, 12)
        assert len(line["samples"]) == 4
    losses = [line["loss"] for line in lines]
    assert [line["is_best"] for line in lines][-1] == (losses[-1] == min(losses))


def test_final_scores_are_those_of_evaluate(run_dir: Path) -> None:
    (final,) = [line for line in read_lines_without_timing(run_dir) if line["kind"] == "final"]
    scores = {item.name: item.scores for item in evaluate(run_dir, device="cpu")}
    assert list(scores) == ["to-bb", "to-cc"]
    for name, item in sets_of_line(final).items():
        assert item["chrF"] == scores[name][1].value
        assert item["signatures"]["chrF"] == scores[name][1].signature
    assert final["chrF"] == pytest.approx((scores["to-bb"][1].value + scores["to-cc"][1].value) / 2)


def test_samples_of_several_sets_have_the_number_of_lines_that_was_asked_for(
    config_path: Path, tmp_path: Path
) -> None:
    config = configure(config_path, tmp_path, "train.validation_lines=5", "train.max_steps=3")
    train(config)
    (line,) = [line for line in read_lines_without_timing(tmp_path) if line["kind"] == "valid"]
    assert [item["num_lines"] for item in line["sets"]] == [2, 3]
    assert (line["num_lines"], line["num_lines_in_set"]) == (5, 12)


def test_ranks_share_the_sets_of_all_directions(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample has 2 and 3 lines, which two ranks cannot share evenly."""

    def translate(translator: Translator, texts: list[str], *, to: str) -> list[str]:
        return [f"{text} {to}" for text in texts]

    monkeypatch.setattr(Translator, "translate", translate)
    experiment = Experiment.open(run_dir)
    settings = experiment.config.train.model_copy(update={"validation_lines": 5, "num_samples": 5})
    config = experiment.config.model_copy(update={"train": settings})
    experiment = Experiment(config, experiment.run_dir)
    device = torch.device("cpu")
    objective = Objective(experiment.model(device), label_smoothing=0.1).eval()
    validators = [
        Validator(experiment, Runtime(device, rank=rank, world_size=2)) for rank in range(2)
    ]
    shares = [validator._compute_share(objective) for validator in validators]
    sizes = [[len(texts) for texts in share.hypotheses_of_sets] for share in shares]
    assert sizes == [[1, 2], [1, 1]]

    combined = validators[0]._combine(shares)
    languages = ["bb", "bb", "cc", "cc", "cc"]
    for sample, language in zip(combined.samples, languages, strict=True):
        assert sample.hyp == f"{sample.src} {language}"
    whole = Validator(experiment, Runtime(device))(objective)
    assert combined.sets == whole.sets
    assert combined.scores == whole.scores
    assert combined.loss == whole.loss


def test_language_of_the_translation_is_chosen(run_dir: Path, config_path: Path) -> None:
    translator = Translator.load(run_dir, device="cpu")
    assert list(translator.ids_by_language) == ["bb", "cc", "aa"]
    text = "balo deru fimi"
    assert translator.language_prefix(None) == translator.language_prefix("bb")
    forced = {to: translator.score(text, text, to=to).log_prob for to in ("bb", "cc", "aa")}
    assert len(set(forced.values())) == 3
    with pytest.raises(DataError, match=r"'clean': .*\(bb, cc, aa\)"):
        translator.translate(text, to="clean")

    src = str(config_path.with_name("valid.aa"))
    ref = str(config_path.with_name("valid.cc"))
    (result,) = evaluate(run_dir, src=src, refs=[ref], to="cc", device="cpu")
    (_, to_cc) = evaluate(run_dir, device="cpu")
    assert [score.value for score in result.scores] == [score.value for score in to_cc.scores]


def test_commands_take_the_language(run_dir: Path, config_path: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    src = str(config_path.with_name("valid.aa"))
    ref = str(config_path.with_name("valid.cc"))
    translator = Translator.load(run_dir, device="cpu")
    lines = Path(src).read_text(encoding="utf-8").splitlines()
    refs = Path(ref).read_text(encoding="utf-8").splitlines()

    result = runner.invoke(app, ["translate", str(run_dir), "--to", "cc", "-i", src])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == translator.translate(lines, to="cc")
    result = runner.invoke(app, ["score", str(run_dir), "--to", "cc", "--src", src, "--tgt", ref])
    scores = [score.log_prob for score in translator.score(lines, refs, to="cc")]
    assert [float(line) for line in result.stdout.split()] == pytest.approx(scores, abs=1e-5)
    assert scores != [score.log_prob for score in translator.score(lines, refs)]
    result = runner.invoke(app, ["align", str(run_dir), "--to", "cc", "--src", src, "--tgt", ref])
    assert result.exit_code == 0
    page = tmp_path / "attention.json"
    arguments = ["attention", str(run_dir), "--to", "cc", "balo deru", "-o", str(page)]
    assert runner.invoke(app, arguments).exit_code == 0
    assert "<2cc>" in page.read_text(encoding="utf-8")
    result = runner.invoke(app, ["translate", str(run_dir), "--to", "dd", "balo"])
    assert result.exit_code == 1


def test_child_has_the_tags_of_its_parent_first(
    config_path: Path, run_dir: Path, tmp_path: Path
) -> None:
    text = config_path.read_text(encoding="utf-8")
    start, end = text.index("  train:\n"), text.index("  max_length: 24")
    single = f"  train: {{prefix: {config_path.parent}/train, tag: new}}\n"
    single += f"  valid: {config_path.parent}/valid\n"
    path = config_path.with_name("child.yaml")
    path.write_text(text[:start] + single + text[end:], encoding="utf-8")
    config = configure(path, tmp_path, f"train.init_from={run_dir}")
    experiment, _ = prepare_run(config, RunDir(tmp_path), open_runtime("cpu"))
    assert experiment.config.data.tags == ("2bb", "2cc", "2aa", "clean", "new")
    ids = experiment.ids_by_tag
    assert experiment.training_data.corpus.src_prefixes == ((ids["2bb"], ids["new"]),)
    assert ids["2bb"] == Experiment.open(run_dir).ids_by_tag["2bb"]

    other_order = [f"train.init_from={run_dir}", "data.tags=[2cc, 2bb, new]"]
    config = configure(path, tmp_path / "other", *other_order)
    with pytest.raises(ConfigError, match=r"data\.tags"):
        prepare_run(config, RunDir(tmp_path / "other"), open_runtime("cpu"))


def test_export_has_the_token_of_each_target_language(run_dir: Path, tmp_path: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    directory = tmp_path / "export"
    export(run_dir, directory)
    tokens = json.loads((directory / "target_languages.json").read_text(encoding="utf-8"))
    translator = Translator.load(run_dir, device="cpu", beam_size=1)
    tokenizer = translator.src_tokenizer
    text = "balo deru fimi"
    source = [tokenizer.piece(token_id) for token_id in tokenizer.encode([text])[0][:-1]]
    # More threads would also be those of PyTorch in the following tests.
    exported = ctranslate2.Translator(str(directory), compute_type="float32", intra_threads=1)
    for language, token in tokens.items():
        assert tokenizer.piece(translator.ids_by_language[language]) == token
        result = exported.score_batch([[token, *source]], [source])[0]
        expected = translator.score(text, text, to=language)
        assert sum(result.log_probs) == pytest.approx(expected.log_prob, abs=1e-3)
    assert list(tokens) == ["bb", "cc", "aa"]
    export(run_dir, directory)  # an older export with this file may be replaced


def test_report_has_the_languages_of_each_set(run_dir: Path) -> None:
    report = collect_report(run_dir, checkpoint="best", device="cpu")
    languages = {item.name: (item.src_lang, item.tgt_lang) for item in report.scored_sets}
    config = load_run_config(run_dir / "config.yaml")
    assert len(set(languages.values())) > 1
    for section in config.data.valid:
        assert languages[section.name] == config.data.languages(section)
    assert report.tgt_lang == ""
