"""mt attention: where a model looks as it translates a sentence, as a page or as JSON."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mt.data.tokenizer import Tokenizer
from mt.decoding.translator import Translator
from mt.errors import DataError
from mt.model.recording import attention_weights
from mt.report.attention_page import (
    AttentionMaps,
    AxisTokens,
    attention_json,
    attention_page,
    group_words,
)
from mt.storage.atomic import atomic_file

logger = logging.getLogger(__name__)

FORMS = {".html": attention_page, ".json": attention_json}


def write_attention(
    run_dir: Path,
    sentence: str,
    *,
    output: Path,
    target: str | None,
    checkpoint: str = "best",
    device: str = "auto",
) -> None:
    """Write the attention weights for a sentence and `target`, or the model's own translation. Raises MtError."""
    if output.suffix not in FORMS:
        raise DataError(
            f"{output}: the name ends in neither .html, for a page, nor .json, for its numbers"
        )
    translator = Translator.load(run_dir, checkpoint=checkpoint, device=device)
    maps = attention_maps(translator, sentence, target=target, name=str(run_dir))
    with atomic_file(output) as file:
        file.write(FORMS[output.suffix](maps).encode())
    num_src, num_tgt = (len(maps.sides[side].subwords) for side in ("src", "tgt_out"))
    logger.info(
        f"{output}: {num_src} source and {num_tgt} target tokens, {output.stat().st_size / 1e6:.2f} MB"
    )


@torch.inference_mode()
def attention_maps(
    translator: Translator, sentence: str, *, target: str | None, name: str
) -> AttentionMaps:
    """What `translator` looks at between `sentence` and `target`, or its own translation."""
    tokenizer = translator.tgt_tokenizer
    src = _ids(translator, translator.src_tokenizer, sentence, what="the sentence")
    if target is None:
        best = translator.n_best([sentence])[0][0]
        # Not its text encoded again: a model may write a word in other subwords than its tokenizer does.
        target, tgt_out = best.text, best.segments[0].tgt
    else:
        tgt_out = _ids(translator, tokenizer, target, what="the target")
    tgt_in = [tokenizer.bos_id, *tgt_out[:-1]]
    sides = {"src": describe(translator.src_tokenizer, src), "tgt_in": describe(tokenizer, tgt_in)}
    sides["tgt_out"] = describe(tokenizer, tgt_out)
    recorded = attention_weights(translator.model, src, tgt_in)
    weights = {
        kind: [layer.numpy() for layer in layers] for kind, layers in recorded._asdict().items()
    }
    return AttentionMaps(name, sentence, target, sides, weights)


def describe(tokenizer: Tokenizer, ids: Sequence[int]) -> AxisTokens:
    """Token ids as the subwords and words of one side of a map."""
    names = {tokenizer.bos_id: "<bos>", tokenizer.eos_id: "<eos>"}
    pieces = [names.get(token_id) or tokenizer.piece(token_id) for token_id in ids]
    marks = {i for i, token_id in enumerate(ids) if token_id in {*names, *tokenizer.tag_ids}}
    word_index = group_words(pieces, marks=marks)
    words = np.split(np.array(ids), np.flatnonzero(np.diff(word_index)) + 1)
    texts = tokenizer.decode([word.tolist() for word in words])
    marked = {word_index[i]: pieces[i] for i in sorted(marks)}
    return AxisTokens(
        pieces, [marked.get(i, text) for i, text in enumerate(texts)], word_index, sorted(marked)
    )


def _ids(translator: Translator, tokenizer: Tokenizer, text: str, *, what: str) -> list[int]:
    """The ids of one line of text, eos last. Raises DataError for a text that is not one, blank, or too long."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} is not UTF-8 at character {error.start + 1}") from error
    if "\n" in text:
        raise DataError(f"{what} has a line break; one sentence is shown at a time")
    if not text.strip():
        raise DataError(f"{what} is blank: there is nothing to look at")
    (ids,) = tokenizer.encode([text])
    if len(ids) > translator.max_length:
        raise DataError(
            f"{what} has {len(ids):,} tokens; the model was trained on {translator.max_length:,} at most"
        )
    return ids
