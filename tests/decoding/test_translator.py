"""Tests of Translator: the translation of a text depends on this text and the model alone."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from invented_words import INVENTED_WORDS

import mt
import mt.decoding.translator as translator_module
from mt.config.load import dump_config
from mt.config.schema import ModelConfig, SearchConfig
from mt.data.normalization import is_blank
from mt.data.source_stats import SourceStats
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.decoding import text_translator
from mt.decoding.sampling import SamplingOptions
from mt.decoding.search import Hypothesis
from mt.decoding.segment_search import SegmentSearch, SourceSegment
from mt.decoding.translation import Translation, TranslationProgress
from mt.decoding.translator import Translator
from mt.errors import CheckpointError, DataError, DeviceError, RunDirError, TrainingError
from mt.model.transformer import Transformer
from mt.storage.checkpoint import load_weights

MAX_LENGTH = 12
BLANKS = ["", " ", "  ", "\t", "\u3000", "\u00a0 \u2028", "\u200b", "\ufeff", " \u200e\u00ad"]
SHAPE = ModelConfig(d_model=32, d_ff=64, num_heads=4, num_encoder_layers=2, num_decoder_layers=2)


def make_texts(num_texts: int, *, max_words: int) -> list[str]:
    generator = random.Random(5)
    texts = []
    for _ in range(num_texts):
        num_words = generator.randint(1, max_words)
        texts.append(" ".join(generator.choices(INVENTED_WORDS, k=num_words)))
    return texts


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(make_texts(100, max_words=6), path, kind="bpe", vocab_size=330)
    return Tokenizer.load(path)


def make_translator(
    tokenizer: Tokenizer,
    *,
    max_length: int = MAX_LENGTH,
    shape: ModelConfig = SHAPE,
    dtype: torch.dtype = torch.float64,
    **search: float,
) -> Translator:
    """Return a translator with random weights.

    In float64, two sums of the same numbers do not round to different translations.
    """
    torch.manual_seed(1)
    model = Transformer(
        shape,
        src_vocab_size=tokenizer.vocab_size,
        tgt_vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
    )
    model = model.to(dtype).eval()
    model.compute_dtype = dtype
    defaults = {"beam_size": 3, "max_length_offset": 2, "max_length_factor": 1.0}
    return Translator(
        model,
        src_tokenizer=tokenizer,
        tgt_tokenizer=tokenizer,
        search=SearchConfig.model_validate({**defaults, **search}),
        max_length=max_length,
    )


@pytest.fixture(scope="module")
def translator(tokenizer: Tokenizer) -> Translator:
    return make_translator(tokenizer)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    short_texts = make_texts(16, max_words=6)
    long_texts = make_texts(2, max_words=30)
    return [*short_texts, *BLANKS, *long_texts, "xyz 123 Ü", "balo" * 12]


@pytest.mark.parametrize("num_translations", [1, 5])
def test_progress_is_told_after_each_batch(
    tokenizer: Tokenizer, texts: list[str], num_translations: int
) -> None:
    """With five translations and a beam of three, some texts are searched again."""
    quiet = make_translator(tokenizer, batch_tokens=60)
    events: list[TranslationProgress] = []
    told = replace(quiet, on_progress=events.append)
    expected = quiet.n_best(texts, num_translations=num_translations)
    assert told.n_best(texts, num_translations=num_translations) == expected
    num_segments = sum(len(quiet.splitter.split(text)) for text in texts)
    assert len(events) > 5
    assert [event.total_segments for event in events] == [num_segments] * len(events)
    numbers = [event.num_segments for event in events]
    fractions = [event.fraction for event in events]
    assert numbers == sorted(set(numbers))
    assert fractions == sorted(set(fractions))
    assert numbers[-1] == num_segments
    assert fractions[-1] == 1.0
    assert [event.is_complete for event in events] == [False] * (len(events) - 1) + [True]
    # The first batch has the longest segments.
    assert fractions[0] > numbers[0] / num_segments


def test_no_progress_of_blank_texts(translator: Translator) -> None:
    events: list[TranslationProgress] = []
    replace(translator, on_progress=events.append).translate(BLANKS)
    assert events == []


def ids_of_parts(
    translator: Translator, text: str, *, prefix: Sequence[int] = ()
) -> list[list[int]]:
    return [part.src_ids for part in translator.splitter.split(text, prefix=tuple(prefix))]


@pytest.mark.parametrize("sampling", [None, SamplingOptions(seed=1)])
def test_probabilities_that_are_not_finite_are_an_error(
    tokenizer: Tokenizer, sampling: SamplingOptions | None
) -> None:
    """The weights are finite, but what the model computes overflows."""
    diverged = replace(make_translator(tokenizer, dtype=torch.float32), sampling=sampling)
    for parameter in diverged.model.parameters():
        parameter.data.mul_(1e30)
    with pytest.raises(TrainingError, match="not finite"):
        diverged.translate(["", "balo deru"])


# One text or many


def test_translate_takes_one_text_or_a_list(translator: Translator) -> None:
    texts = ["balo deru fimi", "gona"]
    translations = translator.translate(texts)
    assert isinstance(translations, list)
    assert translator.translate(texts[0]) == translations[0]
    assert translator.translate(tuple(texts)) == translations
    assert translator.translate("") == ""


def test_n_best_of_one_text_is_one_list(translator: Translator) -> None:
    texts = ["balo deru fimi", "gona"]
    n_best_lists = translator.n_best(texts)
    assert translator.n_best(texts[0]) == n_best_lists[0]
    assert translator.n_best("") == [Translation("", 0.0, 0.0)]


def test_translate_chunks_refuses_a_single_str(translator: Translator) -> None:
    with pytest.raises(TypeError, match="takes lines"):
        next(translator.translate_chunks("balo"))


def test_options_of_a_call_are_those_of_another_translator(
    translator: Translator, tokenizer: Tokenizer, texts: list[str]
) -> None:
    sampling = SamplingOptions(seed=3)
    sampler = replace(translator, sampling=sampling)
    wide = make_translator(tokenizer, beam_size=5, length_penalty=0.2)
    assert translator.translate(texts, beam_size=5, length_penalty=0.2) == wide.translate(texts)
    assert translator.n_best(texts, beam_size=5, length_penalty=0.2) == wide.n_best(texts)
    assert wide.n_best(texts) != translator.n_best(texts, num_translations=5)
    assert (
        translator.translate(texts[0], beam_size=1)
        == translator.translate([texts[0]], beam_size=1)[0]
    )
    drawn = translator.n_best(texts, num_translations=4, sampling=sampling)
    assert drawn == sampler.n_best(texts, num_translations=4)
    assert translator.translate(texts, sampling=sampling) == sampler.translate(texts)
    assert translator.search.beam_size == 3, "the translator itself must not change"


def test_impossible_options_are_refused(translator: Translator) -> None:
    with pytest.raises(ValueError, match=r"beam_size .*0"):
        translator.translate("balo", beam_size=0)
    with pytest.raises(ValueError, match=r"num_translations .*0"):
        translator.n_best("balo", num_translations=0)


def test_repr_says_what_the_translator_is(tokenizer: Tokenizer) -> None:
    translator = replace(
        make_translator(tokenizer, dtype=torch.float32), src_lang="en", tgt_lang="de"
    )
    num_parameters = sum(parameter.numel() for parameter in translator.model.parameters())
    millions = f"{num_parameters / 1e6:.2f}M"
    assert repr(translator) == f"Translator(en -> de, {millions} parameters, cpu, fp32)"


def test_translate_of_nothing_is_empty(translator: Translator) -> None:
    assert translator.translate([]) == []


# Prefixes of tags


def test_prefix_is_in_front_of_every_segment(translator: Translator, texts: list[str]) -> None:
    prefix = translator.src_tokenizer.tag_ids[2:4]
    num_segments = []
    for text in texts:
        segments = ids_of_parts(translator, text, prefix=prefix)
        num_segments.append(len(segments))
        assert all(tuple(segment[:2]) == prefix for segment in segments)
        assert all(len(segment) <= MAX_LENGTH for segment in segments)
        text_of_segments = "".join(translator.src_tokenizer.decode(segments))
        assert text_of_segments.replace(" ", "") == text.replace(" ", "") or is_blank(text)
    assert 0 in num_segments
    assert max(num_segments) > 2


def with_languages(translator: Translator) -> Translator:
    """Return a translator into German, its default, and Swedish."""
    first_tag, second_tag = translator.src_tokenizer.tag_ids[:2]
    return replace(translator, tgt_lang="de", ids_by_language={"de": first_tag, "sv": second_tag})


def test_tag_of_the_target_language_reaches_the_model(
    translator: Translator, texts: list[str]
) -> None:
    tagged = with_languages(translator)
    plain = translator.translate(texts)
    german = tagged.translate(texts, to="de")
    swedish = tagged.translate(texts, to="sv")
    assert plain != german != swedish != plain
    assert tagged.translate(texts) == german
    assert [translation == "" for translation in swedish] == [is_blank(text) for text in texts]
    assert tagged.translate(texts[0], to="sv") == swedish[0]
    chunks = list(tagged.translate_chunks(texts, chunk_size=3, to="sv"))
    assert [found[0].text for chunk in chunks for found in chunk.translations] == swedish
    (translations,) = tagged.n_best([texts[0]], to="sv")
    (src_ids,) = translator.src_tokenizer.encode([texts[0]])
    assert translations[0].segments[0].src == [tagged.ids_by_language["sv"], *src_ids]


def test_name_of_a_tag_in_a_text_stays_text(translator: Translator) -> None:
    tagged = with_languages(translator)
    for text in ("<2sv> balo", "<tag_1> balo", "2sv balo"):
        (part,) = tagged.splitter.split(text, prefix=tagged.language_prefix("de"))
        assert part.src_ids[0] == tagged.ids_by_language["de"]
        assert not set(part.src_ids[1:]) & set(tagged.src_tokenizer.tag_ids)
        assert tagged.src_tokenizer.decode([part.src_ids]) == [text]


def test_unknown_language_is_refused_with_those_that_exist(translator: Translator) -> None:
    with pytest.raises(DataError, match=r"'fi': wanted a target language .*\(de, sv\)"):
        with_languages(translator).translate("balo", to="fi")
    with pytest.raises(DataError, match=r"'fi': wanted a target language .*\(no\)"):
        replace(translator, tgt_lang="no").translate("balo", to="fi")
    one_language = replace(translator, tgt_lang="no")
    assert one_language.translate("balo", to="no") == translator.translate("balo")


def test_prefix_of_other_ids_than_tags_is_refused(translator: Translator) -> None:
    with pytest.raises(ValueError, match="wanted a prefix of ids"):
        translator.splitter.split("balo", prefix=(translator.src_tokenizer.eos_id,))


# Independence of batch and order


def test_batch_equals_single_texts(translator: Translator, texts: list[str]) -> None:
    translations = translator.translate(texts)
    assert translations == [translator.translate(text) for text in texts]
    assert len(set(translations)) > len(texts) / 2, "equal translations would show nothing"


def test_order_of_texts_does_not_matter(translator: Translator, texts: list[str]) -> None:
    order = list(range(len(texts)))
    random.Random(1).shuffle(order)
    translations = translator.translate(texts)
    shuffled = translator.translate([texts[index] for index in order])
    assert shuffled == [translations[index] for index in order]


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_batch_size_does_not_matter(
    tokenizer: Tokenizer, translator: Translator, texts: list[str], batch_tokens: int
) -> None:
    other = make_translator(tokenizer, batch_tokens=batch_tokens)
    assert other.translate(texts) == translator.translate(texts)


PARTS = [*INVENTED_WORDS, *"xyz Ü😀\t\0\r\u2028"]
STRINGS = st.lists(st.sampled_from(PARTS), max_size=14).map(" ".join)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(STRINGS, min_size=1, max_size=9),
    st.randoms(use_true_random=False),
    st.integers(1, 400),
)
def test_any_order_and_batch_size_equal_single_texts(
    tokenizer: Tokenizer, texts: list[str], generator: random.Random, batch_tokens: int
) -> None:
    alone = [make_translator(tokenizer).n_best([text])[0] for text in texts]
    order = generator.sample(range(len(texts)), len(texts))
    translator = make_translator(tokenizer, batch_tokens=batch_tokens)
    n_best_lists = translator.n_best([texts[index] for index in order])
    for index, in_a_batch in zip(order, n_best_lists, strict=True):
        expected = alone[index]
        assert [found.text for found in in_a_batch] == [wanted.text for wanted in expected]
        expected_scores = pytest.approx([wanted.score for wanted in expected], abs=1e-6)
        assert [found.score for found in in_a_batch] == expected_scores


@settings(max_examples=10, deadline=None)
@given(st.lists(STRINGS.filter(str.strip), min_size=2, max_size=9))
def test_in_float32_a_batch_changes_only_near_ties(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Where greedy search differs between a batch and a single text, both tokens are near-ties."""
    translator = make_translator(tokenizer, dtype=torch.float32, beam_size=1)
    model = translator.model
    sources = [ids for text in texts for ids in ids_of_parts(translator, text)]
    segments = [SourceSegment(ids) for ids in sources]
    results = translator.segment_search.search_batch(segments, 1)
    for segment, (in_a_batch,) in zip(segments, results, strict=True):
        ((alone,),) = translator.segment_search.search_batch([segment], 1)
        alone_ids = (*alone.ids, tokenizer.eos_id)
        batch_ids = (*in_a_batch.ids, tokenizer.eos_id)
        if alone_ids == batch_ids:
            assert in_a_batch.score == pytest.approx(alone.score, abs=1e-4)
            continue
        first_difference = 0
        while alone_ids[first_difference] == batch_ids[first_difference]:
            first_difference += 1
        tgt_in = torch.tensor([[tokenizer.bos_id, *alone_ids[:first_difference]]])
        logits = model.logits(model(torch.tensor([segment.ids]), tgt_in))[0, -1]
        alone_logit = logits[alone_ids[first_difference]].item()
        batch_logit = logits[batch_ids[first_difference]].item()
        assert alone_logit == pytest.approx(batch_logit, abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.lists(STRINGS, min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_exact_search_gives_equal_bits_in_any_batch(
    tokenizer: Tokenizer, texts: list[str], generator: random.Random
) -> None:
    translator = make_translator(tokenizer, dtype=torch.float32, batch_tokens=1)
    order = generator.sample(range(len(texts)), len(texts))
    in_a_batch = translator.n_best([texts[index] for index in order])
    assert in_a_batch == [translator.n_best([texts[index]])[0] for index in order]


# Translations and their scores


def test_blank_text_stays_blank(translator: Translator) -> None:
    assert translator.translate(BLANKS) == [""] * len(BLANKS)
    assert translator.n_best([""]) == [[Translation("", 0.0, 0.0, segments=(), alignment=None)]]


def test_translation_is_one_line(translator: Translator, texts: list[str]) -> None:
    n_best_lists = translator.n_best([*texts, "one\ntwo", "\n"])
    for translations in n_best_lists:
        for translation in translations:
            assert "\n" not in translation.text
            assert "\r" not in translation.text


def test_n_best_is_sorted_and_begins_with_the_translation(
    translator: Translator, texts: list[str]
) -> None:
    n_best_lists = translator.n_best(texts)
    best_texts = [translations[0].text for translations in n_best_lists]
    assert best_texts == translator.translate(texts)
    for text, translations in zip(texts, n_best_lists, strict=True):
        scores = [translation.score for translation in translations]
        assert scores == sorted(scores, reverse=True)
        assert len(translations) == (1 if is_blank(text) else translator.search.beam_size)


def test_n_best_has_no_text_twice(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several encodings of one text count once, and a wider search fills the list."""
    translator = make_translator(tokenizer)
    decode = tokenizer.decode
    beam_sizes: list[int] = []
    search_batch = SegmentSearch.search_batch

    def decode_in_pairs(rows: Sequence[Sequence[int]]) -> list[str]:
        return [decode([[id_ - id_ % 2 for id_ in row]])[0] for row in rows]

    def record_and_search(
        self: SegmentSearch, segments: Sequence[SourceSegment], beam_size: int
    ) -> list[list[Hypothesis]]:
        beam_sizes.append(beam_size)
        return search_batch(self, segments, beam_size)

    monkeypatch.setattr(translator.tgt_tokenizer, "decode", decode_in_pairs)
    monkeypatch.setattr(SegmentSearch, "search_batch", record_and_search)
    texts = make_texts(8, max_words=3)
    best = translator.translate(texts)
    assert set(beam_sizes) == {3}, "one translation of each text needs no wider search"

    n_best_lists = translator.n_best(texts)
    assert max(beam_sizes) > 3
    assert [translations[0].text for translations in n_best_lists] == best
    for translations in n_best_lists:
        found = [translation.text for translation in translations]
        assert len(found) == len(set(found))
        scores = [translation.score for translation in translations]
        assert scores == sorted(scores, reverse=True)
    assert [len(translations) for translations in n_best_lists].count(3) > 4

    beam_sizes.clear()
    make_translator(tokenizer, beam_size=60).n_best(texts)
    assert set(beam_sizes) == {60}, "a wider search would take much memory"

    beam_sizes.clear()
    longer_lists = translator.n_best(texts, num_translations=6)
    assert set(beam_sizes) == {3, 6, 12}
    assert [translations[0].text for translations in longer_lists] == best


def test_parts_are_joined_by_what_stood_in_the_normalized_text(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = SourceStats(usual_length=10, rare_length=90, several_sentences_share=0.0)
    normalizing = replace(translator, source_stats=stats, normalization="nfc", max_length=99)

    def translate_parts(
        self: SegmentSearch, segments: Sequence[SourceSegment], num_translations: int
    ) -> list[list[Translation]]:
        return [[Translation("word", -1.0, -1.0)] for _ in segments]

    monkeypatch.setattr(SegmentSearch, "n_best", translate_parts)
    spaces = " " * 9
    # Chinese has no space between two sentences, and the translation needs one.
    assert normalizing.translate(f"x{spaces}\u4f60\u597d\u3002\u518d\u89c1\u3002") == "word word"


def test_sampled_translations_repeat_for_a_seed(tokenizer: Tokenizer) -> None:
    texts = make_texts(8, max_words=3)

    def samples(seed: int) -> list[list[str]]:
        sampling = SamplingOptions(seed=seed)
        translator = replace(make_translator(tokenizer), sampling=sampling)
        n_best_lists = translator.n_best(texts)
        assert [len(translations) for translations in n_best_lists] == [3] * 8
        return [[translation.text for translation in found] for found in n_best_lists]

    assert samples(1) == samples(1)
    assert samples(1) != samples(2)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_score_is_log_prob_normalized_by_length(
    tokenizer: Tokenizer, length_penalty: float
) -> None:
    translator = make_translator(tokenizer, length_penalty=length_penalty)
    for translation in translator.n_best(["balo deru"])[0]:
        if length_penalty == 0.0:
            assert translation.score == translation.log_prob
        else:
            num_tokens = translation.log_prob / translation.score  # eos included
            assert num_tokens == pytest.approx(round(num_tokens), abs=1e-9)


def test_model_max_length_bounds_translations(tokenizer: Tokenizer) -> None:
    bounded_shape = SHAPE.model_copy(
        update={"self_attention": "dense_synthesizer", "max_length": MAX_LENGTH}
    )

    def longest_translation(shape: ModelConfig) -> int:
        translator = make_translator(tokenizer, shape=shape, max_length_factor=20.0)
        (ids,) = tokenizer.encode(["balo"])
        segments = [SourceSegment(ids)]
        (hypotheses,) = translator.segment_search.search_batch(segments, 3)
        return max(len(hypothesis.ids) + 1 for hypothesis in hypotheses)  # eos included

    assert longest_translation(bounded_shape) == MAX_LENGTH
    assert longest_translation(SHAPE) > MAX_LENGTH


# Lack of memory


def run_out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_out_of_memory_in_search_is_a_device_error(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transformer, "decode", run_out_of_memory)
    with pytest.raises(DeviceError) as error:
        translator.translate(["balo"])
    message = str(error.value)
    assert "too little memory to translate" in message
    assert "beam" in message
    assert "search.batch_tokens" in message


def test_out_of_memory_in_load_is_a_device_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translator_module, "open_run_dir", run_out_of_memory)
    with pytest.raises(DeviceError, match=r"^too little memory to load this model$"):
        Translator.load(tmp_path)


# Long texts


def test_text_is_split_only_if_it_is_too_long(translator: Translator) -> None:
    for text in make_texts(60, max_words=40):
        segments = ids_of_parts(translator, text)
        assert all(len(ids) <= MAX_LENGTH for ids in segments)
        assert " ".join(translator.src_tokenizer.decode(segments)) == text
        (ids,) = translator.src_tokenizer.encode([text])
        assert (len(segments) == 1) == (len(ids) <= MAX_LENGTH)


@pytest.mark.parametrize(
    ("text", "halves"),
    [
        # The space to the left of the middle is nearer, then the one to the right.
        ("xxxxxxxxxx yyyyyy zz", ["xxxxxxxxxx", "yyyyyy zz"]),
        ("zz yyyyyy xxxxxxxxxx", ["zz yyyyyy", "xxxxxxxxxx"]),
        # Both are equally near: the left one is taken.
        ("xxxxx yyy zzzz", ["xxxxx", "yyy zzzz"]),
        # There is no space, or only one at an end.
        ("xxxxxxxxxxyyyyyyyyyy", ["xxxxxxxxxx", "yyyyyyyyyy"]),
        (" xxxxxxxxxyyyyyyyyyy", [" xxxxxxxxx", "yyyyyyyyyy"]),
    ],
)
def test_long_text_is_cut_at_the_space_nearest_to_the_middle(
    translator: Translator, text: str, halves: list[str]
) -> None:
    """Where there is no punctuation: see `test_sentences.py`."""
    assert len(translator.src_tokenizer.encode([text])[0]) > MAX_LENGTH
    assert ids_of_parts(translator, text) == translator.src_tokenizer.encode(halves)


def test_single_character_is_never_cut(tokenizer: Tokenizer) -> None:
    translator = make_translator(tokenizer, max_length=2)
    assert ids_of_parts(translator, "😀😀") == tokenizer.encode(["😀", "😀"])


def test_large_gap_between_words_makes_no_blank_segment(translator: Translator) -> None:
    segments = ids_of_parts(translator, "balo" + " " * 60 + "deru")
    segment_texts = translator.src_tokenizer.decode(segments)
    assert segment_texts == ["balo", "deru"]


class CountingTokenizer:
    """A tokenizer that counts the characters it encodes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.num_chars = 0

    def encode(self, texts: list[str]) -> list[list[int]]:
        self.num_chars += sum(len(text) for text in texts)
        return self.tokenizer.encode(texts)


PIECES = st.sampled_from(["balo", "xx", "😀", " ", " " * 40, "deru" * 30, "a " * 25])


@given(st.lists(PIECES, max_size=40).map("".join))
def test_split_takes_nearly_linear_time(translator: Translator, text: str) -> None:
    """The time is n log n wherever the spaces are. Else a line of a megabyte would take days."""
    counting = CountingTokenizer(translator.src_tokenizer)
    replace(translator, src_tokenizer=cast(Tokenizer, counting)).splitter.split(text)
    assert counting.num_chars <= len(text) * (2 * math.log2(max(len(text), 2)) + 1)


def test_long_text_joins_the_translations_of_its_segments(translator: Translator) -> None:
    # All words have the same length.
    words = [word for word in INVENTED_WORDS[:8] for _ in range(3)]
    text = " ".join(words)
    halves = [" ".join(words[:12]), " ".join(words[12:])]
    num_segments = len(translator.splitter.split(text))
    assert num_segments == sum(len(translator.splitter.split(half)) for half in halves)
    assert num_segments > 2

    first_half, second_half = translator.n_best(halves)
    for rank, translation in enumerate(translator.n_best([text])[0]):
        same_rank = [first_half[rank], second_half[rank]]
        assert translation.text == " ".join(half.text for half in same_rank)
        assert translation.log_prob == pytest.approx(sum(half.log_prob for half in same_rank))
        assert translation.score == pytest.approx(sum(half.score for half in same_rank))
        assert len(translation.segments) == num_segments


# Texts of several sentences


TWO_SENTENCES = "Balo deru. Fimi gona."
SENTENCES = ["Balo deru.", "Fimi gona."]
LONG_SENTENCE = "Balo deru fimi, gona hupe jasi balo deru fimi gona."


def with_stats(translator: Translator, *, share: float, usual: int, rare: int) -> Translator:
    stats = SourceStats(usual_length=usual, rare_length=rare, several_sentences_share=share)
    return replace(translator, max_length=100, source_stats=stats)


def piece_texts(translator: Translator, text: str) -> list[str]:
    pieces = translator.splitter.split(text)
    ids = translator.src_tokenizer.encode([piece.text for piece in pieces])
    assert [piece.src_ids for piece in pieces] == ids
    assert all(text[piece.start :].startswith(piece.text) for piece in pieces)
    return [piece.text for piece in pieces]


def test_every_text_is_split_if_training_had_single_sentences(translator: Translator) -> None:
    trained_on_single = with_stats(translator, share=0.049, usual=90, rare=90)
    assert piece_texts(trained_on_single, TWO_SENTENCES) == SENTENCES
    assert piece_texts(trained_on_single, LONG_SENTENCE) == [LONG_SENTENCE]
    assert piece_texts(trained_on_single, " Balo deru. ") == [" Balo deru. "]
    assert piece_texts(trained_on_single, " \u3000") == []


def test_only_long_texts_are_split_if_training_had_several_sentences(
    translator: Translator,
) -> None:
    num_tokens = len(translator.src_tokenizer.encode([TWO_SENTENCES])[0])
    for usual, expected in ((num_tokens, [TWO_SENTENCES]), (num_tokens - 1, SENTENCES)):
        trained_on_several = with_stats(translator, share=0.05, usual=usual, rare=90)
        assert piece_texts(trained_on_several, TWO_SENTENCES) == expected


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_very_long_sentences_are_split_at_punctuation(translator: Translator, share: float) -> None:
    num_tokens = len(translator.src_tokenizer.encode([LONG_SENTENCE])[0])
    halves = ["Balo deru fimi,", "gona hupe jasi balo deru fimi gona."]
    for rare, expected in ((num_tokens, [LONG_SENTENCE]), (num_tokens - 1, halves)):
        trained_on_short = with_stats(translator, share=share, usual=5, rare=rare)
        assert piece_texts(trained_on_short, LONG_SENTENCE) == expected


@pytest.mark.parametrize("stats", [None, SourceStats(1, 1, 0.0)])
def test_without_splitting_only_texts_over_max_length_are_split(
    translator: Translator, stats: SourceStats | None
) -> None:
    """This is also what old runs do, which have no figures of their training text."""
    whole = replace(translator, source_stats=stats, split_lines=stats is None)
    short_text = "Ba. De."
    assert piece_texts(whole, short_text) == [short_text]
    assert len(translator.src_tokenizer.encode([TWO_SENTENCES])[0]) > MAX_LENGTH
    assert piece_texts(whole, TWO_SENTENCES)[0] in SENTENCES[0]


def test_text_of_several_sentences_joins_their_translations(translator: Translator) -> None:
    trained_on_single = with_stats(translator, share=0.0, usual=90, rare=90)
    texts = [TWO_SENTENCES, *SENTENCES]
    (whole, first, second) = trained_on_single.n_best(texts)
    assert len(whole) == 3
    for both, left, right in zip(whole, first, second, strict=True):
        assert both.text == f"{left.text} {right.text}"
        assert both.score == pytest.approx(left.score + right.score)
        assert both.log_prob == pytest.approx(left.log_prob + right.log_prob)
        assert both.segments == left.segments + right.segments
        assert both.segment_starts == ((0, 0), (11, len(left.text) + 1))


# Many lines


def test_chunks_have_all_lines_with_their_translations(translator: Translator) -> None:
    texts = [*make_texts(7, max_words=4), ""]
    chunks = list(translator.translate_chunks(iter(texts), n_best=2, chunk_size=3))
    assert [len(chunk.lines) for chunk in chunks] == [3, 3, 2]
    assert [line for chunk in chunks for line in chunk.lines] == texts
    found = [translations for chunk in chunks for translations in chunk.translations]
    assert [len(translations) for translations in found] == [2] * 7 + [1]
    best_texts = [translations[0].text for translations in found]
    assert best_texts == translator.translate(texts)


def test_chunks_are_read_as_they_are_needed(translator: Translator) -> None:
    lines = iter(["balo", "deru", "fimi"])
    chunks = translator.translate_chunks(lines, chunk_size=1)
    assert next(chunks).lines == ["balo"]
    assert next(lines) == "deru"
    assert next(chunks).lines == ["fimi"]


def test_chunks_are_bounded_by_characters(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_translator, "CHUNK_CHARS", 8)
    chunks = translator.translate_chunks(["balo"] * 5)
    assert [len(chunk.lines) for chunk in chunks] == [2, 2, 1]


def test_split_lines_are_counted_in_one_message(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(text_translator.logger, "info", messages.append)
    long_text = " ".join(INVENTED_WORDS)
    list(translator.translate_chunks(["balo", "deru"], chunk_size=1))
    assert messages == []
    list(translator.translate_chunks(["balo", long_text, "deru", long_text], chunk_size=2))
    (message,) = messages
    assert "2 of 4 lines" in message
    assert f"{2 * len(translator.splitter.split(long_text))} parts" in message


# The form of the source


CHANGED_TEXTS = [
    "balo\u00a0deru  fimi ",
    "\ufeffbalo deru\u200b fimi",
    "balo \uff44\uff45\uff52\uff55 fimi",
    "b\u00e0lo deru\u200e fimi\u0323",
]


@pytest.mark.parametrize("text", CHANGED_TEXTS)
def test_texts_that_look_alike_have_one_translation(translator: Translator, text: str) -> None:
    normalizing = replace(translator, normalization="nfc")
    (expected,) = translator.n_best(["balo deru fimi"])
    assert normalizing.n_best([text]) == [expected]
    (as_it_is,) = translator.n_best([text])
    assert as_it_is[0].segments[0].src != expected[0].segments[0].src


def test_lines_with_unseen_characters_are_counted_once(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(text_translator.logger, "warning", warnings.append)
    normalizing = replace(translator, normalization="nfc")
    lines = ["balo", "\u201cbalo\u201d", "deru", "fimi \u4e2d", "balo\u00a0deru\ufeff", "\u201c"]
    list(normalizing.translate_chunks(lines, chunk_size=2))
    (warning,) = warnings
    assert " in 3 of 6 lines: " in warning
    assert "U+201C) in 2 lines" in warning
    assert "U+4E2D) in 1 line" in warning
    assert "U+00A0" not in warning

    warnings.clear()
    list(normalizing.translate_chunks(["balo", "deru fimi", ""]))
    assert warnings == []


# From a run directory


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few updates, copied elsewhere. The original and its text files are deleted."""
    original = tmp_path_factory.mktemp("original")
    content = "".join(f"{text}\n" for text in make_texts(40, max_words=4))
    for name in ("train.aa", "train.bb", "valid.aa", "valid.bb"):
        (original / name).write_text(content, encoding="utf-8")
    config = {
        "data": {
            "src_lang": "aa",
            "tgt_lang": "bb",
            "train": [{"prefix": f"{original}/train"}],
            "valid": {"name": "valid", "prefix": f"{original}/valid"},
            "max_length": MAX_LENGTH,
        },
        "tokenizer": {"vocab_size": 330, "joint": False},
        "model": {
            "d_model": 16,
            "d_ff": 32,
            "num_heads": 2,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
            "tie_embeddings": "decoder",
        },
        "train": {
            "run_dir": f"{original}/run",
            "device": "cpu",
            "precision": "fp32",
            "batch_tokens": 128,
            "max_steps": 4,
            "validate_every": 2,
        },
        "search": {"beam_size": 3, "max_length_factor": 1.0, "max_length_offset": 1},
    }
    config_path = original / "config.yaml"
    config_path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    trained = mt.train(mt.load_config(config_path))
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(trained.run_dir, copy)
    shutil.rmtree(original)
    return copy


def test_copied_run_translates_without_the_original(run_dir: Path) -> None:
    texts = ["balo deru", ""]
    translations = Translator.load(run_dir, device="cpu").translate(texts)
    assert translations == mt.Translator.load(str(run_dir), device="cpu").translate(texts)
    assert translations[1] == ""


def test_loaded_translator_knows_its_languages(run_dir: Path) -> None:
    assert repr(Translator.load(run_dir, device="cpu")).startswith("Translator(aa -> bb, ")


def test_checkpoint_is_chosen_by_name_or_path(run_dir: Path) -> None:
    def output_weight(checkpoint: str) -> torch.Tensor:
        return Translator.load(run_dir, checkpoint=checkpoint, device="cpu").model.output_weight

    name = "step_00000002"
    path = run_dir / "checkpoints" / name
    assert torch.equal(output_weight(name), output_weight(str(path)))
    assert not torch.equal(output_weight(name), output_weight("last"))
    with pytest.raises(CheckpointError, match="step_3: no such checkpoint"):
        output_weight("step_3")


def test_search_options_override_the_config(run_dir: Path) -> None:
    configured = Translator.load(run_dir, device="cpu").search
    assert configured.beam_size == 3
    assert configured.length_penalty == 1.0
    translator = Translator.load(run_dir, device="cpu", beam_size=2, length_penalty=0.0)
    expected = configured.model_copy(update={"beam_size": 2, "length_penalty": 0.0})
    assert translator.search == expected
    assert len(translator.n_best(["balo"])[0]) == 2


@pytest.mark.usefixtures("kernels")
def test_precision_is_that_of_matrix_products(run_dir: Path) -> None:
    """The weights stay float32, and scores are close to those of float32."""
    plain = Translator.load(run_dir, device="cpu")
    assert plain.model.compute_dtype is torch.float32
    translator = Translator.load(run_dir, device="cpu", precision="bf16")
    assert translator.model.compute_dtype is torch.bfloat16
    assert {weight.dtype for weight in translator.model.parameters()} == {torch.float32}
    texts = make_texts(7, max_words=3)
    n_best_lists = translator.n_best(texts)
    for text, translations in zip(texts, n_best_lists, strict=True):
        for translation in translations:
            exact = plain.score(text, translation).log_prob
            assert translation.log_prob == pytest.approx(exact, rel=0.02)
    assert n_best_lists != plain.n_best(texts), "the log-probabilities are not those of float32"


def test_fp16_needs_a_gpu(run_dir: Path) -> None:
    with pytest.raises(DeviceError, match="fp16"):
        Translator.load(run_dir, device="cpu", precision="fp16")


@pytest.mark.parametrize(("exact", "batch_sizes"), [(True, [1] * 7), (False, [7])])
def test_exact_searches_one_text_at_a_time(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, exact: bool, batch_sizes: list[int]
) -> None:
    search_batch = SegmentSearch.search_batch
    seen: list[int] = []

    def count_and_search(
        self: SegmentSearch, segments: Sequence[SourceSegment], beam_size: int
    ) -> list[list[Hypothesis]]:
        seen.append(len(segments))
        return search_batch(self, segments, beam_size)

    monkeypatch.setattr(SegmentSearch, "search_batch", count_and_search)
    Translator.load(run_dir, device="cpu", exact=exact).translate(make_texts(7, max_words=3))
    assert seen == batch_sizes


def test_model_takes_no_memory_until_its_weights_are_checked(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    config_path = tmp_path / "run" / "config.yaml"
    other_model = mt.load_config(config_path, ["model.d_ff=34"])
    config_path.write_text(dump_config(other_model), encoding="utf-8")
    models: list[Transformer] = []

    def record_model(model: Transformer, path: Path) -> None:
        models.append(model)
        load_weights(model, path)

    monkeypatch.setattr(translator_module, "load_weights", record_model)
    message = "holds another model than the run's config describes"
    with pytest.raises(CheckpointError, match=message):
        Translator.load(tmp_path / "run", device="cpu")
    (model,) = models
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_loaded_model_is_in_eval_mode_and_float32(run_dir: Path) -> None:
    model = Translator.load(run_dir, device="cpu").model
    assert not model.training
    for tensor in model.state_dict().values():
        assert tensor.device.type == "cpu"
        assert tensor.dtype == torch.float32


def test_load_refuses_a_directory_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no such run directory"):
        Translator.load(tmp_path / "missing")
    with pytest.raises(RunDirError, match=r"not a run directory: it has no config\.yaml"):
        Translator.load(tmp_path)


# The package


def test_import_of_mt_and_load_config_do_not_import_torch(run_dir: Path) -> None:
    config_path = run_dir / "config.yaml"
    program = f"""
import sys
from pathlib import Path
import mt
assert "torch" not in sys.modules
assert "pydantic" not in sys.modules
mt.load_config(Path({str(config_path)!r}))
assert "torch" not in sys.modules
mt.Translator
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_names_exist_and_others_do_not() -> None:
    for name in mt.__all__:
        assert getattr(mt, name) is not None
        assert name in dir(mt)
    with pytest.raises(AttributeError, match="module 'mt' has no attribute 'Translater'"):
        mt.Translater  # noqa: B018
