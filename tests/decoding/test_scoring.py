"""Scores of given translations: they are what search reports, and what validation measures."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from mt.config.schema import ModelConfig, SearchConfig
from mt.data.source_stats import SourceStats
from mt.data.tokenizer import Tokenizer
from mt.decoding.scoring import LENGTH_LIMIT_FACTOR, score_pairs
from mt.decoding.translation import Segment, Translation
from mt.decoding.translator import Translator
from mt.errors import TrainingError
from mt.model.transformer import Transformer

MAX_LENGTH = 12
SHAPE = ModelConfig(d_model=32, d_ff=64, num_heads=4, num_encoder_layers=2, num_decoder_layers=2)
TEXTS = ["balo deru fimi", "gona", "", "balo gona deru hako", "xyz 123 Ü"]


@pytest.fixture
def translator(tokenizer: Tokenizer) -> Translator:
    """A translator with random weights."""
    torch.manual_seed(1)
    model = Transformer(
        SHAPE,
        src_vocab_size=tokenizer.vocab_size,
        tgt_vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
    )
    search = SearchConfig(beam_size=4, max_length_factor=1.0, max_length_offset=2, batch_tokens=64)
    return Translator(
        model.eval(),
        src_tokenizer=tokenizer,
        tgt_tokenizer=tokenizer,
        search=search,
        max_length=MAX_LENGTH,
    )


def test_translations_score_as_their_search_reported(translator: Translator) -> None:
    n_best_lists = translator.n_best(TEXTS)
    sources = [
        text for text, translations in zip(TEXTS, n_best_lists, strict=True) for _ in translations
    ]
    found = [translation for translations in n_best_lists for translation in translations]
    assert len(found) > 2 * len(TEXTS)
    for score, translation in zip(translator.score(sources, found), found, strict=True):
        assert score.log_prob == pytest.approx(translation.log_prob, abs=1e-4)
        assert score.log_prob == pytest.approx(sum(token.log_prob for token in score.tokens))
        assert len(score.tokens) == sum(len(segment.tgt) for segment in translation.segments)


def test_a_text_scores_as_a_translation_with_its_tokens(translator: Translator) -> None:
    src_ids, tgt_ids = translator.src_tokenizer.encode(["balo deru", "gona fimi"])
    translation = Translation("gona fimi", 0.0, 0.0, segments=(Segment(src_ids, tgt_ids),))
    assert translator.score("balo deru", "gona fimi") == translator.score("balo deru", translation)


def test_score_of_a_token_is_its_probability_after_the_tokens_before_it(
    translator: Translator,
) -> None:
    """Compare with one forward pass for each prefix of the target."""
    tokenizer = translator.tgt_tokenizer
    src_ids, tgt_ids = tokenizer.encode(["balo deru", "gona balo"])
    score = translator.score("balo deru", "gona balo")
    assert [token.piece for token in score.tokens] == tokenizer.token_names(tgt_ids)
    assert score.tokens[-1].piece == "<eos>"
    for position, (token_id, token) in enumerate(zip(tgt_ids, score.tokens, strict=True)):
        tgt_in = torch.tensor([[tokenizer.bos_id, *tgt_ids[:position]]])
        with torch.inference_mode():
            states = translator.model(torch.tensor([src_ids]), tgt_in)
            logits = translator.model.logits(states[0, -1])
        assert token.log_prob == pytest.approx(float(logits.log_softmax(0)[token_id]), abs=1e-5)


def test_a_split_line_scores_as_its_parts(translator: Translator) -> None:
    stats = SourceStats(usual_length=3, rare_length=4, several_sentences_share=0.0)
    splitting = replace(translator, source_stats=stats)
    text = "balo deru. gona fimi! hako balo"
    (best, *_) = splitting.n_best(text)
    assert len(best.segments) > 2
    score = splitting.score(text, best)
    assert score.log_prob == pytest.approx(best.log_prob, abs=1e-4)
    assert [token.piece for token in score.tokens].count("<eos>") == len(best.segments)


def test_a_pair_scores_alone_as_among_others(translator: Translator) -> None:
    targets = ["gona", "deru fimi balo gona", "", "hako", "balo xyz"]
    together = translator.score(TEXTS, targets)
    for src, tgt, score in zip(TEXTS, targets, together, strict=True):
        alone = translator.score(src, tgt)
        assert alone.log_prob == pytest.approx(score.log_prob, abs=1e-4)
        assert [token.piece for token in alone.tokens] == [token.piece for token in score.tokens]


def test_blank_texts(translator: Translator) -> None:
    assert translator.score("", " ") == (0.0, ())
    assert [token.piece for token in translator.score("balo", "").tokens] == ["<eos>"]
    assert translator.score("", "balo").log_prob < 0.0
    assert translator.score([], []) == []


def test_tags_are_part_of_the_source(translator: Translator) -> None:
    (tag, *_) = translator.src_tokenizer.tag_ids
    german = replace(translator, ids_by_language={"de": tag})
    (best, *_) = german.n_best("balo deru", to="de")
    tagged = german.score("balo deru", best.text, to="de").log_prob
    assert tagged != pytest.approx(translator.score("balo deru", best.text).log_prob, abs=1e-3)
    assert translator.score("balo deru", best).log_prob == pytest.approx(best.log_prob, abs=1e-4)


def test_texts_are_normalized_and_targets_keep_their_characters(translator: Translator) -> None:
    normalizing = replace(translator, normalization="nfc")
    score = normalizing.score("balo\u00a0 deru", " gona\u00a0fimi\u201d")
    expected = translator.score("balo deru", "gona fimi\u201d")
    assert score.log_prob == pytest.approx(expected.log_prob, abs=1e-4)


def test_a_pair_that_is_too_long_is_not_scored(
    translator: Translator, caplog: pytest.LogCaptureFixture
) -> None:
    long_text = "balo " * (LENGTH_LIMIT_FACTOR * MAX_LENGTH)
    with caplog.at_level(logging.WARNING, logger="mt"):
        first, second = translator.score(["balo", "balo"], ["gona", long_text])
    assert first.tokens
    assert second == (-math.inf, ())
    assert "line 2" in caplog.text


def test_lists_must_fit_together(translator: Translator) -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        translator.score(["balo", "gona"], ["deru"])
    with pytest.raises(TypeError, match="list of targets"):
        translator.score(["balo"], "deru")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="one target"):
        translator.score("balo", ["deru"])  # type: ignore[call-overload]


def test_scores_that_are_not_finite_are_an_error(translator: Translator) -> None:
    for parameter in translator.model.parameters():
        parameter.data.mul_(1e30)
    with pytest.raises(TrainingError, match="not finite"):
        translator.score("balo", "gona")


def test_pairs_are_read_chunk_by_chunk(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mt.decoding.scoring.CHUNK_SIZE", 2)
    num_read = 0

    def pairs() -> Iterator[tuple[str, str]]:
        nonlocal num_read
        for _ in range(6):
            num_read += 1
            yield "balo", "gona"

    scores = score_pairs(translator, pairs())
    next(scores)
    assert num_read == 2
    assert len(list(scores)) == 5
