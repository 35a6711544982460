"""Tests of minimum Bayes risk decoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from invented_words import INVENTED_WORDS
from numpy.typing import NDArray

from mt.config.schema import ModelConfig, SearchConfig
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.decoding.minimum_bayes_risk import MinimumBayesRisk
from mt.decoding.sampling import SamplingOptions
from mt.decoding.translator import Translator
from mt.model.transformer import Transformer

TEXTS = ["balo deru fimi", "gona", "", "balo gona deru hako", "xyz 123 Ü"]


def shared_words(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the share of the words of each translation that are in each reference."""
    words = [set(text.split()) for text in texts]
    return np.array([[len(hyp & ref) / max(len(hyp), 1) for ref in words] for hyp in words])


def test_sample_most_like_all_samples_is_first() -> None:
    rule = MinimumBayesRisk(4, shared_words)
    ranked = rule.rank(["x y", "a b", "a b c", "a"])
    assert [text for text, _ in ranked] == ["a", "a b", "a b c", "x y"]
    expected = [(0 + 1 + 1 + 1) / 4, (0 + 1 + 1 + 0.5) / 4, (0 + 2 / 3 + 1 + 1 / 3) / 4, 1 / 4]
    assert [utility for _, utility in ranked] == pytest.approx(expected)


def test_text_that_was_drawn_twice_counts_twice() -> None:
    rule = MinimumBayesRisk(5, shared_words)
    assert dict(rule.rank(["a b", "a c", "d", "d", "d"])) == pytest.approx(
        {"d": 3 / 5, "a b": 1.5 / 5, "a c": 1.5 / 5}
    )


def test_ties_keep_the_order_of_the_samples() -> None:
    rule = MinimumBayesRisk(3, shared_words)
    assert [text for text, _ in rule.rank(["c", "a", "b"])] == ["c", "a", "b"]


def test_one_sample_is_too_few() -> None:
    with pytest.raises(ValueError, match="found 1"):
        MinimumBayesRisk(1, shared_words)


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """A translator with random weights in float64, in which sums do not round differently."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(INVENTED_WORDS, path, kind="bpe", vocab_size=330)
    tokenizer = Tokenizer.load(path)
    torch.manual_seed(1)
    shape = ModelConfig(
        d_model=32, d_ff=64, num_heads=4, num_encoder_layers=1, num_decoder_layers=1
    )
    model = Transformer(
        shape,
        src_vocab_size=tokenizer.vocab_size,
        tgt_vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
    )
    model = model.double().eval()
    model.compute_dtype = torch.float64
    search = SearchConfig(beam_size=4, max_length_factor=1.0, max_length_offset=2, batch_tokens=64)
    return Translator(
        model,
        tokenizer,
        tokenizer,
        search=search,
        max_length=20,
        sampling=SamplingOptions(seed=3, temperature=0.5),
        mbr=MinimumBayesRisk(8, shared_characters),
    )


def shared_characters(texts: Sequence[str]) -> NDArray[np.float64]:
    return shared_words([" ".join(text) for text in texts])


def test_translations_are_the_ranked_samples(translator: Translator) -> None:
    ranked_lists = translator.n_best(TEXTS, num_translations=8)
    assert translator.mbr is not None
    sampler = Translator(
        translator.model,
        translator.src_tokenizer,
        translator.tgt_tokenizer,
        translator.search,
        translator.max_length,
        sampling=translator.sampling,
    )
    sample_lists = sampler.n_best(TEXTS, num_translations=8)
    for text, found, samples in zip(TEXTS, ranked_lists, sample_lists, strict=True):
        if not text:
            assert [translation.text for translation in found] == [""]
            continue
        expected = translator.mbr.rank([sample.text for sample in samples])
        assert [(translation.text, translation.score) for translation in found] == expected
        log_probs = {sample.log_prob for sample in samples}
        assert {translation.log_prob for translation in found} <= log_probs


def test_choice_depends_on_the_seed_and_the_text_alone(translator: Translator) -> None:
    together = translator.translate(TEXTS)
    assert [translator.translate(text) for text in TEXTS] == together
    assert translator.translate(TEXTS[::-1])[::-1] == together
    assert translator.translate(TEXTS, sampling=SamplingOptions(seed=4)) != together
