"""Attention maps of a real tokenizer and model, and the command that writes them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shell import mt

from mt.config.schema import ModelConfig, SearchConfig
from mt.data.source_stats import SourceStats
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.decoding.translator import Translator
from mt.model.transformer import Transformer
from mt.report.attention_maps import (
    ATTENTION_AXES,
    attention_maps,
    axis_tokens,
    display_pieces,
    group_words,
)

NUM_LAYERS = 2
NUM_HEADS = 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    texts = ["the old woman sees a small dog", "die alte Frau"] * 20
    train_tokenizer(texts, path, kind="bpe", vocab_size=330)
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def translator(tokenizer: Tokenizer) -> Translator:
    """A translator with a random model."""
    torch.manual_seed(7)
    shape = ModelConfig(
        d_model=32,
        d_ff=64,
        num_heads=NUM_HEADS,
        num_encoder_layers=NUM_LAYERS,
        num_decoder_layers=NUM_LAYERS,
    )
    model = Transformer(
        shape,
        src_vocab_size=tokenizer.vocab_size,
        tgt_vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
    )
    search = SearchConfig(beam_size=3, max_length_offset=9, max_length_factor=1.0)
    return Translator(
        model.eval(), src_tokenizer=tokenizer, tgt_tokenizer=tokenizer, search=search, max_length=60
    )


@pytest.mark.parametrize(
    "text",
    [
        "the old woman",
        "dog",
        "  two  spaces ",
        "Straße <s> 🐶!",
        "a\u2581b \x10s",
        "\u200fא b",
        "\t",
        "<script>document.title='broken'</script>",
        "</script><img/src=x/onerror=document.title='broken'>",
        "<!--<script>",
        "&amp;",
        "{{7*7}}",
        "\u202eright",
        "שלום",
        "👩‍👩‍👧",
        "'\"`${1}\\u003c",
    ],
)
def test_words_are_separated_by_the_spaces_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = tokenizer.encode([text])
    side = axis_tokens(tokenizer, ids)
    assert " ".join(side.words) == f"{text} <eos>"
    assert side.special_words == [len(side.words) - 1]
    assert len(side.subwords) == len(side.word_index) == len(ids)


def test_own_translation_has_the_subwords_of_the_search(translator: Translator) -> None:
    tokenizer = translator.tgt_tokenizer
    maps = attention_maps(translator, "the old woman", target=None, name="")
    assert maps.tgt_text == translator.translate(["the old woman"])[0]
    *subwords, _ = maps.sides["tgt_out"].subwords
    assert maps.sides["tgt_in"].subwords == ["<bos>", *subwords]
    *encoded_ids, _ = tokenizer.encode([maps.tgt_text])[0]
    encoded_subwords = [tokenizer.piece(token_id) for token_id in encoded_ids]
    assert "".join(subwords).strip("▁") == "".join(encoded_subwords).strip("▁")
    assert subwords != encoded_subwords, "the test needs a text that the tokenizer splits otherwise"


def test_own_translation_of_several_sentences_is_shown_as_a_whole(translator: Translator) -> None:
    stats = SourceStats(usual_length=3, rare_length=3, several_sentences_share=0.0)
    splitting = replace(translator, source_stats=stats)
    text = "The woman. The dog."
    assert len(splitting.splitter.split(text)) > 2
    maps = attention_maps(splitting, text, target=None, name="")
    assert maps.tgt_text == translator.translate(text)
    assert maps.sides["src"].words == [*text.split(), "<eos>"]


def test_a_given_target_is_shown(translator: Translator) -> None:
    maps = attention_maps(translator, "the old woman", target="die alte Frau", name="")
    assert maps.src_text == "the old woman"
    assert maps.tgt_text == "die alte Frau"
    assert maps.sides["src"].words == ["the", "old", "woman", "<eos>"]
    assert maps.sides["tgt_in"].words == ["<bos>", "die", "alte", "Frau"]
    assert maps.sides["tgt_out"].words == ["die", "alte", "Frau", "<eos>"]
    for kind, (queries, keys) in ATTENTION_AXES.items():
        num_queries = len(maps.sides[queries].subwords)
        num_keys = len(maps.sides[keys].subwords)
        shapes = [layer.shape for layer in maps.weights[kind]]
        assert shapes == [(NUM_HEADS, num_queries, num_keys)] * NUM_LAYERS


def test_both_texts_are_normalized(translator: Translator) -> None:
    normalizing = replace(translator, normalization="nfc")
    maps = attention_maps(
        normalizing, "the\u00a0old  woman\ufeff", target="die \uff41lte\u00a0Frau", name=""
    )
    assert maps.sides["src"].words == ["the", "old", "woman", "<eos>"]
    assert maps.sides["tgt_out"].words == ["die", "alte", "Frau", "<eos>"]


def test_tags_are_special_words(translator: Translator) -> None:
    translator = replace(translator, ids_by_language={"de": translator.src_tokenizer.tag_ids[1]})
    target = "die alte Frau"
    maps = attention_maps(translator, "the old woman", target=target, name="", to="de")
    side = maps.sides["src"]
    assert side.words == ["<2de>", "the", "old", "woman", "<eos>"]
    assert side.special_words == [0, 4]
    assert side.word_index[:2] == [0, 1]
    assert maps.weights["cross"][0].shape[2] == len(side.subwords)
    own = attention_maps(translator, "the old woman", target=None, name="", to="de")
    assert own.tgt_text == translator.translate("the old woman", to="de")


# Words and pieces


@pytest.mark.parametrize(
    ("pieces", "special_positions", "word_index"),
    [
        (["▁a", "▁b", "c", "<eos>"], {3}, [0, 1, 1, 2]),
        (["<bos>", "▁a", "b", "b"], {0}, [0, 1, 1, 1]),
        (["<tag_1>", "a", "<eos>"], {0, 2}, [0, 1, 2]),
        (["▁", "▁a", "▁", "<0xC3>", "<0x9F>", "x"], set(), [0, 1, 2, 2, 2, 2]),
        (["a", "b"], set(), [0, 0]),
        # Scripts without spaces: each piece, with its bytes and marks, is a word.
        (["▁我们", "喜欢", "Py", "thon", "。", "<eos>"], {5}, [0, 1, 2, 2, 3, 4]),
        (["▁我", "<0xE4>", "<0xBB>", "<0xAC>", "爱"], set(), [0, 1, 1, 1, 2]),
        (["▁ก", "็", "ดี"], set(), [0, 0, 1]),
        (["▁나", "는", "▁학생"], set(), [0, 0, 1]),
    ],
)
def test_words_begin_at_spaces_and_special_tokens(
    pieces: list[str], special_positions: set[int], word_index: list[int]
) -> None:
    assert group_words(pieces, special_positions=special_positions) == word_index


@pytest.mark.parametrize(
    ("pieces", "displayed"),
    [
        (["▁The", "n", "<eos>"], ["The", "n", "<eos>"]),
        (["▁", "▁a"], ["␣", "a"]),
        (["▁stra", "<0xC3>", "<0x9F>", "e"], ["stra", "ß 1/2", "ß 2/2", "e"]),
        (["<0x3C>", "b"], ["<", "b"]),
        (["<0xF0>", "<0x9F>", "<0x90>", "<0xB6>"], ["🐶 1/4", "🐶 2/4", "🐶 3/4", "🐶 4/4"]),
        (["<0x41>", "<0x42>", "<0xC3>", "<0x9F>"], ["A", "B", "ß 1/2", "ß 2/2"]),
        # Invalid UTF-8.
        (["<0xC3>", "<0x28>", "<0x9F>"], ["<0xC3>", "(", "<0x9F>"]),
        # Unprintable characters.
        (["<0x07>", "<0xE2>", "<0x80>", "<0xAE>"], ["<0x07>", "<0xE2>", "<0x80>", "<0xAE>"]),
        # A text that only looks like a byte piece.
        (["▁<0x", "41", ">"], ["<0x", "41", ">"]),
    ],
)
def test_byte_pieces_are_displayed_as_their_character(
    pieces: list[str], displayed: list[str]
) -> None:
    assert display_pieces(pieces) == displayed


# The command


def test_command_writes_html_or_json(trained_run: Path, tmp_path: Path) -> None:
    for name in ("page.html", "page.json"):
        output = tmp_path / name
        ended = mt("attention", trained_run, "balo <b>gona", "--target", "deru", "-o", output)
        assert ended.code == 0, ended.err
        assert ended.out == ""
        message = rf"{output}: \d+ source and \d+ target tokens, 0\.\d\d MB\n"
        assert re.fullmatch(message, ended.err)
    assert "balo &lt;b&gt;gona" in (tmp_path / "page.html").read_text(encoding="utf-8")
    content = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert content["name"] == trained_run.name
    assert content["sides"]["tgt_out"]["words"] == ["deru", "<eos>"]


def test_command_shows_the_models_own_translation(trained_run: Path, tmp_path: Path) -> None:
    assert mt("attention", trained_run, "balo gona", "-o", tmp_path / "page.html").code == 0


@pytest.mark.parametrize(
    ("arguments", "message_parts"),
    [
        (["balo", "-o", "page.pdf"], ["page.pdf", ".html", ".json"]),
        ([" ", "-o", "page.html"], ["the sentence is blank"]),
        (["balo", "--target", "", "-o", "page.html"], ["the target is blank"]),
        (["balo\nderu", "-o", "page.html"], ["the sentence has a line break"]),
        (["balo \udcff", "-o", "page.html"], ["the sentence is not valid UTF-8", "character 6"]),
        (["xyz" * 12, "-o", "page.html"], ["the sentence has 38 tokens", "at most 32"]),
        (
            ["balo", "--target", "xyz" * 12, "-o", "page.html"],
            ["the target has 38 tokens", "at most 32"],
        ),
    ],
)
def test_mistakes_are_one_line_on_stderr(
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message_parts: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = mt("attention", trained_run, *arguments)
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith("mt: ")
    assert ended.err.count("\n") == 1
    for part in message_parts:
        assert part in ended.err
    assert not list(tmp_path.iterdir())
