"""Tests of ensembles: the mean of probabilities, and what runs may be joined."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from invented_words import INVENTED_WORDS
from runs import train_two_seeds

from mt.config.load import dump_config, load_config
from mt.config.schema import ModelConfig, SearchConfig
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.decoding.ensemble import mean_log_probs
from mt.decoding.sampling import SamplingOptions
from mt.decoding.translator import Translator
from mt.errors import CheckpointError, RunDirError, TrainingError
from mt.model.transformer import Transformer
from mt.storage.run_dir import RunDir

TEXTS = ["balo deru fimi", "gona", "", "balo gona deru hako", "xyz 123 Ü"]


def random_model(tokenizer: Tokenizer, *, seed: int, d_model: int = 16) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(
        ModelConfig(
            d_model=d_model, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1
        ),
        src_vocab_size=tokenizer.vocab_size,
        tgt_vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
    )
    return model.eval()


def translator_of(tokenizer: Tokenizer, *models: Transformer) -> Translator:
    search = SearchConfig(beam_size=4, max_length_factor=1.0, max_length_offset=2, batch_tokens=64)
    first, *others = models
    return Translator(
        first,
        src_tokenizer=tokenizer,
        tgt_tokenizer=tokenizer,
        search=search,
        max_length=20,
        more_models=tuple(others),
    )


def test_probabilities_are_averaged() -> None:
    probabilities = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.1, 0.0, 0.9, 0.0]])
    mean = mean_log_probs([row.log() for row in probabilities]).exp()
    assert mean.tolist() == pytest.approx([0.3, 0.125, 0.575, 0.0])


def test_tiny_probabilities_do_not_underflow() -> None:
    log_probs = torch.tensor([-1000.0, -2000.0])
    mean = mean_log_probs([log_probs, log_probs - 5000.0])
    expected = log_probs - torch.tensor(2.0).log()
    assert mean.tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("num_copies", [2, 3, 7])
def test_mean_of_equal_values_is_exact(num_copies: int) -> None:
    log_probs = torch.randn(1000, generator=torch.Generator().manual_seed(1)).log_softmax(dim=0)
    assert torch.equal(mean_log_probs([log_probs] * num_copies), log_probs)


@pytest.mark.parametrize("num_copies", [2, 3])
def test_ensemble_of_a_model_with_itself_is_the_model_exactly(
    tokenizer: Tokenizer, num_copies: int
) -> None:
    model = random_model(tokenizer, seed=1)
    alone = translator_of(tokenizer, model)
    ensemble = translator_of(tokenizer, *[model] * num_copies)
    assert ensemble.n_best(TEXTS) == alone.n_best(TEXTS)
    sampling = SamplingOptions(seed=5)
    assert ensemble.n_best(TEXTS, sampling=sampling) == alone.n_best(TEXTS, sampling=sampling)
    targets = ["gona", "deru", "", "balo hako", "xyz"]
    assert ensemble.score(TEXTS, targets) == alone.score(TEXTS, targets)


def test_score_of_an_ensemble_is_that_of_the_mean_probabilities(tokenizer: Tokenizer) -> None:
    """The models have different sizes. A forward pass of each gives the probabilities."""
    models = [random_model(tokenizer, seed=1), random_model(tokenizer, seed=2, d_model=24)]
    ensemble = translator_of(tokenizer, *models)
    src_ids, tgt_ids = tokenizer.encode(["balo deru", "gona fimi"])
    src = torch.tensor([src_ids])
    tgt_in = torch.tensor([[tokenizer.bos_id, *tgt_ids[:-1]]])
    with torch.inference_mode():
        probabilities = [model.logits(model(src, tgt_in)[0]).softmax(-1) for model in models]
    mean = (probabilities[0] + probabilities[1]) / 2
    expected = [float(row[token].log()) for row, token in zip(mean, tgt_ids, strict=True)]
    score = ensemble.score("balo deru", "gona fimi")
    assert [token.log_prob for token in score.tokens] == pytest.approx(expected, abs=1e-5)


def test_translations_score_as_the_search_of_the_ensemble_reported(tokenizer: Tokenizer) -> None:
    models = [random_model(tokenizer, seed=seed) for seed in (1, 2, 3)]
    ensemble = translator_of(tokenizer, *models)
    n_best_lists = ensemble.n_best(TEXTS)
    for text, translations in zip(TEXTS, n_best_lists, strict=True):
        for translation in translations:
            log_prob = ensemble.score(text, translation).log_prob
            assert log_prob == pytest.approx(translation.log_prob, abs=1e-4)
    assert n_best_lists != translator_of(tokenizer, models[0]).n_best(TEXTS)
    backwards = translator_of(tokenizer, *reversed(models))
    assert ensemble.translate(TEXTS) == backwards.translate(TEXTS)


def test_smallest_number_of_positions_counts(tokenizer: Tokenizer) -> None:
    models = [random_model(tokenizer, seed=seed) for seed in (1, 2, 3)]
    assert translator_of(tokenizer, *models).max_positions is None
    models[1].max_length = 9
    models[2].max_length = 7
    assert translator_of(tokenizer, *models).max_positions == 7


# Loading


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with different seeds, each with a tokenizer of its own from the same text."""
    return train_two_seeds(tmp_path_factory)


