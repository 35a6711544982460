"""mt attention: the attention weights of a model for one sentence, as an HTML page or as JSON."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mt.decoding.translator import Translator
from mt.errors import DataError
from mt.report.attention_maps import (
    ATTENTION_AXES,
    Array,
    AttentionMaps,
    AxisTokens,
    attention_maps,
    display_pieces,
    word_level_weights,
)
from mt.report.template import PageLink, link_below, render, write_page
from mt.report.text_language import text_language
from mt.storage.run_dir import RunDir

logger = logging.getLogger(__name__)

# A weight is stored in the page as a number from 0 to WEIGHT_STEPS, in two digits of base 64.
BASE64_DIGITS = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", dtype=np.uint8
)
WEIGHT_STEPS = 64 * 64 - 1


def write_attention(
    run_dir: Path,
    sentence: str,
    *,
    output: Path,
    target: str | None,
    to: str | None = None,
    checkpoint: str = "best",
    device: str = "auto",
) -> None:
    """Write the attention weights between a sentence and `target` to an HTML or JSON file.

    Without a target, the model's own translation is used, which is into the language `to`. Raises
    MtError.
    """
    if output.suffix not in (".html", ".json"):
        raise DataError(f"{output}: the file name must end in .html (a page) or .json (numbers)")
    translator = Translator.load(run_dir, checkpoint=checkpoint, device=device)
    maps = attention_maps(translator, sentence, target=target, name=run_dir.resolve().name, to=to)
    if output.suffix == ".json":
        content = attention_json(maps)
    else:
        link = link_below(output, RunDir(run_dir).report_path, text="Report of the run")
        content = attention_page(maps, links=[link] if link is not None else [])
    write_page(content, output)
    num_src = len(maps.sides["src"].subwords)
    num_tgt = len(maps.sides["tgt_out"].subwords)
    megabytes = output.stat().st_size / 1e6
    logger.info(f"{output}: {num_src} source and {num_tgt} target tokens, {megabytes:.2f} MB")


def attention_json(maps: AttentionMaps) -> str:
    """Return the maps as a JSON object, with weights rounded to four decimals.

    {"format_version": 1, "name": ..., "src_text": ..., "tgt_text": ...,
     "sides": {SIDE: {"subwords": ..., "words": ..., "word_index": ..., "marks": ...}},
     "attention": {KIND: {"queries": SIDE, "keys": SIDE, "subwords": ..., "words": ...}}}

    SIDE is "src", "tgt_in" or "tgt_out", KIND is "cross", "encoder" or "decoder". Weights are
    nested lists [layer][head][query][key]; "marks" are the indices of words such as <bos>.
    """
    attention = {}
    for kind, (query_side, key_side) in ATTENTION_AXES.items():
        queries = maps.sides[query_side]
        keys = maps.sides[key_side]
        layers = maps.weights[kind]
        word_layers = [word_level_weights(layer, queries, keys) for layer in layers]
        attention[kind] = {
            "queries": query_side,
            "keys": key_side,
            "subwords": [_rounded(layer) for layer in layers],
            "words": [_rounded(layer) for layer in word_layers],
        }
    content = {
        "format_version": 1,
        "name": maps.name,
        "src_text": maps.src_text,
        "tgt_text": maps.tgt_text,
        "sides": {name: _side_as_dict(side) for name, side in maps.sides.items()},
        "attention": attention,
    }
    return json.dumps(content, ensure_ascii=False)


def attention_page(maps: AttentionMaps, *, links: Sequence[PageLink] = ()) -> str:
    """Return the maps as an HTML page. Its script draws them, without access to the network.

    `links` lead to other pages about the run.
    """
    kinds = {}
    for kind, (query_side, key_side) in ATTENTION_AXES.items():
        layers = [[_pack_weights(head) for head in layer] for layer in maps.weights[kind]]
        kinds[kind] = {"queries": query_side, "keys": key_side, "layers": layers}
    sides = {}
    for name, side in maps.sides.items():
        language = text_language(maps.src_lang if name == "src" else maps.tgt_lang)
        sides[name] = {
            **_side_as_dict(side._replace(subwords=display_pieces(side.subwords))),
            "lang": language.lang,
            "dir": language.dir,
        }
    data = {"sides": sides, "kinds": kinds, "steps": WEIGHT_STEPS}
    return render("attention.html", {"maps": maps, "data": data, "links": links})


def _side_as_dict(side: AxisTokens) -> dict[str, Any]:
    return {
        "subwords": side.subwords,
        "words": side.words,
        "word_index": side.word_index,
        "marks": side.special_words,
    }


def _rounded(weights: Array) -> list[Any]:
    """Return weights as nested lists of numbers with at most four decimals."""
    rounded: list[Any] = weights.astype(float).round(4).tolist()
    return rounded


def _pack_weights(weights: Array) -> str:
    """Encode weights between 0 and 1, row by row, in two digits of base 64 each.

    Two digits hold 12 bits: enough for a color, and shorter than 16-bit numbers in base 64.
    """
    numbers = np.rint(weights.ravel().clip(0.0, 1.0) * WEIGHT_STEPS).astype(np.int64)
    high_digits, low_digits = np.divmod(numbers, 64)
    digits = np.stack((high_digits, low_digits), axis=1)
    return bytes(BASE64_DIGITS[digits]).decode("ascii")
