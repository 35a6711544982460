"""A target word is linked to the source word that it looks at most, whatever subwords, batches and parts it came in."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from mt.config.schema import ModelConfig, SearchConfig
from mt.data.tokenizer import Tokenizer, train_tokenizer
from mt.decoding.alignment import (
    AlignmentStep,
    align,
    align_translations,
    default_layer,
    format_alignment,
    link_words,
    word_indices,
    words,
)
from mt.decoding.translator import Alignment, Segment, Translator
from mt.model.recording import attention_weights
from mt.model.transformer import Transformer
from scripts.alignment.error_rate import read_gold

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
NUM_LAYERS, MAX_LENGTH = 3, 16
SHAPE = {
    "d_model": 32,
    "d_ff": 32,
    "num_heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": NUM_LAYERS,
}
STEPS: tuple[AlignmentStep, ...] = ("output", "input")


def make_texts(num_texts: int, *, most_words: int, seed: int = 5) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, most_words))) for _ in range(num_texts)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(
        make_texts(100, most_words=6), path, kind="bpe", vocab_size=310
    )  # most words are of several subwords
    return Tokenizer.load(path)


def make_translator(tokenizer: Tokenizer, **search: int) -> Translator:
    """Random weights in float64, large enough that it looks at some words much more than at others."""
    torch.manual_seed(3)
    sizes = {"src_vocab_size": tokenizer.vocab_size, "tgt_vocab_size": tokenizer.vocab_size}
    model = (
        Transformer(ModelConfig.model_validate(SHAPE), **sizes, pad_id=tokenizer.pad_id)
        .double()
        .eval()
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    settings = SearchConfig.model_validate(
        {"beam_size": 3, "max_length_offset": 4, "max_length_factor": 1.0, **search}
    )
    return Translator(model, tokenizer, tokenizer, search=settings, max_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def translator(tokenizer: Tokenizer) -> Translator:
    return make_translator(tokenizer)


def make_pairs(tokenizer: Tokenizer, num_pairs: int) -> list[Segment]:
    sides = (tokenizer.encode(make_texts(num_pairs, most_words=9, seed=seed)) for seed in (1, 2))
    return [Segment(src, tgt) for src, tgt in zip(*sides, strict=True)]


# Words of subwords


@pytest.mark.parametrize(
    "text",
    [
        *[
            "balo",
            "balo deru fimi",
            "xyz qqq",
            "",
            " ",
            "balo ",
            " balo",
            "balo   deru",
            "äöü 😀 balo 中文",
            "a\tb \r c",
        ],
        *["non\u00a0breaking \u2028 line", "\x10s \u2581 \x10", "<s> </s> a"],
    ],
)
def test_the_tokens_of_a_word_make_that_word(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = tokenizer.encode([text])
    found = word_indices(tokenizer, ids)
    assert len(found) == len(ids) - 1, "the end mark is no word"
    for index, word in enumerate(words(text)):
        own = [token_id for token_id, place in zip(ids, found, strict=False) if place == index]
        assert (
            word.decode().replace(" ", "") in "".join(tokenizer.decode([own]))
            or b"\t" in text.encode()
        )
    assert max(found, default=-1) == len(words(text)) - 1


def test_a_space_on_its_own_goes_with_the_next_word_and_at_the_end_with_none(
    tokenizer: Tokenizer,
) -> None:
    (ids,) = tokenizer.encode(["balo   😀 "])
    pieces = [tokenizer.piece(token_id) for token_id in ids]
    assert pieces[-9:-5] == ["\u2581", "\u2581", "\u2581", "<0xF0>"]
    assert word_indices(tokenizer, ids)[-8:] == [1, 1, 1, 1, 1, 1, 1, -1]


# From weights to links

#     source words: 0    0    1    the end mark
WEIGHTS = np.array(
    [
        [0.3, 0.3, 0.4, 0.0],  # writes the first subword of word 0; 0 by the sum of its subwords
        [0.1, 0.0, 0.2, 0.7],  # has read it, and writes the second; eos is no word
        [0.0, 0.1, 0.6, 0.3],  # writes word 1
        [0.0, 0.9, 0.1, 0.0],  # writes eos
    ],
    np.float32,
)
SRC_WORDS, TGT_WORDS = [0, 0, 1], [0, 0, 1]


@pytest.mark.parametrize(
    ("step", "links"), [("output", [(0, 0), (1, 1)]), ("input", [(0, 1), (1, 0)])]
)
def test_a_word_is_asked_where_it_is_first_written_or_where_it_has_just_been_read(
    step: AlignmentStep, links: Alignment
) -> None:
    assert link_words(WEIGHTS, SRC_WORDS, TGT_WORDS, step=step) == links
    padded = np.pad(WEIGHTS, ((0, 2), (0, 3)), constant_values=9.0)
    assert link_words(padded, SRC_WORDS, TGT_WORDS, step=step) == links


@pytest.mark.parametrize("step", STEPS)
def test_without_words_on_either_side_there_are_no_links(step: AlignmentStep) -> None:
    assert link_words(WEIGHTS, [-1, -1], TGT_WORDS, step=step) == []
    assert (
        link_words(WEIGHTS, [], TGT_WORDS, step=step)
        == link_words(WEIGHTS, SRC_WORDS, [], step=step)
        == []
    )
    assert link_words(WEIGHTS, SRC_WORDS, [-1, -1], step=step) == []


def test_the_default_is_the_layer_before_the_last_but_not_the_first_of_two() -> None:
    assert [default_layer(num_layers) for num_layers in (1, 2, 3, 6)] == [0, 1, 1, 4]


# A model's links


def looks_at_its_own_place(tokenizer: Tokenizer) -> Translator:
    """A model in which target position i looks at source position i: it knows nothing but positions."""
    translator = make_translator(tokenizer)
    eye = torch.eye(SHAPE["d_model"], dtype=torch.double)
    with torch.no_grad():
        for name, parameter in translator.model.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            if name.endswith("cross_attention.query.weight"):
                parameter.copy_(eye)
            elif name.endswith("cross_attention.key_value.weight"):
                parameter.copy_(torch.cat((eye, 0 * eye)))
    return translator


def test_a_model_that_looks_at_its_own_place_aligns_the_diagonal_or_a_step_later_the_one_beside_it(
    tokenizer: Tokenizer,
) -> None:
    translator = looks_at_its_own_place(tokenizer)
    pieces = [tokenizer.piece(token_id) for token_id in range(tokenizer.vocab_size)]
    whole = [
        token_id
        for token_id, piece in enumerate(pieces)
        if piece.startswith("\u2581") and len(piece) > 1
    ]
    sizes = [4, 2]
    rows = [[*whole[:size], tokenizer.eos_id] for size in sizes]  # each token a word
    pairs = [Segment(row, row) for row in rows]
    for layer in range(NUM_LAYERS):
        assert align(translator, pairs, layer=layer) == [
            [(i, i) for i in range(size)] for size in sizes
        ]
        later = align(translator, pairs, layer=layer, step="input")
        for links, size in zip(
            later, sizes, strict=True
        ):  # the last one looks at the end mark, which is no word
            assert [(i, j) for i, j in links if j < size - 1] == [
                (j + 1, j) for j in range(size - 1)
            ]


@pytest.mark.parametrize("step", STEPS)
def test_the_links_are_those_of_the_recorded_weights(
    translator: Translator, step: AlignmentStep
) -> None:
    pairs = make_pairs(translator.src_tokenizer, 12)
    by_layer = []
    for layer in range(NUM_LAYERS):
        found = align(translator, pairs, layer=layer, step=step)
        for (src, tgt), links in zip(pairs, found, strict=True):
            tgt_in = [translator.tgt_tokenizer.bos_id, *tgt[:-1]]
            weights = attention_weights(translator.model, src, tgt_in).cross[layer].mean(dim=0)
            for source, target in links:
                places = [
                    i
                    for i, word in enumerate(word_indices(translator.tgt_tokenizer, tgt))
                    if word == target
                ]
                row = weights[
                    places[0] if step == "output" else places[-1] + 1, :-1
                ]  # without the end mark
                src_words = torch.tensor(word_indices(translator.src_tokenizer, src))
                sums = [
                    float(row[src_words == word].sum()) for word in range(int(src_words.max()) + 1)
                ]
                assert sums[source] == max(sums)
            assert [target for _, target in sorted(links, key=lambda link: link[1])] == list(
                range(len(links))
            )
        by_layer.append(found)
    assert by_layer[0] != by_layer[1] != by_layer[2], "layers that all look alike show nothing"


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_a_pair_has_the_links_that_it_has_alone(tokenizer: Tokenizer, batch_tokens: int) -> None:
    translator = make_translator(tokenizer, batch_tokens=batch_tokens)
    pairs = make_pairs(tokenizer, 20)
    for step in STEPS:
        together = align(translator, pairs, step=step)
        assert together == [align(translator, [pair], step=step)[0] for pair in pairs]
        assert len({format_alignment(links) for links in together}) > 10


def test_nothing_has_no_links(translator: Translator) -> None:
    assert align(translator, []) == []
    assert align(translator, [Segment([3], [3])]) == [[]]


# Translations


def aligned(translator: Translator, texts: list[str]) -> list[Alignment]:
    found = align_translations(translator, texts, [found[:1] for found in translator.n_best(texts)])
    return [translations[0].alignment or [] for translations in found]


def test_every_translation_has_links_of_its_own_words(translator: Translator) -> None:
    texts = [
        *make_texts(12, most_words=30),
        "",
        "  ",
        "xyz 😀",
        "balo\rderu",
        "balo" * 12,
        "\u00a0",
    ]
    answers = translator.n_best(texts)
    found = align_translations(translator, texts, answers)
    num_links = 0
    for text, before, after in zip(texts, answers, found, strict=True):
        assert [each._replace(alignment=None) for each in after] == before
        for each in after:
            assert each.alignment == sorted(set(each.alignment or []))
            assert all(
                0 <= i < len(words(text)) and 0 <= j < len(words(each.text))
                for i, j in each.alignment
            )
            num_links += len(each.alignment)
    assert num_links > 200


def test_what_the_search_wrote_is_aligned_and_not_its_text_encoded_again(
    translator: Translator,
) -> None:
    texts = make_texts(12, most_words=3)
    answers = [found[0] for found in translator.n_best(texts)]
    tokens = [each.parts[0].tgt for each in answers]
    assert tokens != translator.tgt_tokenizer.encode([each.text for each in answers]), (
        "they differ, as they may"
    )
    src = translator.src_tokenizer.encode(texts)
    expected = align(translator, [Segment(*pair) for pair in zip(src, tokens, strict=True)])
    assert aligned(translator, texts) == expected


@pytest.mark.parametrize("gap", [" ", "   "])
def test_the_links_of_a_long_text_are_those_of_its_parts_further_on(
    translator: Translator, gap: str
) -> None:
    halves = [" ".join(WORDS[:3]), " ".join(WORDS[3:6])]
    text = gap.join(halves)
    (whole,), parts = (
        translator.n_best([text])[0][:1],
        [found[0] for found in translator.n_best(halves)],
    )
    texts = translator.src_tokenizer.decode([part.src for part in whole.parts])
    assert [piece.strip() for piece in texts] == halves
    assert [part.tgt for part in whole.parts] == [
        part.tgt for each in parts for part in each.parts
    ] or gap != " "
    first, second = align(translator, whole.parts)
    num_tgt = len(words(translator.tgt_tokenizer.decode([whole.parts[0].tgt])[0]))
    assert aligned(translator, [text]) == [
        sorted({*first, *((i + 3, j + num_tgt) for i, j in second)})
    ]
    assert first
    assert second


def test_a_word_that_was_cut_in_two_is_still_one_word(translator: Translator) -> None:
    text = "ba " + "xyz" * 8
    assert len(translator.n_best([text])[0][0].parts) > 2
    (links,) = aligned(translator, [text])
    assert {i for i, _ in links} == {0, 1}


def test_links_are_written_as_pharaoh_writes_them() -> None:
    links = [(0, 0), (1, 12), (10, 3)]
    assert format_alignment(links) == "0-0 1-12 10-3"
    assert sorted(read_gold(format_alignment(links)).sure) == links
    assert format_alignment([]) == ""
