"""Tests of validation during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copy_task import write_copy_task
from runs import CONFIG, FULL_VALIDATION, configure, read_lines_without_timing, train
from torch import Tensor

from mt.config.load import load_run_config
from mt.config.schema import SearchConfig
from mt.data.chunk_encoder import FilterCounts
from mt.data.corpus import EncodedCorpus
from mt.data.token_array import TokenArray
from mt.decoding.segment_search import SegmentSearch, SourceSegment
from mt.decoding.translation import OnProgress, TranslationProgress
from mt.decoding.translator import Translator
from mt.distributed import open_runtime
from mt.errors import PackageError, RunDirError
from mt.evaluation.evaluate import evaluate
from mt.experiment import Experiment
from mt.model.transformer import Transformer
from mt.storage.run_dir import RunDir
from mt.training.objective import Objective
from mt.training.validator import Validator, limit_length


def read_validations(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines_without_timing(run_dir) if line["kind"] == "valid"]


def write_sample(directory: Path, num_lines: int) -> Path:
    """Write the lines that a run validates on to files, and return their prefix."""
    config = configure(directory / "copy.yaml", directory / "unused")
    sample = Experiment(config, RunDir(directory)).validation_sets[0].sample(num_lines)
    for lang, lines in (("aa", sample.src), ("bb", sample.refs[0])):
        text = "".join(f"{line}\n" for line in lines)
        (directory / f"sample.{lang}").write_text(text, encoding="utf-8")
    return directory / "sample"


def test_validation_scores_a_sample_by_greedy_search(tmp_path: Path) -> None:
    config_path = write_copy_task(tmp_path, CONFIG)
    options = ("train.validation_lines=4", "train.metric=chrf", "train.num_samples=9")
    run_dir = train(configure(config_path, tmp_path / "run", *options))
    sample = write_sample(tmp_path, 4)
    *_, last = read_validations(run_dir)
    assert (last["num_lines"], last["num_lines_in_set"], last["beam_size"]) == (4, 6, 1)
    assert len(last["samples"]) == 4
    (result,) = evaluate(
        run_dir,
        src=f"{sample}.aa",
        refs=[f"{sample}.bb"],
        checkpoint="last",
        device="cpu",
        beam_size=1,
    )
    scores = {score.name: score.value for score in result.scores}
    assert last["chrF"] == scores["chrF"]
    assert last["BLEU"] == scores["BLEU"]


def test_loss_of_a_validation_is_that_of_its_sample(tmp_path: Path) -> None:
    """A run that validates on these lines alone writes the same numbers."""
    config_path = write_copy_task(tmp_path, CONFIG)
    sampled = train(configure(config_path, tmp_path / "sampled", "train.validation_lines=4"))
    sample = write_sample(tmp_path, 4)
    alone = train(configure(config_path, tmp_path / "alone", f"data.valid.prefix={sample}"))
    expected = [line | {"num_lines_in_set": 6} for line in read_validations(alone)]
    assert read_validations(sampled) == expected


def test_validation_tells_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config_path = write_copy_task(tmp_path, CONFIG)
    experiment = Experiment(configure(config_path, tmp_path / "run"), RunDir(tmp_path / "run"))
    experiment.train_tokenizers()
    bars: list[str] = []
    events: list[TranslationProgress] = []

    @contextmanager
    def record_bar(text: str, *, enabled: bool) -> Iterator[OnProgress]:
        bars.append(text)
        yield events.append
        bars.append("end")

    monkeypatch.setattr("mt.training.validator.translation_bar", record_bar)
    validator = Validator(experiment, open_runtime("cpu"))
    objective = Objective(experiment.model(torch.device("cpu")), label_smoothing=0.1)
    validator(objective.eval())
    assert bars == ["validating 6 lines", "end"]
    assert events[-1].is_complete
    assert events[-1].total_segments >= 6


def test_run_of_an_older_version_validates_as_it_did(tmp_path: Path) -> None:
    """Its best score can be compared with those after it resumes."""
    config_path = write_copy_task(tmp_path, CONFIG)
    run_dir = train(configure(config_path, tmp_path / "run", "train.max_steps=3"))
    path = run_dir / "config.yaml"
    lines = path.read_text(encoding="utf-8").replace("format_version: 7", "format_version: 4")
    old_lines = [line for line in lines.splitlines() if "  validation_" not in line]
    assert len(old_lines) == len(lines.splitlines()) - 3
    path.write_text("\n".join(old_lines) + "\n", encoding="utf-8")
    train(configure(config_path, run_dir, "train.max_steps=6"))
    new, old = read_validations(run_dir)
    assert (new["num_lines"], new["beam_size"]) == (6, 1)
    assert (old["num_lines"], old["beam_size"]) == (6, 2)
    assert load_run_config(path).train.validation_length_limit == "search"


# The limit on the length of a translation


def make_corpus(pairs: list[tuple[int, int]]) -> EncodedCorpus:
    """Return a corpus of pairs with these lengths."""
    src = TokenArray.from_rows([[5] * src_length for src_length, _ in pairs])
    tgt = TokenArray.from_rows([[5] * tgt_length for _, tgt_length in pairs])
    return EncodedCorpus(src, tgt, np.ones(len(pairs), np.float32), FilterCounts())


@pytest.mark.parametrize(
    ("pairs", "factor"), [([(10, 8), (30, 24)], 1.2), ([(8, 10), (4, 2), (12, 12)], 1.5)]
)
def test_length_limit_follows_the_lengths_of_the_training_pairs(
    pairs: list[tuple[int, int]], factor: float
) -> None:
    search = limit_length(SearchConfig(beam_size=3), make_corpus(pairs))
    assert search.max_length_factor == pytest.approx(factor)
    assert search.max_length_offset == 10
    assert search.beam_size == 3


@pytest.mark.parametrize(
    "limits",
    [
        {"max_length_factor": 1.0},
        {"max_length_offset": 3},
        {"max_length_factor": 0.0, "max_length_offset": 80},
    ],
)
def test_length_limit_of_the_config_is_kept_where_it_is_lower(limits: dict[str, float]) -> None:
    search = SearchConfig.model_validate(limits)
    assert limit_length(search, make_corpus([(10, 8)])) == search


@pytest.mark.parametrize(("limit", "longest"), [("data", 1.5), ("search", 2.5)])
def test_translations_of_a_validation_have_the_length_limit(
    limit: str, longest: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that never ends a sentence writes to its limit.

    The final scoring has that of the config, as `mt evaluate` has.
    """
    factors: list[float] = []
    original = SegmentSearch.length_limits

    def record(search: SegmentSearch, segments: list[SourceSegment]) -> list[int]:
        limits = original(search, segments)
        for limit, segment in zip(limits, segments, strict=True):
            factors.append((limit - 10) / len(segment.ids))
        return limits

    monkeypatch.setattr(SegmentSearch, "length_limits", record)
    config_path = write_copy_task(tmp_path, CONFIG)
    options = (
        "search.max_length_factor=2.5",
        "search.max_length_offset=10",
        f"train.validation_length_limit={limit}",
        "train.max_steps=3",
    )
    train(configure(config_path, tmp_path / "run", *options))
    num_segments = len(factors) // 2  # first those of the only validation
    assert num_segments >= 6
    # Rounding up adds less than one token.
    assert all(longest <= factor < longest + 0.5 for factor in factors[:num_segments])
    assert all(2.5 <= factor < 3.0 for factor in factors[num_segments:])


