"""Tests of tags: their names, their control tokens, and sampling from language pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from invented_words import INVENTED_WORDS
from pydantic import ValidationError

from mt.config.schema import DataConfig, LanguagePair
from mt.data.batch_plan import plan_batches
from mt.data.eval_set import EvalSet
from mt.data.tags import (
    choose_tags,
    corpus_prefix,
    language_ids,
    tag_ids,
    translatable_languages,
    translatable_pairs,
)
from mt.data.temperature import temperature_weights
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.errors import ConfigError
from mt.evaluation.evaluate import require_same_languages
from mt.training.teacher import require_same_tags

DE = {"prefix": "a", "src_lang": "en", "tgt_lang": "de"}
SV = {"prefix": "b", "src_lang": "en", "tgt_lang": "sv"}
EN = {"prefix": "a", "src_lang": "de", "tgt_lang": "en"}
EN_DE = LanguagePair("en", "de")
EN_SV = LanguagePair("en", "sv")


def data_config(*train: Any, **keys: Any) -> DataConfig:
    return DataConfig(src_lang="en", tgt_lang="de", train=train, valid="v", **keys)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(INVENTED_WORDS * 5, path, kind="bpe", vocab_size=330)
    return Tokenizer.load(path)


def test_one_target_language_needs_no_tag() -> None:
    data = data_config("a", {"prefix": "b", "src_lang": "fr"})
    assert choose_tags(data) == ()
    assert translatable_languages(data) == ("de",)


def test_each_of_several_target_languages_has_a_tag() -> None:
    data = data_config(DE, EN, SV, {**DE, "tag": "bt"}, {**SV, "tag": "bt"})
    assert choose_tags(data) == ("2de", "2en", "2sv", "bt")
    assert translatable_languages(data) == ("de", "en", "sv")


def test_the_pairs_of_a_run_are_those_of_its_corpora() -> None:
    assert translatable_pairs(data_config(SV, DE, EN, SV)) == (EN_DE, EN_SV, ("de", "en"))
    several_sources = data_config({"prefix": "b", "src_lang": "fr"})
    assert translatable_pairs(several_sources) == (("fr", "de"),)


def test_a_language_of_the_parent_can_be_translated_into() -> None:
    data = data_config(DE, EN, tags=("2sv", "2de", "2en"))
    assert translatable_pairs(data) == (EN_DE, ("de", "en"), EN_SV)


def test_tags_of_the_parent_come_first() -> None:
    assert choose_tags(data_config("a"), ["2sv", "2de"]) == ("2sv", "2de")
    fi = {"prefix": "a", "tgt_lang": "fi"}
    assert choose_tags(data_config("a", fi), ["2sv", "bt"]) == ("2sv", "bt", "2de", "2fi")
    assert choose_tags(data_config({"prefix": "a", "tag": "new"}), ["bt"]) == ("bt", "new")


def test_given_tags_are_kept() -> None:
    data = data_config("a", tags=("2sv", "2de"))
    assert choose_tags(data, ["2en"]) == ("2sv", "2de")


def test_too_many_tags_are_refused() -> None:
    corpora = [{"prefix": "a", "tag": f"tag{number}"} for number in range(17)]
    with pytest.raises(ConfigError, match=r"at most 16 .* found 17"):
        choose_tags(data_config(*corpora))


def test_prefix_has_the_language_then_the_tag_of_the_corpus(tokenizer: Tokenizer) -> None:
    data = data_config(DE, {**SV, "tag": "bt"}, "c")
    ids = tag_ids(choose_tags(data), tokenizer)
    de, sv, bt = tokenizer.tag_ids[:3]
    assert ids == {"2de": de, "2sv": sv, "bt": bt}
    assert language_ids(ids) == {"de": de, "sv": sv}
    assert [corpus_prefix(corpus, data, ids) for corpus in data.train] == [(de,), (sv, bt), (de,)]


def test_text_never_has_a_tag(tokenizer: Tokenizer) -> None:
    (ids,) = tokenizer.encode(["<2de> <tag_0> <bt> 2de"])
    assert not set(ids) & set(tokenizer.tag_ids)


# Sampling by temperature


def test_temperature_of_one_changes_no_weight() -> None:
    weights = temperature_weights([900, 100], [1.0, 2.0], [EN_DE, EN_SV], temperature=1.0)
    assert weights == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("temperature", [1.5, 5.0, 1000.0])
def test_parts_of_language_pairs_follow_the_temperature(temperature: float) -> None:
    sizes = np.array([9000, 900, 100])
    pairs = [EN_DE, EN_SV, LanguagePair("sv", "en")]
    weights = temperature_weights(sizes.tolist(), [1.0, 1.0, 1.0], pairs, temperature=temperature)
    taken = sizes * weights
    assert taken.sum() == pytest.approx(10_000)
    expected = sizes ** (1 / temperature)
    assert taken / taken.sum() == pytest.approx(expected / expected.sum())


def test_corpora_of_one_language_pair_keep_their_proportions() -> None:
    weights = temperature_weights(
        [100, 50, 4000], [1.0, 4.0, 1.0], [EN_SV, EN_SV, EN_DE], temperature=2.0
    )
    assert weights[1] / weights[0] == pytest.approx(4.0)
    sizes = np.array([100 * weights[0] + 50 * weights[1], 4000 * weights[2]])
    assert sizes[1] / sizes[0] == pytest.approx((4000 / 300) ** 0.5)
    assert sizes.sum() == pytest.approx(4300)


def test_corpus_of_which_no_pair_was_kept_changes_nothing() -> None:
    weights = temperature_weights([100, 0], [1.0, 1.0], [EN_DE, EN_SV], temperature=3.0)
    assert weights == pytest.approx([1.0, 0.0])


def test_epochs_take_pairs_as_often_as_the_weights_say() -> None:
    sizes = [900, 100]
    weights = temperature_weights(sizes, [1.0, 1.0], [EN_DE, EN_SV], temperature=2.0)
    lengths = np.full(1000, 5)
    num_second = []
    for epoch in range(4):
        plan = plan_batches(
            lengths,
            lengths,
            batch_tokens=50,
            seed=1,
            epoch=epoch,
            batching="pools",
            weights=np.repeat(np.array(weights, np.float32), sizes),
        )
        assert len(plan.order) == pytest.approx(1000, abs=1)
        num_second.append(int((plan.order >= 900).sum()))
    # 30 to 10, as the square roots of 900 and 100 are; which pairs are taken more often is random.
    assert num_second == pytest.approx([250] * 4, abs=25)


def test_tags_without_one_of_the_target_languages_are_refused() -> None:
    with pytest.raises(ValidationError, match="wanted also 2de"):
        data_config(DE, tags=("2sv",))
    assert data_config({"prefix": "a", "tag": "bt"}, tags=("bt",)).tags == ("bt",)


def test_tags_of_a_student_have_the_same_ids_in_its_teacher() -> None:
    def experiment(**ids: int) -> Any:
        return SimpleNamespace(ids_by_tag=ids, run_dir=SimpleNamespace(path="runs/x"))

    require_same_tags(experiment(), experiment())
    require_same_tags(experiment(bt=4), experiment(bt=4, noisy=5))
    for student, teacher in (
        (experiment(bt=4), experiment()),
        (experiment(bt=4), experiment(noisy=4)),
        (experiment(bt=4), experiment(noisy=4, bt=5)),
        (experiment(), experiment(**{"2de": 4, "2fr": 5})),
        (experiment(**{"2de": 4, "2fr": 5}), experiment(**{"2fr": 4, "2de": 5})),
    ):
        with pytest.raises(ConfigError, match="wanted the tags of this run"):
            require_same_tags(student, teacher)


def test_runs_are_compared_on_sets_that_both_translate() -> None:
    def experiment(*languages: str) -> Any:
        corpora = [{"prefix": "a", "tgt_lang": language} for language in languages]
        data = data_config(*corpora)
        return SimpleNamespace(
            config=SimpleNamespace(data=data), run_dir=SimpleNamespace(path="runs/x")
        )

    german = EvalSet("test", ["x"], [["x"]], src_lang="en", tgt_lang="de")
    several = experiment("de", "fr")
    require_same_languages(experiment("fr", "de"), german, first=several)
    require_same_languages(experiment("de"), german, first=several)
    for eval_set in (german._replace(tgt_lang="fr"), german._replace(src_lang="sv")):
        with pytest.raises(ConfigError, match="does not translate"):
            require_same_languages(experiment("de"), eval_set, first=several)
