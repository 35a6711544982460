"""A text's translation is its own: of the other texts beside it, their order and their number it knows nothing."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mt
import mt.decoding.translator as translator_module
from mt.config.load import dump_config
from mt.config.schema import ModelConfig, SearchConfig
from mt.data.tokenizer import Tokenizer, train_tokenizer
from mt.decoding.translator import Translator
from mt.errors import CheckpointError, DeviceError, RunDirError
from mt.model.transformer import Transformer
from mt.storage.checkpoint import load_weights

WORDS = [
    "balo",
    "deru",
    "fimi",
    "gona",
    "hupe",
    "jasi",
    "kelo",
    "mavu",
    "nira",
    "potu",
    "ruke",
    "sifa",
]
MAX_LENGTH = 12
BLANKS = ["", " ", "  ", "\t", "\u3000", "\u00a0 \u2028"]


def make_texts(num_texts: int, *, most_words: int) -> list[str]:
    draw = random.Random(5)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, most_words))) for _ in range(num_texts)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(make_texts(100, most_words=6), path, kind="bpe", vocab_size=330)
    return Tokenizer.load(path)


SHAPE = ModelConfig(d_model=32, d_ff=64, num_heads=4, num_encoder_layers=2, num_decoder_layers=2)


def make_translator(
    tokenizer: Tokenizer,
    *,
    max_length: int = MAX_LENGTH,
    shape: ModelConfig = SHAPE,
    **search: float,
) -> Translator:
    """Random weights in float64, so that two sums of the same numbers do not round to different translations."""
    torch.manual_seed(1)
    sizes = {"src_vocab_size": tokenizer.vocab_size, "tgt_vocab_size": tokenizer.vocab_size}
    model = Transformer(shape, **sizes, pad_id=tokenizer.pad_id).double().eval()
    settings = SearchConfig.model_validate(
        {"beam_size": 3, "max_length_offset": 2, "max_length_factor": 1.0, **search}
    )
    return Translator(model, tokenizer, tokenizer, search=settings, max_length=max_length)


@pytest.fixture(scope="module")
def translator(tokenizer: Tokenizer) -> Translator:
    return make_translator(tokenizer)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [
        *make_texts(16, most_words=6),
        *BLANKS,
        *make_texts(2, most_words=30),
        "xyz 123 Ü",
        "balo" * 12,
    ]


def test_a_batch_is_translated_as_its_texts_one_by_one(
    translator: Translator, texts: list[str]
) -> None:
    together = translator.translate(texts)
    assert together == [translator.translate([text])[0] for text in texts]
    assert len(set(together)) > len(texts) / 2, "a model that always says the same shows nothing"


def test_the_order_of_the_texts_does_not_matter(translator: Translator, texts: list[str]) -> None:
    order = list(range(len(texts)))
    random.Random(1).shuffle(order)
    assert translator.translate([texts[i] for i in order]) == [
        translator.translate(texts)[i] for i in order
    ]


def test_a_model_with_few_positions_writes_no_more_tokens_than_it_has_places_for(
    tokenizer: Tokenizer,
) -> None:
    few = SHAPE.model_copy(update={"self_attention": "dense_synthesizer", "max_length": MAX_LENGTH})
    lengths = {}
    for shape in (few, SHAPE):
        translator = make_translator(tokenizer, shape=shape, max_length_factor=20.0)
        (hypotheses,) = translator._search_batch(tokenizer.encode(["balo"]))
        lengths[shape.self_attention] = max(
            len(hypothesis.ids) + 1 for hypothesis in hypotheses
        )  # with eos
    assert lengths["dense_synthesizer"] == MAX_LENGTH < lengths["dot_product"]


def test_a_search_that_memory_is_too_small_for_is_an_error_that_says_what_to_do(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Transformer, "decode", fail)
    with pytest.raises(DeviceError, match=r"too little memory to translate: wanted a smaller beam"):
        translator.translate(["balo"])


def test_a_model_that_memory_is_too_small_for_is_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(translator_module, "open_run_dir", fail)
    with pytest.raises(DeviceError, match=r"^too little memory to load this model$"):
        Translator.load(tmp_path)


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_the_size_of_the_batches_does_not_matter(
    tokenizer: Tokenizer, translator: Translator, texts: list[str], batch_tokens: int
) -> None:
    assert make_translator(tokenizer, batch_tokens=batch_tokens).translate(
        texts
    ) == translator.translate(texts)


STRINGS = st.lists(st.sampled_from([*WORDS, *"xyz Ü😀\t\0\r\u2028"]), max_size=14).map(" ".join)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(STRINGS, min_size=1, max_size=9),
    st.randoms(use_true_random=False),
    st.integers(1, 400),
)
def test_any_texts_in_any_order_and_any_batches_are_translated_as_each_by_itself(
    tokenizer: Tokenizer, texts: list[str], draw: random.Random, batch_tokens: int
) -> None:
    alone = [make_translator(tokenizer).n_best([text])[0] for text in texts]
    order = draw.sample(range(len(texts)), len(texts))
    found = make_translator(tokenizer, batch_tokens=batch_tokens).n_best([texts[i] for i in order])
    for i, together in zip(order, found, strict=True):
        assert [each.text for each in together] == [each.text for each in alone[i]]
        assert [each.score for each in together] == pytest.approx(
            [each.score for each in alone[i]], abs=1e-6
        )


@settings(max_examples=10, deadline=None)
@given(st.lists(STRINGS.filter(str.strip), min_size=2, max_size=9))
def test_in_float32_company_may_turn_a_near_tie_and_no_more(
    tokenizer: Tokenizer, texts: list[str]
) -> None:
    """Where greedy search goes two ways, alone and in company, both are as likely to four digits."""
    translator = make_translator(tokenizer, beam_size=1)
    model = translator.model.float()
    rows = [ids for text in texts for ids in translator.split(text)]
    for row, (together,) in zip(rows, translator._search_batch(rows), strict=True):
        ((alone,),) = translator._search_batch([row])
        ways = [(*found.ids, tokenizer.eos_id) for found in (alone, together)]
        if ways[0] == ways[1]:
            assert together.score == pytest.approx(alone.score, abs=1e-4)
            continue
        parting = next(
            i for i, (left, right) in enumerate(zip(*ways, strict=False)) if left != right
        )
        tgt_in = torch.tensor([[tokenizer.bos_id, *ways[0][:parting]]])
        logits = model.logits(model(torch.tensor([row]), tgt_in))[0, -1]
        assert logits[ways[0][parting]].item() == pytest.approx(
            logits[ways[1][parting]].item(), abs=1e-4
        )


@settings(max_examples=10, deadline=None)
@given(st.lists(STRINGS, min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_an_exact_search_gives_the_same_bits_in_any_company(
    tokenizer: Tokenizer, texts: list[str], draw: random.Random
) -> None:
    translator = make_translator(tokenizer, batch_tokens=1)
    translator.model.float()
    order = draw.sample(range(len(texts)), len(texts))
    assert translator.n_best([texts[i] for i in order]) == [
        translator.n_best([texts[i]])[0] for i in order
    ]


def test_nothing_to_translate_is_no_translation(translator: Translator) -> None:
    assert translator.translate([]) == []


def test_a_blank_text_stays_blank(translator: Translator) -> None:
    assert translator.translate(BLANKS) == [""] * len(BLANKS)
    assert translator.n_best([""]) == [[("", 0.0, 0.0, (), None)]]


def test_a_translation_is_one_line(translator: Translator, texts: list[str]) -> None:
    found = translator.n_best([*texts, "one\ntwo", "\n"])
    assert not any({"\n", "\r"} & {*each.text} for translations in found for each in translations)


def test_the_best_translations_come_first_and_the_first_is_the_translation(
    translator: Translator, texts: list[str]
) -> None:
    found = translator.n_best(texts)
    assert [translations[0].text for translations in found] == translator.translate(texts)
    for text, translations in zip(texts, found, strict=True):
        scores = [each.score for each in translations]
        assert scores == sorted(scores, reverse=True)
        assert len(translations) == (translator.search.beam_size if text.strip() else 1)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_the_score_is_the_log_probability_normalised_by_length(
    tokenizer: Tokenizer, length_penalty: float
) -> None:
    translator = make_translator(tokenizer, length_penalty=length_penalty)
    for each in translator.n_best(["balo deru"])[0]:
        if length_penalty == 0.0:
            assert each.score == each.log_prob
        else:
            length = each.log_prob / each.score  # in tokens, with the end mark
            assert length == pytest.approx(round(length), abs=1e-9)


def test_a_text_that_fits_is_one_part_and_a_longer_one_is_cut_until_all_parts_fit(
    translator: Translator,
) -> None:
    for text in make_texts(60, most_words=40):
        parts = translator.split(text)
        assert all(len(ids) <= MAX_LENGTH for ids in parts)
        assert " ".join(translator.src_tokenizer.decode(parts)) == text
        (ids,) = translator.src_tokenizer.encode([text])
        assert (len(parts) == 1) == (len(ids) <= MAX_LENGTH)


@pytest.mark.parametrize(
    ("text", "halves"),
    [
        (
            "xxxxxxxxxx yyyyyy zz",
            ["xxxxxxxxxx", "yyyyyy zz"],
        ),  # the space left of the middle is the nearer one
        ("zz yyyyyy xxxxxxxxxx", ["zz yyyyyy", "xxxxxxxxxx"]),
        ("xxxxx yyy zzzz", ["xxxxx", "yyy zzzz"]),  # equally near: the left one
        ("xxxxxxxxxxyyyyyyyyyy", ["xxxxxxxxxx", "yyyyyyyyyy"]),  # no space at all
        (" xxxxxxxxxyyyyyyyyyy", [" xxxxxxxxx", "yyyyyyyyyy"]),  # none but at an end
    ],
)
def test_a_long_text_is_cut_at_the_space_nearest_to_its_middle(
    translator: Translator, text: str, halves: list[str]
) -> None:
    assert len(translator.src_tokenizer.encode([text])[0]) > MAX_LENGTH
    assert translator.split(text) == translator.src_tokenizer.encode(halves)


def test_a_single_character_is_never_cut(tokenizer: Tokenizer) -> None:
    translator = make_translator(tokenizer, max_length=2)
    assert translator.split("😀😀") == tokenizer.encode(["😀", "😀"])


PIECES = st.sampled_from(["balo", "xx", "😀", " ", " " * 40, "deru" * 30, "a " * 25])


@given(st.lists(PIECES, max_size=40).map("".join))
def test_cutting_takes_time_in_proportion_to_the_length(translator: Translator, text: str) -> None:
    """But for a logarithm, wherever the spaces are: else a line of a megabyte would take days."""
    tokenizer = CountingTokenizer(translator.src_tokenizer)
    replace(translator, src_tokenizer=cast(Tokenizer, tokenizer)).split(text)
    assert tokenizer.num_chars <= len(text) * (2 * math.log2(max(len(text), 2)) + 1)


class CountingTokenizer:
    """Knows how many characters it was given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.num_chars = tokenizer, 0

    def encode(self, texts: list[str]) -> list[list[int]]:
        self.num_chars += sum(map(len, texts))
        return self.tokenizer.encode(texts)


