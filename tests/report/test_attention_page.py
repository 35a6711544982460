"""Weights over words follow from those over subwords, and a real browser shows what was put in, as text and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, Page, open_browser
from shell import mt

from mt.config.schema import ModelConfig, SearchConfig
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.decoding.translator import Translator
from mt.model.transformer import Transformer
from mt.report.attention_maps import attention_maps, describe
from mt.report.attention_page import (
    SIDES,
    STEPS,
    Array,
    AttentionMaps,
    AxisTokens,
    attention_json,
    attention_page,
    display_pieces,
    group_words,
    over_words,
)

NUM_LAYERS, NUM_HEADS = 2, 3
SRC = ["▁The", "▁small", "▁do", "g", "▁bar", "ks", ".", "<eos>"]
TGT = ["▁Der", "▁kl", "ein", "e", "▁H", "und", "▁bellt", ".", "<eos>"]
HOSTILE = [
    "<script>document.title='broken'</script>",
    "</script><img/src=x/onerror=document.title='broken'>",
    "<!--<script>",
    "&amp;",
    "{{7*7}}",
    "\u202eright",
    "שלום",
    "👩‍👩‍👧",
    "'\"`${1}\\u003c",
]


def make_side(pieces: list[str]) -> AxisTokens:
    marks = {i for i, piece in enumerate(pieces) if piece in ("<bos>", "<eos>")}
    index = group_words(pieces, marks=marks)
    words = [
        "".join(p for p, i in zip(pieces, index, strict=True) if i == word)
        for word in range(index[-1] + 1)
    ]
    return AxisTokens(
        pieces, [word.removeprefix("▁") for word in words], index, sorted(index[i] for i in marks)
    )


def make_maps(
    src: list[str], tgt: list[str], *, layers: int = NUM_LAYERS, heads: int = NUM_HEADS
) -> AttentionMaps:
    """Weights at random, some strong, as a trained model has them."""
    sides = {
        "src": make_side(src),
        "tgt_in": make_side(["<bos>", *tgt[:-1]]),
        "tgt_out": make_side(tgt),
    }
    rng = np.random.default_rng(1)

    def draw(kind: str) -> Array:
        queries, keys = (len(sides[side].subwords) for side in SIDES[kind])
        raw = np.exp(2.5 * rng.standard_normal((heads, queries, keys)))
        raw = np.tril(raw) if kind == "decoder" else raw
        found: Array = (raw / raw.sum(axis=-1, keepdims=True)).astype(np.float32)
        return found

    texts = [
        " ".join(word for i, word in enumerate(side.words) if i not in side.marks)
        for side in sides.values()
    ]
    weights = {kind: [draw(kind) for _ in range(layers)] for kind in SIDES}
    return AttentionMaps("runs/some", texts[0], texts[2], sides, weights)


def words_of(maps: AttentionMaps, kind: str, layer: int) -> Array:
    queries, keys = SIDES[kind]
    return over_words(maps.weights[kind][layer], maps.sides[queries], maps.sides[keys])


# From subwords to words


@pytest.mark.parametrize(
    ("pieces", "marks", "index"),
    [
        (["▁a", "▁b", "c", "<eos>"], {3}, [0, 1, 1, 2]),
        (["<bos>", "▁a", "b", "b"], {0}, [0, 1, 1, 1]),
        (["<tag_1>", "a", "<eos>"], {0, 2}, [0, 1, 2]),
        (["▁", "▁a", "▁", "<0xC3>", "<0x9F>", "x"], set(), [0, 1, 2, 2, 2, 2]),
        (["a", "b"], set(), [0, 0]),
    ],
)
def test_a_word_begins_at_a_space_and_a_mark_is_one(
    pieces: list[str], marks: set[int], index: list[int]
) -> None:
    assert group_words(pieces, marks=marks) == index


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["▁The", "n", "<eos>"], ["The", "n", "<eos>"]),
        (["▁", "▁a"], ["␣", "a"]),
        (["▁stra", "<0xC3>", "<0x9F>", "e"], ["stra", "ß 1/2", "ß 2/2", "e"]),
        (["<0x3C>", "b"], ["<", "b"]),
        (["<0xF0>", "<0x9F>", "<0x90>", "<0xB6>"], ["🐶 1/4", "🐶 2/4", "🐶 3/4", "🐶 4/4"]),
        (["<0xC3>", "<0x28>", "<0x9F>"], ["<0xC3>", "(", "<0x9F>"]),  # broken
        (
            ["<0x07>", "<0xE2>", "<0x80>", "<0xAE>"],
            ["<0x07>", "<0xE2>", "<0x80>", "<0xAE>"],
        ),  # nothing to see
        (["▁<0x", "41", ">"], ["<0x", "41", ">"]),  # a text that only looks like bytes
        (["<0x41>", "<0x42>", "<0xC3>", "<0x9F>"], ["A", "B", "ß 1/2", "ß 2/2"]),
    ],
)
def test_bytes_are_shown_as_the_character_they_make(pieces: list[str], shown: list[str]) -> None:
    assert display_pieces(pieces) == shown


def test_the_weight_of_a_word_is_the_sum_where_it_is_looked_at_and_the_mean_where_it_looks() -> (
    None
):
    queries, keys = make_side(["▁a", "b"]), make_side(["▁c", "▁d", "e"])
    weights = np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]], np.float32)
    np.testing.assert_allclose(over_words(weights, queries, keys), [[[0.3, 0.7]]], atol=1e-6)


@pytest.mark.parametrize("kind", SIDES)
def test_rows_over_words_still_add_up_to_one(kind: str) -> None:
    maps = make_maps(SRC, TGT)
    queries, keys = (maps.sides[side] for side in SIDES[kind])
    found = words_of(maps, kind, 0)
    assert found.shape == (NUM_HEADS, len(queries.words), len(keys.words))
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, atol=1e-6)


def test_where_every_word_is_one_subword_nothing_changes() -> None:
    maps = make_maps(["▁a", "▁b", "<eos>"], ["▁c", "<eos>"])
    np.testing.assert_allclose(words_of(maps, "cross", 1), maps.weights["cross"][1], atol=1e-6)


# Of a real tokenizer and a real model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(
        ["the old woman sees a small dog", "die alte Frau"] * 20, path, kind="bpe", vocab_size=330
    )
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def translator(tokenizer: Tokenizer) -> Translator:
    torch.manual_seed(7)
    shape = ModelConfig(
        d_model=32, d_ff=64, num_heads=4, num_encoder_layers=2, num_decoder_layers=2
    )
    sizes = {"src_vocab_size": tokenizer.vocab_size, "tgt_vocab_size": tokenizer.vocab_size}
    model = Transformer(shape, **sizes, pad_id=tokenizer.pad_id).eval()
    search = SearchConfig(beam_size=3, max_length_offset=9, max_length_factor=1.0)
    return Translator(model, tokenizer, tokenizer, search=search, max_length=60)


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
        *HOSTILE,
    ],
)
def test_words_are_those_between_the_spaces_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = tokenizer.encode([text])
    side = describe(tokenizer, ids)
    assert " ".join(side.words) == f"{text} <eos>"
    assert side.marks == [len(side.words) - 1]
    assert len(side.subwords) == len(side.word_index) == len(ids)


def test_the_models_own_translation_is_shown_in_the_subwords_that_it_wrote(
    translator: Translator,
) -> None:
    tokenizer = translator.tgt_tokenizer
    maps = attention_maps(translator, "the old woman", target=None, name="")
    assert maps.tgt_text == translator.translate(["the old woman"])[0]
    shown = maps.sides["tgt_out"].subwords
    assert maps.sides["tgt_in"].subwords == ["<bos>", *shown[:-1]]
    again = [tokenizer.piece(i) for i in tokenizer.encode([maps.tgt_text])[0]]
    assert "".join(shown[:-1]).strip("▁") == "".join(again[:-1]).strip("▁")
    assert shown[:-1] != again[:-1], "this model writes as its tokenizer does, which shows nothing"


def test_any_translation_can_be_looked_at(translator: Translator) -> None:
    maps = attention_maps(translator, "the old woman", target="die alte Frau", name="")
    assert maps.sides["tgt_out"].words == ["die", "alte", "Frau", "<eos>"]
    assert maps.sides["tgt_in"].words == ["<bos>", "die", "alte", "Frau"]
    assert maps.sides["src"].words == ["the", "old", "woman", "<eos>"]
    assert (maps.src_text, maps.tgt_text) == ("the old woman", "die alte Frau")
    lengths = {name: len(side.subwords) for name, side in maps.sides.items()}
    for kind, (queries, keys) in SIDES.items():
        assert [layer.shape for layer in maps.weights[kind]] == [
            (4, lengths[queries], lengths[keys])
        ] * 2


# As JSON


def test_the_json_holds_every_weight_over_subwords_and_over_words() -> None:
    maps = make_maps([*SRC[:-1], *(f"▁{text}" for text in HOSTILE), "<eos>"], TGT)
    found = json.loads(attention_json(maps))
    assert (found["format_version"], found["src_text"], found["tgt_text"]) == (
        1,
        maps.src_text,
        maps.tgt_text,
    )
    assert found["sides"] == {name: side._asdict() for name, side in maps.sides.items()}
    for kind, (queries, keys) in SIDES.items():
        each = found["attention"][kind]
        assert (each["queries"], each["keys"]) == (queries, keys)
        np.testing.assert_allclose(each["subwords"], maps.weights[kind], atol=5.1e-5)
        np.testing.assert_allclose(
            each["words"], [words_of(maps, kind, i) for i in range(NUM_LAYERS)], atol=5.1e-5
        )


# As a page


def test_a_page_for_forty_words_in_a_large_model_is_light() -> None:
    words = [piece for i in range(35) for piece in (f"▁word{i}", "ly")]
    maps = make_maps([*words, "<eos>"], [*words, "<eos>"], layers=6, heads=8)
    assert len(attention_page(maps)) < 2e6


def test_no_text_of_a_user_is_markup() -> None:
    page = attention_page(
        make_maps([f"▁{text}" for text in HOSTILE], [f"▁{text}" for text in HOSTILE])
    )
    assert not re.search(r"<(img|script>doc)|onerror=document.title='broken'>", page)
    assert len(re.findall("<script", page)) == len(re.findall("</script>", page)) == 2


def test_a_page_asks_the_network_for_nothing() -> None:
    page = attention_page(make_maps(SRC, TGT))
    addresses = set(re.findall(r"[a-z]+://[^\s\"'<>]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}, (
        "the name of a language is all that may look like an address"
    )


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def maps() -> AttentionMaps:
    return make_maps(SRC, TGT)


@pytest.fixture(scope="module")
def tab(
    browser: Browser, maps: AttentionMaps, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    yield from opened(browser, maps, tmp_path_factory.mktemp("page"))


@pytest.fixture
def page(tab: Page) -> Page:
    """The page of `maps`, as it is when it has just been opened."""
    tab.hover("h1")
    tab.press("Escape")
    tab.evaluate("go({kind: 'cross', unit: 'words', layer: 1e9, head: MEAN})")
    return tab


def opened(
    browser: Browser, maps: AttentionMaps, folder: Path, *, dark: bool = False
) -> Iterator[Page]:
    """A page, and once it has been used, that it has neither complained nor asked for anything."""
    path = folder / "page.html"
    path.write_text(attention_page(maps), encoding="utf-8")
    page = browser.open(path, width=1100, height=1000, dark=dark)
    yield page
    page.close()
    assert page.complaints == []
    assert page.requests == [path.as_uri()]


def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = page.evaluate(
        f"$$({json.dumps(selector)}).map((element) => element.textContent)"
    )
    return found


def point_at(page: Page, row: int, column: int) -> None:
    """Move the mouse to the middle of a cell of the large map."""
    drawn = page.evaluate(
        "[drawn.x0, drawn.top, drawn.cell, ...drawn.svg.getAttribute('viewBox').split(' ').map(Number)]"
    )
    x0, top, cell, _, _, width, height = drawn
    page.hover(
        "#map svg", x=(x0 + (column + 0.5) * cell) / width, y=(top + (row + 0.5) * cell) / height
    )


def test_the_page_shows_the_sentences_and_their_words(page: Page, maps: AttentionMaps) -> None:
    assert page.evaluate("document.title") == f"Attention: {maps.src_text}"
    assert texts(page, "h1") == [maps.src_text]
    assert texts(page, ".translation") == [maps.tgt_text]
    assert (
        texts(page, ".row.keys .chip")
        == texts(page, "#map [data-column]")
        == maps.sides["src"].words
    )
    assert (
        texts(page, ".row.queries .chip")
        == texts(page, "#map [data-row]")
        == maps.sides["tgt_out"].words
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "it is wider than the window"
    )


@pytest.mark.parametrize("kind", SIDES)
def test_the_page_holds_every_weight_to_half_a_step(
    page: Page, maps: AttentionMaps, kind: str
) -> None:
    for layer, weights in enumerate(maps.weights[kind]):
        for unit, expected in {"subwords": weights, "words": words_of(maps, kind, layer)}.items():
            found = page.evaluate(f"heads('{kind}', {layer}, '{unit}').map((head) => [...head])")
            tolerance = (
                0.51 / STEPS * (1 if unit == "subwords" else 3)
            )  # no word has more than 3 subwords
            np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=tolerance)
            average = page.evaluate(f"[...weightsOf('{kind}', {layer}, MEAN, '{unit}')]")
            np.testing.assert_allclose(
                np.reshape(average, expected.shape[1:]), expected.mean(axis=0), atol=tolerance
            )


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 3), (4, 4)])
def test_the_mouse_shows_the_two_words_and_the_weight(
    page: Page, maps: AttentionMaps, row: int, column: int
) -> None:
    point_at(page, row, column)
    weight = words_of(maps, "cross", NUM_LAYERS - 1).mean(axis=0)[row, column]
    assert page.evaluate("!$('#tip').hidden")
    assert texts(page, "#tip bdi") == [
        maps.sides["tgt_out"].words[row],
        maps.sides["src"].words[column],
    ]
    assert float(texts(page, "#tip b")[0]) == pytest.approx(weight, abs=1.5e-3)
    assert texts(page, "#map .lit") == [
        maps.sides["tgt_out"].words[row],
        maps.sides["src"].words[column],
    ]
    page.hover("h1")
    assert page.evaluate("$('#tip').hidden")
    assert texts(page, "#map .lit") == []


def test_pointing_at_a_word_shows_what_it_looks_at(page: Page, maps: AttentionMaps) -> None:
    page.hover('.row.queries .chip[data-index="2"]')
    weights = words_of(maps, "cross", NUM_LAYERS - 1).mean(axis=0)[2]
    shown = page.evaluate("$$('.row.keys .chip').map((chip) => Number(chip.dataset.weight || 0))")
    np.testing.assert_allclose(shown, weights, atol=0.011)
    colours = page.evaluate("$$('.row.keys .chip').map((chip) => chip.style.backgroundColor)")
    expected = page.evaluate(
        "weightsAt({side: 'queries', index: 2}).map((weight) => css(colour(weight, LIGHT)))"
    )
    numbers = [[re.findall(r"\d+", each) for each in row] for row in (colours, expected)]
    assert [found for found in numbers[0] if found] == [
        e for e, w in zip(numbers[1], weights, strict=True) if w >= 0.01
    ]
    assert page.evaluate("$$('#threads path').length") == sum(weights >= 0.02)
    best = maps.sides["src"].words[int(weights.argmax())]
    assert texts(page, "#spoken")[0].startswith(
        f"{maps.sides['tgt_out'].words[2]} looks at {best} "
    )


def test_a_click_holds_a_word_and_escape_lets_it_go(page: Page) -> None:
    idle = page.evaluate("$$('#threads path').length")
    page.click('.row.keys .chip[data-index="1"]')
    page.hover("h1")
    assert page.evaluate("$$('.chip[aria-pressed=true]').length") == 1
    held = page.evaluate("$$('#threads path').length")
    page.press("Escape")
    assert page.evaluate("$$('.chip[aria-pressed=true]').length") == 0
    assert page.evaluate("$$('#threads path').length") == idle != held


def test_words_can_be_taken_apart_into_subwords(page: Page) -> None:
    page.click("[data-unit=subwords]")
    assert texts(page, "#map [data-row]") == [
        "Der",
        "kl",
        "·ein",
        "·e",
        "H",
        "·und",
        "bellt",
        "·.",
        "<eos>",
    ]
    assert texts(page, ".row.keys .chip") == ["The", "small", "do", "g", "bar", "ks", ".", "<eos>"]
    page.click("[data-unit=words]")
    assert texts(page, "#map [data-row]") == ["Der", "kleine", "Hund", "bellt.", "<eos>"]


def test_keys_and_clicks_go_through_layers_and_heads(page: Page) -> None:
    seen = texts(page, "#where")
    for key in ["ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowLeft"]:
        page.press(key)
        seen += texts(page, "#where")
    assert seen == [
        *["Layer 2 · mean of heads", "Layer 2 · head 1", "Layer 2 · head 2"],
        *["Layer 1 · head 2", "Layer 1 · head 2", "Layer 1 · head 1"],
    ]
    page.click("[data-heads=mean]")
    assert texts(page, "#where") == ["Layer 1 · mean of heads"]
    page.click("[data-heads=one]")
    assert texts(page, "#where") == ["Layer 1 · head 1"]
    page.click('.mini[data-layer="1"][data-head="2"]')
    assert texts(page, "#where") == ["Layer 2 · head 3"]
    assert page.evaluate("$$('.mini').length") == NUM_LAYERS * (NUM_HEADS + 1)
    assert page.evaluate("$$('.mini[aria-pressed=true]').map((mini) => mini.ariaLabel)") == [
        "Layer 2, head 3"
    ]


def test_each_kind_of_attention_has_its_words(page: Page, maps: AttentionMaps) -> None:
    for kind, (queries, keys) in SIDES.items():
        page.click(f"#tab-{kind}")
        assert texts(page, "#map [data-row]") == maps.sides[queries].words
        assert texts(page, "#map [data-column]") == maps.sides[keys].words
        assert page.evaluate("$$('[aria-selected=true]').map((tab) => tab.dataset.kind)") == [kind]
        assert page.evaluate("$('#map').ariaLabel").startswith(
            texts(page, "[aria-selected=true] strong")[0]
        )


def test_nothing_is_painted_where_the_decoder_cannot_look(page: Page) -> None:
    painted = page.evaluate("""(() => {
        const canvas = paint(weightsOf("decoder", 0, 0, "subwords"), "decoder", "subwords", {ramp: LIGHT});
        const {data, width, height} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return Array.from({length: height * width}, (_, i) => data[4 * i + 3]);  // opacity
    })()""")
    np.testing.assert_array_equal(
        np.reshape(painted, (len(TGT), len(TGT))) > 0, np.tri(len(TGT), dtype=bool)
    )


def test_colours_go_in_even_steps_from_light_to_dark_so_that_a_grey_printer_tells_them_apart(
    page: Page,
) -> None:
    for ramp, way in {"LIGHT": -1, "DARK": 1}.items():
        places = "Array.from({length: 41}, (_, i) => (i / 40) ** (1 / POWER))"
        colours = np.array(page.evaluate(f"{places}.map((weight) => colour(weight, {ramp}))"))
        linear = ((colours / 255 + 0.055) / 1.055) ** 2.4
        lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16  # CIE L*
        steps = np.diff(lightness) * way
        assert steps.min() > 1.4
        assert steps.max() < 2.8
        assert steps.sum() > 75


def test_a_dark_window_has_a_dark_page(
    browser: Browser, maps: AttentionMaps, tmp_path: Path
) -> None:
    for page in opened(browser, maps, tmp_path, dark=True):
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", paper))) < 60
        assert page.evaluate("screenRamp() === DARK")
        page.ask("Emulation.setEmulatedMedia", media="print", features=[])
        assert (
            page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        )


def test_hostile_text_is_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    pieces = [*(f"▁{text}" for text in HOSTILE), "<eos>"]
    for page in opened(browser, replace_text(make_maps(pieces, pieces)), tmp_path):
        assert texts(page, ".row.keys .chip") == [*HOSTILE, "<eos>"]
        assert texts(page, "h1") == texts(page, ".translation") == [" ".join(HOSTILE)]
        point_at(page, 0, 1)
        assert texts(page, "#tip bdi") == HOSTILE[:2]
        assert page.evaluate("document.title") == f"Attention: {' '.join(HOSTILE)}"
        assert page.evaluate("[document.scripts.length, document.images.length]") == [2, 0]


def replace_text(maps: AttentionMaps) -> AttentionMaps:
    return maps._replace(src_text=" ".join(HOSTILE), tgt_text=" ".join(HOSTILE))


def test_a_sentence_from_right_to_left_runs_so(browser: Browser, tmp_path: Path) -> None:
    for page in opened(
        browser, make_maps(["▁שלום", "▁עולם", "<eos>"], ["▁hello", "▁world", "<eos>"]), tmp_path
    ):
        sides = page.evaluate(
            "$$('.row.keys .chip').map((chip) => chip.getBoundingClientRect().left)"
        )
        assert sides == sorted(sides, reverse=True)
        assert page.evaluate("getComputedStyle($('h1')).direction") == "rtl"
        assert page.evaluate("getComputedStyle($('.translation')).direction") == "ltr"


@pytest.mark.parametrize("num_words", [7, 40])
def test_on_a4_all_layers_are_there_and_legible(
    browser: Browser, tmp_path: Path, num_words: int
) -> None:
    pieces = [*(f"▁word{i}" for i in range(num_words)), "<eos>"]
    for page in opened(browser, make_maps(pieces, pieces), tmp_path):
        page.pdf(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
        page.resize(695, 1017)  # A4 less its margins, in CSS pixels
        page.ask("Emulation.setEmulatedMedia", media="print", features=[])
        assert page.evaluate("getComputedStyle($('main')).display") == "none"
        figures = page.evaluate("""$$('.sheet svg').map((svg) => {
            const {left, right, height} = svg.getBoundingClientRect(), scale = svg.getScreenCTM().a;
            return {left, right, height, font: scale * svg.getAttribute('font-size')};
        })""")
        assert len(figures) == NUM_LAYERS * len(SIDES)
        for figure in figures:
            assert 0 <= figure["left"] < figure["right"] <= 696
            assert figure["height"] < 950, "it would not fit on a page"
            assert figure["font"] > 8, "smaller than 6 points"  # 8 px


# Through the command line


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model after two updates, which is enough to be looked at."""
    folder = tmp_path_factory.mktemp("run")
    for name, num_lines in (("train", 40), ("valid", 2)):
        for lang in ("aa", "bb"):
            lines = [f"balo deru {'fimi ' * (i % 3)}gona\n" for i in range(num_lines)]
            (folder / f"{name}.{lang}").write_text("".join(lines), encoding="utf-8")
    (folder / "run.yaml").write_text(
        f"data: {{src_lang: aa, tgt_lang: bb, train: [{{prefix: {folder}/train}}], max_length: 24,"
        f" valid: {{name: valid, prefix: {folder}/valid}}}}\n"
        "tokenizer: {vocab_size: 300}\n"
        "model: {d_model: 16, d_ff: 16, num_heads: 2, num_encoder_layers: 1, num_decoder_layers: 1}\n"
        "train: {precision: fp32, batch_tokens: 512, max_steps: 2}\n"
        "search: {max_length_factor: 1, max_length_offset: 2}\n",
        encoding="utf-8",
    )
    ended = mt("train", "--config", folder / "run.yaml", "--run-dir", folder / "run")
    assert ended.code == 0, ended.err
    return folder / "run"


