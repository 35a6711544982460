"""Tests of translations that begin with given text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from invented_words import INVENTED_WORDS

from mt.config.schema import ModelConfig, SearchConfig
from mt.data.source_stats import SourceStats
from mt.data.tokenizer import Tokenizer
from mt.decoding.sampling import SamplingOptions
from mt.decoding.segment_search import SourceSegment
from mt.decoding.translator import Translator
from mt.errors import DataError
from mt.model.transformer import Transformer

TEXTS = ["balo deru fimi", "gona", "", "balo gona deru hako", "xyz 123 Ü"]
PREFIXES = ["gona", "fimi balo", "deru", "", "Ü n\u0303 |||"]


@pytest.fixture(scope="module")
def translator(tokenizer: Tokenizer) -> Translator:
    """A translator with random weights in float64, in which sums do not round differently."""
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
        model, src_tokenizer=tokenizer, tgt_tokenizer=tokenizer, search=search, max_length=20
    )


@pytest.mark.parametrize("sampling", [None, SamplingOptions(seed=1)], ids=["beam", "sample"])
def test_every_translation_begins_with_its_prefix(
    translator: Translator, sampling: SamplingOptions | None
) -> None:
    n_best_lists = translator.n_best(TEXTS, target_prefix=PREFIXES, sampling=sampling)
    for text, prefix, translations in zip(TEXTS, PREFIXES, n_best_lists, strict=True):
        if text:
            assert len(translations) == 4
            assert all(translation.text.startswith(prefix) for translation in translations)
            assert any(len(translation.text) > len(prefix) for translation in translations)
        else:
            assert [translation.text for translation in translations] == [""]


def test_tokens_of_a_prefix_count_in_the_score(translator: Translator) -> None:
    for text, prefix in zip(TEXTS, PREFIXES, strict=True):
        for translation in translator.n_best(text, target_prefix=prefix):
            log_prob = translator.score(text, translation).log_prob
            assert log_prob == pytest.approx(translation.log_prob, abs=1e-4)


def test_prefix_of_one_text_does_not_change_the_others(translator: Translator) -> None:
    together = translator.n_best(TEXTS, target_prefix=PREFIXES)
    alone = [
        translator.n_best(text, target_prefix=prefix)
        for text, prefix in zip(TEXTS, PREFIXES, strict=True)
    ]
    assert [[found.text for found in translations] for translations in together] == [
        [found.text for found in translations] for translations in alone
    ]


def test_long_prefix_outlasts_the_translations_of_other_texts(translator: Translator) -> None:
    """Other sentences leave the batch before the prefix ends."""
    prefix = " ".join(INVENTED_WORDS[:9])
    texts = ["balo", "gona", "deru", "fimi"]
    n_best_lists = translator.n_best(texts, target_prefix=["", "", prefix, ""])
    assert all(translation.text.startswith(prefix) for translation in n_best_lists[2])
    longest = max(len(found.segments[0].tgt) for found in n_best_lists[0] + n_best_lists[3])
    (prefix_ids,) = translator.tgt_tokenizer.encode([prefix])
    assert longest < len(prefix_ids)


def test_blank_prefix_is_none(translator: Translator) -> None:
    plain = translator.n_best(TEXTS)
    assert translator.n_best(TEXTS, target_prefix=["", " ", "", "\u3000", ""]) == plain


def test_greedy_search_goes_on_from_its_own_beginning(translator: Translator) -> None:
    """Forced to begin as it does anyway, a greedy search finds the same tokens.

    After a long prefix it may be longer than without one.
    """
    (src_ids,) = translator.src_tokenizer.encode(["balo gona deru hako"])
    search = translator.segment_search
    whole = SourceSegment(src_ids)
    ((free,),) = search.search_batch([whole], 1)
    assert len(free.ids) > 3
    free_limit = search.length_limits([whole])
    num_equal = 0
    for length in range(len(free.ids)):
        segment = SourceSegment(src_ids, target_prefix=free.ids[:length])
        ((forced,),) = search.search_batch([segment], 1)
        assert forced.ids[: len(free.ids)] == free.ids
        if search.length_limits([segment]) == free_limit:
            assert forced == free
            num_equal += 1
    assert num_equal > 3


def test_spaces_at_the_end_of_a_prefix_are_ignored(translator: Translator) -> None:
    expected = translator.n_best("balo", target_prefix="gona")
    assert translator.n_best("balo", target_prefix="gona  ") == expected


def test_prefix_is_normalized_as_the_training_text(translator: Translator) -> None:
    normalizing = replace(translator, normalization="nfc")
    assert normalizing.translate("balo", target_prefix="u\u0308ber").startswith("\u00fcber")


def test_there_is_room_after_a_long_prefix(translator: Translator) -> None:
    prefix = " ".join(["hako"] * 30)
    translations = translator.n_best("balo", target_prefix=prefix)
    assert all(translation.text.startswith(prefix) for translation in translations)
    assert any(len(translation.text) > len(prefix) for translation in translations)


@pytest.mark.parametrize("prefix_length", [1, 3, 4, 5, 6, 30])
def test_room_after_a_prefix_does_not_depend_on_the_source(
    translator: Translator, prefix_length: int
) -> None:
    """There is room for `max_length_offset` tokens and eos, or more."""
    segment = SourceSegment([7] * 4, target_prefix=[7] * prefix_length)
    (length,) = translator.segment_search.length_limits([segment])
    assert length >= prefix_length + translator.search.max_length_offset + 1


def test_text_with_a_prefix_is_translated_as_a_whole(translator: Translator) -> None:
    stats = SourceStats(usual_length=3, rare_length=4, several_sentences_share=0.0)
    splitting = replace(translator, source_stats=stats)
    text = "balo deru. gona!"
    assert len(splitting.n_best(text)[0].segments) > 1
    assert len(splitting.n_best(text, target_prefix="gona")[0].segments) == 1
    too_long = " ".join(["balo deru."] * 20)
    (best, *_) = splitting.n_best(too_long, target_prefix="gona")
    assert len(best.segments) > 1
    assert best.text.startswith("gona")


def test_impossible_prefixes_are_refused(translator: Translator) -> None:
    with pytest.raises(DataError, match="line break"):
        translator.translate("balo", target_prefix="gona\nfimi")
    with pytest.raises(TypeError, match="one target_prefix"):
        translator.translate("balo", target_prefix=["gona"])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="list of target prefixes"):
        translator.translate(["balo"], target_prefix="g")
    with pytest.raises(ValueError, match="1 texts and 2 prefixes"):
        translator.translate(["balo"], target_prefix=["gona", "fimi"])


def test_prefix_without_a_place_in_the_model_is_refused(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translator.model, "max_length", 6)
    assert translator.translate("balo", target_prefix="gona").startswith("gona")
    with pytest.raises(DataError, match="max_length"):
        translator.translate("balo", target_prefix="gona " * 9)