def test_a_long_text_is_translated_in_parts(translator: Translator) -> None:
    words = [word for word in WORDS[:8] for _ in range(3)]
    text, halves = (
        " ".join(words),
        [" ".join(words[:12]), " ".join(words[12:])],
    )  # all words are of one length
    assert len(translator.split(text)) == sum(len(translator.split(half)) for half in halves) > 2
    whole, parts = translator.n_best([text])[0], translator.n_best(halves)
    for rank, each in enumerate(whole):
        assert each.text == " ".join(translations[rank].text for translations in parts)
        assert each.log_prob == pytest.approx(
            sum(translations[rank].log_prob for translations in parts)
        )
        assert each.num_parts == len(translator.split(text))


def test_gaps_of_any_size_between_words_make_no_empty_part(translator: Translator) -> None:
    parts = translator.split("balo" + " " * 60 + "deru")
    assert "".join(translator.src_tokenizer.decode(parts)).split() == ["balo", "deru"]
    assert all(text.strip() for text in translator.src_tokenizer.decode(parts))


# From a run directory


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few updates, copied from where it was trained, which is gone, text and all."""
    directory = tmp_path_factory.mktemp("origin")
    for name in ("train.aa", "train.bb", "valid.aa", "valid.bb"):
        (directory / name).write_text(
            "".join(f"{text}\n" for text in make_texts(40, most_words=4)), encoding="utf-8"
        )
    config = {
        "data": {
            "src_lang": "aa",
            "tgt_lang": "bb",
            "train": [{"prefix": f"{directory}/train"}],
            "valid": {"name": "valid", "prefix": f"{directory}/valid"},
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
            "device": "cpu",
            "precision": "fp32",
            "batch_tokens": 128,
            "max_steps": 4,
            "validate_every": 2,
        },
        "search": {"beam_size": 3, "max_length_factor": 1.0, "max_length_offset": 1},
    }
    (directory / "config.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    trained = mt.train(
        mt.load_config(directory / "config.yaml", [f"train.run_dir={directory}/run"])
    )
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(trained, copy)
    shutil.rmtree(directory)
    return copy


def test_a_copied_run_translates_after_the_original_is_gone(run_dir: Path) -> None:
    translator = Translator.load(run_dir, device="cpu")
    found = translator.translate(["balo deru", ""])
    assert found == mt.Translator.load(str(run_dir), device="cpu").translate(["balo deru", ""])
    assert found[1] == ""


def test_a_checkpoint_may_be_chosen_by_name_or_path(run_dir: Path) -> None:
    def table(which: str) -> torch.Tensor:
        return Translator.load(run_dir, checkpoint=which, device="cpu").model.output_weight

    step = run_dir / "checkpoints" / "step_00000002"
    assert torch.equal(table("step_00000002"), table(str(step)))
    assert not torch.equal(table("step_00000002"), table("last"))
    with pytest.raises(CheckpointError, match="step_3: no such checkpoint"):
        table("step_3")


def test_how_to_search_may_be_chosen(run_dir: Path) -> None:
    search = Translator.load(run_dir, device="cpu").search
    assert (search.beam_size, search.length_penalty) == (3, 1.0)
    chosen = Translator.load(run_dir, device="cpu", beam_size=2, length_penalty=0.0)
    assert chosen.search == search.model_copy(update={"beam_size": 2, "length_penalty": 0.0})
    assert len(chosen.n_best(["balo"])[0]) == 2


def test_an_exact_search_has_one_text_in_each_batch(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, sizes = make_texts(7, most_words=3), []
    search = Translator._search_batch
    monkeypatch.setattr(
        Translator,
        "_search_batch",
        lambda self, rows: sizes.append(len(rows)) or search(self, rows),
    )
    for exact, expected in ((True, [1] * 7), (False, [7])):
        sizes.clear()
        Translator.load(run_dir, device="cpu", exact=exact).translate(texts)
        assert sizes == expected


def test_no_memory_is_taken_for_what_a_config_claims_and_the_weights_do_not_hold(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(dump_config(mt.load_config(config, ["model.d_ff=34"])), encoding="utf-8")
    claimed: list[Transformer] = []
    monkeypatch.setattr(
        translator_module,
        "load_weights",
        lambda model, path: claimed.append(model) or load_weights(model, path),
    )
    with pytest.raises(
        CheckpointError, match="holds another model than the run's config describes"
    ):
        Translator.load(tmp_path / "run", device="cpu")
    assert {each.device.type for each in claimed[0].state_dict().values()} == {"meta"}


def test_a_loaded_model_is_ready_to_translate(run_dir: Path) -> None:
    model = Translator.load(run_dir, device="cpu").model
    assert not model.training
    assert {(each.device.type, each.dtype) for each in model.state_dict().values()} == {
        ("cpu", torch.float32)
    }


def test_no_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no such run directory"):
        Translator.load(tmp_path / "missing")
    with pytest.raises(RunDirError, match=r"not a run directory: it has no config\.yaml"):
        Translator.load(tmp_path)


# The package


def test_importing_mt_and_reading_a_config_does_not_wait_for_torch(run_dir: Path) -> None:
    program = f"""
import sys
import mt
assert "torch" not in sys.modules and "pydantic" not in sys.modules
mt.load_config(__import__("pathlib").Path({str(run_dir / "config.yaml")!r}))
assert "torch" not in sys.modules
mt.Translator
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_name_that_mt_offers_is_there_and_others_are_not() -> None:
    for name in mt.__all__:
        assert getattr(mt, name) is not None
        assert name in dir(mt)
    with pytest.raises(AttributeError, match="module 'mt' has no attribute 'Translater'"):
        mt.Translater  # noqa: B018