def test_the_command_writes_a_page_or_its_numbers(run_dir: Path, tmp_path: Path) -> None:
    for name in ("page.html", "page.json"):
        ended = mt("attention", run_dir, "balo <b>gona", "--target", "deru", "-o", tmp_path / name)
        assert (ended.code, ended.out) == (0, "")
        assert re.fullmatch(
            rf"{tmp_path}/{name}: \d+ source and \d+ target tokens, 0\.\d\d MB\n", ended.err
        )
    assert "balo &lt;b&gt;gona" in (tmp_path / "page.html").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert (found["name"], found["sides"]["tgt_out"]["words"]) == (str(run_dir), ["deru", "<eos>"])
    assert mt("attention", run_dir, "balo gona", "-o", tmp_path / "page.html").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["balo", "-o", "page.pdf"],
            "page.pdf: the name ends in neither .html, for a page, nor .json, for its numbers",
        ),
        ([" ", "-o", "page.html"], "the sentence is blank: there is nothing to look at"),
        (
            ["balo", "--target", "", "-o", "page.html"],
            "the target is blank: there is nothing to look at",
        ),
        (
            ["balo\nderu", "-o", "page.html"],
            "the sentence has a line break; one sentence is shown at a time",
        ),
        (["balo \udcff", "-o", "page.html"], "the sentence is not UTF-8 at character 6"),
        (
            ["xyz" * 9, "-o", "page.html"],
            "the sentence has 29 tokens; the model was trained on 24 at most",
        ),
        (
            ["balo", "--target", "xyz" * 9, "-o", "page.html"],
            "the target has 29 tokens; the model was trained on 24 at most",
        ),
    ],
)
def test_a_mistake_is_one_line(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = mt("attention", run_dir, *arguments)
    assert (ended.code, ended.out, ended.err) == (1, "", f"mt: {message}\n")
    assert not list(tmp_path.iterdir())
