"""The attention page and its JSON: weights over words follow from subwords, and a browser shows
them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, Page
from page_access import check_contrast, check_focus

from mt.report.attention_maps import (
    ATTENTION_AXES,
    Array,
    AttentionMaps,
    AxisTokens,
    group_words,
    word_level_weights,
)
from mt.report.attention_page import WEIGHT_STEPS, attention_json, attention_page

NUM_LAYERS = 2
NUM_HEADS = 3
SRC = ["▁The", "▁small", "▁do", "g", "▁bar", "ks", ".", "<eos>"]
TGT = ["▁Der", "▁kl", "ein", "e", "▁H", "und", "▁bellt", ".", "<eos>"]
HOSTILE_WORDS = [
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
HOSTILE_TEXT = " ".join(HOSTILE_WORDS)


def make_side(pieces: list[str]) -> AxisTokens:
    special_positions = [i for i, piece in enumerate(pieces) if piece in ("<bos>", "<eos>")]
    word_index = group_words(pieces, special_positions=special_positions)
    words = [""] * (word_index[-1] + 1)
    for piece, word in zip(pieces, word_index, strict=True):
        words[word] += piece
    words = [word.removeprefix("▁") for word in words]
    return AxisTokens(pieces, words, word_index, [word_index[i] for i in special_positions])


def make_maps(
    src: list[str], tgt: list[str], *, num_layers: int = NUM_LAYERS, num_heads: int = NUM_HEADS
) -> AttentionMaps:
    """Return maps with random weights, of which some are large as in a trained model."""
    sides = {
        "src": make_side(src),
        "tgt_in": make_side(["<bos>", *tgt[:-1]]),
        "tgt_out": make_side(tgt),
    }
    rng = np.random.default_rng(1)
    weights = {}
    for kind, (queries, keys) in ATTENTION_AXES.items():
        shape = (num_heads, len(sides[queries].subwords), len(sides[keys].subwords))
        weights[kind] = [
            random_weights(rng, shape, causal=kind == "decoder") for _ in range(num_layers)
        ]
    return AttentionMaps(
        name="some",
        src_lang="?",
        tgt_lang="?",
        src_text=text_of(sides["src"]),
        tgt_text=text_of(sides["tgt_out"]),
        sides=sides,
        weights=weights,
    )


def random_weights(rng: np.random.Generator, shape: tuple[int, int, int], *, causal: bool) -> Array:
    weights = np.exp(2.5 * rng.standard_normal(shape))
    if causal:
        weights = np.tril(weights)
    normalized: Array = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    return normalized


def text_of(side: AxisTokens) -> str:
    return " ".join(word for i, word in enumerate(side.words) if i not in side.special_words)


def hostile_maps() -> AttentionMaps:
    pieces = [*(f"▁{word}" for word in HOSTILE_WORDS), "<eos>"]
    return make_maps(pieces, pieces)


def expected_word_weights(maps: AttentionMaps, kind: str, layer: int) -> Array:
    queries, keys = ATTENTION_AXES[kind]
    return word_level_weights(maps.weights[kind][layer], maps.sides[queries], maps.sides[keys])


# From subwords to words


def test_word_weights_sum_over_keys_and_average_over_queries() -> None:
    queries = make_side(["▁a", "b"])
    keys = make_side(["▁c", "▁d", "e"])
    weights = np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]], np.float32)
    word_weights = word_level_weights(weights, queries, keys)
    np.testing.assert_allclose(word_weights, [[[0.3, 0.7]]], atol=1e-6)


@pytest.mark.parametrize("kind", ATTENTION_AXES)
def test_rows_of_word_weights_add_up_to_one(kind: str) -> None:
    maps = make_maps(SRC, TGT)
    queries, keys = (maps.sides[side] for side in ATTENTION_AXES[kind])
    weights = expected_word_weights(maps, kind, 0)
    assert weights.shape == (NUM_HEADS, len(queries.words), len(keys.words))
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)


def test_words_of_one_subword_keep_their_weights() -> None:
    maps = make_maps(["▁a", "▁b", "<eos>"], ["▁c", "<eos>"])
    word_weights = expected_word_weights(maps, "cross", 1)
    np.testing.assert_allclose(word_weights, maps.weights["cross"][1], atol=1e-6)


# JSON


def test_json_has_all_weights_by_subword_and_by_word() -> None:
    maps = make_maps([*SRC[:-1], *(f"▁{word}" for word in HOSTILE_WORDS), "<eos>"], TGT)
    content = json.loads(attention_json(maps))
    assert content["format_version"] == 1
    assert content["src_text"] == maps.src_text
    assert content["tgt_text"] == maps.tgt_text
    for name, side in maps.sides.items():
        assert content["sides"][name] == {
            "subwords": side.subwords,
            "words": side.words,
            "word_index": side.word_index,
            "marks": side.special_words,
        }
    for kind, (queries, keys) in ATTENTION_AXES.items():
        attention = content["attention"][kind]
        assert attention["queries"] == queries
        assert attention["keys"] == keys
        np.testing.assert_allclose(attention["subwords"], maps.weights[kind], atol=5.1e-5)
        word_weights = [expected_word_weights(maps, kind, i) for i in range(NUM_LAYERS)]
        np.testing.assert_allclose(attention["words"], word_weights, atol=5.1e-5)


# HTML


def test_page_of_a_large_model_is_smaller_than_2_mb() -> None:
    pieces = []
    for i in range(35):
        pieces += [f"▁word{i}", "ly"]
    pieces.append("<eos>")
    maps = make_maps(pieces, pieces, num_layers=6, num_heads=8)
    assert len(attention_page(maps)) < 2e6


def test_hostile_text_is_escaped() -> None:
    html = attention_page(hostile_maps())
    assert not re.search(r"<(img|script>doc)|onerror=document.title='broken'>", html)
    assert html.count("<script") == html.count("</script>") == 2


def test_page_has_no_external_address() -> None:
    html = attention_page(make_maps(SRC, TGT))
    addresses = set(re.findall(r"[a-z]+://[^\s\"'<>]+", html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a namespace, which is not loaded


# In a browser


@pytest.fixture(scope="module")
def maps() -> AttentionMaps:
    return make_maps(SRC, TGT)


@pytest.fixture(scope="module")
def shared_page(
    browser: Browser, maps: AttentionMaps, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    with open_page(browser, maps, tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture
def page(shared_page: Page) -> Page:
    """The page of `maps` in its initial state."""
    shared_page.hover("h1")
    shared_page.press("Escape")
    shared_page.evaluate("setState({kind: 'cross', unit: 'words', layer: LAST_LAYER, head: MEAN})")
    return shared_page


@contextmanager
def open_page(
    browser: Browser, maps: AttentionMaps, folder: Path, *, dark: bool = False
) -> Iterator[Page]:
    """Open a page; check at the end that it has not logged anything nor requested another file."""
    path = folder / "page.html"
    path.write_text(attention_page(maps), encoding="utf-8")
    page = browser.open(path, width=1100, height=1000, dark=dark)
    yield page
    page.close()
    assert page.console_messages == []
    assert page.requests == [path.as_uri()]


def texts(page: Page, selector: str) -> list[str]:
    """Return the texts of all elements that match."""
    expression = f"$$({json.dumps(selector)}).map((element) => element.textContent)"
    result: list[str] = page.evaluate(expression)
    return result


def text(page: Page, selector: str) -> str:
    """Return the text of the only element that matches."""
    (result,) = texts(page, selector)
    return result


def hover_cell(page: Page, row: int, column: int) -> None:
    """Move the mouse to the middle of a cell of the large map."""
    geometry = page.evaluate(
        "({left: mainMap.left, top: mainMap.top, cell: mainMap.cell,"
        " width: mainMap.svg.viewBox.baseVal.width, height: mainMap.svg.viewBox.baseVal.height})"
    )
    x = geometry["left"] + (column + 0.5) * geometry["cell"]
    y = geometry["top"] + (row + 0.5) * geometry["cell"]
    page.hover("#map svg", x=x / geometry["width"], y=y / geometry["height"])


def test_sentences_and_words_are_shown(page: Page, maps: AttentionMaps) -> None:
    assert page.evaluate("document.title") == f"Attention: {maps.src_text}"
    assert text(page, "h1") == maps.src_text
    assert text(page, ".translation") == maps.tgt_text
    src_words = maps.sides["src"].words
    assert texts(page, ".row.keys .chip") == src_words
    assert texts(page, "#map [data-column]") == src_words
    tgt_words = maps.sides["tgt_out"].words
    assert texts(page, ".row.queries .chip") == tgt_words
    assert texts(page, "#map [data-row]") == tgt_words


def test_page_is_not_wider_than_the_window(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("kind", ATTENTION_AXES)
def test_page_has_all_weights(page: Page, maps: AttentionMaps, kind: str) -> None:
    max_subwords = 3  # of a word; their rounding errors add up
    for layer, weights in enumerate(maps.weights[kind]):
        word_weights = expected_word_weights(maps, kind, layer)
        for unit, expected, tolerance in [
            ("subwords", weights, 0.51 / WEIGHT_STEPS),
            ("words", word_weights, 0.51 / WEIGHT_STEPS * max_subwords),
        ]:
            heads = page.evaluate(
                f"headWeights('{kind}', {layer}, '{unit}').map((head) => [...head])"
            )
            np.testing.assert_allclose(np.reshape(heads, expected.shape), expected, atol=tolerance)
            mean = page.evaluate(f"[...weightsOf('{kind}', {layer}, MEAN, '{unit}')]")
            np.testing.assert_allclose(
                np.reshape(mean, expected.shape[1:]), expected.mean(axis=0), atol=tolerance
            )


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 3), (4, 4)])
def test_hovering_over_a_cell_shows_words_and_weight(
    page: Page, maps: AttentionMaps, row: int, column: int
) -> None:
    hover_cell(page, row, column)
    words = [maps.sides["tgt_out"].words[row], maps.sides["src"].words[column]]
    weight = expected_word_weights(maps, "cross", NUM_LAYERS - 1).mean(axis=0)[row, column]
    assert page.evaluate("!$('#tooltip').hidden")
    assert texts(page, "#tooltip bdi") == words
    assert float(text(page, "#tooltip b")) == pytest.approx(weight, abs=1.5e-3)
    assert texts(page, "#map .highlighted") == words
    page.hover("h1")
    assert page.evaluate("$('#tooltip').hidden")
    assert texts(page, "#map .highlighted") == []


def test_hovering_over_a_cell_frames_it(page: Page) -> None:
    frames = "$$('#map .cursor, #map .band').map((rect) => getComputedStyle(rect).visibility)"
    hover_cell(page, 1, 2)
    assert page.evaluate(frames) == ["visible"] * 3
    page.hover("h1")
    assert page.evaluate(frames) == ["hidden"] * 3


def test_hovering_over_a_word_shows_its_weights(page: Page, maps: AttentionMaps) -> None:
    page.hover('.row.queries .chip[data-index="2"]')
    weights = expected_word_weights(maps, "cross", NUM_LAYERS - 1).mean(axis=0)[2]
    shown = page.evaluate("$$('.row.keys .chip').map((chip) => Number(chip.dataset.weight || 0))")
    np.testing.assert_allclose(shown, weights, atol=0.011)
    assert page.evaluate("$$('#links path').length") == sum(weights >= 0.02)
    most_attended = maps.sides["src"].words[int(weights.argmax())]
    announcement = text(page, "#announcement")
    assert announcement.startswith(f"{maps.sides['tgt_out'].words[2]} attends to {most_attended} ")


def test_hovering_over_a_word_colors_the_others(page: Page, maps: AttentionMaps) -> None:
    page.hover('.row.queries .chip[data-index="2"]')
    weights = expected_word_weights(maps, "cross", NUM_LAYERS - 1).mean(axis=0)[2]
    colors = page.evaluate("$$('.row.keys .chip').map((chip) => chip.style.backgroundColor)")
    scale_colors = page.evaluate(
        "weightsAt({side: 'queries', index: 2}).map((weight) => css(color(weight, LIGHT)))"
    )
    assert (weights >= 0.01).any()
    for weight, actual, expected in zip(weights, colors, scale_colors, strict=True):
        if weight >= 0.01:
            assert re.findall(r"\d+", actual) == re.findall(r"\d+", expected)
        else:
            assert actual == ""


def test_click_selects_a_word_until_escape(page: Page) -> None:
    num_selected = "$$('.chip[aria-pressed=true]').length"
    num_links = "$$('#links path').length"
    idle_links = page.evaluate(num_links)
    page.click('.row.keys .chip[data-index="1"]')
    page.hover("h1")
    assert page.evaluate(num_selected) == 1
    assert page.evaluate(num_links) != idle_links
    page.press("Escape")
    assert page.evaluate(num_selected) == 0
    assert page.evaluate(num_links) == idle_links


def test_words_can_be_split_into_subwords(page: Page) -> None:
    page.click("[data-unit=subwords]")
    rows = ["Der", "kl", "·ein", "·e", "H", "·und", "bellt", "·.", "<eos>"]
    assert texts(page, "#map [data-row]") == rows
    columns = ["The", "small", "do", "g", "bar", "ks", ".", "<eos>"]
    assert texts(page, ".row.keys .chip") == columns
    page.click("[data-unit=words]")
    assert texts(page, "#map [data-row]") == ["Der", "kleine", "Hund", "bellt.", "<eos>"]


def test_arrow_keys_move_between_layers_and_heads(page: Page) -> None:
    shown = [text(page, "#where")]
    for key in ["ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowLeft"]:
        page.press(key)
        shown.append(text(page, "#where"))
    assert shown == [
        "Layer 2 · mean of heads",
        "Layer 2 · head 1",
        "Layer 2 · head 2",
        "Layer 1 · head 2",
        "Layer 1 · head 2",
        "Layer 1 · head 1",
    ]


def test_clicks_choose_layers_and_heads(page: Page) -> None:
    page.evaluate("setState({layer: 0, head: 0})")
    page.click("[data-heads=mean]")
    assert text(page, "#where") == "Layer 1 · mean of heads"
    page.click("[data-heads=one]")
    assert text(page, "#where") == "Layer 1 · head 1"
    page.click('.thumbnail[data-layer="1"][data-head="2"]')
    assert text(page, "#where") == "Layer 2 · head 3"
    assert page.evaluate("$$('.thumbnail').length") == NUM_LAYERS * (NUM_HEADS + 1)
    pressed = "$$('.thumbnail[aria-pressed=true]').map((thumbnail) => thumbnail.ariaLabel)"
    assert page.evaluate(pressed) == ["Layer 2, head 3"]


def test_tabs_choose_the_kind_of_attention(page: Page, maps: AttentionMaps) -> None:
    for kind, (queries, keys) in ATTENTION_AXES.items():
        page.click(f"#tab-{kind}")
        assert texts(page, "#map [data-row]") == maps.sides[queries].words
        assert texts(page, "#map [data-column]") == maps.sides[keys].words
        selected = page.evaluate("$$('[aria-selected=true]').map((tab) => tab.dataset.kind)")
        assert selected == [kind]
        title = text(page, "[aria-selected=true] strong")
        assert page.evaluate("$('#map').ariaLabel").startswith(title)


def test_masked_decoder_weights_are_not_painted(page: Page) -> None:
    opacity = page.evaluate("""(() => {
        const weights = weightsOf("decoder", 0, 0, "subwords");
        const canvas = paintMap(weights, "decoder", "subwords", {ramp: LIGHT});
        const context = canvas.getContext("2d");
        const {data, width, height} = context.getImageData(0, 0, canvas.width, canvas.height);
        return Array.from({length: height * width}, (_, i) => data[4 * i + 3]);
    })()""")
    is_painted = np.reshape(opacity, (len(TGT), len(TGT))) > 0
    np.testing.assert_array_equal(is_painted, np.tri(len(TGT), dtype=bool))


@pytest.mark.parametrize(("ramp", "direction"), [("LIGHT", -1), ("DARK", 1)])
def test_colors_have_even_steps_of_lightness(page: Page, ramp: str, direction: int) -> None:
    """So the scale can be read on a greyscale printer."""
    weights = "Array.from({length: 41}, (_, i) => (i / 40) ** (1 / COLOR_EXPONENT))"
    colors = np.array(page.evaluate(f"{weights}.map((weight) => color(weight, {ramp}))"))
    linear = ((colors / 255 + 0.055) / 1.055) ** 2.4
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = 116 * np.cbrt(luminance) - 16  # CIE L*
    steps = np.diff(lightness) * direction
    assert steps.min() > 1.4
    assert steps.max() < 2.8
    assert steps.sum() > 75


def test_dark_mode_follows_the_browser_except_in_print(
    browser: Browser, maps: AttentionMaps, tmp_path: Path
) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    with open_page(browser, maps, tmp_path, dark=True) as page:
        red_green_blue = [int(number) for number in re.findall(r"\d+", page.evaluate(background))]
        assert max(red_green_blue) < 60
        assert page.evaluate("screenRamp() === DARK")
        page.emulate_print()
        assert page.evaluate(background) == "rgb(255, 255, 255)"


def test_hostile_text_is_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    maps = hostile_maps()._replace(src_text=HOSTILE_TEXT, tgt_text=HOSTILE_TEXT)
    with open_page(browser, maps, tmp_path) as page:
        assert texts(page, ".row.keys .chip") == [*HOSTILE_WORDS, "<eos>"]
        assert text(page, "h1") == HOSTILE_TEXT
        assert text(page, ".translation") == HOSTILE_TEXT
        hover_cell(page, 0, 1)
        assert texts(page, "#tooltip bdi") == HOSTILE_WORDS[:2]
        assert page.evaluate("document.title") == f"Attention: {HOSTILE_TEXT}"
        assert page.evaluate("document.scripts.length") == 2
        assert page.evaluate("document.images.length") == 0


def test_texts_have_the_languages_of_the_config(browser: Browser, tmp_path: Path) -> None:
    maps = make_maps(SRC, TGT)._replace(src_lang="sv", tgt_lang="ar")
    with open_page(browser, maps, tmp_path) as page:
        assert page.evaluate("[$('h1').lang, $('.translation').lang]") == ["sv", "ar"]
        assert page.evaluate("$('.translation').dir") == "rtl"
        for selector, lang in (
            (".keys bdi", "sv"),
            (".queries bdi", "ar"),
            ("#map text[data-row]", "ar"),
        ):
            langs = page.evaluate(f"$$('{selector}').map((text) => text.getAttribute('lang'))")
            assert set(langs) == {lang}


@pytest.mark.parametrize("dark", [False, True])
def test_page_can_be_read_and_used(
    browser: Browser, maps: AttentionMaps, tmp_path: Path, dark: bool
) -> None:
    with open_page(browser, maps, tmp_path, dark=dark) as page:
        check_focus(page)
        check_contrast(page)
        page.click('.row.queries .chip[data-index="1"]')
        check_contrast(page)


def test_tapped_words_and_cells_stay_chosen(
    browser: Browser, maps: AttentionMaps, tmp_path: Path
) -> None:
    with open_page(browser, maps, tmp_path) as page:
        page.send_command("Emulation.setTouchEmulationEnabled", enabled=True)
        tap(page, '.row.keys .chip[data-index="1"]')
        assert page.evaluate("$$('.chip[aria-pressed=true]').length") == 1
        tap(page, '.row.keys .chip[data-index="1"]')
        assert page.evaluate("$$('.chip[aria-pressed=true], .chip.active').length") == 0
        tap(page, "#map image")
        assert page.evaluate("!$('#tooltip').hidden")
        tap(page, "h1")
        assert page.evaluate("$('#tooltip').hidden")


def tap(page: Page, selector: str) -> None:
    """Touch the middle of an element with a finger, and lift the finger."""
    x, y = page.evaluate(f"""(() => {{
        const element = $({json.dumps(selector)});
        element.scrollIntoView({{block: "center"}});
        const box = element.getBoundingClientRect();
        return [box.left + 0.45 * box.width, box.top + 0.45 * box.height];
    }})()""")
    point = {"x": x, "y": y}
    page.send_command("Input.dispatchTouchEvent", type="touchStart", touchPoints=[point])
    page.send_command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")


def test_links_meet_their_words_in_a_narrow_window(browser: Browser, tmp_path: Path) -> None:
    pieces = [*(f"▁word{i}" for i in range(30)), "<eos>"]
    with open_page(browser, make_maps(pieces, pieces), tmp_path) as page:
        page.resize(390, 800)
        page.evaluate("new Promise((resolve) => setTimeout(resolve, 200))")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.click('.row.queries .chip[data-index="2"]')
        links = page.evaluate("""(() => {
            const box = $("#links").getBoundingClientRect();
            const query = $(".queries .chip[data-index='2']").getBoundingClientRect();
            const right = $(".keys .chip").getBoundingClientRect().right;
            return $$("#links path").map((path) => {
                const start = path.getPointAtLength(0);
                const end = path.getPointAtLength(path.getTotalLength());
                const y = query.top + query.height / 2;
                return [
                    start.x + box.left - query.left,
                    start.y + box.top - y,
                    end.x + box.left - right,
                ];
            });
        })()""")
        assert links
        np.testing.assert_allclose(links, 0.0, atol=1.5)


def test_right_to_left_text_is_shown_from_right_to_left(browser: Browser, tmp_path: Path) -> None:
    maps = make_maps(["▁שלום", "▁עולם", "<eos>"], ["▁hello", "▁world", "<eos>"])
    with open_page(browser, maps, tmp_path) as page:
        left_edges = page.evaluate(
            "$$('.row.keys .chip').map((chip) => chip.getBoundingClientRect().left)"
        )
        assert left_edges == sorted(left_edges, reverse=True)
        assert page.evaluate("getComputedStyle($('h1')).direction") == "rtl"
        assert page.evaluate("getComputedStyle($('.translation')).direction") == "ltr"


@pytest.mark.parametrize("num_words", [7, 40])
def test_print_shows_all_layers_legibly(browser: Browser, tmp_path: Path, num_words: int) -> None:
    pieces = [*(f"▁word{i}" for i in range(num_words)), "<eos>"]
    with open_page(browser, make_maps(pieces, pieces), tmp_path) as page:
        page.pdf(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
        page.resize(695, 1017)  # A4 without its margins, in CSS pixels
        page.emulate_print()
        assert page.evaluate("getComputedStyle($('main')).display") == "none"
        figures = page.evaluate("""$$('.print-sheet svg').map((svg) => {
            const {left, right, height} = svg.getBoundingClientRect();
            const fontSize = svg.getScreenCTM().a * svg.getAttribute('font-size');
            return {left, right, height, fontSize};
        })""")
        assert len(figures) == NUM_LAYERS * len(ATTENTION_AXES)
        for figure in figures:
            assert 0 <= figure["left"] < figure["right"] <= 696
            assert figure["height"] < 950, "does not fit on a page"
            assert figure["fontSize"] > 8, "smaller than 8 px, which is 6 points"
