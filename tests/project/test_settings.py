"""The rule that chooses settings: sound values for every amount of text and of time."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mt.advice.advice import MAX_WARMUP_FRACTION, advise_on_vocabulary
from mt.config.schema import Config, ModelConfig
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import NUM_FIXED_PIECES, train_tokenizer
from mt.model.transformer import Transformer
from mt.preflight.plan_checks import find_learned_tokens
from mt.project.settings import (
    MIN_BATCH_TOKENS,
    TABLE,
    TINY,
    UPDATE_FRACTION,
    MachineFacts,
    RunLength,
    Settings,
    choose_settings,
    describe_minutes,
    find_row,
    plan_length,
)
from mt.project.text_facts import SideFacts, TextFacts, measure_text

PAIRS = st.integers(100, 10**8)
MINUTES = st.floats(1, 10**4)
SPEEDS = st.floats(100, 10**7)


def facts(
    num_pairs: int, *, words_per_pair: int = 10, characters: int = 80, word_types: int = 10**5
) -> TextFacts:
    side = SideFacts(num_words=words_per_pair * num_pairs, num_characters=0, scripts=())
    return TextFacts(
        num_pairs,
        src=side,
        tgt=side,
        num_different_characters=characters,
        num_frequent_characters=characters,
        num_word_types=word_types,
    )


def choose(num_pairs: int, minutes: float, *, speed: float = 9000, device: str = "cpu") -> Settings:
    return choose_settings(facts(num_pairs), MachineFacts(device, speed), minutes)


def as_config(settings: Settings, length: RunLength, minutes: float) -> Config:
    size = settings.size
    sections = {
        "data": {
            "src_lang": "en",
            "tgt_lang": "sv",
            "train": ({"prefix": "x"},),
            "valid": {"name": "valid", "prefix": "y"},
        },
        "tokenizer": {
            "vocab_size": settings.vocab_size,
            "character_coverage": settings.character_coverage,
            "bpe_dropout": settings.row.bpe_dropout,
        },
        "model": {
            "d_model": size.d_model,
            "d_ff": size.d_ff,
            "num_heads": size.num_heads,
            "num_encoder_layers": size.num_layers,
            "num_decoder_layers": size.num_layers,
            "dropout": settings.row.dropout,
        },
        "train": {
            "batch_tokens": settings.batch_tokens,
            "learning_rate": size.learning_rate,
            "warmup_steps": length.warmup_steps,
            "max_minutes": minutes,
            "validate_every": length.validate_every,
            "log_every": length.log_every,
        },
    }
    return Config.model_validate(sections)


@given(num_pairs=PAIRS, minutes=MINUTES, speed=SPEEDS, device=st.sampled_from(["cpu", "cuda"]))
@example(num_pairs=100, minutes=9663.0, speed=9142616.0, device="cpu")  # many updates
def test_settings_are_a_valid_config_for_every_text_and_time(
    num_pairs: int, minutes: float, speed: float, device: str
) -> None:
    settings = choose(num_pairs, minutes, speed=speed, device=device)
    update_seconds = settings.batch_tokens / speed
    length = plan_length(settings, update_seconds=update_seconds, minutes=minutes)
    as_config(
        settings, length, minutes
    )  # heads divide the width, a batch holds the longest sentence, ...
    assert length.warmup_steps <= MAX_WARMUP_FRACTION * length.num_updates
    assert length.num_updates == 1 or length.num_updates * update_seconds <= 60 * minutes
    assert settings.batch_tokens >= MIN_BATCH_TOKENS
    assert settings.vocab_size > NUM_FIXED_PIECES
    if length.num_updates >= 10:
        assert 6 <= length.num_updates / length.validate_every <= 16


def test_minutes_are_in_words() -> None:
    assert [describe_minutes(minutes) for minutes in (0.5, 1.0, 10)] == [
        "0.5 minutes",
        "1 minute",
        "10 minutes",
    ]


@given(minutes=MINUTES, speed=SPEEDS)
def test_little_text_gets_a_small_vocabulary(minutes: float, speed: float) -> None:
    sizes = [choose(10**power, minutes, speed=speed).vocab_size for power in range(2, 9)]
    limits = [1000, 2000, 4000, 8000, 16_000, 32_000, 32_000]
    assert all(size <= limit for size, limit in zip(sizes, limits, strict=True))


@given(num_pairs=PAIRS, speed=SPEEDS)
def test_more_time_never_gives_a_smaller_model_or_less_regularization(
    num_pairs: int, speed: float
) -> None:
    for short, long in ((1, 10), (10, 60), (60, 600), (600, 10**4)):
        before = choose(num_pairs, short, speed=speed).row
        after = choose(num_pairs, long, speed=speed).row
        assert after.size.d_model >= before.size.d_model
        assert after.dropout >= before.dropout


def test_rows_of_an_amount_of_text_begin_with_any_time_and_get_larger() -> None:
    limits = sorted({row.max_pairs for row in TABLE})
    assert limits[-1] == math.inf
    for limit in limits:
        rows = [row for row in TABLE if row.max_pairs == limit]
        assert rows[0].min_epochs == 0
        assert [row.min_epochs for row in rows] == sorted({row.min_epochs for row in rows})


@pytest.mark.parametrize(("num_pairs", "limit"), [(5000, 5000), (5001, 20_000), (10**9, math.inf)])
def test_row_of_an_amount_of_text(num_pairs: int, limit: float) -> None:
    assert find_row(num_pairs, 0).max_pairs == limit
    assert find_row(num_pairs, math.inf).max_pairs == limit


def test_time_is_compared_with_the_least_of_a_row() -> None:
    assert find_row(29_000, 59.9).size.name == "tiny"
    assert find_row(29_000, 60).size.name == "small"


def test_settings_that_were_measured() -> None:
    # The README's config: 17,665 pairs of Tatoeba, 6 minutes on one core.
    tatoeba = choose_settings(facts(17_665, words_per_pair=5), MachineFacts("cpu", 9000), minutes=6)
    assert (tatoeba.size.d_model, tatoeba.vocab_size) == (128, 4000)
    assert (tatoeba.row.dropout, tatoeba.row.bpe_dropout) == (0.1, 0.0)
    assert (tatoeba.batch_tokens, tatoeba.size.learning_rate) == (1536, 4e-3)
    # configs/multi30k-en-de.yaml: 29,000 pairs, 36 minutes on two cores.
    multi30k = choose_settings(
        facts(29_000, words_per_pair=12), MachineFacts("cpu", 20_000), minutes=36
    )
    assert (multi30k.size.d_model, multi30k.vocab_size) == (256, 6000)
    assert (multi30k.row.dropout, multi30k.row.bpe_dropout) == (0.2, 0.1)
    assert multi30k.row.measured


def test_many_characters_leave_room_for_words() -> None:
    chinese = facts(15_000, characters=3000)
    settings = choose_settings(chinese, MachineFacts("cpu", 9000), minutes=10)
    assert settings.character_coverage < 1
    assert settings.vocab_size == NUM_FIXED_PIECES + 6000
    latin = facts(15_000, characters=100)
    settings = choose_settings(latin, MachineFacts("cpu", 9000), minutes=10)
    assert settings.character_coverage == 1


@pytest.mark.parametrize("num_pairs", [1, 10, 100])
@pytest.mark.parametrize("alphabet", [26, 2000])
def test_vocabulary_can_be_trained_on_the_text(
    num_pairs: int, alphabet: int, tmp_path: Path
) -> None:
    words = [
        "".join(chr(0x4E00 + (7 * word + 11 * letter * letter) % alphabet) for letter in range(5))
        for word in range(60)
    ]
    pairs = [
        (f"the cat {number % 7} {words[number % 60]}", words[(3 * number) % 60])
        for number in range(num_pairs)
    ]
    settings = choose_settings(measure_text(pairs), MachineFacts("cpu", 9000), minutes=10)
    train_tokenizer(
        (text for pair in pairs for text in pair),
        tmp_path / "tokenizer.model",
        kind="bpe",
        vocab_size=settings.vocab_size,
        character_coverage=settings.character_coverage,
    )


def zipf_sentences(num_sentences: int) -> list[str]:
    """Return sentences of 7 words, of which the k-th most frequent has a probability like 1 / k."""
    generator = random.Random(num_sentences)
    syllables = ["ka", "lo", "mir", "ten", "so", "ri", "bal", "u", "dek", "pa", "ni", "gor"]
    ranks = range(1, 3001)
    words = ["".join(generator.choices(syllables, k=generator.randint(1, 4))) for _ in ranks]
    weights = [1 / rank for rank in ranks]
    return [" ".join(generator.choices(words, weights, k=7)) for _ in range(num_sentences)]


@pytest.mark.parametrize("num_pairs", [250, 500, 1000, 2000, 3000])
def test_vocabulary_is_not_too_large_for_mt_check(num_pairs: int, tmp_path: Path) -> None:
    texts = zipf_sentences(2 * num_pairs)
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    settings = choose_settings(measure_text(pairs), MachineFacts("cpu", 9000), minutes=10)
    path = tmp_path / "tokenizer.model"
    train_tokenizer(texts, path, kind="bpe", vocab_size=settings.vocab_size)
    tokenizer = Tokenizer.load(path)
    ids = [token_id for row in tokenizer.encode(texts) for token_id in row]
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)[find_learned_tokens(tokenizer)]
    assert advise_on_vocabulary(counts, vocab_size=tokenizer.vocab_size, side="both") is None


def test_small_text_is_not_seen_in_one_piece() -> None:
    settings = choose(600, 10)  # 9,600 tokens
    assert settings.batch_tokens == 960


def test_short_run_has_small_batches_and_many_updates() -> None:
    slow = choose(18_000, 10, speed=2000)  # a million tokens
    assert slow.batch_tokens == 1020
    slowest = choose(18_000, 2, speed=1000)
    assert slowest.batch_tokens == MIN_BATCH_TOKENS
    assert choose(18_000, 10, speed=20_000).batch_tokens == slow.size.batch_tokens


def test_number_of_parameters() -> None:
    model = Transformer(
        ModelConfig(d_model=128, d_ff=512, num_encoder_layers=2, num_decoder_layers=2),
        src_vocab_size=4000,
        tgt_vocab_size=4000,
        pad_id=0,
    )
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert TINY.num_parameters(4000) == pytest.approx(num_parameters, rel=0.02)


def test_gpu_gets_larger_batches() -> None:
    gpu = choose(10**6, 10, speed=10**6, device="cuda")
    assert gpu.batch_tokens == 4 * gpu.size.batch_tokens


def test_length_of_a_run() -> None:
    settings = choose(18_000, 10)
    length = plan_length(settings, update_seconds=0.5, minutes=10)
    assert length.num_updates == int(600 * UPDATE_FRACTION / 0.5)
    assert length == RunLength(1020, warmup_steps=102, validate_every=120, log_every=50)
    # A run of a few updates is validated and logged too.
    assert plan_length(settings, update_seconds=60, minutes=1) == RunLength(1, 0, 1, 1)
