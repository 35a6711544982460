"""Attention weights of a sentence and its translation, as `Translator.attention` returns them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from invented_words import INVENTED_WORDS

from mt.config.schema import ModelConfig, SearchConfig
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.decoding.translator import Translator
from mt.errors import DataError
from mt.model.recording import attention_weights
from mt.model.transformer import Transformer

SHAPE = ModelConfig(d_model=32, d_ff=64, num_heads=4, num_encoder_layers=3, num_decoder_layers=2)


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """A translator with random weights."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(INVENTED_WORDS, path, kind="bpe", vocab_size=330)
    tokenizer = Tokenizer.load(path)
    torch.manual_seed(1)
    model = Transformer(
        SHAPE,
        src_vocab_size=tokenizer.vocab_size,
        tgt_vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
    )
    search = SearchConfig(beam_size=3, max_length_factor=1.0, max_length_offset=2)
    return Translator(model.eval(), tokenizer, tokenizer, search=search, max_length=20)


def test_weights_are_those_of_the_model(translator: Translator) -> None:
    attention = translator.attention("balo deru", "gona fimi hako")
    tokenizer = translator.src_tokenizer
    src_ids, tgt_ids = tokenizer.encode(["balo deru", "gona fimi hako"])
    expected = attention_weights(translator.model, src_ids, [tokenizer.bos_id, *tgt_ids[:-1]])
    assert attention.encoder.shape == (3, 4, len(src_ids), len(src_ids))
    assert attention.decoder.shape == (2, 4, len(tgt_ids), len(tgt_ids))
    assert attention.cross.shape == (2, 4, len(tgt_ids), len(src_ids))
    for layer in range(2):
        np.testing.assert_array_equal(attention.cross[layer], expected.cross[layer])
        np.testing.assert_array_equal(attention.decoder[layer], expected.decoder[layer])
    np.testing.assert_array_equal(attention.encoder[2], expected.encoder[2])
    np.testing.assert_allclose(attention.cross.sum(axis=-1), 1.0, rtol=1e-5)


def test_tokens_are_named(translator: Translator) -> None:
    (tag, *_) = translator.src_tokenizer.tag_ids
    tagged = replace(translator, ids_by_language={"de": tag})
    attention = tagged.attention("balo", "gona", to="de")
    assert attention.src[0] == "<2de>"
    assert attention.src[-1] == "<eos>"
    assert attention.tgt_in[0] == "<bos>"
    assert attention.tgt_in[1:] == attention.tgt_out[:-1]
    assert "".join(attention.tgt_out) == "▁gona<eos>"
    assert (attention.src_text, attention.tgt_text) == ("balo", "gona")


def test_without_a_target_the_translation_is_shown(translator: Translator) -> None:
    attention = translator.attention("balo deru fimi")
    (best, *_) = translator.n_best("balo deru fimi")
    assert attention.tgt_text == best.text
    assert attention.ids == best.segments[0]


@pytest.mark.parametrize(
    ("src", "tgt", "words"),
    [
        (" ", "gona", ["sentence", "blank"]),
        ("balo", "", ["target", "blank"]),
        ("balo\nderu", None, ["sentence", "line break"]),
        ("balo " * 21, None, ["sentence", "at most 20"]),
    ],
)
def test_texts_that_cannot_be_shown_are_refused(
    translator: Translator, src: str, tgt: str | None, words: list[str]
) -> None:
    with pytest.raises(DataError) as raised:
        translator.attention(src, tgt)
    assert all(word in str(raised.value) for word in words)