def test_bf16_run_translates_in_float32_and_computes_its_loss_in_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a validation gives the scores of `mt evaluate`, which always computes in float32."""
    translating_dtypes = set()
    loss_dtypes = set()
    original_translate = Translator.translate
    original_forward = Transformer.forward

    def translate(translator: Translator, texts: list[str], **options: Any) -> Any:
        translating_dtypes.add(translator.model.compute_dtype)
        return original_translate(translator, texts, **options)

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
    config = configure(config_path, tmp_path / "run", "train.max_steps=3", *FULL_VALIDATION)
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
    train(configure(config_path, tmp_path / "run", "train.max_steps=6", *FULL_VALIDATION))


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
    with pytest.raises(PackageError, match="ja-mecab"):
        train(configure(config_path, tmp_path / "run", "evaluation.tokenize=ja-mecab"))
    assert not (tmp_path / "run/tokenizer.model").exists()


def test_validation_splits_lines_as_translate_and_evaluate_do(tmp_path: Path) -> None:
    config_path = write_copy_task(tmp_path, CONFIG)
    lines = ["Balo deru. Fimi gona.", "Hupe! Jasi? Kelo.", "balo"]
    for name in ("valid.aa", "valid.bb"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    run_dir = train(
        configure(config_path, tmp_path / "run", "train.num_samples=3", *FULL_VALIDATION)
    )
    *_, validation = read_validations(run_dir)
    translator = Translator.load(run_dir, checkpoint="last", device="cpu")
    assert [len(translator.splitter.split(line)) for line in lines] == [2, 3, 1]
    translations = translator.translate(lines)
    assert [sample["hyp"] for sample in validation["samples"]] == translations
    whole = Translator.load(run_dir, checkpoint="last", device="cpu", split_lines=False)
    assert whole.translate(lines) != translations, "equal translations would show nothing"
    (scores,) = evaluate(run_dir, checkpoint="last", device="cpu")
    chrf = next(score for score in scores.scores if score.name == "chrF")
    assert chrf.value == validation["chrF"]
