"""mt attention: the attention weights of a model for one sentence, as an HTML page or as JSON."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mt.data.tokenizer import Tokenizer
from mt.decoding.translator import Translator
from mt.errors import DataError
from mt.report.attention_page import (
    AttentionMaps,
    AxisTokens,
    attention_json,
    attention_page,
    group_words,
)
from mt.report.template import link_below, write_page
from mt.storage.run_dir import RunDir

logger = logging.getLogger(__name__)


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


def attention_maps(
    translator: Translator,
    sentence: str,
    *,
    target: str | None,
    name: str,
    to: str | None = None,
) -> AttentionMaps:
    """Return the attention weights between a sentence and `target`, or its own translation.

    The tag of the target language `to` is in front of the sentence as a special word, if it has
    one. Raises DataError for a text that cannot be shown.
    """
    attention = translator.attention(sentence, target, to=to)
    tgt_tokenizer = translator.tgt_tokenizer
    tgt_out = attention.ids.tgt
    tgt_in = [tgt_tokenizer.bos_id, *tgt_out[:-1]]
    sides = {
        "src": axis_tokens(
            translator.src_tokenizer, attention.ids.src, tag_names=translator.tag_names
        ),
        "tgt_in": axis_tokens(tgt_tokenizer, tgt_in),
        "tgt_out": axis_tokens(tgt_tokenizer, tgt_out),
    }
    weights = {
        "cross": list(attention.cross),
        "encoder": list(attention.encoder),
        "decoder": list(attention.decoder),
    }
    return AttentionMaps(
        name=name,
        src_lang=translator.src_lang,
        tgt_lang=to or translator.tgt_lang,
        src_text=attention.src_text,
        tgt_text=attention.tgt_text,
        sides=sides,
        weights=weights,
    )


def axis_tokens(
    tokenizer: Tokenizer, ids: Sequence[int], *, tag_names: Mapping[int, str] | None = None
) -> AxisTokens:
    """Return the subwords and words of a sequence of token ids."""
    special_ids = {tokenizer.bos_id, tokenizer.eos_id, *tokenizer.tag_ids}
    subwords = tokenizer.token_names(ids, tag_names=tag_names)
    special_positions = [i for i, token_id in enumerate(ids) if token_id in special_ids]
    word_index = group_words(subwords, special_positions=special_positions)

    word_starts = np.flatnonzero(np.diff(word_index)) + 1
    ids_by_word = [word.tolist() for word in np.split(np.array(ids), word_starts)]
    words = tokenizer.decode(ids_by_word)
    special_words = [word_index[position] for position in special_positions]
    for word, position in zip(special_words, special_positions, strict=True):
        words[word] = subwords[position]  # decoding gives no text for special tokens
    return AxisTokens(subwords, words, word_index, special_words)
