"""Tests of validation during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from copy_task import write_copy_task
from runs import CONFIG, configure, read_lines_without_timing
from torch import Tensor

from mt.config.load import load_run_config
from mt.decoding.translator import Translator
from mt.errors import RunDirError, TokenizerError
from mt.evaluation.evaluate import evaluate
from mt.model.transformer import Transformer
from mt.training.run import train


def test_bf16_run_translates_in_float32_and_computes_its_loss_in_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a validation gives the scores of `mt evaluate`, which always computes in float32."""
    translating_dtypes = set()
    loss_dtypes = set()
    original_translate = Translator.translate
    original_forward = Transformer.forward

    def translate(translator: Translator, texts: list[str]) -> Any:
        translating_dtypes.add(translator.model.compute_dtype)
        return original_translate(translator, texts)

    def forward(model: Transformer, src: Tensor, tgt_in: Tensor) -> Tensor:
        loss_dtypes.add(model.compute_dtype)
        return original_forward(model, src, tgt_in)

    monkeypatch.setattr(Translator, "translate", translate)
    monkeypatch.setattr(Transformer, "forward", forward)
    config_path = write_copy_task(tmp_path, CONFIG)
    run_dir = train(
        configure(config_path, tmp_path / "run", "train.precision=bf16", "train.max_steps=3")
    )
    assert any(line["kind"] == "valid" for line in read_lines_without_timing(run_dir))
    assert translating_dtypes == {torch.float32}
    assert loss_dtypes == {torch.bfloat16}


LATIN = "abdefghijklmnoprstuv"
CHINESE = "我你他天地人山水火木日月大小上下中国去来"


def make_chinese_config(directory: Path) -> Path:
    """Write the config of a run into Chinese, which is called by its FLORES code."""
    path = write_copy_task(directory, CONFIG.replace("tgt_lang: bb", "tgt_lang: zho_Hans"))
    for name in ("train", "valid"):
        lines = (directory / f"{name}.bb").read_text(encoding="utf-8")
        chinese = lines.translate(str.maketrans(LATIN, CHINESE)).replace(" ", "")
        (directory / f"{name}.zho_Hans").write_text(chinese, encoding="utf-8")
    return path


def test_run_keeps_the_tokenizer_that_fits_its_language(tmp_path: Path) -> None:
    config_path = make_chinese_config(tmp_path)
    config = configure(config_path, tmp_path / "run", "train.max_steps=3")
    assert config.evaluation.tokenize == "auto"
    run_dir = train(config)
    assert load_run_config(run_dir / "config.yaml").evaluation.tokenize == "zh"
    (valid,) = (line for line in read_lines_without_timing(run_dir) if line["kind"] == "valid")
    assert "|tok:zh|" in valid["signatures"]["BLEU"]
    (result,) = evaluate(run_dir, device="cpu")
    assert [score.name for score in result.scores] == ["BLEU", "chrF", "TER"]
    for score in result.scores[:2]:
        assert valid[score.name] == score.value
        assert valid["signatures"][score.name] == score.signature
    (result,) = evaluate(run_dir, device="cpu", tokenize="char", lowercase=True)
    assert "|case:lc|eff:no|tok:char|" in result.scores[0].signature
    # The same command resumes the run, with the tokenizer that it began with.
    train(configure(config_path, tmp_path / "run", "train.max_steps=6"))


def test_config_says_how_validations_are_scored(tmp_path: Path) -> None:
    config_path = make_chinese_config(tmp_path)
    options = ("evaluation.tokenize=char", "evaluation.lowercase=true", "train.max_steps=3")
    run_dir = train(configure(config_path, tmp_path / "run", *options))
    (valid,) = (line for line in read_lines_without_timing(run_dir) if line["kind"] == "valid")
    assert "|case:lc|eff:no|tok:char|" in valid["signatures"]["BLEU"]
    assert "|case:lc|" in valid["signatures"]["chrF"]
    with pytest.raises(RunDirError, match=r'evaluation\.tokenize: "char" -> "zh"'):
        train(configure(config_path, tmp_path / "run", "evaluation.tokenize=zh", *options[1:]))


def test_run_of_an_older_version_resumes_without_a_tokenizer_in_its_config(tmp_path: Path) -> None:
    config_path = make_chinese_config(tmp_path)
    run_dir = train(configure(config_path, tmp_path / "run", "train.max_steps=3"))
    path = run_dir / "config.yaml"
    text, removed, _ = path.read_text(encoding="utf-8").partition("evaluation:")
    assert removed
    path.write_text(text, encoding="utf-8")
    train(configure(config_path, run_dir, "train.max_steps=6"))
    valid = [line for line in read_lines_without_timing(run_dir) if line["kind"] == "valid"]
    assert [line["step"] for line in valid] == [3, 6]
    assert all("|tok:zh|" in line["signatures"]["BLEU"] for line in valid)


def test_missing_spaces_are_noticed_when_a_run_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config_path = make_chinese_config(tmp_path)
    options = ("evaluation.tokenize=13a", "train.max_steps=6")
    train(configure(config_path, tmp_path / "run", *options))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("valid: the references have about one word a line")


def test_missing_tokenizer_shows_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mt.evaluation.languages.find_spec", lambda package: None)
    config_path = make_chinese_config(tmp_path)
    with pytest.raises(TokenizerError, match="ja-mecab"):
        train(configure(config_path, tmp_path / "run", "evaluation.tokenize=ja-mecab"))
    assert not (tmp_path / "run/tokenizer.model").exists()


def test_validation_splits_lines_as_translate_and_evaluate_do(tmp_path: Path) -> None:
    config_path = write_copy_task(tmp_path, CONFIG)
    lines = ["Balo deru. Fimi gona.", "Hupe! Jasi? Kelo.", "balo"]
    for name in ("valid.aa", "valid.bb"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    config = configure(config_path, tmp_path / "run", "train.num_samples=3", "train.max_steps=12")
    run_dir = train(config)
    *_, validation = [
        line for line in read_lines_without_timing(run_dir) if line["kind"] == "valid"
    ]
    translator = Translator.load(run_dir, checkpoint="last", device="cpu")
    assert [len(translator.split_text(line)) for line in lines] == [2, 3, 1]
    translations = translator.translate(lines)
    assert [sample["hyp"] for sample in validation["samples"]] == translations
    whole = Translator.load(run_dir, checkpoint="last", device="cpu", split_lines=False)
    assert whole.translate(lines) != translations, "equal translations would show nothing"
    (scores,) = evaluate(run_dir, checkpoint="last", device="cpu")
    chrf = next(score for score in scores.scores if score.name == "chrF")
    assert chrf.value == validation["chrF"]