def test_runs_that_differ_in_their_seed_can_be_joined(run_dirs: list[Path]) -> None:
    first, second = run_dirs
    ensemble = Translator.load(first, ensemble_with=[second, first], device="cpu")
    models = [Translator.load(path, device="cpu").model for path in (first, second, first)]
    expected = replace(Translator.load(first, device="cpu"), more_models=tuple(models[1:]))
    assert ensemble.n_best(TEXTS) == expected.n_best(TEXTS)
    assert "3 models" in repr(ensemble)


def test_line_is_split_for_the_model_with_the_fewest_positions(tokenizer: Tokenizer) -> None:
    torch.manual_seed(3)
    few_positions = Transformer(
        ModelConfig(
            d_model=16,
            d_ff=32,
            num_heads=2,
            num_encoder_layers=1,
            num_decoder_layers=1,
            self_attention="dense_synthesizer",
            max_length=8,
        ),
        src_vocab_size=tokenizer.vocab_size,
        tgt_vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
    ).eval()
    ensemble = translator_of(tokenizer, random_model(tokenizer, seed=1), few_positions)
    parts = ensemble.splitter.split("balo deru fimi gona balo deru fimi gona")
    assert len(parts) > 1
    assert max(len(part.src_ids) for part in parts) <= 8
    assert ensemble.translate(["balo deru fimi gona balo deru fimi gona"])


def test_ensemble_with_a_diverged_model_is_refused(tokenizer: Tokenizer) -> None:
    diverged = random_model(tokenizer, seed=2)
    for parameter in diverged.parameters():
        parameter.data.fill_(float("nan"))
    ensemble = translator_of(tokenizer, random_model(tokenizer, seed=1), diverged)
    with pytest.raises(TrainingError, match="not finite"):
        ensemble.translate("balo")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("data.src_lang=cc", "languages"),
        ("data.normalization=nfkc", "data.normalization"),
        (None, "source tokenizer"),
    ],
)
def test_runs_with_other_tokens_are_refused(
    run_dirs: list[Path], tokenizer: Tokenizer, tmp_path: Path, change: str | None, name: str
) -> None:
    first, second = run_dirs
    shutil.copytree(second, tmp_path / "run")
    other = RunDir(tmp_path / "run")
    if change is None:
        path, _ = other.tokenizer_paths(joint=True)
        train_tokenizer(INVENTED_WORDS, path, kind="bpe", vocab_size=330)
    else:
        changed = load_config(other.config_path, [change])
        other.config_path.write_text(dump_config(changed), encoding="utf-8")
    with pytest.raises(RunDirError) as caught:
        Translator.load(first, ensemble_with=[other.path], device="cpu")
    assert name in str(caught.value)
    assert str(other.path) in str(caught.value)


def test_path_of_a_checkpoint_is_refused(run_dirs: list[Path]) -> None:
    first, second = run_dirs
    path = next((first / "checkpoints").glob("step_*"))
    with pytest.raises(CheckpointError, match="step_"):
        Translator.load(first, ensemble_with=[second], checkpoint=str(path), device="cpu")
    assert Translator.load(first, ensemble_with=[second], checkpoint=path.name, device="cpu")


def test_runs_with_other_ids_of_languages_are_refused(tokenizer: Tokenizer) -> None:
    translator = translator_of(tokenizer, random_model(tokenizer, seed=1))
    first = replace(translator, ids_by_language={"bb": 4, "cc": 5})
    same = replace(translator, ids_by_language={"cc": 5, "bb": 4})
    other = replace(translator, ids_by_language={"bb": 5, "cc": 6})
    first._require_same_tokens(same, "runs/same")
    with pytest.raises(RunDirError, match="tags of target languages"):
        first._require_same_tokens(other, "runs/other")
