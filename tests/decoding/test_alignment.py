"""Word alignment from cross-attention."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from invented_words import INVENTED_WORDS

import mt.decoding.alignment as alignment_module
from mt.config.schema import ModelConfig, SearchConfig
from mt.data.source_stats import SourceStats
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.data.words import split_words
from mt.decoding.alignment import (
    AlignmentStep,
    align,
    align_lines,
    align_translations,
    default_layer,
    format_alignment,
    link_words,
    word_indices_at,
    words_of_tokens,
)
from mt.decoding.translation import Alignment, Segment
from mt.decoding.translator import Translator
from mt.model.recording import attention_weights
from mt.model.transformer import Transformer
from scripts.alignment.error_rate import read_gold

NUM_LAYERS = 3
MAX_LENGTH = 16
SHAPE = {
    "d_model": 32,
    "d_ff": 32,
    "num_heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": NUM_LAYERS,
}
STEPS: tuple[AlignmentStep, ...] = ("output", "input")


def make_texts(num_texts: int, *, max_words: int, seed: int = 5) -> list[str]:
    generator = random.Random(seed)
    texts = []
    for _ in range(num_texts):
        num_words = generator.randint(1, max_words)
        texts.append(" ".join(generator.choices(INVENTED_WORDS, k=num_words)))
    return texts


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer that splits most words into several subwords."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(make_texts(100, max_words=6), path, kind="bpe", vocab_size=310)
    return Tokenizer.load(path)


def make_translator(tokenizer: Tokenizer, **search: int) -> Translator:
    """Return a translator with random weights in float64.

    The weights are large, so that the attention weights of different words differ.
    """
    torch.manual_seed(3)
    model = Transformer(
        ModelConfig.model_validate(SHAPE),
        src_vocab_size=tokenizer.vocab_size,
        tgt_vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
    )
    model = model.double().eval()
    model.compute_dtype = torch.float64
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    defaults = {"beam_size": 3, "max_length_offset": 4, "max_length_factor": 1.0}
    search_config = SearchConfig.model_validate({**defaults, **search})
    return Translator(model, tokenizer, tokenizer, search=search_config, max_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def translator(tokenizer: Tokenizer) -> Translator:
    return make_translator(tokenizer)


def make_pairs(tokenizer: Tokenizer, num_pairs: int) -> list[Segment]:
    src_rows = tokenizer.encode(make_texts(num_pairs, max_words=9, seed=1))
    tgt_rows = tokenizer.encode(make_texts(num_pairs, max_words=9, seed=2))
    return [Segment(src, tgt) for src, tgt in zip(src_rows, tgt_rows, strict=True)]


# The words of each token


@pytest.mark.parametrize(
    "text",
    [
        "balo",
        "balo deru fimi",
        "xyz qqq",
        "",
        " ",
        "balo ",
        " balo",
        "balo   deru",
        "äöü 😀 balo 中文",
        "中文，balo中文 文。",
        "ก็ดีที่ x",
        "a\tb \r c",
        "non\u00a0breaking \u2028 line",
        "\x10s \u2581 \x10",
        "\ufffd\ufffd a",
        "<s> </s> a",
    ],
)
def test_tokens_of_a_word_make_that_word(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = tokenizer.encode([text])
    words = words_of_tokens(tokenizer, ids)
    assert len(words) == len(ids) - 1, "eos belongs to no word"
    for word_index, word in enumerate(split_words(text)):
        word_ids = [
            token_id
            for token_id, token_words in zip(ids, words, strict=False)
            if word_index in token_words
        ]
        (word_text,) = tokenizer.decode([word_ids])
        # A tab is not a token boundary, so here a token may contain two words.
        assert word_text.strip(" ") == word or ("\t" in text and word in word_text)
    assert max((token_words.stop for token_words in words), default=0) == len(split_words(text))


def test_single_space_token_belongs_to_the_next_word(tokenizer: Tokenizer) -> None:
    (ids,) = tokenizer.encode(["balo   😀 "])
    pieces = [tokenizer.piece(token_id) for token_id in ids]
    assert pieces[-9:-5] == ["\u2581", "\u2581", "\u2581", "<0xF0>"]
    # The space at the end of the text belongs to no word.
    assert words_of_tokens(tokenizer, ids)[-8:] == [*[range(1, 2)] * 7, range(2, 2)]


def test_tags_belong_to_no_word(tokenizer: Tokenizer) -> None:
    (ids,) = tokenizer.encode(["balo  deru"])
    first_tag, second_tag = tokenizer.tag_ids[:2]
    words = words_of_tokens(tokenizer, ids)
    assert words_of_tokens(tokenizer, [first_tag, second_tag, *ids]) == [range(0), range(0), *words]
    assert words_of_tokens(tokenizer, [first_tag, tokenizer.eos_id]) == [range(0)]


def test_subword_of_several_characters_without_spaces_is_part_of_several_words(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tokenizer.model"
    train_tokenizer(["我们喜欢苹果", "我们 喜欢", "苹果"] * 30, path, kind="bpe", vocab_size=288)
    tokenizer = Tokenizer.load(path)
    (ids,) = tokenizer.encode(["我们们喜欢"])
    pieces = [tokenizer.piece(token_id) for token_id in ids[:-1]]
    assert pieces == ["\u2581我们", "们", "喜欢"]
    assert words_of_tokens(tokenizer, ids) == [range(2), range(2, 3), range(3, 5)]


# From attention weights to links

#     source words: 0    0    1    eos
WEIGHTS = np.array(
    [
        # Writes the first subword of word 0. Its subwords together give source word 0.
        [0.3, 0.3, 0.4, 0.0],
        # Has read the first subword, and writes the second. The large weight is on eos.
        [0.1, 0.0, 0.2, 0.7],
        # Has read word 0, and writes word 1.
        [0.0, 0.1, 0.6, 0.3],
        # Has read word 1, and writes eos.
        [0.0, 0.9, 0.1, 0.0],
    ],
    np.float32,
)
SRC_WORDS = [range(1), range(1), range(1, 2)]
TGT_WORDS = [range(1), range(1), range(1, 2)]


@pytest.mark.parametrize(
    ("step", "links"), [("output", [(0, 0), (1, 1)]), ("input", [(0, 1), (1, 0)])]
)
def test_links_are_read_at_the_output_or_input_step(step: AlignmentStep, links: Alignment) -> None:
    assert link_words(WEIGHTS, SRC_WORDS, TGT_WORDS, step=step) == links
    padded = np.pad(WEIGHTS, ((0, 2), (0, 3)), constant_values=9.0)
    assert link_words(padded, SRC_WORDS, TGT_WORDS, step=step) == links


@pytest.mark.parametrize("step", STEPS)
def test_no_words_on_one_side_means_no_links(step: AlignmentStep) -> None:
    no_words: list[list[range]] = [[], [range(0), range(0)]]
    for words in no_words:
        assert link_words(WEIGHTS, words, TGT_WORDS, step=step) == []
        assert link_words(WEIGHTS, SRC_WORDS, words, step=step) == []


def test_words_of_the_same_subword_get_the_same_links() -> None:
    #             source: 0 and 1, 2, 3 and 4, eos
    weights = np.array([[0.5, 0.2, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.1, 0.8, 0.0, 0.1]], "f4")
    src_words = [range(2), range(2, 3), range(3, 5)]
    tgt_words = [range(1), range(1, 3)]
    at_output = link_words(weights, src_words, tgt_words, step="output")
    assert at_output == [(0, 0), (1, 0), (3, 1), (3, 2), (4, 1), (4, 2)]
    at_input = link_words(weights, src_words, tgt_words, step="input")
    assert at_input == [(2, 1), (2, 2), (3, 0), (4, 0)]


def test_default_layer_is_last_but_one_or_second_of_two() -> None:
    assert [default_layer(num_layers) for num_layers in (1, 2, 3, 6)] == [0, 1, 1, 4]


def test_links_are_formatted_as_in_pharaoh() -> None:
    links = [(0, 0), (1, 12), (10, 3)]
    assert format_alignment(links) == "0-0 1-12 10-3"
    assert sorted(read_gold(format_alignment(links)).sure) == links
    assert format_alignment([]) == ""


# Links of a model


def make_diagonal_translator(tokenizer: Tokenizer) -> Translator:
    """Return a translator in which target position i attends to source position i.

    All its weights are zero, except those that pass positions to the cross-attention.
    """
    translator = make_translator(tokenizer)
    identity = torch.eye(SHAPE["d_model"], dtype=torch.double)
    with torch.no_grad():
        for name, parameter in translator.model.named_parameters():
            is_norm_weight = "norm" in name and name.endswith("weight")
            parameter.fill_(1.0 if is_norm_weight else 0.0)
            if name.endswith("cross_attention.query.weight"):
                parameter.copy_(identity)
            elif name.endswith("cross_attention.key_value.weight"):
                parameter.copy_(torch.cat((identity, torch.zeros_like(identity))))
    return translator


def test_diagonal_attention_gives_diagonal_links(tokenizer: Tokenizer) -> None:
    translator = make_diagonal_translator(tokenizer)
    whole_word_ids = []
    for token_id in range(tokenizer.vocab_size):
        piece = tokenizer.piece(token_id)
        if piece.startswith("\u2581") and len(piece) > 1:
            whole_word_ids.append(token_id)
    sizes = [4, 2]
    rows = [[*whole_word_ids[:size], tokenizer.eos_id] for size in sizes]
    pairs = [Segment(row, row) for row in rows]
    for layer in range(NUM_LAYERS):
        at_output = align(translator, pairs, layer=layer)
        assert at_output == [[(i, i) for i in range(size)] for size in sizes]
        at_input = align(translator, pairs, layer=layer, step="input")
        for links, size in zip(at_input, sizes, strict=True):
            # The last position attends to eos, which is no word, so its link means nothing.
            without_last = [(i, j) for i, j in links if j < size - 1]
            assert without_last == [(j + 1, j) for j in range(size - 1)]


@pytest.mark.parametrize("step", STEPS)
def test_links_have_the_highest_recorded_weights(
    translator: Translator, step: AlignmentStep
) -> None:
    tokenizer = translator.tgt_tokenizer
    pairs = make_pairs(tokenizer, 12)
    alignments_by_layer = []
    for layer in range(NUM_LAYERS):
        alignments = align(translator, pairs, layer=layer, step=step)
        alignments_by_layer.append(alignments)
        for (src, tgt), links in zip(pairs, alignments, strict=True):
            tgt_in = [tokenizer.bos_id, *tgt[:-1]]
            weights = attention_weights(translator.model, src, tgt_in).cross[layer].mean(dim=0)
            src_words = words_of_tokens(translator.src_tokenizer, src)
            num_src_words = src_words[-1].stop
            tgt_words = words_of_tokens(tokenizer, tgt)
            for src_word, tgt_word in links:
                positions = [i for i, words in enumerate(tgt_words) if tgt_word in words]
                row = positions[0] if step == "output" else positions[-1] + 1
                sums = [
                    sum(float(weights[row, k]) for k, words in enumerate(src_words) if i in words)
                    for i in range(num_src_words)
                ]
                assert sums[src_word] == max(sums)
            linked_tgt_words = sorted(tgt_word for _, tgt_word in links)
            assert linked_tgt_words == list(range(len(links))), "one link for each target word"
    first, second, third = alignments_by_layer
    assert first != second != third, "equal layers would show nothing"


@pytest.mark.parametrize("step", STEPS)
def test_alignment_ignores_tags(translator: Translator, step: AlignmentStep) -> None:
    tokenizer = translator.src_tokenizer
    prefix = tokenizer.tag_ids[:2]
    num_prefix_weights = 0
    for src, tgt in make_pairs(tokenizer, 12):
        tagged = Segment([*prefix, *src], tgt)
        (links,) = align(translator, [tagged], step=step)
        layer = default_layer(NUM_LAYERS)
        tgt_in = [tokenizer.bos_id, *tgt[:-1]]
        recorded = attention_weights(translator.model, tagged.src, tgt_in).cross[layer]
        weights = recorded.mean(dim=0).numpy()
        num_prefix_weights += int((weights.argmax(axis=1) < len(prefix)).sum())
        without_prefix = weights[:, len(prefix) :]
        src_words = words_of_tokens(tokenizer, src)
        tgt_words = words_of_tokens(tokenizer, tgt)
        assert links == link_words(without_prefix, src_words, tgt_words, step=step)
        if max(len(tagged.src), len(tgt)) <= MAX_LENGTH:
            texts = (tokenizer.decode([src])[0], tokenizer.decode([tgt])[0])
            assert list(align_lines(translator, [texts], step=step, prefix=prefix)) == [links]
    assert num_prefix_weights > 0, "no weight on tags would show nothing"


def test_translations_with_a_prefix_are_aligned_with_the_text(translator: Translator) -> None:
    texts = make_texts(6, max_words=30, seed=4)
    (tag, *_) = translator.src_tokenizer.tag_ids
    german = replace(translator, ids_by_language={"de": tag})
    n_best_lists = german.n_best(texts, to="de")
    for text, translations in zip(
        texts, align_translations(translator, texts, n_best_lists), strict=True
    ):
        for translation in translations:
            assert translation.alignment is not None
            assert all(0 <= i < len(split_words(text)) for i, _ in translation.alignment)


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_links_do_not_depend_on_the_batch(tokenizer: Tokenizer, batch_tokens: int) -> None:
    translator = make_translator(tokenizer, batch_tokens=batch_tokens)
    pairs = make_pairs(tokenizer, 20)
    for step in STEPS:
        in_a_batch = align(translator, pairs, step=step)
        assert in_a_batch == [align(translator, [pair], step=step)[0] for pair in pairs]
        assert len({format_alignment(links) for links in in_a_batch}) > 10


def test_no_pairs_and_empty_pairs_have_no_links(translator: Translator) -> None:
    eos_id = translator.src_tokenizer.eos_id
    assert align(translator, []) == []
    assert align(translator, [Segment([eos_id], [eos_id])]) == [[]]


def test_align_lines_aligns_encoded_lines(translator: Translator) -> None:
    src_texts = make_texts(10, max_words=3, seed=1)
    tgt_texts = make_texts(10, max_words=3, seed=2)
    src_rows = translator.src_tokenizer.encode(src_texts)
    tgt_rows = translator.tgt_tokenizer.encode(tgt_texts)
    pairs = [Segment(src, tgt) for src, tgt in zip(src_rows, tgt_rows, strict=True)]
    lines = zip(src_texts, tgt_texts, strict=True)
    alignments = list(align_lines(translator, lines, layer=0, step="input"))
    assert alignments == align(translator, pairs, layer=0, step="input")


def test_align_lines_warns_of_lines_that_are_too_long(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(alignment_module.logger, "warning", warnings.append)
    long_text = "balo " * 40
    lines = [("balo", "deru"), (long_text, "deru"), ("balo", long_text), ("balo", "")]
    alignments = list(align_lines(translator, lines))
    assert alignments == [[(0, 0)], [], [], []]
    assert len(warnings) == 2
    assert "line 2:" in warnings[0]
    assert "line 3:" in warnings[1]
    assert all(f"over {MAX_LENGTH}" in warning for warning in warnings)


def test_links_count_the_words_of_the_given_lines(translator: Translator) -> None:
    normalizing = replace(translator, normalization="nfc")
    (expected,) = align_lines(translator, [("balo deru gona", "hupe balo deru")])
    assert expected
    # A no-break space makes one word of two; the character of width zero makes none.
    lines = [("balo\u00a0deru  \u200b gona", "hupe\u00a0balo \ufeff deru")]
    (links,) = align_lines(normalizing, lines)
    src_words = [0, 0, 2]
    tgt_words = [0, 0, 2]
    assert links == sorted({(src_words[i], tgt_words[j]) for i, j in expected})

    texts = ["balo\u00a0deru  \u200b gona"]
    (alignment,) = best_alignments(normalizing, texts)
    (plain,) = best_alignments(translator, ["balo deru gona"])
    assert alignment == sorted({(src_words[i], j) for i, j in plain})


def test_pair_with_an_invisible_line_has_no_links(translator: Translator) -> None:
    assert list(align_lines(translator, [("\u200b", "deru"), ("balo", "\ufeff")])) == [[], []]


# Links of translations


def best_alignments(translator: Translator, texts: list[str]) -> list[Alignment]:
    """Return the alignment of the best translation of each text."""
    best = [translations[:1] for translations in translator.n_best(texts)]
    aligned = align_translations(translator, texts, best)
    return [translations[0].alignment or [] for translations in aligned]


def test_every_translation_gets_links_of_its_own_words(translator: Translator) -> None:
    texts = [
        *make_texts(12, max_words=30),
        "",
        "  ",
        "xyz 😀",
        "balo\rderu",
        "balo" * 12,
        "中文字。" * 9,
        "balo中文 ก็ดี",
        "\u00a0",
    ]
    n_best_lists = translator.n_best(texts)
    aligned_lists = align_translations(translator, texts, n_best_lists)
    num_links = 0
    for text, before, after in zip(texts, n_best_lists, aligned_lists, strict=True):
        assert [translation._replace(alignment=None) for translation in after] == before
        for translation in after:
            links = translation.alignment
            assert links is not None
            assert links == sorted(set(links))
            assert all(0 <= i < len(split_words(text)) for i, _ in links)
            assert all(0 <= j < len(split_words(translation.text)) for _, j in links)
            num_links += len(links)
    assert num_links > 200


def test_generated_tokens_are_aligned_not_the_encoded_text(translator: Translator) -> None:
    texts = make_texts(12, max_words=3)
    best = [translations[0] for translations in translator.n_best(texts)]
    generated = [translation.segments[0].tgt for translation in best]
    encoded = translator.tgt_tokenizer.encode([translation.text for translation in best])
    assert generated != encoded, "equal tokens would show nothing"
    src_rows = translator.src_tokenizer.encode(texts)
    pairs = [Segment(src, tgt) for src, tgt in zip(src_rows, generated, strict=True)]
    assert best_alignments(translator, texts) == align(translator, pairs)


def test_align_takes_a_pair_or_lists_of_texts_and_translations(translator: Translator) -> None:
    long_text = " ".join(INVENTED_WORDS[:6])
    whole = translator.n_best(long_text)[0]
    assert len(whole.segments) > 1
    pairs = [("balo deru", "gona fimi"), ("", "gona"), ("hako balo", "deru")]
    given = list(align_lines(translator, pairs))
    (generated,) = best_alignments(translator, [long_text])
    assert given[0]
    assert generated
    assert translator.align(*pairs[0]) == given[0]
    assert translator.align(long_text, whole) == generated
    sources = [pairs[0][0], long_text, pairs[1][0], pairs[2][0]]
    targets = [pairs[0][1], whole, pairs[1][1], pairs[2][1]]
    assert translator.align(sources, targets) == [given[0], generated, *given[1:]]


@pytest.mark.parametrize("gap", [" ", "   "])
def test_links_of_a_long_text_are_shifted_links_of_its_segments(
    translator: Translator, gap: str
) -> None:
    halves = [" ".join(INVENTED_WORDS[:3]), " ".join(INVENTED_WORDS[3:6])]
    text = gap.join(halves)
    whole = translator.n_best([text])[0][0]
    src_texts = translator.src_tokenizer.decode([segment.src for segment in whole.segments])
    assert [src_text.strip() for src_text in src_texts] == halves
    if gap == " ":
        best_of_halves = [translations[0] for translations in translator.n_best(halves)]
        tgt_of_halves = [half.segments[0].tgt for half in best_of_halves]
        assert [segment.tgt for segment in whole.segments] == tgt_of_halves

    first, second = align(translator, whole.segments)
    assert first
    assert second
    (first_tgt_text,) = translator.tgt_tokenizer.decode([whole.segments[0].tgt])
    num_tgt_words = len(split_words(first_tgt_text))
    shifted = [(i + 3, j + num_tgt_words) for i, j in second]
    assert best_alignments(translator, [text]) == [sorted({*first, *shifted})]


SINGLE_SENTENCES = SourceStats(usual_length=16, rare_length=16, several_sentences_share=0.0)


def test_links_of_several_sentences_are_shifted_links_of_each(translator: Translator) -> None:
    translator = replace(translator, source_stats=SINGLE_SENTENCES)
    sentences = ["Balo de.", "Fimi!", "Go na?"]
    first, second, third = best_alignments(translator, sentences)
    assert first
    assert second
    assert third
    tgt_texts = translator.translate(sentences)
    num_first = len(split_words(tgt_texts[0]))
    num_second = len(split_words(tgt_texts[1]))
    shifted_second = [(i + 2, j + num_first) for i, j in second]
    shifted_third = [(i + 3, j + num_first + num_second) for i, j in third]
    expected = [*first, *shifted_second, *shifted_third]
    assert best_alignments(translator, [" ".join(sentences)]) == [expected]
    # White space before the text and several spaces at a cut are no words.
    wide_text = "  Balo de. \t Fimi!  Go na?"
    (wide_links,) = best_alignments(translator, [wide_text])
    assert {i for i, _ in wide_links} <= set(range(5))
    assert {(i, j) for i, j in wide_links if j >= num_first} >= set(shifted_second)


def test_sentences_without_a_space_between_them_are_aligned(translator: Translator) -> None:
    translator = replace(translator, source_stats=SINGLE_SENTENCES)
    (best,) = translator.n_best(["他。它！ 她"], num_translations=1)[0]
    assert [start.src for start in best.segment_starts] == [0, 2, 5]
    (links,) = best_alignments(translator, ["他。它！ 她"])
    assert {i for i, _ in links} <= set(range(5))  # each character is a word
    assert any(i == 4 for i, _ in links)


@pytest.mark.parametrize(
    ("text", "positions", "indices"),
    [
        ("ab cd ef", [0, 3, 6], [0, 1, 2]),
        ("ab cd ef", [0, 1, 4, 8], [0, 0, 1, 3]),
        (" ab  cd", [0, 1, 3, 4], [0, 0, 1, 1]),
        ("他。 ab", [0, 1, 2, 3, 4], [0, 1, 2, 2, 2]),
        ("", [0], [0]),
    ],
)
def test_word_indices_at_positions(text: str, positions: list[int], indices: list[int]) -> None:
    assert word_indices_at(text, positions) == indices


def test_word_cut_by_segmentation_is_still_one_word(translator: Translator) -> None:
    text = "ba " + "xyz" * 8
    assert len(translator.n_best([text])[0][0].segments) > 2
    (links,) = best_alignments(translator, [text])
    assert {i for i, _ in links} == {0, 1}
